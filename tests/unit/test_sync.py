"""The sync of one export: created or resumed, read completely, verified."""

from __future__ import annotations

import contextlib
import copy
import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
from singer_sdk.exceptions import DataError, FatalAPIError

from tap_sendgrid_contacts.api.export import (
    ExportRequest,
    ExportUnavailableError,
    PollBudget,
    PollTimeoutError,
)
from tap_sendgrid_contacts.api.http import ForbiddenError, TransientError
from tap_sendgrid_contacts.checkpoint import CheckpointStore
from tap_sendgrid_contacts.columns import ColumnLayout
from tap_sendgrid_contacts.decode import make_decoder
from tap_sendgrid_contacts.incremental import emit_all, make_incremental_filter
from tap_sendgrid_contacts.schema import build_schema, columns_from_schema
from tap_sendgrid_contacts.sync import Block, ExportSync, RepeatedPartError, SyncOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from requests_mock import Mocker

    from tap_sendgrid_contacts.api.client import SendGridClient
    from tap_sendgrid_contacts.columns import OnInvalidValue, Row
    from tap_sendgrid_contacts.incremental import ContactFilter
    from tests.unit.conftest import Clock

EXPORTS = "https://api.sendgrid.com/v3/marketing/contacts/exports"
STORAGE = "https://storage.example"
NOW = datetime(2026, 11, 22, 10, 0, tzinfo=timezone.utc)
FINGERPRINT = {"file_type": "json", "columns": "abc"}
COLUMNS = columns_from_schema(build_schema([]), {"updated_at"}.__contains__)


