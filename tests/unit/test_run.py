"""A run: exports created or resumed, read completely, verified; what the next run does."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from singer_sdk.exceptions import DataError, FatalAPIError, FatalSyncError
from singer_sdk.helpers._batch import BatchConfig
from typing_extensions import override

from tap_sendgrid_contacts.api.export import (
    ExportUnavailableError,
    PollTimeoutError,
)
from tap_sendgrid_contacts.api.http import ForbiddenError, TransientError
from tap_sendgrid_contacts.output.batch import BatchFiles
from tap_sendgrid_contacts.run.reader import IncompleteExportError
from tap_sendgrid_contacts.run.run import FailedExportsError
from tap_sendgrid_contacts.run.state import STATE_INTERVAL
from tap_sendgrid_contacts.stopping import Stopped
from tests.unit.pipeline import EXPORTS, NOW, PARTS, FakeExport, FakeSendGrid, Pipeline, Rows, part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from requests_mock import Mocker

    from tap_sendgrid_contacts.api.client import SendGridClient
    from tap_sendgrid_contacts.checkpoint import Block
    from tests.unit.conftest import Clock

IDS = list(range(30))
A, B, C = lists = ("list-a", "list-b", "list-c")


@pytest.fixture(autouse=True)
def _fast(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test sleep, and have small blocks with a STATE after each."""
    monkeypatch.setattr("tap_sendgrid_contacts.decode.lines._BLOCK_BYTES", 100)
    monkeypatch.setattr("tap_sendgrid_contacts.run.state.STATE_INTERVAL", 1)
    # Without a thread for each request.
    monkeypatch.setattr("tap_sendgrid_contacts.stopping.run", lambda function: function())
    del clock


@pytest.fixture
def sendgrid(requests_mock: Mocker, clock: Clock) -> FakeSendGrid:
    return FakeSendGrid(requests_mock, clock)


