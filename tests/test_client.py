"""The API's client: what it sends, what it waits for, and what it says when something breaks."""

from __future__ import annotations

import json
import socket
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import requests
import urllib3
from requests_mock import ANY
from singer_sdk.exceptions import FatalAPIError
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
)

from tap_sendgrid_contacts.client import SendGrid
from tap_sendgrid_contacts.transport import (
    ForbiddenError,
    NotFoundError,
    NotTakenError,
    UnansweredError,
    is_safe_url,
)

if TYPE_CHECKING:
    from pathlib import Path

    from requests_mock import Mocker

API = "https://api.sendgrid.com"
KEY = "SG.the-secret.key"
EXPORTS = f"{API}/v3/marketing/contacts/exports"
FIELDS = f"{API}/v3/marketing/field_definitions"
LISTS = f"{API}/v3/marketing/lists"
DATE = "Sun, 22 Nov 2026 10:00:00 GMT"
DATE_EPOCH = 1795341600


@pytest.fixture
def api() -> SendGrid:
    return SendGrid(KEY)


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the waits instead of waiting."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


@pytest.fixture
def netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "netrc"
    file.write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(file))


# --- requests -------------------------------------------------------------------------------


@pytest.mark.usefixtures("netrc")
def test_every_request_carries_the_key_whatever_netrc_says(
    requests_mock: Mocker, api: SendGrid
) -> None:
    requests_mock.get(EXPORTS, json={})
    requests_mock.post(EXPORTS, json={"id": "e1"})
    api.exports()
    api.start_export({})
    assert [sent.headers["Authorization"] for sent in requests_mock.request_history] == [
        f"Bearer {KEY}"
    ] * 2


def test_key_is_no_header_of_the_session(api: SendGrid) -> None:
    sessions = [each for each in vars(api).values() if isinstance(each, requests.Session)]
    assert len(sessions) == 1
    assert "Authorization" not in sessions[0].headers


@pytest.mark.parametrize("subuser", [None, "", "somebody"])
def test_subuser_is_sent_only_if_set(requests_mock: Mocker, subuser: str | None) -> None:
    requests_mock.get(EXPORTS, json={})
    SendGrid(KEY, on_behalf_of=subuser).exports()
    assert requests_mock.request_history[-1].headers.get("on-behalf-of") == (subuser or None)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://127.0.0.1:8000/"])
def test_requests_go_to_the_configured_url_with_the_configured_timeout(
    requests_mock: Mocker, url: str
) -> None:
    requests_mock.get("http://127.0.0.1:8000/v3/marketing/contacts/exports", json={})
    SendGrid(KEY, api_url=url, request_timeout=17).exports()
    assert requests_mock.request_history[-1].timeout == 17


def test_body_is_sent_as_json(requests_mock: Mocker, api: SendGrid) -> None:
    requests_mock.post(EXPORTS, status_code=202, json={"id": "e1", "_metadata": {}})
    assert api.start_export({"file_type": "csv"}) == "e1"
    assert requests_mock.request_history[-1].json() == {"file_type": "csv"}


def test_id_of_an_export_cannot_leave_its_place_in_the_path(
    requests_mock: Mocker, api: SendGrid
) -> None:
    requests_mock.get(ANY, json={"id": "x"})
    api.export("../lists?a=b#c")
    assert requests_mock.request_history[-1].url == f"{EXPORTS}/..%2Flists%3Fa%3Db%23c"


# --- answers --------------------------------------------------------------------------------


def test_status_of_an_export_is_read(requests_mock: Mocker, api: SendGrid) -> None:
    requests_mock.get(
        f"{EXPORTS}/e1",
        json={
            "id": "e1",
            "status": "ready",
            "created_at": "2026-11-22T10:00:00Z",
            "expires_at": "2026-11-22T22:00:00Z",
            "urls": ["https://x/1"],
            "contact_count": 3,
            "user_id": 5,
            "something": {"new": 1},
        },
    )
    export = api.export("e1")
    assert (export.id, export.status, export.urls, export.contact_count) == (
        "e1",
        "ready",
        ["https://x/1"],
        3,
    )
    assert (export.created_at, export.expires_at) == (
        "2026-11-22T10:00:00Z",
        "2026-11-22T22:00:00Z",
    )


