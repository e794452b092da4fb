"""Export jobs: created once, polled, and read through signed URLs of their own parts only."""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import requests
from singer_sdk.exceptions import FatalAPIError

from tap_sendgrid_contacts import stopping
from tap_sendgrid_contacts.api.export import (
    ExportJob,
    ExportUnavailableError,
    PollBudget,
    PollTimeoutError,
)
from tap_sendgrid_contacts.api.http import RequestNotProcessedError, TransientError
from tap_sendgrid_contacts.api.request import (
    CreateRequest,
    ExportRequest,
)
from tap_sendgrid_contacts.dates import utc_now
from tests.unit.conftest import make_request

if TYPE_CHECKING:
    from requests_mock import Mocker

    from tap_sendgrid_contacts.api.client import SendGridClient
    from tests.unit.conftest import Clock

API = "https://api.sendgrid.com/v3/marketing"
EXPORTS = f"{API}/contacts/exports"
STATUS = f"{EXPORTS}/e1"
PENDING = {"json": {"id": "e1", "status": "pending"}}


@pytest.fixture(autouse=True)
def _no_sleep(clock: Clock) -> None:
    """Let no test sleep."""


def make_job(client: SendGridClient, *, is_new: bool = False) -> ExportJob:
    return ExportJob(client, "e1", label="", is_new=is_new)


@pytest.fixture
def job(client: SendGridClient) -> ExportJob:
    return make_job(client)


def wait_until_ready(job: ExportJob, poll_interval: int = 2, poll_timeout: int = 3600) -> None:
    job.wait_until_ready(
        poll_interval, PollBudget(poll_timeout), lambda seconds, _reason: stopping.sleep(seconds)
    )


def text(timestamp: datetime) -> str:
    return timestamp.strftime("%Y-%m-%dT%H:%M:%SZ")


def ready(*urls: str, count: int | None = 3, **more: object) -> dict[str, Any]:
    return {
        "json": {"id": "e1", "status": "ready", "urls": urls, "contact_count": count, **more},
    }