@pytest.fixture
def pipeline(client: SendGridClient) -> Pipeline:
    return Pipeline(client)


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Merge states as Meltano does: objects key by key, all else replaced."""
    merged = {**old, **new}
    for key in old.keys() & new.keys():
        if isinstance(old[key], dict) and isinstance(new[key], dict):
            merged[key] = merge(old[key], new[key])
    return merged


# --- resumed --------------------------------------------------------------------------------


@pytest.mark.parametrize("block_bytes", [50, 100, 10_000])
def test_killed_after_any_contact_nothing_is_lost_and_little_is_repeated(
    sendgrid: FakeSendGrid,
    pipeline: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    block_bytes: int,
) -> None:
    for contacts in range(1, 30, 3):
        created = sendgrid.created
        before = pipeline({}, stop_after=contacts)
        with monkeypatch.context() as patch:
            patch.setattr("tap_sendgrid_contacts.decode.lines._BLOCK_BYTES", block_bytes)
            after = pipeline()
        assert sorted({*before, *after}) == IDS
        # The block that was being written.
        assert after[0] <= contacts < after[0] + 4
        assert after == IDS[after[0] :]
        assert sendgrid.created == created + 1


def test_resume_downloads_unfinished_parts_only(
    sendgrid: FakeSendGrid, pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    pipeline(stop_after=15)
    read = pipeline.saved["exports"]
    (checkpoint,) = read.values()
    sendgrid.requests.clear()
    pipeline()
    assert [line for line in sendgrid.requests if "/" in line] == ["GET e1/c"]
    skipped = checkpoint["part_offset"]
    assert f"Part 3 of 3: skipping {skipped} already emitted contacts" in caplog.text
    # The rate is that of this run; the clock stands still: a millisecond is the least.
    assert f" {30 - 13 - skipped},000 contacts/s" in caplog.text


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({**PARTS, "d": part([99])}, "expected 3, found 4"),
        ({"a": PARTS["a"], "c": PARTS["c"]}, "expected 3, found 2"),
        # The same contacts, in other bytes.
        ({**PARTS, "c": PARTS["c"] + b"\n"}, "Part 3 of 3 changed since the last run"),
    ],
    ids=["more", "fewer", "part that was being read"],
)
def test_changed_parts_start_a_new_export(
    sendgrid: FakeSendGrid,
    pipeline: Pipeline,
    caplog: pytest.LogCaptureFixture,
    parts: dict[str, bytes],
    words: str,
) -> None:
    pipeline(stop_after=20)
    version = pipeline.saved["version"]
    sendgrid.exports["e1"].parts = parts
    assert pipeline() == IDS
    assert sendgrid.created == 2
    assert words in caplog.text
    assert "; starting a new export" in caplog.text
    # Contacts of the first export are deleted if the second one has them no more.
    assert {each for _, each in pipeline.items} == {pipeline.run.state.version}
    assert (pipeline.run.state.version or 0) > version
    assert pipeline.withheld is None


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, "no longer exists"),
        ({"status": "failure"}, "failed"),
        ({"status": "ready", "expires_at": "2020-01-01T00:00:00Z"}, "expired"),
    ],
)
def test_unavailable_export_is_replaced(
    sendgrid: FakeSendGrid,
    pipeline: Pipeline,
    caplog: pytest.LogCaptureFixture,
    status: dict[str, Any] | None,
    words: str,
) -> None:
    pipeline(stop_after=5)
    if status is None:
        # Another one, so that the next export has another id.
        sendgrid.exports["e0"] = sendgrid.exports.pop("e1")
    else:
        sendgrid.exports["e1"].status = status
    assert pipeline() == IDS
    assert sendgrid.created == 2
    assert words in caplog.text


@pytest.mark.parametrize("status", [401, 403, 500])
def test_other_errors_keep_the_export(
    sendgrid: FakeSendGrid, pipeline: Pipeline, status: int
) -> None:
    pipeline(stop_after=5)
    before = pipeline.saved
    sendgrid.errors = {"GET e1": status}
    with pytest.raises((FatalAPIError, PollTimeoutError)):
        pipeline(poll_timeout=10)
    assert pipeline.saved == before
    assert sendgrid.created == 1


def test_poll_timeout_covers_the_resumed_and_the_new_export(
    sendgrid: FakeSendGrid, pipeline: Pipeline, requests_mock: Mocker, clock: Clock
) -> None:
    pipeline(stop_after=5)
    pending, failure = {"status": "pending"}, {"status": "failure"}
    requests_mock.get(f"{EXPORTS}/e1", [{"json": pending}, {"json": pending}, {"json": failure}])
    sendgrid.next_export.status = pending
    with pytest.raises(PollTimeoutError, match=r"e2 .*: timed out after 10 s \(poll_timeout\)"):
        pipeline(poll_timeout=10)
    assert sum(clock.sleeps) == 10


@pytest.mark.parametrize("replaced", [False, True])
def test_poll_timeout_covers_the_create_request(
    sendgrid: FakeSendGrid, pipeline: Pipeline, clock: Clock, *, replaced: bool
) -> None:
    if replaced:
        pipeline(stop_after=5)
        sendgrid.exports["e1"].status = {"status": "failure"}
    sendgrid.seconds = 9
    sendgrid.next_export.status = {"status": "pending"}
    with pytest.raises(PollTimeoutError):
        pipeline(poll_timeout=10)
    assert clock.sleeps == [9, 1]


# --- parts ----------------------------------------------------------------------------------


def test_part_that_repeats_one_of_an_earlier_run_gives_the_export_up(
    sendgrid: FakeSendGrid, pipeline: Pipeline
) -> None:
    pipeline(stop_after=12)
    sendgrid.exports["e1"].parts["c"] = PARTS["a"]
    error = r"Part 3 of 3 repeats .*\. The next run starts a new export$"
    with pytest.raises(IncompleteExportError, match=error):
        pipeline()
    assert pipeline.ids[-1] == 12
    assert pipeline.checkpoints == []
    assert pipeline() == IDS
    assert sendgrid.created == 2


def test_parts_without_contacts_may_repeat(sendgrid: FakeSendGrid, pipeline: Pipeline) -> None:
    sendgrid.next_export.parts = {"0": b"", "1": b"", **PARTS, "d": b"", "e": b"\n", "f": b"\n"}
    for contacts in (1, 12, 30):
        before = pipeline({}, stop_after=contacts)
        assert {*before, *pipeline()} == {*IDS}


@pytest.mark.parametrize("fails", [False, True])
def test_invalid_values_are_counted_at_the_end(
    sendgrid: FakeSendGrid, pipeline: Pipeline, caplog: pytest.LogCaptureFixture, *, fails: bool
) -> None:
    line = b'{"contact_id":"1","updated_at":"never"}\n'
    sendgrid.next_export = FakeExport({"a": line * 2 + (b"broken" if fails else b"")}, count=2)
    with pytest.raises(DataError) if fails else contextlib.nullcontext():
        pipeline(on_invalid_value="null")
    assert "Column updated_at: 2 invalid date value(s) emitted as null" in caplog.messages


def test_damaged_export_is_kept_once(sendgrid: FakeSendGrid, pipeline: Pipeline) -> None:
    sendgrid.next_export.parts["c"] += b"broken\n"
    for next_run, kept in (("resumes it", 1), ("starts a new export", 0)):
        with pytest.raises(DataError, match=rf"^Part 3 of 3, line 18.*\. The next run {next_run}$"):
            pipeline()
        assert len(pipeline.checkpoints) == kept
    sendgrid.next_export = FakeExport()
    assert pipeline() == IDS
    assert sendgrid.created == 2


# --- contact_count --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "allow", "warning", "withheld"),
    [
        (30, False, None, None),
        (29, False, "Read 30 contacts, expected 29", "more contacts .* duplicates"),
        (0, False, "Read 30 contacts, expected 0", "more contacts"),
        (None, False, "completeness not verified", "no contact_count"),
        (31, True, "continuing because of allow_count_mismatch", "fewer contacts"),
    ],
)
def test_deletes_need_exactly_the_contacts_that_sendgrid_counted(
    sendgrid: FakeSendGrid,
    pipeline: Pipeline,
    caplog: pytest.LogCaptureFixture,
    *,
    count: int | None,
    allow: bool,
    warning: str | None,
    withheld: str | None,
) -> None:
    sendgrid.next_export.count = count
    assert pipeline(allow_count_mismatch=allow) == IDS
    warnings = [each for each in caplog.records if each.levelname == "WARNING"]
    assert bool(warnings) == bool(warning)
    assert (warning or "") in caplog.text
    assert re.search(withheld or "None", str(pipeline.withheld))


@pytest.mark.parametrize("files", [False, True])
def test_export_that_is_short_is_given_up(
    sendgrid: FakeSendGrid, pipeline: Pipeline, tmp_path: Path, *, files: bool
) -> None:
    config = BatchConfig.from_dict(
        {
            "encoding": {"format": "jsonl"},
            "storage": {"root": tmp_path.as_uri()},
            "batch_size": 7,
        }
    )

    def make_output() -> BatchFiles | None:
        return BatchFiles(config, "contacts", {}, None) if files else None

    sendgrid.next_export.count = 31
    with pytest.raises(IncompleteExportError, match=r"expected 31 .*The next run starts a new exp"):
        pipeline(output=make_output())
    assert pipeline.checkpoints == []
    sendgrid.next_export.count = 30
    pipeline(output=make_output())
    assert len(pipeline.items) == (5 if files else 30)
    assert sendgrid.created == 2


# --- requests without a response ------------------------------------------------------------

# By this machine's clock, which is hours off from SendGrid's.
HERE = NOW + timedelta(hours=5)


@pytest.fixture
def lost(
    sendgrid: FakeSendGrid, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> FakeSendGrid:
    """SendGrid, after a run whose request was lost; it may have created the export e1."""
    monkeypatch.setattr("time.time", HERE.timestamp)
    sendgrid.errors = {"POST exports": 500}
    with pytest.raises(TransientError):
        pipeline()
    assert pipeline.checkpoints == [{"requested_at": HERE.isoformat().replace("+00:00", "Z")}]
    sendgrid.errors = {}
    sendgrid.requests.clear()
    sendgrid.exports["e1"] = FakeExport()
    return sendgrid


@pytest.mark.parametrize("age", [timedelta(0), timedelta(minutes=29)])
def test_lost_request_is_found(
    lost: FakeSendGrid, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, age: timedelta
) -> None:
    monkeypatch.setattr("time.time", (HERE + age).timestamp)
    # The clock of SendGrid goes on, too.
    lost.exports["e1"].created_at = NOW + age
    assert pipeline(stop_after=30) == IDS
    assert lost.created == 0
    assert pipeline.checkpoints[0]["adopted"]


@pytest.mark.parametrize("age", [timedelta(0), timedelta(minutes=31)])
def test_lost_request_that_was_not_processed_starts_a_new_export(
    lost: FakeSendGrid,
    pipeline: Pipeline,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    age: timedelta,
) -> None:
    monkeypatch.setattr("time.time", (HERE + age).timestamp)
    lost.exports["e1"].created_at = NOW - timedelta(hours=1)
    assert pipeline() == IDS
    assert lost.created == 1
    assert ("GET exports" in lost.requests) == (not age)
    reason = "is older than 30 min; not searching for it" if age else "was not accepted"
    assert f"{reason}; starting a new export" in caplog.text


def test_search_that_fails_starts_no_new_export(lost: FakeSendGrid, pipeline: Pipeline) -> None:
    before = pipeline.checkpoints
    lost.errors = {"GET exports": 503}
    with pytest.raises(TransientError):
        pipeline()
    assert lost.requests == ["GET exports"] * 6
    assert pipeline.checkpoints == before


@pytest.mark.parametrize(("damaged", "kept"), [("a", 0), ("c", 1)])
def test_found_export_that_does_not_decode_may_be_another_one(
    lost: FakeSendGrid, pipeline: Pipeline, damaged: str, kept: int
) -> None:
    lost.exports["e1"].parts[damaged] = b"CONTACT_ID\n"
    with pytest.raises(DataError):
        pipeline()
    assert len(pipeline.checkpoints) == kept


def test_request_that_may_have_been_processed_before_the_last_attempt_is_looked_up(
    sendgrid: FakeSendGrid, pipeline: Pipeline
) -> None:
    sendgrid.create_errors = [503, *[429] * 5]
    with pytest.raises(TransientError):
        pipeline()
    assert len(pipeline.checkpoints) == 1


@pytest.mark.parametrize("status", [400, 403])
def test_rejected_request_leaves_nothing(
    sendgrid: FakeSendGrid, pipeline: Pipeline, status: int
) -> None:
    sendgrid.create_errors = [status]
    with pytest.raises(FatalAPIError):
        pipeline()
    assert pipeline.checkpoints == []


def test_lost_request_that_becomes_visible_late_is_found(
    lost: FakeSendGrid, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    visible = lost.exports.pop("e1")
    lost.create_errors = [429] * 6
    with pytest.raises(TransientError):
        pipeline()
    lost.requests.clear()
    monkeypatch.setattr("time.time", (HERE + timedelta(minutes=1)).timestamp)
    lost.exports["e1"] = visible
    assert pipeline() == IDS
    assert lost.created == 0


def test_export_that_was_given_up_is_not_found(sendgrid: FakeSendGrid, pipeline: Pipeline) -> None:
    sendgrid.next_export.count = 31
    with pytest.raises(IncompleteExportError, match="The next run starts a new export"):
        pipeline()
    sendgrid.next_export.count = 30
    sendgrid.create_errors = [500, 202]
    assert pipeline() == IDS
    assert sendgrid.created == 3


def test_replacement_that_fails_is_an_error(lost: FakeSendGrid, pipeline: Pipeline) -> None:
    lost.exports.clear()
    lost.next_export.status = {"status": "failure", "message": "too many"}
    with pytest.raises(ExportUnavailableError, match="too many"):
        pipeline()
    assert lost.created == 1
    assert pipeline.checkpoints == []


# --- several exports ------------------------------------------------------------------------


@pytest.fixture
def three(sendgrid: FakeSendGrid) -> FakeSendGrid:
    """SendGrid with three lists, of ten, three and seventeen contacts."""
    for list_id, content in zip(lists, PARTS.values(), strict=True):
        sendgrid.of_list[list_id] = FakeExport({"a": content}, count=content.count(b"\n"))
    return sendgrid


OF_B = list(range(10, 13))


def test_rate_limited_export_is_created_when_another_one_is_ready(
    three: FakeSendGrid, pipeline: Pipeline, clock: Clock
) -> None:
    three.create_errors = [202, 429]
    assert pipeline(list_ids=lists) == IDS
    assert three.requests[1 : three.requests.index("GET e1/a")] == [
        *["POST exports"] * 2,
        "GET e1",
        # Before the first one is read.
        *["POST exports"] * 2,
    ]
    # Nothing is looked up, and nothing waits.
    assert "GET exports" not in three.requests
    assert clock.sleeps == []


def test_request_ahead_without_response_is_looked_up(
    three: FakeSendGrid, pipeline: Pipeline
) -> None:
    three.create_errors = [202, -503]
    assert pipeline(list_ids=lists) == IDS
    assert (three.created, three.requests.count("GET exports")) == (3, 1)


def test_rejection_ahead_is_reported_in_its_turn(
    three: FakeSendGrid, pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    three.create_errors = [202, 404]
    with pytest.raises(FailedExportsError, match=r"1 of 3 .* reads all lists and segments again$"):
        pipeline(list_ids=lists)
    assert pipeline.ids == [each for each in IDS if each not in OF_B]
    assert three.created == 3
    (error,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert error.startswith("list list-b: POST")
    assert (pipeline.checkpoints, pipeline.saved.get("finished")) == ([], None)


def test_other_exports_are_read_after_a_failure(
    three: FakeSendGrid, pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    three.of_list[B].parts["a"] += b"broken\n"
    with pytest.raises(
        FailedExportsError,
        match=r"1 of 3 .* continues this one if it starts before .* UTC$",
    ):
        pipeline(list_ids=lists)
    assert [each for each in pipeline.ids if each not in OF_B] == [*IDS[:10], *IDS[13:]]
    assert "list list-b: Part 1 of 1, line 4" in caplog.text
    assert len(pipeline.saved["finished"]) == 2
    for export in (three.exports["e2"], three.of_list[B]):
        export.parts = {"a": PARTS["b"]}
    # Only the download was damaged.
    assert pipeline(list_ids=lists) == OF_B
    assert three.created == 3


@pytest.mark.parametrize("when", ["waiting", "creating"])
def test_poll_timeout_keeps_finished_exports(
    three: FakeSendGrid,
    pipeline: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    when: str,
) -> None:
    monkeypatch.setattr("tap_sendgrid_contacts.run.run.EXPORTS_AHEAD", 1)
    if when == "waiting":
        three.of_list[B].status = {"status": "pending"}
    else:
        three.seconds = 6
    with pytest.raises(
        FailedExportsError,
        match=r"1 of 3 .* continues this one if it starts before .* UTC$",
    ):
        pipeline(list_ids=lists, poll_timeout=10)
    assert len(pipeline.saved["finished"]) == 2
    # Each line names its list once.
    assert all(message.count("list ") <= 1 for message in caplog.messages)
    assert three.created == (3 if when == "waiting" else 2)
    three.exports["e2"].status = {"status": "ready"}
    rest = OF_B if when == "waiting" else IDS[13:]
    assert pipeline(list_ids=lists) == rest
    assert three.created == 3


def test_rejected_key_ends_the_run_and_keeps_the_exports(
    three: FakeSendGrid, pipeline: Pipeline
) -> None:
    three.errors = {"GET e2": 403}
    with pytest.raises(ForbiddenError):
        pipeline(list_ids=lists)
    assert "GET e3" not in three.requests
    three.errors = {}
    assert pipeline(list_ids=lists) == IDS[10:]
    assert three.created == 3


def test_error_of_the_output_ends_the_run(three: FakeSendGrid, pipeline: Pipeline) -> None:
    class Full(Rows):
        @override
        def write(self, blocks: Iterable[Block], version: int | None) -> Iterator[Any]:
            yield next(super().write(blocks, version))
            raise FatalSyncError("full")

    with pytest.raises(FatalSyncError, match=r"^full$"):
        pipeline(list_ids=lists, output=Full())
    read = len(pipeline.items)
    assert pipeline(list_ids=lists) == IDS[read:]
    assert three.created == 3


def test_failure_is_logged_although_the_run_is_killed_later(
    three: FakeSendGrid, pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    three.of_list[A].parts = {"a": b"broken\n"}
    assert pipeline(list_ids=lists, stop_after=1) == [10]
    assert "list list-a: Part 1 of 1" in caplog.text


def test_replaced_export_withholds_deletes_of_the_others(
    three: FakeSendGrid, pipeline: Pipeline
) -> None:
    pipeline(list_ids=lists, stop_after=12)
    version = pipeline.saved["version"]
    three.exports["e2"].status = {"status": "failure"}
    assert pipeline(list_ids=lists) == IDS[10:]
    assert {each for _, each in pipeline.items} == {version}
    assert re.search("list-b.*another export was read in part before", str(pipeline.withheld))


# --- the state in a pipeline ----------------------------------------------------------------


def test_interrupted_full_refresh_emits_everything(
    sendgrid: FakeSendGrid, pipeline: Pipeline
) -> None:
    pipeline(incremental=True)
    old = pipeline.states[-1]
    assert pipeline(incremental=True) == [27]
    before = pipeline({}, incremental=True, stop_after=5)
    merged = merge(old, pipeline.states[-1])
    assert merged["replication_key_value"] == "2020-01-28T00:00:00Z"
    assert {*before, *pipeline(merged, incremental=True)} == {*IDS}
    assert sendgrid.created == 3


def test_failed_full_refresh_of_several_exports_emits_everything(
    three: FakeSendGrid, pipeline: Pipeline
) -> None:
    pipeline(list_ids=lists, incremental=True)
    old = pipeline.states[-1]
    three.of_list[B].count = 4
    with pytest.raises(FailedExportsError, match="reads all lists and segments again"):
        pipeline({}, list_ids=lists, incremental=True)
    three.of_list[B].count = 3
    merged = merge(old, pipeline.states[-1])
    assert pipeline(merged, list_ids=lists, incremental=True) == IDS


def test_latest_updated_at_survives_a_resume(sendgrid: FakeSendGrid, pipeline: Pipeline) -> None:
    sendgrid.next_export.parts = {"a": PARTS["c"], "b": PARTS["a"], "c": PARTS["b"]}
    pipeline(incremental=True, stop_after=29)
    pipeline(incremental=True)
    assert pipeline.states[-1]["replication_key_value"] == "2020-01-28T00:00:00Z"
    assert pipeline(incremental=True, start_date="2020-01-27") == [27]
    assert pipeline.run.state.version is None


def test_versions_are_never_reused(
    sendgrid: FakeSendGrid, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", NOW.timestamp)
    versions = []
    for stop_after in (None, None, 1, 5, None):
        pipeline(stop_after=stop_after)
        versions.append(pipeline.run.state.version)
    first = int(NOW.timestamp())
    # A run is resumed with its version if contacts of it were counted as emitted.
    assert versions == [first, first + 1, first + 2, first + 3, first + 3]
    assert sendgrid.created == 3


@pytest.mark.parametrize("shape", ["lists", "parts"])
def test_state_is_small(
    sendgrid: FakeSendGrid, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    monkeypatch.setattr("tap_sendgrid_contacts.run.state.STATE_INTERVAL", STATE_INTERVAL)
    list_ids: tuple[str, ...] = ()
    if shape == "lists":
        list_ids = tuple(f"{number:036}" for number in range(100))
        sendgrid.next_export = FakeExport({"a": part(range(5))}, count=5)
    else:
        parts = {str(number): part(range(5 * number, 5 * number + 5)) for number in range(100)}
        sendgrid.next_export = FakeExport(parts, count=500)
    assert len(pipeline(list_ids=list_ids)) == 500
    sizes = [len(json.dumps(state)) for state in pipeline.states]
    # Two for each pair of exports that are created, with some 20 bytes for each that is finished.
    assert len(sizes) <= (102 if shape == "lists" else 4)
    assert max(sizes) < (4_000 if shape == "lists" else 1_000)
    assert None not in pipeline.states[0]["run"][0]["fingerprint"].values()


def test_signal_while_contacts_are_skipped_is_honoured(
    sendgrid: FakeSendGrid, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    sendgrid.next_export.parts = {"a": part(range(30))}
    pipeline(stop_after=25)
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 6:
            raise Stopped(signal.SIGTERM)

    monkeypatch.setattr("tap_sendgrid_contacts.stopping.check", check)
    with pytest.raises(Stopped):
        pipeline()
    assert pipeline.items == []


def test_poll_timeout_keeps_a_request_that_may_have_been_processed(
    sendgrid: FakeSendGrid, pipeline: Pipeline
) -> None:
    sendgrid.create_errors = [-503]
    sendgrid.seconds = 20
    with pytest.raises(PollTimeoutError):
        pipeline(poll_timeout=10)
    assert sendgrid.created == 1
    sendgrid.seconds = 0
    assert pipeline() == IDS
    assert sendgrid.created == 1


def test_replacement_that_fails_promises_no_resume(
    sendgrid: FakeSendGrid, pipeline: Pipeline
) -> None:
    pipeline(stop_after=5)
    del sendgrid.exports["e1"]
    sendgrid.create_errors = [429] * 9
    with pytest.raises(TransientError) as error:
        pipeline()
    assert "resumes" not in str(error.value)