@pytest.mark.parametrize("more", [{}, {"urls": None}, {"urls": []}])
def test_pending_export_may_have_no_urls(
    requests_mock: Mocker, api: SendGrid, more: dict[str, Any]
) -> None:
    requests_mock.get(f"{EXPORTS}/e1", json={"id": "e1", "status": "pending", **more})
    assert not api.export("e1").urls


def test_exports_lists_and_segments_are_read(requests_mock: Mocker, api: SendGrid) -> None:
    requests_mock.get(
        EXPORTS,
        json={
            "result": [
                {"id": "1", "lists": [{"ID": "L", "Name": "l"}], "user_id": 5},
                {"id": "2", "lists": None, "segments": [{"ID": "S"}], "user_id": "5"},
            ]
        },
    )
    requests_mock.get(f"{API}/v3/marketing/segments/2.0", json={"results": [{"id": "S"}]})
    first, second = api.exports()
    assert [ref.id for ref in first.lists or ()] == ["L"]
    assert [ref.id for ref in second.segments or ()] == ["S"]
    assert [segment.id for segment in api.segments()] == ["S"]


def test_field_definitions_are_read(requests_mock: Mocker, api: SendGrid) -> None:
    field = {"id": "e1_T", "name": "Plan", "field_type": "Text"}
    requests_mock.get(FIELDS, json={"custom_fields": [field], "reserved_fields": [{"name": "x"}]})
    [definition] = api.field_definitions()
    assert (definition.id, definition.name, definition.field_type) == ("e1_T", "Plan", "Text")


@pytest.mark.parametrize("answer", [{}, {"custom_fields": None}, {"custom_fields": []}])
def test_account_may_have_no_custom_fields(
    requests_mock: Mocker, api: SendGrid, answer: dict[str, Any]
) -> None:
    requests_mock.get(FIELDS, json=answer)
    assert api.field_definitions() == []


def test_all_pages_of_the_lists_are_read(requests_mock: Mocker, api: SendGrid) -> None:
    requests_mock.get(
        LISTS,
        [
            {"json": {"result": [{"id": "1", "name": "a"}], "_metadata": {"next": following}}}
            for following in (
                f"{LISTS}?page_size=1000&page_token=t%2B1",
                "https://elsewhere.example/?page_token=t2",
            )
        ]
        + [{"json": {"result": [{"id": "3", "name": "c"}], "_metadata": {}}}],
    )
    assert [each.id for each in api.lists()] == ["1", "1", "3"]
    assert [sent.qs for sent in requests_mock.request_history] == [
        {"page_size": ["1000"]},
        {"page_size": ["1000"], "page_token": ["t+1"]},
        {"page_size": ["1000"], "page_token": ["t2"]},
    ]
    assert {sent.hostname for sent in requests_mock.request_history} == {"api.sendgrid.com"}


@pytest.mark.parametrize(
    ("answer", "pages"),
    [
        ({"result": [{"id": "1"}], "_metadata": {"next": f"{LISTS}?page_token=same"}}, 2),
        ({"result": [], "_metadata": {"next": f"{LISTS}?page_token=more"}}, 1),
        ({"result": [{"id": "1"}], "_metadata": {"next": LISTS}}, 1),
        ({"result": None}, 1),
    ],
)
def test_paging_comes_to_an_end(
    requests_mock: Mocker, api: SendGrid, answer: dict[str, Any], pages: int
) -> None:
    requests_mock.get(LISTS, json=answer)
    api.lists()
    assert requests_mock.call_count == pages


