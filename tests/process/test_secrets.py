"""The key goes to the API alone; nothing secret and nobody's data is in a log, at any level."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tap_sendgrid_contacts.sandbox.account import Account

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Sandbox, Tap

KEY = "SG.very-secret.key-that-is-long-enough-to-be-one"

DRILL = [
    "html",
    "reset",
    "rate-limit-reset",
    "post-accepted-reset",
    "redirect-api",
    "redirect-part",
    "forbidden",
    "failure",
    "part-reset",
    "part-truncated",
    "part-stall",
    "part-expired",
    "part-expired:0",
    "part-500:0",
    "part-missing",
    "truncated-gzip",
    "bad-line",
    "bad-width",
    "bad-number",
    "bad-date",
    "invalid-utf8",
    "duplicate-header",
    "unknown-field",
]


def values_of(account: Account) -> set[str]:
    """What only a contact has, long enough not to stand in a log by chance."""
    return {
        value
        for contact in account
        for value in (*contact.values.values(), *contact.custom.values())
        if isinstance(value, str) and len(value) > 8 and value.isascii()
    }


@pytest.mark.parametrize("file_type", ["json", "csv"])
@pytest.mark.parametrize("fault", ["", *DRILL])
def test_logs_hold_no_key_no_signature_and_no_contact(
    sandbox: Callable[..., Sandbox], tap: Tap, fault: str, file_type: str
) -> None:
    there = sandbox(
        *("--contacts", "60", "--parts", "2", "--api-key", KEY),
        *(("--fault", fault) if fault else ()),
    )
    run = tap(
        there,
        file_type=file_type,
        request_timeout=2,
        poll_timeout=5,
        env={"LOGLEVEL": "DEBUG"},
    )
    # A run that is refused at once has said nothing yet at that level.
    assert "DEBUG" in run.log or run.code == 1
    assert KEY not in run.log
    assert "very-secret" not in run.log
    assert not re.search(r"X-Amz|Signature|Security-Token", run.log)
    leaked = {value for value in values_of(Account(60)) if value in run.log}
    assert not leaked
    # The sandbox's other port says so when the key came along.
    assert not [line for line in there.log if "LEAK" in line]


def test_no_logging_configuration_lets_links_into_the_log(
    sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path
) -> None:
    config = tmp_path / "logging.json"
    handlers = {"all": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr"}}
    loud = {"level": "DEBUG", "handlers": ["all"]}
    loggers = {"urllib3": loud, "urllib3.connectionpool": loud, "requests": loud}
    config.write_text(
        json.dumps(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "handlers": handlers,
                "loggers": loggers,
                "root": loud,
            }
        )
    )
    run = tap(sandbox("--contacts", "60"), env={"SINGER_SDK_LOG_CONFIG": str(config)})
    assert run.code == 0
    assert "is complete" in run.log
    assert not re.search(r"X-Amz|Signature|Security-Token", run.log)


@pytest.mark.parametrize("maps", [{"n": "int(first_name)"}, {"email": "md5(email)"}])
def test_a_map_that_fails_or_not_quotes_no_contact(
    sandbox: Callable[..., Sandbox], tap: Tap, maps: dict[str, str]
) -> None:
    there = sandbox("--contacts", "60", "--api-key", KEY)
    run = tap(there, stream_maps={"contacts": maps}, env={"LOGLEVEL": "DEBUG"})
    assert not {value for value in values_of(Account(60)) if value in run.log}
    assert KEY not in run.log


def test_netrc_neither_replaces_the_key_nor_reaches_the_storage(
    sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    # The sandbox answers 401 to another key, and 400 to any Authorization at a part.
    run = tap(sandbox("--contacts", "5"), env={"NETRC": str(netrc)})
    assert run.code == 0, run.log


def test_a_proxy_with_a_password_that_fails_is_told_without_it(tap: Tap) -> None:
    config: dict[str, Any] = {"api_key": KEY, "api_url": "https://sendgrid.invalid"}
    env = {"HTTPS_PROXY": "http://user:very-secret@127.0.0.1:9", "NO_PROXY": ""}
    run = tap(None, **config, env={**env, "LOGLEVEL": "DEBUG"})
    assert run.code == 1
    assert "the proxy could not be used" in run.error
    assert "very-secret" not in run.log
