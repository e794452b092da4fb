"""The export job: asked for once, waited for, and read by links of its own making only."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
import requests
from singer_sdk.exceptions import FatalAPIError, RetriableAPIError

from tap_sendgrid_contacts.client import SendGrid
from tap_sendgrid_contacts.export import ExportJob, ExportLostError, ExportRequest, find, start

if TYPE_CHECKING:
    from requests_mock import Mocker

API = "https://api.sendgrid.com/v3/marketing"
EXPORTS = f"{API}/contacts/exports"
STATUS = f"{EXPORTS}/e1"
PENDING = {"json": {"id": "e1", "status": "pending"}}


class Clock:
    """The time, which passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 50_000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", lambda: clock.time)
    monkeypatch.setattr("time.sleep", clock.sleep)
    return clock


@pytest.fixture
def api() -> SendGrid:
    return SendGrid("SG.key")


@pytest.fixture
def job(api: SendGrid) -> ExportJob:
    return ExportJob(api, "e1", poll_interval=2, poll_timeout=3600)


def text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def ready(*urls: str, count: int | None = 3, **more: object) -> dict[str, Any]:
    return {
        "json": {"id": "e1", "status": "ready", "urls": urls, "contact_count": count, **more},
    }


# --- what is asked for ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (ExportRequest(), {"file_type": "json"}),
        (ExportRequest(list_ids=("a", "b")), {"file_type": "json", "list_ids": ["a", "b"]}),
        (ExportRequest(segment_ids=("s",)), {"file_type": "json", "segment_ids": ["s"]}),
        (
            ExportRequest(("a",), ("s",), "csv", 100, notify_email=True),
            {
                "file_type": "csv",
                "list_ids": ["a"],
                "segment_ids": ["s"],
                "max_file_size": 100,
                "notifications": {"email": True},
            },
        ),
    ],
)
def test_body_has_what_is_asked_for_and_nothing_else(
    requests_mock: Mocker, api: SendGrid, request_: ExportRequest, body: dict[str, Any]
) -> None:
    requests_mock.post(EXPORTS, status_code=202, json={"id": "e1"})
    assert start(api, request_) == "e1"
    assert requests_mock.request_history[0].json() == body
    assert requests_mock.call_count == 1


# --- asked for once -------------------------------------------------------------------------

# SendGrid's clock is hours off from ours, as far as anybody knows.
NOW = datetime(2026, 11, 22, 10, 0, tzinfo=timezone.utc)
DATE = {"Date": format_datetime(NOW, usegmt=True)}
WANTED = ExportRequest(list_ids=("aa-1", "bb-2"), segment_ids=("cc-3",))


def listed(export_id: str = "theirs", **changes: object) -> dict[str, Any]:
    """An export as the list has it: by default the one that WANTED asks for."""
    return {
        "id": export_id,
        "status": "pending",
        "created_at": text(NOW),
        "lists": [{"ID": "BB-2", "Name": "b"}, {"ID": "AA-1", "Name": "a"}],
        "segments": [{"ID": "CC-3", "Name": "c"}],
        **changes,
    }


@pytest.fixture
def told_the_time(
    requests_mock: Mocker, api: SendGrid, monkeypatch: pytest.MonkeyPatch
) -> SendGrid:
    """An API that has answered before, by a clock five hours from ours."""
    monkeypatch.setattr("time.time", lambda: NOW.timestamp() + 5 * 3600)
    requests_mock.get(f"{API}/field_definitions", json={}, headers=DATE)
    api.field_definitions()
    return api


def posts(requests_mock: Mocker) -> int:
    return sum(sent.method == "POST" for sent in requests_mock.request_history)


@pytest.mark.parametrize(
    "lost",
    [
        {"status_code": 500},
        {"status_code": 504, "text": "<html>"},
        {"status_code": 202, "json": {}},
        {"exc": requests.ReadTimeout},
        {"exc": requests.ConnectionError},
    ],
    ids=str,
)
def test_request_without_an_answer_is_looked_up_and_not_sent_again(
    requests_mock: Mocker, told_the_time: SendGrid, lost: dict[str, Any]
) -> None:
    requests_mock.post(EXPORTS, [lost])
    requests_mock.get(EXPORTS, json={"result": [listed()]}, headers=DATE)
    assert start(told_the_time, WANTED) == "theirs"
    assert posts(requests_mock) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"status": "ready"},
        {"created_at": text(NOW + timedelta(minutes=10))},
        {"created_at": text(NOW - timedelta(seconds=1))},
    ],
    ids=str,
)
def test_export_that_may_be_ours_is_adopted(
    requests_mock: Mocker, api: SendGrid, changes: dict[str, Any]
) -> None:
    requests_mock.get(EXPORTS, json={"result": [listed(**changes)]})
    assert find(api, WANTED, NOW) == "theirs"