# --- request body ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (make_request(), {"file_type": "json"}),
        (make_request(list_ids=("a", "b")), {"file_type": "json", "list_ids": ["a", "b"]}),
        (make_request(segment_ids=("s",)), {"file_type": "json", "segment_ids": ["s"]}),
        (
            make_request(("a",), ("s",), "csv", 100, notify_email=True),
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
def test_body_has_what_is_configured_and_nothing_else(
    requests_mock: Mocker, client: SendGridClient, request_: ExportRequest, body: dict[str, Any]
) -> None:
    requests_mock.post(EXPORTS, status_code=202, json={"id": "e1"})
    assert CreateRequest(client, request_, utc_now(), None).send(client.retry) == ("e1", False)
    assert requests_mock.request_history[0].json() == body
    assert requests_mock.call_count == 1


# --- created once ---------------------------------------------------------------------------

# SendGrid's clock may be hours off from ours.
CLOCK_OFFSET = timedelta(hours=5)
NOW = datetime(2026, 11, 22, 10, 0, tzinfo=timezone.utc)
DATE = {"Date": format_datetime(NOW, usegmt=True)}
REQUEST = make_request(list_ids=("aa-1", "bb-2"), segment_ids=("cc-3",))


def listed(export_id: str = "found", **changes: object) -> dict[str, Any]:
    """Return an export as `GET /exports` has it: by default the one of `REQUEST`."""
    return {
        "id": export_id,
        "status": "pending",
        "created_at": text(NOW),
        "lists": [{"ID": "BB-2", "Name": "b"}, {"ID": "AA-1", "Name": "a"}],
        "segments": [{"ID": "CC-3", "Name": "c"}],
        **changes,
    }


@pytest.fixture
def _clocks_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set our clock five hours ahead of SendGrid's."""
    monkeypatch.setattr("time.time", (NOW + CLOCK_OFFSET).timestamp)


def posts(requests_mock: Mocker) -> int:
    return sum(sent.method == "POST" for sent in requests_mock.request_history)


@pytest.mark.parametrize(
    "lost",
    [
        *({"status_code": status} for status in (408, 500, 502, 503)),
        {"status_code": 504, "text": "<html>"},
        {"status_code": 202, "text": "<html>"},
        {"status_code": 202, "json": {}},
        {"status_code": 202, "json": {"id": ""}},
        {"exc": requests.ReadTimeout},
        {"exc": requests.ConnectionError},
    ],
    ids=str,
)
@pytest.mark.usefixtures("_clocks_differ")
def test_create_without_response_is_looked_up_and_not_sent_again(
    requests_mock: Mocker, client: SendGridClient, lost: dict[str, Any]
) -> None:
    requests_mock.post(EXPORTS, [lost])
    requests_mock.get(EXPORTS, json={"result": [listed()]}, headers=DATE)
    assert CreateRequest(client, REQUEST, utc_now(), None).send(client.retry) == ("found", True)
    assert posts(requests_mock) == 1


@pytest.mark.usefixtures("_clocks_differ")
def test_export_that_becomes_visible_late_is_found(
    requests_mock: Mocker, client: SendGridClient
) -> None:
    requests_mock.post(EXPORTS, [{"status_code": 500}, {"status_code": 429}])
    answers = [{"json": {"result": each}, "headers": DATE} for each in ([], [listed()])]
    requests_mock.get(EXPORTS, answers)
    assert CreateRequest(client, REQUEST, utc_now(), None).send(client.retry) == ("found", True)
    assert posts(requests_mock) == 2


@pytest.mark.usefixtures("_clocks_differ")
def test_failed_look_up_is_retried_before_anything_is_sent_again(
    requests_mock: Mocker, client: SendGridClient
) -> None:
    requests_mock.post(EXPORTS, [{"status_code": 500}])
    requests_mock.get(
        EXPORTS,
        [
            {"status_code": 503},
            {"status_code": 429},
            {"json": {"result": [listed()]}, "headers": DATE},
        ],
    )
    assert CreateRequest(client, REQUEST, utc_now(), None).send(client.retry) == ("found", True)
    assert posts(requests_mock) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"status": "ready"},
        {"created_at": text(NOW + timedelta(minutes=10))},
        {"created_at": text(NOW - timedelta(seconds=1))},
        {"created_at": text(NOW - timedelta(seconds=2))},
    ],
    ids=str,
)
def test_matching_export_is_found(
    requests_mock: Mocker, client: SendGridClient, changes: dict[str, Any]
) -> None:
    requests_mock.get(EXPORTS, json={"result": [listed(**changes)]})
    assert CreateRequest(client, REQUEST, NOW, None).find() == "found"


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
        {"created_at": text(NOW - timedelta(seconds=3))},
        {"created_at": None},
        {"created_at": "yesterday"},
        {"status": "failure"},
        {"status": "something new"},
    ],
    ids=str,
)
@pytest.mark.usefixtures("_clocks_differ")
def test_other_export_is_not_adopted_and_a_new_one_created(
    requests_mock: Mocker, client: SendGridClient, changes: dict[str, Any]
) -> None:
    requests_mock.post(EXPORTS, [{"status_code": 500}, {"json": {"id": "ours"}}])
    requests_mock.get(EXPORTS, json={"result": [listed(**changes)]}, headers=DATE)
    assert CreateRequest(client, REQUEST, utc_now(), None).send(client.retry) == ("ours", False)
    assert posts(requests_mock) == 2


@pytest.mark.parametrize(
    ("lists", "found"), [(None, "found"), ([], "found"), ([{"ID": "a"}], None)]
)
def test_export_of_all_contacts_is_told_from_one_of_a_list(
    requests_mock: Mocker, client: SendGridClient, lists: list[Any] | None, found: str | None
) -> None:
    requests_mock.get(EXPORTS, json={"result": [listed(lists=lists, segments=lists)]})
    assert CreateRequest(client, make_request(), NOW, None).find() == found


def test_first_of_several_matching_exports_is_found(
    requests_mock: Mocker, client: SendGridClient
) -> None:
    exports = [
        listed(name, created_at=text(NOW + timedelta(seconds=later)))
        for name, later in (("last", 9), ("first", 1), ("middle", 5))
    ]
    requests_mock.get(EXPORTS, json={"result": exports})
    assert CreateRequest(client, REQUEST, NOW, None).find() == "first"


