"""The API client: what it sends, how it reads responses, what its errors contain."""

from __future__ import annotations

import json
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import requests
from msgspec.structs import astuple
from requests_mock import ANY
from singer_sdk.exceptions import FatalAPIError

from tap_sendgrid_contacts.api.client import SendGridClient
from tap_sendgrid_contacts.api.http import (
    ForbiddenError,
    NotFoundError,
    RequestNotProcessedError,
    TransientError,
    UnauthorizedError,
)
from tests.unit.conftest import API_KEY, NO_WAIT, causes, make_client

if TYPE_CHECKING:
    from requests_mock import Mocker

API = "https://api.sendgrid.com"
EXPORTS = f"{API}/v3/marketing/contacts/exports"
FIELDS = f"{API}/v3/marketing/field_definitions"
LISTS = f"{API}/v3/marketing/lists"
SEGMENTS = f"{API}/v3/marketing/segments/2.0"
DATE = "Sun, 22 Nov 2026 10:00:00 GMT"
DATE_EPOCH = 1795341600


# --- requests -------------------------------------------------------------------------------


@pytest.mark.usefixtures("netrc")
def test_every_request_has_the_api_key_despite_netrc(
    requests_mock: Mocker, client: SendGridClient
) -> None:
    requests_mock.get(EXPORTS, json={})
    requests_mock.post(EXPORTS, json={"id": "e1"})
    client.list_exports()
    client.create_export({})
    assert [sent.headers["Authorization"] for sent in requests_mock.request_history] == [
        f"Bearer {API_KEY}"
    ] * 2


def test_api_key_is_not_a_session_header(client: SendGridClient) -> None:
    sessions = [each for each in vars(client).values() if isinstance(each, requests.Session)]
    assert len(sessions) == 1
    assert "Authorization" not in sessions[0].headers


@pytest.mark.parametrize("subuser", [None, "", "somebody"])
def test_on_behalf_of_is_sent_only_if_set(requests_mock: Mocker, subuser: str | None) -> None:
    requests_mock.get(EXPORTS, json={})
    make_client(on_behalf_of=subuser).list_exports()
    assert requests_mock.request_history[-1].headers.get("on-behalf-of") == (subuser or None)


def test_api_url_and_request_timeout_are_used(requests_mock: Mocker) -> None:
    requests_mock.get("http://127.0.0.1:8000/v3/marketing/contacts/exports", json={})
    make_client(api_url="http://127.0.0.1:8000", request_timeout=17).list_exports()
    assert requests_mock.request_history[-1].timeout == 17


@pytest.mark.parametrize(("timeout", "used"), [(None, 17), (5.5, 5.5), (60, 17)])
def test_timeout_of_a_status_check_never_exceeds_request_timeout(
    requests_mock: Mocker, timeout: float | None, used: float
) -> None:
    requests_mock.get(f"{EXPORTS}/e1", json={})
    make_client(request_timeout=17).get_export("e1", timeout=timeout)
    assert requests_mock.request_history[-1].timeout == used


def test_body_is_sent_as_json(requests_mock: Mocker, client: SendGridClient) -> None:
    requests_mock.post(EXPORTS, status_code=202, json={"id": "e1", "_metadata": {}})
    assert client.create_export({"file_type": "csv"}) == "e1"
    assert requests_mock.request_history[-1].json() == {"file_type": "csv"}


def test_export_id_is_escaped_in_the_path(requests_mock: Mocker, client: SendGridClient) -> None:
    requests_mock.get(ANY, json={"id": "x"})
    client.get_export("../lists?a=b#c")
    assert requests_mock.request_history[-1].url == f"{EXPORTS}/..%2Flists%3Fa%3Db%23c"


def test_metric_has_endpoint_status_and_seconds(
    requests_mock: Mocker, client: SendGridClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    requests_mock.get(f"{EXPORTS}/e1", json={})
    requests_mock.get(EXPORTS, status_code=500)
    client.get_export("e1")
    with pytest.raises(TransientError):
        client.list_exports()
    points = [json.loads(each.removeprefix("METRIC: ")) for each in caplog.messages]
    assert [(each["tags"]["endpoint"], each["tags"]["http_status_code"]) for each in points] == [
        ("/v3/marketing/contacts/exports/{id}", 200),
        ("/v3/marketing/contacts/exports", 500),
    ]
    assert all(each["value"] >= 0 for each in points)


# --- responses ------------------------------------------------------------------------------


def test_export_status_is_read(requests_mock: Mocker, client: SendGridClient) -> None:
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
    export = client.get_export("e1")
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
    requests_mock: Mocker, client: SendGridClient, more: dict[str, Any]
) -> None:
    requests_mock.get(f"{EXPORTS}/e1", json={"id": "e1", "status": "pending", **more})
    assert not client.get_export("e1").urls