@pytest.mark.parametrize(
    "changes",
    [
        {"lists": [{"ID": "aa-1"}]},
        {"lists": [{"ID": "aa-1"}, {"ID": "bb-2"}, {"ID": "dd-4"}]},
        {"segments": []},
        {"segments": None},
        {"lists": None, "segments": None},
        {"lists": [{"ID": "cc-3"}], "segments": [{"ID": "aa-1"}, {"ID": "bb-2"}]},
        {"created_at": text(NOW - timedelta(minutes=1))},
        {"created_at": None},
        {"created_at": "yesterday"},
        {"status": "failure"},
        {"status": "something new"},
    ],
    ids=str,
)
def test_export_of_something_else_is_not_adopted_and_ours_asked_for_again(
    requests_mock: Mocker, told_the_time: SendGrid, changes: dict[str, Any]
) -> None:
    requests_mock.post(EXPORTS, [{"status_code": 500}, {"json": {"id": "ours"}}])
    requests_mock.get(EXPORTS, json={"result": [listed(**changes)]}, headers=DATE)
    assert start(told_the_time, WANTED) == "ours"
    assert posts(requests_mock) == 2


@pytest.mark.parametrize(
    ("lists", "found"), [(None, "theirs"), ([], "theirs"), ([{"ID": "a"}], None)]
)
def test_export_of_all_contacts_is_told_from_one_of_a_list(
    requests_mock: Mocker, api: SendGrid, lists: list[Any] | None, found: str | None
) -> None:
    requests_mock.get(EXPORTS, json={"result": [listed(lists=lists, segments=lists)]})
    assert find(api, ExportRequest(), NOW) == found


def test_the_first_of_several_is_ours(requests_mock: Mocker, api: SendGrid) -> None:
    exports = [
        listed(name, created_at=text(NOW + timedelta(seconds=later)))
        for name, later in (("last", 9), ("first", 1), ("middle", 5))
    ]
    requests_mock.get(EXPORTS, json={"result": exports})
    assert find(api, WANTED, NOW) == "first"


def test_no_list_of_exports_is_no_export(requests_mock: Mocker, api: SendGrid) -> None:
    requests_mock.get(EXPORTS, json={"result": None})
    assert find(api, WANTED, NOW) is None


def test_request_that_was_turned_away_is_not_looked_up(
    requests_mock: Mocker, api: SendGrid
) -> None:
    requests_mock.post(EXPORTS, status_code=429)
    with pytest.raises(RetriableAPIError):
        start(api, WANTED)
    assert {sent.method for sent in requests_mock.request_history} == {"POST"}


def test_refusal_is_neither_looked_up_nor_repeated(requests_mock: Mocker, api: SendGrid) -> None:
    requests_mock.post(EXPORTS, status_code=400, json={"errors": [{"message": "no such list"}]})
    with pytest.raises(FatalAPIError, match="no such list"):
        start(api, WANTED)
    assert requests_mock.call_count == 1


def test_asking_comes_to_an_end(requests_mock: Mocker, api: SendGrid, clock: Clock) -> None:
    requests_mock.post(EXPORTS, status_code=500)
    requests_mock.get(EXPORTS, json={"result": []})
    with pytest.raises(RetriableAPIError, match="an export"):
        start(api, WANTED)
    assert posts(requests_mock) == 6
    assert clock.slept == [1, 2, 4, 8, 16]


# --- waited for -----------------------------------------------------------------------------


def test_export_that_is_ready_is_not_waited_for(
    requests_mock: Mocker, job: ExportJob, clock: Clock
) -> None:
    requests_mock.get(STATUS, **ready("https://x/1", "https://x/2", created_at="2026-11-22"))
    job.wait()
    assert (job.parts, job.contact_count) == (2, 3)
    assert job.created_at == datetime(2026, 11, 22, tzinfo=timezone.utc)
    assert clock.slept == []