def test_id_of_a_found_export_is_logged_as_other_texts(
    requests_mock: Mocker, client: SendGridClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    requests_mock.get(EXPORTS, json={"result": [listed("a\r\nERROR b@c.example")]})
    CreateRequest(client, REQUEST, NOW, None).find()
    assert "adopting export a ERROR ***" in caplog.text


def test_no_exports_are_no_matching_export(requests_mock: Mocker, client: SendGridClient) -> None:
    requests_mock.get(EXPORTS, json={"result": None})
    assert CreateRequest(client, REQUEST, NOW, None).find() is None


def connection_refused() -> requests.ConnectionError:
    error = requests.ConnectionError()
    error.__cause__ = ConnectionRefusedError()
    return error


@pytest.mark.parametrize("response", [{"status_code": 429}, {"exc": connection_refused()}], ids=str)
def test_create_that_was_not_processed_is_sent_again_without_a_look_up(
    requests_mock: Mocker, client: SendGridClient, response: dict[str, Any]
) -> None:
    requests_mock.post(EXPORTS, [response])
    with pytest.raises(RequestNotProcessedError):
        CreateRequest(client, REQUEST, utc_now(), None).send(client.retry)
    assert {sent.method for sent in requests_mock.request_history} == {"POST"}
    assert requests_mock.call_count == 6


def test_create_that_was_rate_limited_once_succeeds(
    requests_mock: Mocker, client: SendGridClient
) -> None:
    requests_mock.post(EXPORTS, [{"status_code": 429}, {"json": {"id": "e1"}}])
    assert CreateRequest(client, REQUEST, utc_now(), None).send(client.retry) == ("e1", False)
    assert requests_mock.call_count == 2


def test_rejected_create_is_neither_looked_up_nor_repeated(
    requests_mock: Mocker, client: SendGridClient
) -> None:
    requests_mock.post(EXPORTS, status_code=400, json={"errors": [{"message": "no such list"}]})
    with pytest.raises(FatalAPIError, match="no such list"):
        CreateRequest(client, REQUEST, utc_now(), None).send(client.retry)
    assert requests_mock.call_count == 1


def test_create_retries_end(requests_mock: Mocker, client: SendGridClient) -> None:
    requests_mock.post(EXPORTS, status_code=500)
    requests_mock.get(EXPORTS, json={"result": []})
    with pytest.raises(TransientError, match=r"^POST .*: HTTP 500"):
        CreateRequest(client, REQUEST, utc_now(), None).send(client.retry)
    assert posts(requests_mock) == 6


@pytest.mark.parametrize("retry_after", ["0", "5"])
def test_create_retries_end_with_poll_timeout(
    requests_mock: Mocker, client: SendGridClient, clock: Clock, retry_after: str
) -> None:
    requests_mock.post(EXPORTS, status_code=429, headers={"Retry-After": retry_after})
    budget = PollBudget(12)
    with budget.spend(), pytest.raises((PollTimeoutError, RequestNotProcessedError)) as raised:
        CreateRequest(client, REQUEST, utc_now(), None).send(budget.limit(client.retry))
    is_over = retry_after == "5"
    assert isinstance(raised.value, PollTimeoutError) == is_over
    assert clock.sleeps == [5, 5] * is_over
    assert budget.remaining == (2 if is_over else 12)


def test_poll_budget_counts_the_time_of_its_blocks(clock: Clock) -> None:
    budget = PollBudget(10)
    with budget.spend():
        clock.now += 1
        assert budget.remaining == 9
    clock.now += 100
    with budget.spend():
        clock.now += 2
    assert budget.remaining == 7


# --- polling --------------------------------------------------------------------------------


def test_export_that_is_ready_is_not_waited_for(
    requests_mock: Mocker, job: ExportJob, clock: Clock
) -> None:
    requests_mock.get(STATUS, **ready("https://x/1", "https://x/2", created_at="2026-11-22"))
    wait_until_ready(job)
    assert (job.part_names, job.contact_count) == (("/1", "/2"), 3)
    assert job.created_at == datetime(2026, 11, 22, tzinfo=timezone.utc)
    assert clock.sleeps == []


@pytest.mark.parametrize("interval", [1, 2, 10])
def test_waits_start_at_poll_interval_and_grow_to_30_seconds(
    requests_mock: Mocker, job: ExportJob, clock: Clock, interval: int
) -> None:
    requests_mock.get(STATUS, [*[PENDING] * 14, ready("https://x/1")])
    wait_until_ready(job, interval)
    waits = clock.sleeps
    assert waits[0] == interval
    assert len(waits) == 14
    assert all(a < b or a == b == 30 for a, b in pairwise(waits))
    assert waits[-1] == 30


def test_poll_interval_may_be_longer_than_30_seconds(
    requests_mock: Mocker, job: ExportJob, clock: Clock
) -> None:
    requests_mock.get(STATUS, [*[PENDING] * 3, ready("https://x/1")])
    wait_until_ready(job, 60)
    assert clock.sleeps == [60, 60, 60]


@pytest.mark.parametrize("urls", [{}, {"urls": None}, {"urls": []}, {"urls": ["https://x/1"]}])
def test_pending_export_is_waited_for_whatever_its_urls(
    requests_mock: Mocker, job: ExportJob, clock: Clock, urls: dict[str, Any]
) -> None:
    requests_mock.get(STATUS, [{"json": {"status": "pending", **urls}}, ready("https://x/1")])
    wait_until_ready(job)
    assert len(clock.sleeps) == 1


@pytest.mark.parametrize("response", [PENDING, {"status_code": 503}], ids=str)
def test_poll_timeout_ends_with_a_last_poll(
    requests_mock: Mocker, job: ExportJob, clock: Clock, response: dict[str, Any]
) -> None:
    requests_mock.get(STATUS, [response])
    with pytest.raises(PollTimeoutError, match=r"^Export e1 .*: timed out after 100 s"):
        wait_until_ready(job, poll_timeout=100)
    assert sum(clock.sleeps) == 100
    assert requests_mock.call_count == len(clock.sleeps) + 1


@pytest.mark.parametrize(
    "failure",
    [
        *({"status_code": status} for status in (408, 429, 500, 503)),
        {"text": "<html>"},
        {"exc": requests.ReadTimeout},
        {"exc": requests.ConnectionError},
    ],
    ids=str,
)
def test_transient_failures_are_polled_through(
    requests_mock: Mocker, job: ExportJob, clock: Clock, failure: dict[str, Any]
) -> None:
    # More than any request is retried.
    requests_mock.get(STATUS, [*[failure] * 20, ready("https://x/1")])
    wait_until_ready(job)
    assert job.part_names == ("/1",)
    assert len(clock.sleeps) == 20


def test_reason_of_the_last_failure_is_in_the_timeout(
    requests_mock: Mocker, job: ExportJob
) -> None:
    requests_mock.get(STATUS, status_code=503)
    with pytest.raises(PollTimeoutError, match=r"HTTP 503.*poll_timeout"):
        wait_until_ready(job, poll_timeout=10)


def test_retry_after_lengthens_a_wait_up_to_poll_timeout(
    requests_mock: Mocker, job: ExportJob, clock: Clock
) -> None:
    slow = {"status_code": 429, "headers": {"Retry-After": "70"}}
    requests_mock.get(STATUS, [slow, PENDING, slow, PENDING])
    with pytest.raises(PollTimeoutError):
        wait_until_ready(job, poll_timeout=100)
    assert clock.sleeps == [70, 3, 27]


def test_status_checks_time_out_at_poll_timeout(
    requests_mock: Mocker, job: ExportJob, clock: Clock
) -> None:
    requests_mock.get(STATUS, [PENDING, PENDING, ready("https://x/1")])
    wait_until_ready(job, poll_interval=4, poll_timeout=10)
    assert clock.sleeps == [4, 6]
    assert [sent.timeout for sent in requests_mock.request_history] == [10, 6, 0.1]


def test_4xx_of_a_poll_is_not_waited_out(
    requests_mock: Mocker, job: ExportJob, clock: Clock
) -> None:
    requests_mock.get(STATUS, status_code=401)
    with pytest.raises(FatalAPIError, match="401"):
        wait_until_ready(job)
    assert clock.sleeps == []


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("too many\ncontacts", "too many contacts"),
        (None, "no reason given"),
        ("", "no reason given"),
    ],
)
def test_failed_export_is_unavailable_with_its_reason(
    requests_mock: Mocker, job: ExportJob, message: str | None, words: str
) -> None:
    requests_mock.get(STATUS, [PENDING, {"json": {"status": "failure", "message": message}}])
    with pytest.raises(ExportUnavailableError, match=f"e1.*{words}"):
        wait_until_ready(job)