def test_exports_and_segments_are_read(requests_mock: Mocker, client: SendGridClient) -> None:
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
    first, second = client.list_exports()
    assert [ref.id for ref in first.lists] == ["L"]
    assert [ref.id for ref in second.segments] == ["S"]
    assert [segment.id for segment in client.list_segments()] == ["S"]


def test_field_definitions_are_read(requests_mock: Mocker, client: SendGridClient) -> None:
    field = {"id": "e1_T", "name": "Plan", "field_type": "Text"}
    requests_mock.get(FIELDS, json={"custom_fields": [field], "reserved_fields": [{"name": "x"}]})
    [definition] = client.list_field_definitions()
    assert (definition.id, definition.name, definition.field_type) == ("e1_T", "Plan", "Text")


@pytest.mark.parametrize("response", [{}, {"custom_fields": None}, {"custom_fields": []}])
def test_account_may_have_no_custom_fields(
    requests_mock: Mocker, client: SendGridClient, response: dict[str, Any]
) -> None:
    requests_mock.get(FIELDS, json=response)
    assert client.list_field_definitions() == []


def test_all_pages_of_lists_are_read(requests_mock: Mocker, client: SendGridClient) -> None:
    requests_mock.get(
        LISTS,
        [
            {"json": {"result": [{"id": "1", "name": "a"}], "_metadata": {"next": next_url}}}
            for next_url in (
                f"{LISTS}?page_size=1000&page_token=t%2B1",
                "https://elsewhere.example/?page_token=t2",
            )
        ]
        + [{"json": {"result": [{"id": "3", "name": "c"}], "_metadata": {}}}],
    )
    assert [each.id for each in client.list_lists()] == ["1", "1", "3"]
    assert [sent.qs for sent in requests_mock.request_history] == [
        {"page_size": ["1000"]},
        {"page_size": ["1000"], "page_token": ["t+1"]},
        {"page_size": ["1000"], "page_token": ["t2"]},
    ]
    assert {sent.hostname for sent in requests_mock.request_history} == {"api.sendgrid.com"}


@pytest.mark.parametrize(
    ("response", "pages"),
    [
        ({"result": [], "_metadata": {"next": f"{LISTS}?page_token=more"}}, 1),
        ({"result": [{"id": "1"}], "_metadata": {"next": LISTS}}, 1),
        ({"result": [{"id": "1"}], "_metadata": {"next": "http://[broken"}}, 1),
        ({"result": [{"id": "1"}], "_metadata": {"next": None}}, 1),
        ({"result": [{"id": "1"}], "_metadata": None}, 1),
        ({"result": None}, 1),
        ({"result": [{"id": "1"}], "_metadata": {"next": f"{LISTS}?page_token=itself"}}, 2),
    ],
)
def test_paging_ends(
    requests_mock: Mocker, client: SendGridClient, response: dict[str, Any], pages: int
) -> None:
    requests_mock.get(LISTS, json=response)
    client.list_lists()
    assert requests_mock.call_count == pages


@pytest.mark.parametrize("tokens", [["a", "b"] * 9, ["a", "b", "c", "b"]])
def test_pages_of_lists_in_a_cycle_are_an_error(
    requests_mock: Mocker, client: SendGridClient, tokens: list[str]
) -> None:
    pages = [
        {"json": {"result": [{"id": "1"}], "_metadata": {"next": f"{LISTS}?page_token={token}"}}}
        for token in tokens
    ]
    requests_mock.get(LISTS, pages)
    with pytest.raises(FatalAPIError, match=r"GET /v3/marketing/lists: .* cycle"):
        client.list_lists()
    assert requests_mock.call_count == len(set(tokens)) + 1


def test_pages_of_lists_are_limited(
    requests_mock: Mocker, client: SendGridClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tap_sendgrid_contacts.api.client._MAX_PAGES", 3)
    pages = [
        {"json": {"result": [{"id": "1"}], "_metadata": {"next": f"{LISTS}?page_token={i}"}}}
        for i in range(9)
    ]
    requests_mock.get(LISTS, pages)
    with pytest.raises(FatalAPIError, match="GET /v3/marketing/lists: more than 3 pages"):
        client.list_lists()
    assert requests_mock.call_count == 3


def fields(*names: str) -> dict[str, Any]:
    return {
        "custom_fields": [
            {"id": f"e{i}_T", "name": name, "field_type": "Text"} for i, name in enumerate(names)
        ]
    }


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (fields(*map(str, range(5001))), "5,001 custom fields"),
        (fields("Plan", "other", "pLAN"), "two custom fields have the name 'pLAN'"),
        (fields(""), "custom_fields"),
    ],
    ids=["many", "same name", "no name"],
)
def test_impossible_field_definitions_are_an_error(
    requests_mock: Mocker, client: SendGridClient, response: dict[str, Any], words: str
) -> None:
    requests_mock.get(FIELDS, json=response)
    with pytest.raises(FatalAPIError, match=f"GET /v3/marketing/field_definitions: .*{words}"):
        client.list_field_definitions()