@pytest.mark.parametrize("interval", [1, 2, 10])
def test_waits_begin_at_poll_interval_and_grow_to_30_seconds(
    requests_mock: Mocker, api: SendGrid, clock: Clock, interval: int
) -> None:
    requests_mock.get(STATUS, [*[PENDING] * 14, ready("https://x/1")])
    ExportJob(api, "e1", poll_interval=interval).wait()
    assert clock.slept[0] == interval
    assert len(clock.slept) == 14
    assert all(a < b or a == b == 30 for a, b in zip(clock.slept, clock.slept[1:], strict=False))
    assert clock.slept[-1] == 30


@pytest.mark.parametrize("urls", [{}, {"urls": None}, {"urls": []}, {"urls": ["https://x/1"]}])
def test_pending_export_is_waited_for_whatever_its_urls(
    requests_mock: Mocker, job: ExportJob, clock: Clock, urls: dict[str, Any]
) -> None:
    requests_mock.get(STATUS, [{"json": {"status": "pending", **urls}}, ready("https://x/1")])
    job.wait()
    assert len(clock.slept) == 1


def test_waiting_ends_at_poll_timeout_with_a_last_look(
    requests_mock: Mocker, api: SendGrid, clock: Clock
) -> None:
    requests_mock.get(STATUS, [PENDING])
    with pytest.raises(FatalAPIError, match="`poll_timeout`") as raised:
        ExportJob(api, "e1", poll_timeout=100).wait()
    assert not isinstance(raised.value, ExportLostError)
    assert sum(clock.slept) == 100
    assert requests_mock.call_count == len(clock.slept) + 1


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("too many\ncontacts", "too many contacts"),
        (None, "no reason given"),
        ("", "no reason given"),
    ],
)
def test_failure_is_told_with_its_reason(
    requests_mock: Mocker, job: ExportJob, message: str | None, words: str
) -> None:
    requests_mock.get(STATUS, [PENDING, {"json": {"status": "failure", "message": message}}])
    with pytest.raises(ExportLostError, match=f"e1.*{words}"):
        job.wait()


@pytest.mark.parametrize("status", ["", "failed", "READY"])
def test_unknown_status_is_an_error_and_waits_for_nothing(
    requests_mock: Mocker, job: ExportJob, clock: Clock, status: str
) -> None:
    requests_mock.get(STATUS, json={"status": status, "urls": ["https://x/1"]})
    with pytest.raises(FatalAPIError, match="status") as raised:
        job.wait()
    assert repr(status) in str(raised.value)
    assert clock.slept == []


def test_export_that_is_gone_is_lost(requests_mock: Mocker, job: ExportJob) -> None:
    requests_mock.get(STATUS, [PENDING, {"status_code": 404}])
    with pytest.raises(ExportLostError, match="e1 is gone"):
        job.wait()


@pytest.mark.parametrize(
    ("expires", "lost"),
    [
        (NOW - timedelta(seconds=1), True),
        (NOW + timedelta(seconds=1), False),
    ],
)
@pytest.mark.parametrize("skew", [-5, 5])
def test_export_expires_by_sendgrids_clock(
    requests_mock: Mocker,
    job: ExportJob,
    monkeypatch: pytest.MonkeyPatch,
    expires: datetime,
    lost: bool,  # noqa: FBT001 - a parameter
    skew: int,
) -> None:
    monkeypatch.setattr("time.time", lambda: NOW.timestamp() + skew * 3600)
    requests_mock.get(STATUS, **ready("https://x/1", expires_at=text(expires)), headers=DATE)
    if lost:
        with pytest.raises(ExportLostError, match="e1 expired"):
            job.wait()
    else:
        job.wait()
        assert job.parts == 1


@pytest.mark.parametrize("moment", [None, "", "never", "0001-01-01T00:00:00+12:00"])
def test_unreadable_times_are_passed_over(
    requests_mock: Mocker, job: ExportJob, moment: str | None
) -> None:
    requests_mock.get(STATUS, **ready("https://x/1", expires_at=moment, created_at=moment))
    job.wait()
    assert job.parts == 1
    assert job.created_at is None


@pytest.mark.parametrize("urls", [None, []])
def test_no_contacts_need_no_files(
    requests_mock: Mocker, job: ExportJob, urls: list[str] | None
) -> None:
    requests_mock.get(STATUS, json={"status": "ready", "contact_count": 0, "urls": urls})
    job.wait()
    assert job.parts == 0