@pytest.fixture(autouse=True)
def _no_sleep(clock: Clock) -> None:
    """Let no test sleep."""


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the decoder yield a few contacts at a time."""
    monkeypatch.setattr("tap_sendgrid_contacts.decode.lines._BLOCK_BYTES", 100)


def day(number: int) -> datetime:
    return datetime(2020, 1, number, tzinfo=timezone.utc)


def part(ids: Iterable[int]) -> bytes:
    """Return a part of contacts; each was updated on the day of its id."""
    return b"".join(
        b'{"contact_id":"%d","updated_at":"%s"}\n'
        % (i, day(i % 28 + 1).isoformat().replace("+00:00", "Z").encode())
        for i in ids
    )


PARTS = {"a": part(range(10)), "b": part(range(10, 13)), "c": part(range(13, 30))}
IDS = list(range(30))


@dataclass
class Export:
    """An export that SendGrid has.

    Attributes:
        parts: Content of each part by its path.
        count: Its `contact_count`.
        status: What its status has beside that.
        created_at: When it was created.
    """

    parts: dict[str, bytes] = field(default_factory=lambda: dict(PARTS))
    count: int | None = 30
    status: dict[str, Any] = field(default_factory=lambda: {"status": "ready"})
    created_at: datetime = NOW


class FakeSendGrid:
    """The API and the storage, by requests_mock.

    Attributes:
        exports: The exports by id.
        next_export: What the next export to be created is like.
        create_errors: Statuses with which requests to create an export fail, one each.
        errors: Status with which all requests of a method and path fail.
        now: The time of the `Date` headers.
        requests: Method and path of each request.
    """

    def __init__(self, requests_mock: Mocker) -> None:
        self.exports: dict[str, Export] = {}
        self.next_export = Export()
        self.create_errors: list[int] = []
        self.errors: dict[str, int] = {}
        self.now = NOW
        self.requests: list[str] = []
        requests_mock.post(EXPORTS, json=self._create)
        requests_mock.get(EXPORTS, json=self._list)
        requests_mock.get(re.compile(f"{EXPORTS}/"), json=self._get)
        requests_mock.get(re.compile(f"{STORAGE}/"), content=self._download)

    @property
    def created(self) -> int:
        """Number of requests to create an export."""
        return self.requests.count("POST exports")

    def _log(self, context: Any, line: str) -> bool:  # noqa: ANN401 - of requests_mock
        self.requests.append(line)
        context.headers["Date"] = format_datetime(self.now, usegmt=True)
        context.status_code = self.errors.get(line, 200)
        return bool(context.status_code == 200)

    def _create(self, _request: object, context: Any) -> dict[str, Any]:  # noqa: ANN401
        if self._log(context, "POST exports"):
            if self.create_errors:
                context.status_code = self.create_errors.pop(0)
                return {}
            export_id = f"e{len(self.exports) + 1}"
            self.exports[export_id] = copy.deepcopy(self.next_export)
            return {"id": export_id}
        return {}

    def _list(self, _request: object, context: Any) -> dict[str, Any]:  # noqa: ANN401
        self._log(context, "GET exports")
        return {
            "result": [
                {"id": export_id, "created_at": export.created_at.isoformat(), **export.status}
                for export_id, export in self.exports.items()
            ]
        }

    def _get(self, request: Any, context: Any) -> dict[str, Any]:  # noqa: ANN401
        export_id = request.path.rpartition("/")[2]
        self._log(context, f"GET {export_id}")
        if export_id not in self.exports:
            context.status_code = 404
            return {}
        export = self.exports[export_id]
        return {
            "id": export_id,
            "contact_count": export.count,
            "created_at": export.created_at.isoformat(),
            "urls": [
                f"{STORAGE}/{export_id}/{name}?X-Amz-Expires=300&X-Amz-Signature=s"
                for name in export.parts
            ],
            **export.status,
        }

    def _download(self, request: Any, context: Any) -> bytes:  # noqa: ANN401
        _, export_id, name = request.path.split("/")
        self._log(context, f"GET {export_id}/{name}")
        return self.exports[export_id].parts[name]


@pytest.fixture
def sendgrid(requests_mock: Mocker) -> FakeSendGrid:
    return FakeSendGrid(requests_mock)


def ids_of(block: Block) -> list[int]:
    return [int(str(contact[0])) for contact in block.contacts or ()]


class Runs:
    """Runs syncs with one state, as the runs of a pipeline have it.

    Attributes:
        state: The stream's state.
        emitted: The stream's state of each STATE of the last run.
        ids: Ids of the contacts that the last run emitted.
        blocks: The blocks of the last run.
        sync: The sync of the last run.
    """

    def __init__(self, client: SendGridClient) -> None:
        self._client = client
        self.state: dict[str, Any] = {}
        self.emitted: list[dict[str, Any]] = []
        self.ids: list[int] = []
        self.blocks: list[Block] = []
        self.sync: ExportSync

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint of the last STATE."""
        exports: list[dict[str, Any]] = self.emitted[-1]["exports"]
        return exports[0] if exports else None

    def __call__(
        self,
        state: dict[str, Any] | None = None,
        *,
        blocks: int | None = None,
        fingerprint: dict[str, Any] = FINGERPRINT,
        file_type: str = "json",
        on_invalid_value: OnInvalidValue = "fail",
        filter_contacts: ContactFilter = emit_all,
        **options: Any,
    ) -> list[int]:
        """Run a sync to its end, or for some blocks; return the ids of the emitted contacts."""
        self.state = copy.deepcopy(self.state if state is None else state)
        self.emitted, self.ids, self.blocks = [], [], []
        store = CheckpointStore(
            self.state, lambda: self.emitted.append(copy.deepcopy(self.state)), {}, fingerprint
        )
        self.sync = ExportSync(
            self._client,
            ExportRequest(),
            store,
            make_decoder(file_type, ColumnLayout(COLUMNS, on_invalid_value)),
            SyncOptions(**options),
            filter_contacts,
        )
        self.sync.open()
        for block in self.sync.blocks():
            if len(self.blocks) == blocks:
                break
            self.blocks.append(block)
            self.ids += ids_of(block)
            store.save(block.checkpoint)
        return self.ids


@pytest.fixture
def run(client: SendGridClient) -> Runs:
    return Runs(client)


# --- a new export ---------------------------------------------------------------------------


def test_new_export_is_read_completely(sendgrid: FakeSendGrid, run: Runs) -> None:
    assert run() == IDS
    assert sendgrid.created == 1
    assert len(run.blocks) > 2 * len(PARTS)
    assert run.sync.checkpoint.contacts_read == 30
    assert run.sync.progress.bytes_downloaded == sum(map(len, PARTS.values()))


