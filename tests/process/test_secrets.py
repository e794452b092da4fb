"""The API key goes to the API alone; no log has a secret, a contact's data, control characters."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from sendgrid_sandbox.account import Account
from sendgrid_sandbox.faults import FAULTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.harness import Sandbox, Tap, TapRun

KEY = "SG.very-secret.key-that-is-long-enough-to-be-one"
DEBUG = {"LOGLEVEL": "DEBUG"}
SIGNATURE = re.compile("X-Amz|Signature|Security-Token")
# C0 without the line end, C1, and what reorders text.
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

# Every fault of the sandbox, and messages that quote secrets wherever there is a message.
FAULT_NAMES = [
    fault.name.replace("-CODE", "-503") for faults in FAULTS.values() for fault in faults
]
LEAKS = [
    f"leaky-messages {fault}"
    for fault in ("forbidden", "post-400:0", "status-500:0", "failure", "unknown-status")
]
FILE_FAULTS = [fault.name for fault in FAULTS["data"]]


def values_of(account: Account) -> set[str]:
    """Return what only a contact has, long enough not to be in a log by chance."""
    return {
        value
        for contact in account
        for value in (*contact.values.values(), *contact.custom.values())
        if isinstance(value, str) and len(value) > 8 and value.isascii()
    }


VALUES = values_of(Account(60))


def assert_no_secrets(run: TapRun) -> None:
    text = run.log + json.dumps(run.states, ensure_ascii=False)
    assert "very-secret" not in text
    assert not SIGNATURE.search(text)
    assert not {value for value in VALUES if value in text}


@pytest.mark.parametrize(
    ("faults", "file_type"),
    [
        *((faults, "json") for faults in ("", *FAULT_NAMES, *LEAKS, "part-expired:0")),
        *((faults, "csv") for faults in ("", *FILE_FAULTS)),
    ],
)
def test_log(start_sandbox: Callable[..., Sandbox], tap: Tap, faults: str, file_type: str) -> None:
    options = [option for fault in faults.split() for option in ("--fault", fault)]
    sandbox = start_sandbox("--contacts", "60", "--parts", "2", "--api-key", KEY, *options)
    run = tap(sandbox, env=DEBUG, file_type=file_type, request_timeout=1, poll_timeout=5, code=None)
    # A run that is rejected at once logs nothing at that level.
    assert "DEBUG" in run.log or run.code == 1
    assert_no_secrets(run)
    # The sandbox's other port logs it when the key arrives there.
    assert "LEAK" not in sandbox.log


def test_log_of_null_values(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    faults = ("--fault", "bad-number", "--fault", "bad-date")
    sandbox = start_sandbox("--contacts", "60", "--api-key", KEY, *faults)
    run = tap(sandbox, env=DEBUG, on_invalid_value="null")
    assert_no_secrets(run)


def test_log_of_process(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "60", "--api-key", KEY, "--fault", "part-reset")
    run = tap.run_process(sandbox, env=DEBUG)
    assert "DEBUG" in run.log
    assert_no_secrets(run)


def test_logging_configuration_reveals_no_urls(
    start_sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path
) -> None:
    handlers = {"all": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr"}}
    debug = {"level": "DEBUG", "handlers": ["all"]}
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": handlers,
        "loggers": dict.fromkeys(("urllib3", "urllib3.connectionpool", "requests"), debug),
        "root": debug,
    }
    path = tmp_path / "logging.json"
    path.write_text(json.dumps(config))
    run = tap(start_sandbox("--contacts", "60"), env={"SINGER_SDK_LOG_CONFIG": str(path)})
    assert "is complete" in run.log
    assert not SIGNATURE.search(run.log)


@pytest.mark.parametrize("arguments", [(), ("--test",)], ids=["run", "--test"])
@pytest.mark.parametrize("fault", ["", "failure", "error-500:0", "forbidden", "export-not-found"])
def test_no_control_character_reaches_the_log(
    start_sandbox: Callable[..., Sandbox], tap: Tap, fault: str, arguments: tuple[str, ...]
) -> None:
    faults = [each for name in filter(None, [fault]) for each in ("--fault", name)]
    sandbox = start_sandbox("--contacts", "5", "--fault", "control-characters", *faults)
    run = tap(sandbox, *arguments, env=DEBUG, code=None if fault else 0)
    assert not CONTROL.search(run.log), CONTROL.findall(run.log)


@pytest.mark.parametrize("maps", [{"n": "int(first_name)"}, {"email": "md5(email)"}])
def test_stream_maps(start_sandbox: Callable[..., Sandbox], tap: Tap, maps: dict[str, str]) -> None:
    sandbox = start_sandbox("--contacts", "60", "--api-key", KEY)
    run = tap(sandbox, env=DEBUG, stream_maps={"contacts": maps}, code=None)
    assert_no_secrets(run)


def test_netrc_is_not_used(start_sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    # The sandbox responds with 401 to another key, and 400 to any Authorization at a part.
    sandbox = start_sandbox("--contacts", "5", "--fault", "redirect-part")
    tap(sandbox, env={"NETRC": str(netrc)})


def test_proxy_password(tap: Tap) -> None:
    config: dict[str, Any] = {"api_key": KEY, "api_url": "https://sendgrid.invalid"}
    proxy = {"HTTPS_PROXY": "http://user:very-secret@127.0.0.1:9", "NO_PROXY": "", "no_proxy": ""}
    run = tap(None, env={**proxy, **DEBUG}, **config, code=1)
    assert "refused by proxy 127.0.0.1:9 (HTTPS_PROXY)" in run.error
    assert "very-secret" not in run.log
