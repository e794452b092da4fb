"""Every fault, as processes over real HTTP: survived with each contact once, or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tap_sendgrid_contacts.sandbox.account import Account
from tests.expected import expected

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Run, Sandbox, Tap

both_types = pytest.mark.parametrize("file_type", ["json", "csv"])

CONTACTS = 300

SURVIVED = [
    "rate-limit",
    "rate-limit-seconds",
    "rate-limit-date",
    "rate-limit-reset",
    "html",
    "reset",
    "hang",
    "slow",
    "error-500",
    "error-502",
    "error-503",
    "error-504",
    "post-500",
    "post-502",
    "post-503",
    "post-504",
    "post-lost-reset",
    "post-accepted-reset",
    "post-accepted-hang",
    "post-accepted-500",
    "count-missing",
    "shuffled-parts",
    "part-reset",
    "part-reset:3",
    "part-truncated",
    "part-stall",
    "part-expired",
    "part-500",
    "part-503",
    "redirect-part",
    "no-range",
    "etag-changes",
    "no-etag",
    "chunked",
]

REFUSED = {
    "forbidden": "403",
    "redirect-api": "`api_url`",
    "failure": "failed to make export",
    "expired": "expired",
    "unknown-status": "status that is not known",
    "never-ready": "`poll_timeout`",
    "no-urls": "no files",
    "count-high": "`allow_count_mismatch`",
    "part-missing": "part(s)",
    "truncated-gzip": "Part 3 of 3: its gzip stream ends too early",
    "bad-crc": "Part 3 of 3: its gzip stream is not valid",
    "bad-line": ", line ",
    "bad-width": ", line ",
    "no-contact-id": "contact_id",
    "duplicate-header": "two fields are column",
    "bad-number": "column custom_",
    "bad-date": "column custom_",
    "invalid-utf8": ", line ",
    "export-not-found": "is gone",
    "part-500:0": "part 1 of 3, answered 500",
    "part-expired:0": "refused the link (403)",
    "part-reset:0": "part ",
    "error-500:0": "answered 500",
    "hang:0": "`request_timeout`",
}
CSV_ONLY = {"duplicate-header"}


def run(there: Sandbox, tap: Tap, file_type: str, **more: Any) -> Run:
    return tap(
        there,
        file_type=file_type,
        emit_activate_version_messages=True,
        request_timeout=3,
        poll_timeout=4,
        **more,
    )


@both_types
@pytest.mark.parametrize("fault", SURVIVED)
def test_survived_with_each_contact_once(
    sandbox: Callable[..., Sandbox], tap: Tap, file_type: str, fault: str
) -> None:
    there = sandbox("--contacts", str(CONTACTS), "--parts", "3", "--fault", fault)
    done = run(there, tap, file_type)
    assert done.code == 0, done.log
    ids = [record["contact_id"] for record in done.records]
    assert len(ids) == len(set(ids))
    (schema,) = done.of("SCHEMA")
    records = {record["contact_id"]: record for record in done.records}
    assert records == expected(Account(CONTACTS), schema["schema"])
    assert done.export_state is None
    assert len(done.of("ACTIVATE_VERSION")) == 1
    # The 202 of an export that was taken without an answer is not in the log.
    assert there.exports_asked_for == (not fault.startswith("post-accepted"))
    assert f"fault {fault.partition(':')[0]}" in there.log


@both_types
@pytest.mark.parametrize(("fault", "words"), REFUSED.items(), ids=REFUSED)
def test_refused_in_one_line(
    sandbox: Callable[..., Sandbox], tap: Tap, file_type: str, fault: str, words: str
) -> None:
    if fault in CSV_ONLY and file_type == "json":
        pytest.skip("JSON has no header")
    there = sandbox("--contacts", str(CONTACTS), "--parts", "3", "--fault", fault)
    done = run(there, tap, file_type)
    assert done.code == 1, done.log
    assert words.lower() in done.error.lower()
    assert done.of("ACTIVATE_VERSION") == []
    if done.of("STATE"):
        assert done.export_state is not None


def test_more_contacts_than_promised_are_a_warning(
    sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    done = tap(sandbox("--contacts", "20", "--fault", "count-low"))
    assert done.code == 0
    assert len(done.records) == 20
    assert "SendGrid promised" in done.log