def test_state_before_and_after_the_request_and_after_each_part(
    sendgrid: FakeSendGrid, run: Runs
) -> None:
    run()
    checkpoints = [state["exports"][0] for state in run.emitted]
    assert [each.get("export_id") for each in checkpoints] == [None, *["e1"] * 4]
    assert [len(each.get("finished_parts", "").split()) for each in checkpoints] == [0, 0, 1, 2, 3]
    assert [each.get("contacts_before", 0) for each in checkpoints] == [0, 0, 10, 13, 30]
    assert all(each["fingerprint"] == FINGERPRINT for each in checkpoints)
    assert checkpoints[-1]["part_count"] == 3
    assert sendgrid.created == 1


def test_checkpoint_of_a_block_counts_its_contacts(sendgrid: FakeSendGrid, run: Runs) -> None:
    run()
    read = 0
    for block in run.blocks:
        assert block.previous.contacts_read == read
        read += len(block.contacts or ())
        assert block.checkpoint.contacts_read == read
    assert sendgrid.created == 1


def test_rejected_request_is_an_error_and_its_checkpoint_is_unconfirmed(
    sendgrid: FakeSendGrid, run: Runs
) -> None:
    sendgrid.create_errors = [403]
    with pytest.raises(ForbiddenError):
        run()
    assert run.checkpoint == {"requested_at": run.emitted[0]["exports"][0]["requested_at"]} | {
        "fingerprint": FINGERPRINT
    }


def test_new_export_that_fails_is_an_error(sendgrid: FakeSendGrid, run: Runs) -> None:
    sendgrid.next_export.status = {"status": "failure", "message": "too many"}
    with pytest.raises(ExportUnavailableError, match="too many"):
        run()
    assert sendgrid.created == 1


def test_export_without_contacts_is_complete(sendgrid: FakeSendGrid, run: Runs) -> None:
    sendgrid.next_export = Export(parts={}, count=0)
    assert run() == []
    assert run.blocks == []


def test_reader_that_stops_early_ends_the_download(sendgrid: FakeSendGrid, run: Runs) -> None:
    assert len(run(blocks=1)) < 10
    assert sendgrid.created == 1


@pytest.mark.parametrize("version", [None, 1700000000])
def test_version_is_in_the_checkpoint(
    sendgrid: FakeSendGrid, run: Runs, version: int | None
) -> None:
    run(version=version)
    assert run.checkpoint
    assert run.checkpoint.get("version") == version
    assert sendgrid.created == 1


# --- resumed --------------------------------------------------------------------------------


def test_resume_after_any_block_emits_the_rest(sendgrid: FakeSendGrid, run: Runs) -> None:
    run()
    total = len(run.blocks)
    for blocks in range(total + 1):
        before = run({}, blocks=blocks)
        state = copy.deepcopy(run.state)
        created = sendgrid.created
        assert before + run(state) == IDS
        assert sendgrid.created == created
        assert run.sync.checkpoint.contacts_read == 30


@pytest.mark.parametrize("block_bytes", [50, 150, 10_000])
def test_resume_with_blocks_of_another_size_emits_the_rest(
    sendgrid: FakeSendGrid,
    run: Runs,
    monkeypatch: pytest.MonkeyPatch,
    block_bytes: int,
) -> None:
    filtered: list[int] = []

    def count(contacts: list[Row], latest: datetime | None) -> Any:  # noqa: ANN401 - a filter's
        filtered.append(len(contacts))
        return contacts, latest

    before = run(blocks=2)
    monkeypatch.setattr("tap_sendgrid_contacts.decode.lines._BLOCK_BYTES", block_bytes)
    rest = run(filter_contacts=count)
    assert before + rest == IDS
    assert sum(filtered) == len(rest)
    assert run.blocks[0].previous.contacts_read == len(before)
    assert sendgrid.created == 1


def test_new_export_may_be_404_at_first(
    sendgrid: FakeSendGrid, run: Runs, requests_mock: Mocker, clock: Clock
) -> None:
    url = f"{STORAGE}/e1/a?X-Amz-Expires=300"
    ready = {"status": "ready", "contact_count": 10, "urls": [url]}
    requests_mock.get(re.compile(f"{EXPORTS}/"), [{"status_code": 404}, {"json": ready}])
    assert run() == list(range(10))
    assert clock.sleeps == [2]
    assert sendgrid.created == 1


def test_rate_counts_the_contacts_of_this_run(sendgrid: FakeSendGrid, run: Runs) -> None:
    before = run(blocks=2)
    run()
    # The clock stands still: a millisecond is the least.
    assert f" {30 - len(before)},000 contacts/s" in run.sync.progress.summary(30, 3, 0)
    assert sendgrid.created == 1