@pytest.mark.parametrize(
    "answer",
    [
        [],
        None,
        "text",
        {"custom_fields": 5},
        {"custom_fields": [None]},
        {"custom_fields": [{"id": "e1_T", "name": "a private name"}]},
        {"custom_fields": [{"id": 1, "name": "a private name", "field_type": "Text"}]},
    ],
)
def test_answer_of_another_shape_is_one_line_without_values(
    requests_mock: Mocker, api: SendGrid, answer: object
) -> None:
    requests_mock.get(FIELDS, text=json.dumps(answer))
    with pytest.raises(FatalAPIError, match="undocumented answer") as raised:
        api.field_definitions()
    assert "\n" not in str(raised.value)
    assert "private" not in str(raised.value)
    assert requests_mock.call_count == 1


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (400, FatalAPIError, ["400"]),
        (401, FatalAPIError, ["401", "`api_key`"]),
        (403, ForbiddenError, ["403", "`api_key`", "marketing.read", "legacy"]),
        (404, NotFoundError, ["404"]),
        (422, FatalAPIError, ["422"]),
    ],
)
def test_refusal_is_told_at_once_in_words_with_what_sendgrid_says(
    requests_mock: Mocker,
    api: SendGrid,
    status: int,
    error: type[FatalAPIError],
    words: list[str],
) -> None:
    said = [{"message": "the first\nreason", "field": None}, {"message": "the second"}]
    requests_mock.get(f"{EXPORTS}/e1", status_code=status, json={"errors": said})
    with pytest.raises(FatalAPIError) as raised:
        api.export("e1")
    assert type(raised.value) is error
    assert all(
        each in str(raised.value) for each in [*words, "the first reason", "the second", "e1"]
    )
    assert requests_mock.call_count == 1


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>no</html>",
        "[]",
        "null",
        '{"errors": null}',
        '{"errors": ["x"]}',
        '{"errors": [{}]}',
        '{"errors": 5}',
        '{"errors": {"message": "x"}}',
        "\x00",
    ],
)
def test_refusal_of_any_shape_is_still_told(
    requests_mock: Mocker, api: SendGrid, body: str
) -> None:
    requests_mock.get(EXPORTS, status_code=400, text=body)
    with pytest.raises(FatalAPIError, match="answered 400"):
        api.exports()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_key_that_sendgrid_echoes_is_in_no_error_and_no_log(
    requests_mock: Mocker,
    api: SendGrid,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    caplog.set_level("DEBUG")
    echo = {"errors": [{"message": f"Bearer {KEY} is not valid"}]}
    requests_mock.get(EXPORTS, status_code=status, json=echo)
    with pytest.raises((FatalAPIError, UnansweredError), match=r"Bearer \*\*\*") as raised:
        api.exports()
    assert KEY not in "".join(map(repr, causes(raised.value)))
    assert KEY not in caplog.text


def test_long_message_is_cut(requests_mock: Mocker, api: SendGrid) -> None:
    requests_mock.get(EXPORTS, status_code=400, json={"errors": [{"message": "x" * 10_000}]})
    with pytest.raises(FatalAPIError) as raised:
        api.exports()
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_redirect_is_not_followed(
    requests_mock: Mocker, api: SendGrid, status: int, method: str
) -> None:
    requests_mock.register_uri(
        method, EXPORTS, status_code=status, headers={"Location": "https://evil.example/"}
    )
    with pytest.raises(FatalAPIError, match="`api_url`"):
        api.exports() if method == "GET" else api.start_export({})
    assert requests_mock.call_count == 1


def causes(error: BaseException | None) -> list[BaseException]:
    """The error and all that a traceback would show with it."""
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return chain


# --- retries --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_trouble_of_the_server_is_waited_out_with_growing_waits(
    requests_mock: Mocker, api: SendGrid, slept: list[float], status: int
) -> None:
    requests_mock.get(EXPORTS, [{"status_code": status}] * 3 + [{"json": {}}])
    assert api.exports() == []
    assert slept == [1, 2, 4]


def test_page_in_html_is_asked_for_again(
    requests_mock: Mocker, api: SendGrid, slept: list[float]
) -> None:
    requests_mock.get(EXPORTS, [{"text": "<html>Gateway</html>"}, {"json": {}}])
    assert api.exports() == []
    assert slept == [1]