@pytest.mark.parametrize(
    ("status", "shown"),
    [("", ""), ("failed", "failed"), ("READY", "READY"), ("\x1bSG.secret.key\n", "***")],
)
def test_unknown_status_is_an_error_and_is_not_waited_for(
    requests_mock: Mocker, job: ExportJob, clock: Clock, status: str, shown: str
) -> None:
    requests_mock.get(STATUS, json={"status": status, "urls": ["https://x/1"]})
    with pytest.raises(FatalAPIError, match="status") as raised:
        wait_until_ready(job)
    assert not isinstance(raised.value, ExportUnavailableError)
    assert repr(shown) in str(raised.value)
    assert clock.sleeps == []


def test_export_that_no_longer_exists_is_unavailable(requests_mock: Mocker, job: ExportJob) -> None:
    requests_mock.get(STATUS, [PENDING, {"status_code": 404}])
    with pytest.raises(ExportUnavailableError, match="Export e1 no longer exists"):
        wait_until_ready(job)


@pytest.mark.parametrize(
    ("expires_at", "is_expired"),
    [
        (NOW - timedelta(seconds=1), True),
        (NOW + timedelta(seconds=1), False),
    ],
)
@pytest.mark.parametrize("skew", [-5, 5])
def test_export_expires_by_the_clock_of_sendgrid(
    requests_mock: Mocker,
    job: ExportJob,
    monkeypatch: pytest.MonkeyPatch,
    expires_at: datetime,
    is_expired: bool,  # noqa: FBT001 - a parameter
    skew: int,
) -> None:
    monkeypatch.setattr("time.time", lambda: NOW.timestamp() + skew * 3600)
    requests_mock.get(STATUS, **ready("https://x/1", expires_at=text(expires_at)), headers=DATE)
    if is_expired:
        with pytest.raises(ExportUnavailableError, match="e1 expired"):
            wait_until_ready(job)
    else:
        wait_until_ready(job)
        assert job.part_names == ("/1",)