@pytest.mark.parametrize("fails", [False, True])
def test_invalid_values_are_counted_at_the_end(
    sendgrid: FakeSendGrid,
    run: Runs,
    caplog: pytest.LogCaptureFixture,
    fails: bool,  # noqa: FBT001 - a parameter
) -> None:
    line = b'{"contact_id":"1","updated_at":"never"}\n'
    sendgrid.next_export = Export({"a": line * 2 + (b"broken" if fails else b"")}, count=2)
    with pytest.raises(DataError) if fails else contextlib.nullcontext():
        run(on_invalid_value="null")
    assert caplog.messages[-1] == "Column updated_at: 2 invalid date value(s) emitted as null"


def test_resume_downloads_unfinished_parts_only(sendgrid: FakeSendGrid, run: Runs) -> None:
    run()
    in_last_part = next(
        i for i, block in enumerate(run.blocks) if block.checkpoint.contacts_read > 13
    )
    run({}, blocks=in_last_part + 1)
    sendgrid.requests.clear()
    run()
    assert [line for line in sendgrid.requests if "/" in line] == ["GET e2/c"]


def test_resumed_export_keeps_its_version(sendgrid: FakeSendGrid, run: Runs) -> None:
    run(blocks=2, version=1)
    run(version=2)
    assert run.sync.checkpoint.version == 1
    assert sendgrid.created == 1


def test_export_that_is_pending_is_resumed(sendgrid: FakeSendGrid, run: Runs, clock: Clock) -> None:
    sendgrid.next_export.status = {"status": "pending"}
    with pytest.raises(PollTimeoutError):
        run(poll_budget=PollBudget(10), poll_interval=3)
    assert clock.sleeps[0] == 3
    assert sum(clock.sleeps) == 10
    assert run.checkpoint
    assert run.checkpoint["export_id"] == "e1"
    sendgrid.exports["e1"].status = {"status": "ready"}
    assert run() == IDS
    assert sendgrid.created == 1


@pytest.mark.parametrize(
    "fingerprint", [{**FINGERPRINT, "columns": "abd"}, {**FINGERPRINT, "new": 1}]
)
def test_changed_fingerprint_starts_a_new_export(
    sendgrid: FakeSendGrid,
    run: Runs,
    caplog: pytest.LogCaptureFixture,
    fingerprint: dict[str, Any],
) -> None:
    run(blocks=2)
    assert run(fingerprint=fingerprint) == IDS
    assert sendgrid.created == 2
    changed = "new" if "new" in fingerprint else "columns"
    assert f"{changed} changed since the last run; starting a new export" in caplog.text


def test_setting_that_no_longer_exists_is_no_change(sendgrid: FakeSendGrid, run: Runs) -> None:
    run(blocks=2, fingerprint={**FINGERPRINT, "old": 1})
    run()
    assert sendgrid.created == 1


@pytest.mark.parametrize(
    "exports",
    [
        [{"asked_at": "2026-11-22T10:00:00Z", "request": {"file_type": "json"}}],
        [{"requested_at": "yesterday", "fingerprint": {}}],
        "text",
    ],
    ids=str,
)
def test_invalid_checkpoint_starts_a_new_export(
    sendgrid: FakeSendGrid, run: Runs, caplog: pytest.LogCaptureFixture, exports: object
) -> None:
    assert run({"exports": exports}) == IDS
    assert sendgrid.created == 1
    assert "Invalid export checkpoint in state" in caplog.text


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, "no longer exists"),
        ({"status": "failure"}, "failed"),
        ({"status": "ready", "expires_at": "2020-01-01T00:00:00Z"}, "expired"),
    ],
)
def test_unavailable_export_starts_a_new_one(
    sendgrid: FakeSendGrid,
    run: Runs,
    caplog: pytest.LogCaptureFixture,
    status: dict[str, Any] | None,
    words: str,
) -> None:
    run(blocks=2)
    if status is None:
        # Another one, so that the next export has another id.
        sendgrid.exports["e0"] = sendgrid.exports.pop("e1")
    else:
        sendgrid.exports["e1"].status = status
    assert run() == IDS
    assert sendgrid.created == 2
    assert words in caplog.text
    assert "starting a new export" in caplog.text