@pytest.mark.parametrize("answer", [{"status_code": 500}, {"text": "<html>"}])
def test_retries_come_to_an_end(
    requests_mock: Mocker, api: SendGrid, slept: list[float], answer: dict[str, Any]
) -> None:
    requests_mock.get(EXPORTS, [answer])
    with pytest.raises(UnansweredError, match="asked for the exports"):
        api.exports()
    assert slept == [1, 2, 4, 8, 16]
    assert requests_mock.call_count == 6


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0"}, 1),
        ({"Retry-After": "86400"}, 300),
        ({"Retry-After": "Sun, 22 Nov 2026 10:00:20 GMT"}, 20),
        ({"Retry-After": "Sun, 22 Nov 2026 09:00:00 GMT"}, 1),
        ({"Retry-After": "soon"}, 1),
        ({"Retry-After": "-5"}, 1),
        ({"X-RateLimit-Reset": str(DATE_EPOCH + 30)}, 30),
        ({"X-RateLimit-Reset": str(DATE_EPOCH - 30)}, 1),
        ({"X-RateLimit-Reset": "9" * 30}, 300),
        ({"X-RateLimit-Reset": "soon"}, 1),
        ({"Retry-After": "7", "X-RateLimit-Reset": str(DATE_EPOCH + 30)}, 7),
        ({"Retry-After": "soon", "X-RateLimit-Reset": str(DATE_EPOCH + 30)}, 30),
        ({}, 1),
    ],
)
def test_wait_is_what_the_server_asks_for_by_its_own_clock(
    requests_mock: Mocker,
    api: SendGrid,
    slept: list[float],
    headers: dict[str, str],
    wait: float,
) -> None:
    requests_mock.get(
        EXPORTS, [{"status_code": 429, "headers": {"Date": DATE, **headers}}, {"json": {}}]
    )
    api.exports()
    assert slept == [wait]


def failed_connection(cause: Exception) -> requests.ConnectionError:
    """What requests raises for it, with the URL in its text as always."""
    pool = urllib3.HTTPSConnectionPool("api.sendgrid.com")
    return requests.ConnectionError(MaxRetryError(pool, EXPORTS, cause))


def not_connected(cause: OSError) -> requests.ConnectionError:
    error = NewConnectionError(urllib3.connection.HTTPConnection("api.sendgrid.com"), EXPORTS)
    error.__cause__ = cause
    return failed_connection(error)


BROKEN_BEFORE = [
    pytest.param(not_connected(ConnectionRefusedError()), "refused", id="refused"),
    pytest.param(not_connected(socket.gaierror(-2)), "host name", id="no such host"),
    pytest.param(
        requests.ConnectTimeout(ConnectTimeoutError(None, EXPORTS)),
        "no connection within `request_timeout`",
        id="no connection",
    ),
    pytest.param(
        requests.exceptions.ProxyError(ProxyError(EXPORTS, OSError())), "proxy", id="proxy"
    ),
]
BROKEN_AFTER = [
    pytest.param(
        requests.ReadTimeout(ReadTimeoutError(None, EXPORTS, EXPORTS)),  # type: ignore[arg-type]
        "within `request_timeout`",
        id="no answer",
    ),
    pytest.param(failed_connection(ConnectionResetError(EXPORTS)), "reset", id="reset"),
    pytest.param(requests.exceptions.ChunkedEncodingError(EXPORTS), "broke", id="broken body"),
    pytest.param(requests.ConnectionError(EXPORTS), "broke", id="something else"),
]


@pytest.mark.parametrize(("error", "words"), BROKEN_BEFORE + BROKEN_AFTER)
def test_broken_connection_is_retried_and_told_without_its_url(
    requests_mock: Mocker,
    api: SendGrid,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    words: str,
) -> None:
    caplog.set_level("DEBUG")
    requests_mock.get(EXPORTS, exc=error)
    with pytest.raises(UnansweredError, match=words) as raised:
        api.exports()
    assert requests_mock.call_count == 6
    assert "v3/marketing" not in "".join(map(repr, causes(raised.value))) + caplog.text


def test_untrusted_certificate_is_told_at_once(requests_mock: Mocker, api: SendGrid) -> None:
    requests_mock.get(
        EXPORTS, exc=requests.exceptions.SSLError(ssl.SSLCertVerificationError(1, EXPORTS))
    )
    with pytest.raises(FatalAPIError, match="certificate") as raised:
        api.exports()
    assert requests_mock.call_count == 1
    assert "v3/marketing" not in "".join(map(repr, causes(raised.value)))


def test_port_where_nobody_listens_is_told_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    api = SendGrid(KEY, api_url=f"http://127.0.0.1:{port}")
    with pytest.raises(NotTakenError) as raised:
        api.start_export({})
    assert str(raised.value) == "SendGrid, asked for an export: it refused the connection"


# --- the one request that must not be sent twice --------------------------------------------