@pytest.mark.parametrize("timestamp", [None, "", "never", "0001-01-01T00:00:00+12:00"])
def test_invalid_timestamps_are_ignored(
    requests_mock: Mocker, job: ExportJob, timestamp: str | None
) -> None:
    requests_mock.get(STATUS, **ready("https://x/1", expires_at=timestamp, created_at=timestamp))
    wait_until_ready(job)
    assert job.part_names == ("/1",)
    assert job.created_at is None


def test_export_of_too_many_parts_is_an_error(requests_mock: Mocker, job: ExportJob) -> None:
    requests_mock.get(STATUS, **ready(*[""] * 100_001))
    with pytest.raises(FatalAPIError, match="Export e1 has more than 100,000 parts"):
        wait_until_ready(job)


@pytest.mark.parametrize("urls", [None, []])
def test_export_of_no_contacts_needs_no_parts(
    requests_mock: Mocker, job: ExportJob, urls: list[str] | None
) -> None:
    requests_mock.get(STATUS, json={"status": "ready", "contact_count": 0, "urls": urls})
    wait_until_ready(job)
    assert job.part_names == ()


@pytest.mark.parametrize(("count", "words"), [(3, "3"), (None, "unknown number of")])
def test_contacts_without_parts_are_an_error(
    requests_mock: Mocker, job: ExportJob, count: int | None, words: str
) -> None:
    requests_mock.get(STATUS, **ready(count=count))
    with pytest.raises(FatalAPIError, match=f"is ready with {words} contacts but without parts$"):
        wait_until_ready(job)


NOT_FOUND = {"status_code": 404}


def test_new_export_may_not_be_visible_for_30_seconds(
    requests_mock: Mocker, client: SendGridClient, clock: Clock
) -> None:
    requests_mock.get(STATUS, [*[NOT_FOUND] * 5, PENDING, NOT_FOUND, ready("https://x/1")])
    wait_until_ready(make_job(client, is_new=True), poll_interval=1)
    assert len(clock.sleeps) == 7
    clock.sleeps.clear()
    requests_mock.get(STATUS, [NOT_FOUND])
    with pytest.raises(ExportUnavailableError, match="Export e1 no longer exists"):
        wait_until_ready(make_job(client, is_new=True))
    assert 30 <= sum(clock.sleeps) < 60


def test_new_export_that_is_ready_may_be_invisible_again(
    requests_mock: Mocker, client: SendGridClient, clock: Clock
) -> None:
    requests_mock.get(STATUS, [ready("https://x/1"), NOT_FOUND])
    job = make_job(client, is_new=True)
    wait_until_ready(job)
    job.discard_urls()
    with pytest.raises(TransientError, match="not visible yet"):
        job.signed_url("/1")
    clock.now += 30
    with pytest.raises(ExportUnavailableError, match="no longer exists"):
        job.signed_url("/1")