def test_field_that_is_listed_twice_is_one(requests_mock: Mocker, client: SendGridClient) -> None:
    response = fields("plan")
    requests_mock.get(FIELDS, json={"custom_fields": response["custom_fields"] * 2})
    assert len(client.list_field_definitions()) == 1


@pytest.mark.parametrize(
    "item",
    [
        {"id": "1", "name": None, "contact_count": "5", "contacts_count": "5", "new": {}},
        {"id": "1", "contact_count": 5.0, "contacts_count": 5.0, "_metadata": None},
    ],
)
def test_lists_and_segments_are_read_tolerantly(
    requests_mock: Mocker, client: SendGridClient, item: dict[str, Any]
) -> None:
    requests_mock.get(LISTS, json={"result": [item]})
    requests_mock.get(SEGMENTS, json={"results": [item]})
    for (audience,) in (client.list_lists(), client.list_segments()):
        assert astuple(audience) == ("1", "", 5)


def test_export_is_read_tolerantly(requests_mock: Mocker, client: SendGridClient) -> None:
    empty = dict.fromkeys(
        ("message", "urls", "lists", "segments", "created_at", "user_id", "contact_count")
    )
    export = {**empty, "id": "e1", "status": "pending"}
    requests_mock.get(EXPORTS, json={"result": [export, {**export, "lists": [{"ID": None}]}]})
    requests_mock.get(f"{EXPORTS}/e1", json={**export, "contact_count": "7"})
    assert [each.id for each in client.list_exports()] == ["e1", "e1"]
    status = client.get_export("e1")
    assert (status.urls, status.message, status.contact_count) == ([], "", 7)


@pytest.mark.parametrize(
    ("export", "key"),
    [
        ({"contact_count": "many"}, "contact_count"),
        ({"contact_count": -1}, "contact_count"),
        ({"contact_count": 1.5}, "contact_count"),
        ({"urls": "https://x/1"}, "urls"),
        ({"urls": [None]}, "urls"),
        ({"status": 5}, "status"),
        ({"id": 5}, "id"),
    ],
)
def test_error_names_endpoint_and_key(
    requests_mock: Mocker, client: SendGridClient, export: dict[str, Any], key: str
) -> None:
    requests_mock.get(f"{EXPORTS}/e1", json=export)
    with pytest.raises(FatalAPIError, match=rf"GET /v3/.*/e1: .*\$\.{key}"):
        client.get_export("e1")