def test_poll_timeout_covers_the_resumed_and_the_new_export(
    sendgrid: FakeSendGrid, run: Runs, requests_mock: Mocker, clock: Clock
) -> None:
    run(blocks=2)
    pending, failure = {"status": "pending"}, {"status": "failure"}
    requests_mock.get(f"{EXPORTS}/e1", [{"json": pending}, {"json": pending}, {"json": failure}])
    sendgrid.next_export.status = pending
    with pytest.raises(PollTimeoutError, match=r"e2 .*: timed out after 10 s \(poll_timeout\)"):
        run(poll_budget=PollBudget(10))
    assert sum(clock.sleeps) == 10


def test_poll_timeout_covers_the_create_request(
    sendgrid: FakeSendGrid, run: Runs, requests_mock: Mocker, clock: Clock
) -> None:
    def create(*_: object) -> dict[str, str]:
        clock.sleep(9)
        return {"id": "e1"}

    requests_mock.post(EXPORTS, json=create)
    sendgrid.exports["e1"] = Export(status={"status": "pending"})
    with pytest.raises(PollTimeoutError):
        run(poll_budget=PollBudget(10))
    assert clock.sleeps == [9, 1]


@pytest.mark.parametrize("status", [401, 403, 500])
def test_other_errors_do_not_start_a_new_export(
    sendgrid: FakeSendGrid, run: Runs, status: int
) -> None:
    run(blocks=2)
    before = copy.deepcopy(run.state)
    sendgrid.errors = {"GET e1": status}
    with pytest.raises((FatalAPIError, PollTimeoutError)):
        run(poll_budget=PollBudget(10))
    assert sendgrid.created == 1
    assert run.state == before


# --- started early --------------------------------------------------------------------------


@pytest.fixture
def early(client: SendGridClient) -> ExportSync:
    """A sync that is not started, of an export that would be ready."""
    store = CheckpointStore({}, lambda: None, {}, FINGERPRINT)
    return ExportSync(
        client,
        ExportRequest(),
        store,
        make_decoder("json", ColumnLayout(COLUMNS)),
        SyncOptions(),
        label="list a",
    )


def read(sync: ExportSync) -> list[int]:
    sync.open()
    return [id_ for block in sync.blocks() for id_ in ids_of(block)]


def test_early_export_is_not_created_again(sendgrid: FakeSendGrid, early: ExportSync) -> None:
    assert early.start_early()
    assert early.start_early()
    assert sendgrid.requests == ["POST exports"]
    assert read(early) == IDS
    assert sendgrid.created == 1