def test_first_status_of_a_resumed_export_may_not_be_404(
    requests_mock: Mocker, job: ExportJob
) -> None:
    requests_mock.get(STATUS, [{"status_code": 404}, ready("https://x/1")])
    with pytest.raises(ExportUnavailableError, match="no longer exists"):
        wait_until_ready(job)


def test_reason_of_a_failure_has_no_signed_url(requests_mock: Mocker, job: ExportJob) -> None:
    message = "could not write\nhttps://x/1?signature=secret, sorry"
    requests_mock.get(STATUS, json={"status": "failure", "message": message})
    with pytest.raises(ExportUnavailableError, match=r"could not write https://x/1 sorry$"):
        wait_until_ready(job)


# --- part names -----------------------------------------------------------------------------


def part_names(requests_mock: Mocker, job: ExportJob, *urls: str) -> tuple[str, ...]:
    requests_mock.get(STATUS, **ready(*urls))
    wait_until_ready(job)
    return job.part_names


@pytest.mark.parametrize(
    "query",
    [
        "X-Amz-Algorithm={0}&X-Amz-Credential={0}&X-Amz-Date={0}&X-Amz-Expires=300",
        "AWSAccessKeyId={0}&Signature={0}&Expires={0}",
        "sv=2020-01-01&se={0}&sp=r&sig={0}&st={0}&skt={0}&ske={0}",
        "request-id={0}",
        "part={0}",
    ],
)
def test_path_alone_is_the_name(requests_mock: Mocker, client: SendGridClient, query: str) -> None:
    for value in ("1", "2"):
        urls = [f"https://x/{part}?{query.format(value)}" for part in "ab"]
        assert part_names(requests_mock, make_job(client), *urls) == ("/a", "/b")


# What differs from URL to URL and from status to status.
NONCES = ("sig={0}", "X-Amz-Date={0}", "t=17643941{0:05}", "auth={1}", "rid={1:.12}")


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


@pytest.mark.parametrize("nonce", NONCES)
@pytest.mark.parametrize(
    ("queries", "names"),
    [
        (("part=1", "part=2"), ("/a?part=1", "/a?part=2")),
        (("part=1&size=9", "size=9&part=2"), ("/a?part=1", "/a?part=2")),
        (("id=f-0001.gz&n=1", "id=f-0002.gz&n=2"), ("/a?n=1", "/a?n=2")),
        (
            ("f=contacts-0001.gz", "f=contacts-0002.gz"),
            ("/a?f=contacts-0001.gz", "/a?f=contacts-0002.gz"),
        ),
        (("a=1&b=1", "a=1&b=2", "a=2&b=2"), ("/a?a=1&b=1", "/a?a=1&b=2", "/a?a=2&b=2")),
        (("part=", "part=1"), ("/a?part=", "/a?part=1")),
        (("policyx=1", "policyx=2"), ("/a?policyx=1", "/a?policyx=2")),
        (("", ""), ("/a", "/a#2")),
        (("part=1", ""), ("/a", "/a#2")),
        (("part=1", "part=1"), ("/a", "/a#2")),
    ],
)
def test_alike_paths_are_told_apart_by_what_every_status_has(
    requests_mock: Mocker,
    client: SendGridClient,
    queries: tuple[str, ...],
    names: tuple[str, ...],
    nonce: str,
) -> None:
    for status in (1000, 2000):
        urls = [
            f"https://h{status}/a?{query}&request={status}&{nonce.format(n, digest(n))}"
            for n, query in enumerate(queries, status)
        ]
        job = make_job(client)
        assert part_names(requests_mock, job, *urls) == names
        assert {job.signed_url(name) for name in names} == set(urls)
        if "#" not in names[1]:
            assert part_names(requests_mock, job, *reversed(urls)) == names
            assert job.signed_url(names[1]) == urls[1]


def test_invalid_url_has_a_name_too(requests_mock: Mocker, job: ExportJob) -> None:
    assert len(part_names(requests_mock, job, "https://[broken/1", "https://x/2")) == 2


# --- signed URLs ----------------------------------------------------------------------------