@pytest.mark.parametrize(
    "response",
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
def test_unexpected_response_schema_is_one_line_without_values(
    requests_mock: Mocker, client: SendGridClient, response: object
) -> None:
    requests_mock.get(FIELDS, text=json.dumps(response))
    with pytest.raises(FatalAPIError, match="unexpected response schema") as raised:
        client.list_field_definitions()
    assert "\n" not in str(raised.value)
    assert "private" not in str(raised.value)
    assert requests_mock.call_count == 1


@pytest.mark.parametrize("text", ["<html>Gateway</html>", "", "{"])
def test_response_that_is_not_json_is_transient(
    requests_mock: Mocker, client: SendGridClient, text: str
) -> None:
    requests_mock.get(EXPORTS, [{"text": text}, {"json": {}}])
    with pytest.raises(TransientError, match="not valid JSON"):
        client.list_exports()
    assert client.list_exports() == []


# --- HTTP errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (400, FatalAPIError, ["400"]),
        (401, UnauthorizedError, ["401", "api_key"]),
        (403, ForbiddenError, ["403", "api_key", "marketing.read", "Legacy"]),
        (404, NotFoundError, ["404"]),
        (422, FatalAPIError, ["422"]),
    ],
)
def test_4xx_fails_without_retry_and_includes_api_message(
    requests_mock: Mocker,
    client: SendGridClient,
    status: int,
    error: type[FatalAPIError],
    words: list[str],
) -> None:
    errors = [{"message": "the first\nreason", "field": None}, {"message": "the second"}]
    requests_mock.get(f"{EXPORTS}/e1", status_code=status, json={"errors": errors})
    with pytest.raises(FatalAPIError) as raised:
        client.retry.call(client.get_export, "e1")
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
def test_4xx_with_any_body_names_endpoint_and_status(
    requests_mock: Mocker, client: SendGridClient, body: str
) -> None:
    requests_mock.get(EXPORTS, status_code=400, text=body)
    with pytest.raises(FatalAPIError, match=r"^GET /v3/marketing/contacts/exports: HTTP 400"):
        client.list_exports()


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 429, 500])
def test_api_key_echoed_by_the_api_is_in_no_error_and_no_log(
    requests_mock: Mocker,
    client: SendGridClient,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    caplog.set_level("DEBUG")
    echo = {"errors": [{"message": f"Bearer {API_KEY} is not valid"}]}
    requests_mock.get(EXPORTS, status_code=status, json=echo)
    with pytest.raises((FatalAPIError, TransientError), match=r"Bearer \*\*\*") as raised:
        client.retry.call(client.list_exports)
    assert API_KEY not in "".join(map(repr, causes(raised.value)))
    assert API_KEY not in caplog.text


def test_export_id_is_shown_without_control_characters(
    requests_mock: Mocker, client: SendGridClient
) -> None:
    requests_mock.get(ANY, status_code=400)
    with pytest.raises(FatalAPIError, match=r"exports/e1: HTTP 400"):
        client.get_export("e\x1b\u202e1")


def test_key_of_another_form_is_not_shown(requests_mock: Mocker) -> None:
    key = "key-without-prefix"
    client = SendGridClient(
        key,
        api_url="https://api.sendgrid.com",
        on_behalf_of=None,
        request_timeout=1,
        retry=NO_WAIT,
    )
    requests_mock.get(FIELDS, json={"errors": [{"message": f"no {key}"}]}, status_code=400)
    with pytest.raises(FatalAPIError, match=r"HTTP 400: no \*\*\*$"):
        client.list_field_definitions()


def test_long_api_message_is_truncated(requests_mock: Mocker, client: SendGridClient) -> None:
    requests_mock.get(EXPORTS, status_code=400, json={"errors": [{"message": "x" * 10_000}]})
    with pytest.raises(FatalAPIError) as raised:
        client.list_exports()
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_redirect_is_not_followed(
    requests_mock: Mocker, client: SendGridClient, status: int, method: str
) -> None:
    requests_mock.register_uri(
        method, EXPORTS, status_code=status, headers={"Location": "https://evil.example/"}
    )
    with pytest.raises(FatalAPIError, match="api_url"):
        client.list_exports() if method == "GET" else client.create_export({})
    assert requests_mock.call_count == 1


# --- retries --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_transient_status_is_retried_by_callers_only(
    requests_mock: Mocker, client: SendGridClient, status: int
) -> None:
    requests_mock.get(EXPORTS, [{"status_code": status}] * 4 + [{"json": {}}])
    with pytest.raises(TransientError, match=f"HTTP {status}"):
        client.list_exports()
    assert requests_mock.call_count == 1
    assert client.retry.call(client.list_exports) == []
    assert requests_mock.call_count == 5


def test_connection_refused_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    client = make_client(api_url=f"http://127.0.0.1:{port}")
    with pytest.raises(RequestNotProcessedError) as raised:
        client.create_export({})
    assert str(raised.value) == (
        f"POST /v3/marketing/contacts/exports: connection refused by 127.0.0.1:{port} (api_url)"
    )


# --- SendGrid's clock ----------------------------------------------------------------------


@pytest.mark.parametrize("response", [{"json": {}}, {"status_code": 400}])
def test_clock_offset_follows_the_date_of_the_last_response(
    requests_mock: Mocker,
    client: SendGridClient,
    monkeypatch: pytest.MonkeyPatch,
    response: dict[str, Any],
) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)
    assert client.clock_offset == timedelta()
    requests_mock.get(EXPORTS, [{"headers": {"Date": DATE}, **response}])
    if "json" in response:
        client.list_exports()
    else:
        with pytest.raises(FatalAPIError):
            client.list_exports()
    assert client.clock_offset == timedelta(seconds=DATE_EPOCH - 1000)


@pytest.mark.parametrize("date", ["", "yesterday", "Sun, 99 Nov 2026 10:00:00 GMT"])
def test_invalid_date_header_is_ignored(
    requests_mock: Mocker, client: SendGridClient, monkeypatch: pytest.MonkeyPatch, date: str
) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)
    requests_mock.get(EXPORTS, json={}, headers={"Date": date})
    client.list_exports()
    assert client.clock_offset == timedelta()