def test_rate_limited_early_export_is_created_later(
    sendgrid: FakeSendGrid, early: ExportSync, caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    caplog.set_level("INFO")
    sendgrid.create_errors = [429]
    assert not early.start_early()
    assert "list a: POST" in caplog.text
    assert read(early) == IDS
    # Nothing is looked up, and nothing waits.
    assert sendgrid.requests[:2] == ["POST exports"] * 2
    assert clock.sleeps == []


def test_early_request_without_response_is_looked_up(
    sendgrid: FakeSendGrid, early: ExportSync, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", NOW.timestamp)
    sendgrid.create_errors = [503]
    sendgrid.exports["e1"] = Export()
    assert not early.start_early()
    assert read(early) == IDS
    assert sendgrid.requests[:2] == ["POST exports", "GET exports"]
    assert sendgrid.created == 1
    assert early.checkpoint.adopted


def test_rejection_of_an_early_request_is_raised_in_its_turn(
    sendgrid: FakeSendGrid, early: ExportSync
) -> None:
    sendgrid.create_errors = [404]
    assert early.start_early()
    assert early.start_early()
    with pytest.raises(FatalAPIError, match="HTTP 404"):
        early.start()
    assert sendgrid.requests == ["POST exports"]
    # There is nothing that a later run could look up.
    assert early.store.load() is None


def test_complete_export_needs_no_request(sendgrid: FakeSendGrid, run: Runs) -> None:
    run()
    run.sync.complete()
    run.sync.store.save(run.sync.checkpoint)
    sendgrid.requests.clear()
    run.sync._is_started = False  # noqa: SLF001 - as in the next run
    run.sync.start()
    assert run.sync.checkpoint.is_complete
    assert sendgrid.requests == []


# --- deletes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "options", "reason"),
    [
        (30, {}, None),
        (29, {}, None),
        (31, {"allow_count_mismatch": True}, "fewer contacts"),
        (None, {}, "no contact_count"),
        (0, {}, "0 contacts"),
        (0, {"allow_empty": True}, None),
    ],
)
def test_deletes_are_safe_after_a_verified_export_only(
    sendgrid: FakeSendGrid,
    run: Runs,
    count: int | None,
    options: dict[str, Any],
    reason: str | None,
) -> None:
    sendgrid.next_export.count = count
    if count == 0:
        sendgrid.next_export.parts = {}
    run(**options)
    run.sync.complete()
    assert run.sync.checkpoint.contact_count == count
    unsafe = run.sync.why_deletes_are_unsafe()
    assert (reason or "None") in str(unsafe)


# --- parts ----------------------------------------------------------------------------------


def blocks_of_first_part(run: Runs) -> int:
    return 1 + next(i for i, block in enumerate(run.blocks) if block.checkpoint.finished_parts)


def test_finished_part_that_is_gone_starts_a_new_export(
    sendgrid: FakeSendGrid, run: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    run()
    run({}, blocks=blocks_of_first_part(run))
    parts = sendgrid.exports["e2"].parts
    parts["new"] = parts.pop("a")
    assert run() == IDS
    assert sendgrid.created == 3
    assert "not those of the last run (expected 3, found 3); starting a new export" in caplog.text


def test_renamed_parts_start_a_new_export(sendgrid: FakeSendGrid, run: Runs) -> None:
    run()
    run({}, blocks=blocks_of_first_part(run))
    export = sendgrid.exports["e2"]
    export.parts = {f"renamed-{name}": content for name, content in export.parts.items()}
    assert run() == IDS
    assert sendgrid.created == 3


@pytest.mark.parametrize("change", ["more", "fewer"])
def test_other_number_of_parts_starts_a_new_export(
    sendgrid: FakeSendGrid, run: Runs, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    run(blocks=2)
    if change == "more":
        sendgrid.exports["e1"].parts["d"] = part([99])
    else:
        del sendgrid.exports["e1"].parts["c"]
    assert run() == IDS
    assert sendgrid.created == 2
    found = 4 if change == "more" else 2
    assert f"(expected 3, found {found}); starting a new export" in caplog.text


def test_order_of_the_parts_does_not_matter(sendgrid: FakeSendGrid, run: Runs) -> None:
    before = run(blocks=2)
    export = sendgrid.exports["e1"]
    export.parts = dict(reversed(export.parts.items()))
    assert before + run() == IDS
    assert sendgrid.created == 1


def test_changed_part_is_read_again_from_its_start(
    sendgrid: FakeSendGrid, run: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    before = run(blocks=2)
    assert 0 < len(before) < 10
    # The same contacts, in other bytes.
    sendgrid.exports["e1"].parts["a"] += b"\n"
    assert run() == IDS
    assert sendgrid.created == 1
    assert "Part 1 of 3 changed since the last run; re-reading from the start" in caplog.text
    assert run.sync.checkpoint.contacts_read == 30


def test_unchanged_part_is_resumed_with_a_log_line(
    sendgrid: FakeSendGrid, run: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    before = run(blocks=2)
    run()
    assert f"Part 1 of 3: skipping {len(before)} already emitted contacts" in caplog.text
    assert f"{len(before)} contacts already emitted" in caplog.text
    assert sendgrid.created == 1


def test_repeated_part_is_an_error_and_its_checkpoint_is_discarded(
    sendgrid: FakeSendGrid, run: Runs
) -> None:
    sendgrid.next_export = Export(parts={**PARTS, "c": PARTS["a"]}, count=23)
    with pytest.raises(RepeatedPartError, match="Part 3 of 3 repeats"):
        run()
    assert run.ids == list(range(13))
    assert run.state == {"exports": []}
    assert run.emitted[-1] == run.state
    sendgrid.next_export = Export()
    assert run() == IDS
    assert sendgrid.created == 2


def test_part_that_repeats_a_part_of_an_earlier_run_is_an_error(
    sendgrid: FakeSendGrid, run: Runs
) -> None:
    run()
    run({}, blocks=blocks_of_first_part(run))
    sendgrid.exports["e2"].parts["c"] = PARTS["a"]
    with pytest.raises(RepeatedPartError):
        run()
    assert run.checkpoint is None


def test_parts_without_contacts_may_repeat(sendgrid: FakeSendGrid, run: Runs) -> None:
    sendgrid.next_export.parts = {"0": b"", "1": b"", **PARTS, "d": b"", "e": b"\n", "f": b"\n"}
    assert run() == IDS
    total = len(run.blocks)
    for blocks in range(0, total, 3):
        before = run({}, blocks=blocks)
        assert before + run() == IDS


def test_parts_of_one_name_are_all_read(
    sendgrid: FakeSendGrid, run: Runs, requests_mock: Mocker
) -> None:
    urls = [f"{STORAGE}/x/part?X-Amz-Expires=300&X-Amz-Signature={name}" for name in PARTS]
    requests_mock.get(
        re.compile(f"{EXPORTS}/"), json={"status": "ready", "contact_count": 30, "urls": urls}
    )
    for url, content in zip(urls, PARTS.values(), strict=True):
        requests_mock.get(url, content=content)
    assert run() == IDS
    assert run.sync.job.part_names == ("/x/part", "/x/part#2", "/x/part#3")
    assert sendgrid.created == 1


# --- unconfirmed requests -------------------------------------------------------------------


def unconfirmed(requested_at: datetime) -> dict[str, Any]:
    return {"exports": [{"requested_at": requested_at.isoformat(), "fingerprint": FINGERPRINT}]}


# By this machine's clock, which is hours off from SendGrid's.
HERE = NOW + timedelta(hours=5)


@pytest.fixture
def lost(sendgrid: FakeSendGrid, monkeypatch: pytest.MonkeyPatch) -> FakeSendGrid:
    """SendGrid with an export that the client does not know."""
    monkeypatch.setattr("time.time", HERE.timestamp)
    sendgrid.exports["e1"] = Export()
    return sendgrid


@pytest.mark.parametrize("age", [timedelta(0), timedelta(minutes=29)])
def test_unconfirmed_request_is_found_and_resumed(
    lost: FakeSendGrid, run: Runs, age: timedelta
) -> None:
    lost.exports["e1"].created_at = NOW - age
    assert run(unconfirmed(HERE - age)) == IDS
    assert lost.created == 0
    assert run.sync.checkpoint.adopted
    assert run.checkpoint
    assert run.checkpoint["export_id"] == "e1"


def test_unconfirmed_request_older_than_30_min_is_not_looked_up(
    lost: FakeSendGrid, run: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(unconfirmed(HERE - timedelta(minutes=31))) == IDS
    assert lost.created == 1
    assert "GET exports" not in lost.requests
    assert "older than 30 min" in caplog.text


def test_unconfirmed_request_that_was_not_processed_starts_a_new_export(
    lost: FakeSendGrid, run: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    lost.exports["e1"].created_at = NOW - timedelta(hours=1)
    assert run(unconfirmed(HERE)) == IDS
    assert lost.created == 1
    assert not run.sync.checkpoint.adopted
    assert "was not accepted; starting a new export" in caplog.text


def test_failure_of_the_export_instead_of_an_unconfirmed_one_is_raised(
    lost: FakeSendGrid, run: Runs
) -> None:
    lost.next_export.status = {"status": "failure"}
    with pytest.raises(ExportUnavailableError, match="failed"):
        run(unconfirmed(HERE - timedelta(hours=1)))
    assert lost.created == 1


def test_look_up_that_fails_starts_no_new_export(lost: FakeSendGrid, run: Runs) -> None:
    lost.errors = {"GET exports": 503}
    with pytest.raises(TransientError):
        run(unconfirmed(HERE))
    assert lost.requests == ["GET exports"] * 6
    assert run.state == unconfirmed(HERE)


def test_lost_response_is_adopted_within_a_run(lost: FakeSendGrid, run: Runs) -> None:
    lost.create_errors = [503]
    assert run() == IDS
    assert lost.created == 1
    assert run.sync.checkpoint.adopted


@pytest.mark.parametrize(("file_type", "content"), [("csv", PARTS["a"]), ("json", b"CONTACT_ID\n")])
def test_adopted_export_that_does_not_decode_is_discarded(
    lost: FakeSendGrid, run: Runs, file_type: str, content: bytes
) -> None:
    lost.exports["e1"].parts = {"a": content}
    with pytest.raises(DataError, match="Part 1 of 1"):
        run(unconfirmed(HERE), file_type=file_type)
    assert run.checkpoint is None


def test_adopted_export_that_decodes_at_first_is_kept(lost: FakeSendGrid, run: Runs) -> None:
    lost.exports["e1"].parts["c"] += b"broken\n"
    with pytest.raises(DataError, match="Part 3 of 3"):
        run(unconfirmed(HERE))
    assert run.checkpoint
    assert run.checkpoint["export_id"] == "e1"


def test_confirmed_export_that_does_not_decode_is_kept(sendgrid: FakeSendGrid, run: Runs) -> None:
    sendgrid.next_export.parts = {"a": b"broken\n"}
    with pytest.raises(DataError, match="Part 1 of 1, line 1"):
        run()
    assert run.checkpoint
    assert run.checkpoint["export_id"] == "e1"


# --- contact_count --------------------------------------------------------------------------


def test_missing_contacts_are_an_error_and_the_next_run_starts_a_new_export(
    sendgrid: FakeSendGrid, run: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    sendgrid.next_export.count = 31
    with pytest.raises(DataError, match=r"read 30 contacts, expected 31 \(contact_count\)"):
        run()
    assert run.ids == IDS
    sendgrid.next_export.count = 30
    assert run() == IDS
    assert sendgrid.created == 2
    assert "is fully read but incomplete; starting a new export" in caplog.text


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (29, "Read 30 contacts, expected 29"),
        (0, "Read 30 contacts, expected 0"),
        (None, "completeness not verified"),
    ],
)
def test_more_or_unknown_contacts_are_a_warning(
    sendgrid: FakeSendGrid,
    run: Runs,
    caplog: pytest.LogCaptureFixture,
    count: int | None,
    words: str,
) -> None:
    sendgrid.next_export.count = count
    assert run() == IDS
    assert words in caplog.text


def test_expected_contacts_are_no_warning(
    sendgrid: FakeSendGrid, run: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    run()
    assert caplog.records == []
    assert sendgrid.created == 1


def test_missing_contacts_are_a_warning_with_allow_count_mismatch(
    sendgrid: FakeSendGrid, run: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    sendgrid.next_export.count = 31
    assert run(allow_count_mismatch=True) == IDS
    assert "expected 31 (contact_count); continuing because of allow_count_mismatch" in caplog.text


def test_incomplete_export_is_accepted_later_with_allow_count_mismatch(
    sendgrid: FakeSendGrid, run: Runs
) -> None:
    sendgrid.next_export.count = 31
    with pytest.raises(DataError):
        run()
    assert run(allow_count_mismatch=True) == []
    assert sendgrid.created == 1


def test_contacts_of_earlier_runs_count(sendgrid: FakeSendGrid, run: Runs) -> None:
    run(blocks=4)
    assert len(run()) < 30
    assert run.sync.checkpoint.contacts_read == 30
    assert sendgrid.created == 1


# --- incremental ----------------------------------------------------------------------------


def test_filtered_contacts_are_read_but_not_emitted(sendgrid: FakeSendGrid, run: Runs) -> None:
    ids = run(filter_contacts=make_incremental_filter(day(25), None, 1))
    assert ids == [24, 25, 26, 27]
    assert run.sync.checkpoint.contacts_read == 30
    assert run.sync.checkpoint.max_updated_at == day(28)
    assert sendgrid.created == 1


def test_latest_updated_at_survives_a_resume(sendgrid: FakeSendGrid, run: Runs) -> None:
    sendgrid.next_export.parts = {"a": PARTS["c"], "b": PARTS["a"], "c": PARTS["b"]}
    filter_contacts = make_incremental_filter(None, None, 1)
    run(filter_contacts=filter_contacts)
    total = len(run.blocks)
    run({}, blocks=total - 1, filter_contacts=filter_contacts)
    run(filter_contacts=filter_contacts)
    assert run.sync.checkpoint.max_updated_at == day(28)
    assert run.checkpoint
    assert json.dumps(run.checkpoint["max_updated_at"]) == '"2020-01-28T00:00:00Z"'


def test_full_table_has_no_latest_updated_at(sendgrid: FakeSendGrid, run: Runs) -> None:
    run()
    assert run.sync.checkpoint.max_updated_at is None
    assert sendgrid.created == 1