def test_export_turned_away_is_asked_for_again(requests_mock: Mocker, api: SendGrid) -> None:
    requests_mock.post(EXPORTS, [{"status_code": 429}, {"json": {"id": "e1"}}])
    assert api.start_export({}) == "e1"
    assert requests_mock.call_count == 2


@pytest.mark.parametrize(("error", "words"), BROKEN_BEFORE)
def test_export_request_that_never_left_is_sent_again(
    requests_mock: Mocker, api: SendGrid, error: Exception, words: str
) -> None:
    requests_mock.post(EXPORTS, exc=error)
    with pytest.raises(NotTakenError, match=words):
        api.start_export({})
    assert requests_mock.call_count == 6


@pytest.mark.parametrize(
    "answer",
    [
        *({"status_code": status} for status in (408, 500, 502, 503, 504)),
        {"text": "<html>"},
        {"json": {}},
        {"json": {"id": ""}},
        *({"exc": case.values[0]} for case in BROKEN_AFTER),
    ],
    ids=str,
)
def test_export_request_that_may_have_been_taken_is_sent_once(
    requests_mock: Mocker, api: SendGrid, answer: dict[str, Any]
) -> None:
    requests_mock.post(EXPORTS, [answer])
    with pytest.raises(UnansweredError) as raised:
        api.start_export({})
    assert not isinstance(raised.value, NotTakenError)
    assert requests_mock.call_count == 1


# --- clocks and URLs ------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [{"json": {}}, {"status_code": 400}])
def test_now_goes_by_the_clock_of_the_last_answer(
    requests_mock: Mocker, api: SendGrid, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)
    assert api.now.timestamp() == 1000
    requests_mock.get(EXPORTS, [{"headers": {"Date": DATE}, **answer}])
    if "json" in answer:
        api.exports()
    else:
        with pytest.raises(FatalAPIError):
            api.exports()
    monkeypatch.setattr("time.time", lambda: 1005.0)
    assert api.now.timestamp() == DATE_EPOCH + 5


@pytest.mark.parametrize("date", ["", "yesterday", "Sun, 99 Nov 2026 10:00:00 GMT"])
def test_unreadable_clock_is_passed_over(
    requests_mock: Mocker, api: SendGrid, monkeypatch: pytest.MonkeyPatch, date: str
) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)
    requests_mock.get(EXPORTS, json={}, headers={"Date": date})
    api.exports()
    assert api.now.timestamp() == 1000


@pytest.mark.parametrize(
    "url",
    [
        "https://api.sendgrid.com",
        "https://api.eu.sendgrid.com/",
        "HTTPS://api.sendgrid.com:8443",
        "http://localhost",
        "http://LOCALHOST:8000",
        "http://127.0.0.1:8000",
        "http://127.255.0.9/x",
        "http://[::1]:80",
    ],
)
def test_url_is_safe(url: str) -> None:
    assert is_safe_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.sendgrid.com",
        "//api.sendgrid.com",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "https://:443",
        "https://user@",
        "https://user:password@host",
        "https://host:port",
        "https://host:99999",
        "https://[::1",
        "http://",
        "http://api.sendgrid.com",
        "http://127.0.0.1.evil.com",
        "http://localhost.evil.com",
        "http://127.0.0.1@evil.com",
        "http://localhost:80@evil.com",
        "http://127.0.0.1:80@evil.com:80/",
        "http://evil.com#@127.0.0.1",
        "http://evil.com?@127.0.0.1",
        "http://evil.com/@127.0.0.1",
        "http://127.0.0.1\\@evil.com/",
        "http://evil.com\\@127.0.0.1/",
        "http://127.0.0.1:port",
        "http://0.0.0.0",
        "http://10.0.0.1",
        "http://[::2]",
        "http://[2001:db8::1]",
    ],
)
def test_url_is_not_safe(url: str) -> None:
    assert not is_safe_url(url)


def test_safe_url_is_where_requests_would_go() -> None:
    # Parsers differ, and the request goes by that of `requests`.
    url = "http://evil.com\\@127.0.0.1/"
    sent_to = urlsplit(requests.Request("GET", url).prepare().url or "").hostname
    assert sent_to in {"localhost", "127.0.0.1"} or not is_safe_url(url)
