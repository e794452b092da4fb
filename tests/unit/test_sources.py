"""Sources: which exports a run has, and how it goes through them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from singer_sdk.exceptions import DataError, FatalAPIError, FatalSyncError

from tap_sendgrid_contacts import sources
from tap_sendgrid_contacts.api.export import ExportRequest
from tap_sendgrid_contacts.api.http import ForbiddenError, TransientError, UnauthorizedError
from tap_sendgrid_contacts.sources import FailedExportsError, Source, find_sources, sync_in_turn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from requests_mock import Mocker

    from tap_sendgrid_contacts.api.client import SendGridClient

API = "https://api.sendgrid.com/v3/marketing"


# --- which sources --------------------------------------------------------------------------


@pytest.fixture
def account(requests_mock: Mocker) -> Mocker:
    lists = [
        {"id": "L1", "name": "One", "contact_count": 5},
        {"id": "L2", "name": "", "contact_count": 0},
        {"id": "L3", "name": "with\0NUL"},
    ]
    requests_mock.get(f"{API}/lists", json={"result": lists})
    segments = [{"id": "S1", "name": "Some", "contacts_count": 7}]
    requests_mock.get(f"{API}/segments/2.0", json={"results": segments})
    return requests_mock


def test_lists_and_segments_in_the_order_of_the_settings(
    account: Mocker, client: SendGridClient
) -> None:
    request = ExportRequest(list_ids=("l3", "other", "L1", "l1"), segment_ids=("s1",))
    assert find_sources(client, request) == [
        Source("list", "L3", "withNUL", None),
        Source("list", "other", None, None),
        Source("list", "L1", "One", 5),
        Source("segment", "S1", "Some", 7),
    ]
    assert account.call_count == 2


@pytest.mark.parametrize(
    ("request_", "path"),
    [(ExportRequest(list_ids=("L1",)), "lists"), (ExportRequest(segment_ids=("S1",)), "segments")],
)
def test_only_what_is_configured_is_listed(
    account: Mocker, client: SendGridClient, request_: ExportRequest, path: str
) -> None:
    find_sources(client, request_)
    assert [path in sent.path for sent in account.request_history] == [True]


def test_all_lists_of_the_account(account: Mocker, client: SendGridClient) -> None:
    found = [(each.id, each.name) for each in find_sources(client, ExportRequest())]
    assert found == [("L1", "One"), ("L2", None), ("L3", "withNUL")]
    account.get(f"{API}/lists", status_code=403)
    with pytest.raises(ForbiddenError):
        find_sources(client, ExportRequest())


def test_request_of_a_source_keeps_the_other_parameters() -> None:
    base = ExportRequest(("a", "b"), ("c",), "csv", 7, notify_email=True)
    assert Source().request(base) == base
    assert Source("list", "b").request(base) == ExportRequest(("b",), (), "csv", 7, True)  # noqa: FBT003
    assert Source("segment", "c").request(base).body()["segment_ids"] == ["c"]
    assert "list_ids" not in Source("segment", "c").request(base).body()


def test_label() -> None:
    assert str(Source("list", "L1", "One")) == "list L1 (One)"
    assert str(Source("segment", "S\n1", None)) == "segment S 1"
    assert str(Source()) == ""


# --- in turn --------------------------------------------------------------------------------


@dataclass
class Saved:
    is_complete: bool = False


@dataclass
class FakeSync:
    """A sync that logs what is done with it, and fails where it is told to."""

    label: str
    log: list[str]
    rejected: int = 0
    error: Exception | None = None
    checkpoint: Saved = field(default_factory=Saved)

    @property
    def store(self) -> FakeSync:
        return self

    def start(self) -> None:
        self._once("start")

    def start_early(self) -> bool:
        if self.rejected:
            self.rejected -= 1
            self.log.append(f"{self.label} rejected")
            return False
        self._once("start")
        return True

    def open(self) -> None:
        self.log.append(f"{self.label} open")

    def read(self) -> Iterator[str]:
        if self.error:
            raise self.error
        yield self.label

    def save(self, checkpoint: Saved) -> None:
        assert checkpoint is self.checkpoint
        self.log.append(f"{self.label} save")

    def _once(self, what: str) -> None:
        if f"{self.label} {what}" not in self.log:
            self.log.append(f"{self.label} {what}")


def run(syncs: list[FakeSync]) -> list[str]:
    as_syncs: Any = syncs
    return list(sync_in_turn(as_syncs, FakeSync.open, FakeSync.read))  # type: ignore[arg-type]


def make(labels: str, log: list[str]) -> list[FakeSync]:
    return [FakeSync(label, log) for label in labels]


def test_the_next_exports_are_started_before_one_is_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "EXPORTS_AHEAD", 1)
    log: list[str] = []
    assert run(make("abc", log)) == ["a", "b", "c"]
    assert log == [
        *("a start", "b start", "a open", "a save"),
        *("c start", "b open", "b save", "c open", "c save"),
    ]


def test_rejected_export_is_tried_again_when_another_is_ready() -> None:
    log: list[str] = []
    syncs = make("abc", log)
    syncs[1].rejected = 1
    run(syncs)
    assert log[:5] == ["a start", "b rejected", "a open", "b start", "c start"]


def test_complete_export_is_not_opened() -> None:
    log: list[str] = []
    syncs = make("ab", log)
    syncs[0].checkpoint.is_complete = True
    assert run(syncs) == ["b"]
    assert "a open" not in log


def test_single_export_is_not_marked_and_raises_its_own_error() -> None:
    log: list[str] = []
    syncs = make("a", log)
    assert run(syncs) == ["a"]
    assert log == ["a start", "a open"]
    syncs[0].error = DataError("broken")
    with pytest.raises(DataError, match="broken"):
        run(syncs)


@pytest.mark.parametrize("error_type", [FatalAPIError, DataError, TransientError])
def test_others_are_read_after_a_failure(
    caplog: pytest.LogCaptureFixture, error_type: type[Exception]
) -> None:
    log: list[str] = []
    syncs = make("abc", log)
    syncs[1].error = error_type("broken")
    emitted: list[str] = []
    as_syncs: Any = syncs
    with pytest.raises(FailedExportsError, match="1 of 3 exports failed"):
        emitted.extend(sync_in_turn(as_syncs, FakeSync.open, FakeSync.read))  # type: ignore[arg-type]
    assert "c save" in log
    assert "b save" not in log
    assert [r.message for r in caplog.records if r.levelname == "ERROR"] == ["b: broken"]


@pytest.mark.parametrize("error_type", [UnauthorizedError, ForbiddenError, FatalSyncError, OSError])
def test_error_that_is_not_of_the_source_ends_the_run(error_type: type[Exception]) -> None:
    log: list[str] = []
    syncs = make("abc", log)
    syncs[1].error = error_type("broken")
    with pytest.raises(error_type, match="broken"):
        run(syncs)
    assert "c open" not in log


def test_failures_are_logged_when_the_run_is_stopped(caplog: pytest.LogCaptureFixture) -> None:
    syncs = make("abc", [])
    syncs[0].error = DataError("broken")
    as_syncs: Any = syncs
    exports = sync_in_turn(as_syncs, FakeSync.open, FakeSync.read)  # type: ignore[arg-type]
    assert next(exports) == "b"
    exports.close()  # type: ignore[attr-defined]
    assert "a: broken" in caplog.text