@pytest.mark.parametrize(("count", "words"), [(3, "3"), (None, "an unknown number of")])
def test_contacts_without_files_are_an_error(
    requests_mock: Mocker, job: ExportJob, count: int | None, words: str
) -> None:
    requests_mock.get(STATUS, **ready(count=count))
    with pytest.raises(FatalAPIError, match=f"is ready with {words} contacts but no files$"):
        job.wait()


def test_first_look_may_be_too_early(requests_mock: Mocker, api: SendGrid, clock: Clock) -> None:
    requests_mock.get(STATUS, [{"status_code": 404}, ready("https://x/1"), {"status_code": 404}])
    job = ExportJob(api, "e1", is_new=True)
    job.wait()
    assert clock.slept == [2]
    with pytest.raises(ExportLostError, match="is gone"):
        job.url(0)


def test_message_of_a_failure_lets_no_link_into_the_log(
    requests_mock: Mocker, job: ExportJob
) -> None:
    message = "could not write\nhttps://x/1?signature=secret, sorry"
    requests_mock.get(STATUS, json={"status": "failure", "message": message})
    with pytest.raises(ExportLostError, match=r"could not write https://x/1 sorry$"):
        job.wait()


# --- links ----------------------------------------------------------------------------------


def test_link_is_signed_anew_each_time(requests_mock: Mocker, job: ExportJob) -> None:
    requests_mock.get(STATUS, [ready(f"https://x/1?signature={i}") for i in range(3)])
    job.wait()
    assert [job.url(0), job.url(0)] == ["https://x/1?signature=1", "https://x/1?signature=2"]


def test_part_stays_the_same_whatever_the_order_of_the_links(
    requests_mock: Mocker, job: ExportJob
) -> None:
    links = ["https://x/b?s=3", "https://x/c?s=1", "https://x/a?s=2"]
    requests_mock.get(STATUS, [ready(*links), ready(*reversed(links)), ready(*sorted(links))])
    job.wait()
    assert job.url(0) == job.url(0) == "https://x/a?s=2"
    assert {job.url(part) for part in range(3)} == set(links)


def test_links_of_one_name_keep_their_order(requests_mock: Mocker, job: ExportJob) -> None:
    requests_mock.get(STATUS, **ready("https://x/a?part=2", "https://x/a?part=1"))
    job.wait()
    assert [job.url(0), job.url(1)] == ["https://x/a?part=2", "https://x/a?part=1"]


@pytest.mark.parametrize(
    "later",
    [ready("https://x/1"), ready("https://x/1", "https://x/2", "https://x/3"), ready(), PENDING],
    ids=str,
)
def test_another_number_of_parts_is_an_error(
    requests_mock: Mocker, job: ExportJob, later: dict[str, Any]
) -> None:
    requests_mock.get(STATUS, [ready("https://x/1", "https://x/2"), later])
    job.wait()
    with pytest.raises(FatalAPIError, match=r"was in 2 part\(s\), and now is in"):
        job.url(0)


@pytest.mark.parametrize(
    ("later", "words"),
    [
        ({"status_code": 404}, "gone"),
        ({"json": {"status": "failure"}}, "failed"),
        (ready("https://x/1", expires_at="2020-01-01T00:00:00Z"), "expired"),
    ],
    ids=str,
)
def test_export_may_be_lost_between_parts(
    requests_mock: Mocker, job: ExportJob, later: dict[str, Any], words: str
) -> None:
    requests_mock.get(STATUS, [ready("https://x/1"), later])
    job.wait()
    with pytest.raises(ExportLostError, match=words):
        job.url(0)


@pytest.mark.parametrize(
    "link",
    [
        "http://storage.example/1?signature=secret",
        "ftp://storage.example/1?signature=secret",
        "file:///etc/passwd?signature=secret",
        "/1?signature=secret",
        "?signature=secret",
        "https://[broken/1?signature=secret",
    ],
)
def test_link_that_is_not_safe_is_refused_without_showing_it(
    requests_mock: Mocker, job: ExportJob, link: str
) -> None:
    requests_mock.get(STATUS, **ready(link))
    with pytest.raises(FatalAPIError, match="https") as raised:
        open_first_part(job)
    assert "secret" not in str(raised.value)


def open_first_part(job: ExportJob) -> str:
    job.wait()
    return job.url(0)


def test_no_link_is_logged(
    requests_mock: Mocker, job: ExportJob, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    requests_mock.get(STATUS, [PENDING, ready("https://storage.example/1?signature=secret")])
    open_first_part(job)
    assert "is ready" in caplog.text
    assert "storage.example" not in caplog.text
