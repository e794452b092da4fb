"""Every fault of the sandbox: what one run does, and the next one with its state."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest

from sendgrid_sandbox.account import Account
from sendgrid_sandbox.faults import BY_NAME, FAULTS, find_fault
from tests.expected import expected
from tests.harness import checkpoint_of, emit_states_every

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Sandbox, Tap, TapRun

CONTACTS = 90
ACCOUNT = Account(CONTACTS)


class Recovered(NamedTuple):
    """Faults that a run survives, with each contact once.

    Attributes:
        faults: One or more, separated by blanks.
        activates: Whether ACTIVATE_VERSION is emitted.
        resumes: Whether a run can resume the export; else it starts a new one.
    """

    faults: str
    activates: bool = True
    resumes: bool = True


class Rejected(NamedTuple):
    """Faults that end a run with an error.

    Attributes:
        faults: One or more, separated by blanks.
        error: Part of the error.
        next_run: What a run with the last state does once the faults are over: it resumes the
            same export, starts a new one, or fails again since the export itself is damaged, so
            that the run after it starts a new one; or it waits for an export that hangs.
        file_types: The file types that have the fault; None for those of `file_types_of`.
    """

    faults: str
    error: str
    next_run: Literal["resumes", "restarts", "fails", "waits"]
    file_types: tuple[str, ...] | None = None


# `part-expired` has the status read again: what changes between two of them shows then.
RECOVERED = [
    Recovered("rate-limit"),
    Recovered("rate-limit-seconds"),
    Recovered("rate-limit-date"),
    Recovered("rate-limit-reset"),
    Recovered("html"),
    Recovered("reset"),
    Recovered("hang"),
    Recovered("slow"),
    Recovered("error-500"),
    Recovered("error-502"),
    Recovered("error-503"),
    Recovered("error-504"),
    Recovered("post-500"),
    Recovered("post-502"),
    Recovered("post-503"),
    Recovered("post-504"),
    Recovered("post-lost-reset"),
    Recovered("post-accepted-reset"),
    Recovered("post-accepted-hang"),
    Recovered("post-accepted-500"),
    Recovered("count-low", activates=False),
    Recovered("count-missing", activates=False),
    Recovered("shuffled-parts"),
    Recovered("shuffled-parts part-expired:3"),
    Recovered("same-path"),
    Recovered("same-path part-expired:3"),
    Recovered("renamed-parts", resumes=False),
    Recovered("changing-query"),
    Recovered("changing-query part-expired:3"),
    Recovered("status-429"),
    Recovered("status-503"),
    Recovered("status-html"),
    Recovered("status-reset"),
    Recovered("control-characters"),
    Recovered("part-reset"),
    Recovered("part-reset:3"),
    Recovered("part-truncated"),
    Recovered("part-stall"),
    Recovered("drip"),
    Recovered("part-expired"),
    Recovered("part-500"),
    Recovered("part-503"),
    Recovered("redirect-part"),
    Recovered("no-range"),
    Recovered("no-range part-reset"),
    Recovered("etag-changes"),
    Recovered("etag-changes part-reset"),
    Recovered("no-etag"),
    Recovered("no-etag part-reset"),
    Recovered("chunked"),
    Recovered("malformed-header"),
]

REJECTED = [
    Rejected("forbidden", "HTTP 403", "restarts"),
    Rejected("forbidden-fields", "HTTP 403", "restarts"),
    Rejected("forbidden-post", "/v3/marketing/contacts/exports: HTTP 403", "restarts"),
    Rejected("redirect-api", "api_url", "restarts"),
    Rejected("error-500:0", "HTTP 500", "restarts"),
    Rejected("failure", "failed", "restarts"),
    Rejected("failure leaky-messages", "failed", "restarts"),
    Rejected("expired", "expired", "restarts"),
    Rejected("export-not-found", "no longer exists", "restarts"),
    Rejected("unknown-status", "status 'archived'", "restarts"),
    Rejected("never-ready", "poll_timeout", "waits"),
    Rejected("no-urls", "without parts", "restarts"),
    Rejected("count-high", "allow_count_mismatch", "restarts"),
    Rejected("part-missing part-expired", "changed", "restarts"),
    # Nothing but the parts themselves tells that contacts are missing.
    Rejected("part-missing part-expired count-missing", "changed", "restarts"),
    Rejected("part-500:0", "Part 1 of 3: download: HTTP 500", "resumes"),
    Rejected("part-expired:0", "Part 1 of 3: signed URL rejected (HTTP 403)", "resumes"),
    Rejected("part-reset:0", "Part 1 of 3", "resumes"),
    Rejected("renamed-parts part-expired", "changed", "restarts"),
    Rejected("vanished-part part-expired", "changed", "restarts"),
    Rejected("repeated-part", "repeats the content", "restarts"),
    Rejected("copied-part", "repeats the content", "restarts"),
    Rejected("redirect-loop-part", "too many redirects", "restarts"),
    Rejected("redirect-empty-part", "HTTP 302", "restarts"),
    Rejected("redirect-relative-part", "non-HTTPS URL", "restarts"),
    Rejected("truncated-gzip", "Part 3 of 3: truncated gzip", "fails"),
    Rejected("bad-crc", "Part 3 of 3: corrupt gzip", "fails"),
    Rejected("bad-line", ", line ", "fails"),
    Rejected("bad-width", ", line ", "fails"),
    Rejected("invalid-utf8", ", line ", "fails"),
    Rejected("no-contact-id", "contact_id", "fails"),
    Rejected(
        "duplicate-header", "field of the CSV file is that of column", "fails", file_types=("csv",)
    ),
    Rejected("bad-number", "on_invalid_value", "fails"),
    Rejected("bad-date", "on_invalid_value", "fails"),
]

# A fault that fits neither table, with tests of its own.
SHOWN_ELSEWHERE = {"empty-once"}


def stage_of(fault: str) -> str:
    name = find_fault(fault.partition(":")[0]).name
    return next(stage for stage, faults in FAULTS.items() if BY_NAME[name] in faults)


def file_types_of(faults: str) -> tuple[str, ...]:
    """Return the file types to try: nothing but the content of files depends on theirs."""
    is_in_files = any(stage_of(fault) == "data" for fault in faults.split())
    return ("json", "csv") if is_in_files else ("json",)


def fault_options(faults: str) -> list[str]:
    return [option for fault in faults.split() for option in ("--fault", fault)]


def run_tap(tap: Tap, sandbox: Sandbox, file_type: str = "json", **config: Any) -> TapRun:
    return tap(
        sandbox,
        file_type=file_type,
        emit_activate_version_messages=True,
        request_timeout=1,
        **config,
    )


def expected_records(run: TapRun) -> dict[str, dict[str, Any]]:
    return expected(ACCOUNT, run.schema)


EVERY_CONTACT_ONCE = Counter(contact.values["contact_id"] for contact in ACCOUNT)


def test_every_fault_has_a_row() -> None:
    rows: list[Recovered | Rejected] = [*RECOVERED, *REJECTED]
    faults = {fault.partition(":")[0] for row in rows for fault in row.faults.split()}
    covered = {find_fault(fault).name for fault in faults}
    assert covered | SHOWN_ELSEWHERE == BY_NAME.keys()


# With JSON only: what a fault damages in the files, no run recovers from.
@pytest.mark.parametrize("row", RECOVERED, ids=lambda row: row.faults)
def test_recovered(start_sandbox: Callable[..., Sandbox], tap: Tap, row: Recovered) -> None:
    sandbox = start_sandbox("--contacts", str(CONTACTS), "--parts", "3", *fault_options(row.faults))
    run = run_tap(tap, sandbox)
    assert run.contact_ids == EVERY_CONTACT_ONCE
    assert {record["contact_id"]: record for record in run.records} == expected_records(run)
    assert run.checkpoint is None
    assert len(run.of_type("ACTIVATE_VERSION")) == row.activates
    assert bool(run.lines("ACTIVATE_VERSION withheld")) is not row.activates
    # The 202 of an export that was created without a response is not in the log.
    assert sandbox.exports_created == (not row.faults.startswith("post-accepted"))
    for fault in row.faults.split():
        assert f"fault {fault.partition(':')[0]}" in sandbox.log


@pytest.mark.parametrize(
    "row",
    [row for row in RECOVERED if stage_of(row.faults.split()[0]) != "post"],
    ids=lambda row: row.faults,
)
def test_recovered_when_resumed(
    monkeypatch: pytest.MonkeyPatch,
    start_sandbox: Callable[..., Sandbox],
    tap: Tap,
    row: Recovered,
) -> None:
    emit_states_every(monkeypatch, CONTACTS)
    # What happens to an export is decided when it is created.
    faults = row.faults.split()
    early = [fault for fault in faults if stage_of(fault) in {"export", "data"}]
    sandbox = start_sandbox(
        "--contacts", str(CONTACTS), "--parts", "3", *fault_options(" ".join(early))
    )
    first = run_tap(tap, sandbox)
    state = next(
        state
        for state in first.states
        if (checkpoint := checkpoint_of(state)) and "finished_parts" in checkpoint
    )
    for fault in set(faults) - set(early):
        sandbox.inject(fault)
    run = run_tap(tap, sandbox, state=state)
    if row.resumes:
        assert first.ids_before(state) + run.contact_ids == EVERY_CONTACT_ONCE
    else:
        assert run.contact_ids == EVERY_CONTACT_ONCE
    assert run.checkpoint is None
    assert len(run.of_type("ACTIVATE_VERSION")) == row.activates
    assert sandbox.exports_created == (1 if row.resumes else 2)
    for fault in faults:
        assert f"fault {fault.partition(':')[0]}" in sandbox.log


@pytest.mark.parametrize(
    ("row", "file_type"),
    [
        pytest.param(row, file_type, id=f"{row.faults}-{file_type}")
        for row in REJECTED
        for file_type in row.file_types or file_types_of(row.faults)
    ],
)
def test_rejected(
    start_sandbox: Callable[..., Sandbox], tap: Tap, file_type: str, row: Rejected
) -> None:
    sandbox = start_sandbox("--contacts", str(CONTACTS), "--parts", "3", *fault_options(row.faults))
    first = run_tap(tap, sandbox, file_type, code=1)
    assert row.error.lower() in first.error.lower()
    assert first.of_type("ACTIVATE_VERSION") == []
    assert first.contact_ids <= EVERY_CONTACT_ONCE
    if first.of_type("STATE"):
        assert (first.checkpoint is None) == (row.next_run == "restarts")
    if sandbox.exports_created:
        promised = "starts a new export" if row.next_run == "restarts" else "resumes it"
        assert first.error.endswith(f"The next run {promised}")
        assert first.error.count("The next run") == 1
    created = sandbox.exports_created

    sandbox.end_faults()
    state = first.state if first.of_type("STATE") else None
    fails_again = row.next_run in {"fails", "waits"}
    run = run_tap(tap, sandbox, file_type, state=state, code=int(fails_again))
    assert sandbox.exports_created - created == (row.next_run == "restarts")
    if fails_again:
        assert row.error.lower() in run.error.lower()
        assert run.of_type("ACTIVATE_VERSION") == []
        if row.next_run == "waits":
            return
        assert run.error.endswith("The next run starts a new export")
        run = run_tap(tap, sandbox, file_type, state=run.state)
        assert sandbox.exports_created - created == 1
    assert len(run.of_type("ACTIVATE_VERSION")) == 1
    if row.next_run == "resumes":
        assert first.ids_before(first.states[-1]) + run.contact_ids == EVERY_CONTACT_ONCE
    else:
        assert run.contact_ids == EVERY_CONTACT_ONCE