def signed(number: int) -> str:
    return f"https://x/1?X-Amz-Expires=300&X-Amz-Signature={number}"


def test_signed_url_is_reused_for_60_s(requests_mock: Mocker, job: ExportJob, clock: Clock) -> None:
    requests_mock.get(STATUS, [ready(signed(i)) for i in range(3)])
    wait_until_ready(job)
    clock.now += 59.99
    assert job.signed_url("/1") == signed(0)
    assert requests_mock.call_count == 1
    clock.now += 0.02
    assert job.signed_url("/1") == signed(1)
    clock.now += 59.99
    assert job.signed_url("/1") == signed(1)


def test_discarded_urls_are_not_reused(requests_mock: Mocker, job: ExportJob) -> None:
    requests_mock.get(STATUS, [ready(signed(i)) for i in range(2)])
    wait_until_ready(job)
    job.discard_urls()
    assert job.signed_url("/1") == signed(1)


def test_part_keeps_its_name_whatever_the_order_of_the_urls(
    requests_mock: Mocker, job: ExportJob
) -> None:
    urls = ["https://x/b?s=3", "https://x/c?s=1", "https://x/a?s=2"]
    requests_mock.get(STATUS, [ready(*urls), ready(*reversed(urls)), ready(*sorted(urls))])
    wait_until_ready(job)
    assert job.part_names == ("/a", "/b", "/c")
    assert [job.signed_url(name) for name in job.part_names] == sorted(urls)


@pytest.mark.parametrize(
    ("later", "words"),
    [
        (ready("https://x/1"), "Export e1"),
        (ready("https://x/1", "https://x/2", "https://x/3"), "Export e1"),
        (ready("https://x/2", "https://x/3"), "Export e1"),
        (ready(), "Export e1"),
        (PENDING, "Export e1"),
        ({"status_code": 404}, "no longer exists"),
        ({"json": {"status": "failure"}}, "failed"),
        (ready("https://x/1", "https://x/2", expires_at="2020-01-01T00:00:00Z"), "expired"),
    ],
    ids=str,
)
def test_export_may_change_or_become_unavailable_between_parts(
    requests_mock: Mocker, job: ExportJob, later: dict[str, Any], words: str
) -> None:
    requests_mock.get(STATUS, [ready("https://x/1", "https://x/2"), later])
    wait_until_ready(job)
    job.discard_urls()
    with pytest.raises(ExportUnavailableError, match=words):
        job.signed_url("/1")


def test_signed_url_does_not_retry(requests_mock: Mocker, job: ExportJob) -> None:
    requests_mock.get(STATUS, [ready("https://x/1"), {"status_code": 503}])
    wait_until_ready(job)
    job.discard_urls()
    with pytest.raises(TransientError, match="503"):
        job.signed_url("/1")
    assert requests_mock.call_count == 2


@pytest.mark.parametrize("count", [None, 3])
def test_contact_count_of_an_earlier_status_is_kept(
    requests_mock: Mocker, job: ExportJob, count: int | None
) -> None:
    requests_mock.get(STATUS, [ready("https://x/1", count=3), ready("https://x/1", count=count)])
    wait_until_ready(job)
    job.signed_url("/1")
    assert job.contact_count == 3


@pytest.mark.parametrize(
    "url",
    [
        "http://storage.example/1?signature=secret",
        "http://127.0.0.1/1?signature=secret",
        "http://localhost/1?signature=secret",
        "ftp://storage.example/1?signature=secret",
        "file:///etc/passwd?signature=secret",
        "/1?signature=secret",
        "?signature=secret",
        "https://[broken/1?signature=secret",
    ],
)
def test_unsafe_url_is_refused_without_showing_it(
    requests_mock: Mocker, job: ExportJob, url: str
) -> None:
    requests_mock.get(STATUS, **ready(url))
    wait_until_ready(job)
    with pytest.raises(FatalAPIError, match="non-HTTPS URL of part 1") as raised:
        job.signed_url(job.part_names[0])
    assert "secret" not in str(raised.value)


def test_signed_urls_are_not_logged(
    requests_mock: Mocker, job: ExportJob, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    requests_mock.get(STATUS, [PENDING, ready("https://storage.example/1?signature=secret")])
    wait_until_ready(job)
    job.signed_url("/1")
    assert "is ready" in caplog.text
    assert "storage.example" not in caplog.text
    assert "secret" not in caplog.text
