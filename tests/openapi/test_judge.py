"""What the judge must see, and that nothing is amended or exempt without need."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import requests
from aiohttp import web

from sendgrid_sandbox.account import Account
from sendgrid_sandbox.api import Api
from sendgrid_sandbox.faults import parse_fault
from tap_sendgrid_contacts.api.client import SendGridClient
from tests.harness import Tap, run_sandbox
from tests.openapi.excerpt import OPERATIONS
from tests.openapi.judge import AMENDMENTS, EXEMPTIONS, Exchange, find_violations
from tests.sandbox_client import EXPORTS, TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness import Sandbox
    from tests.openapi.judge import Amendment

ALL = [
    f"{method.upper()} {path}"
    for operations in OPERATIONS.values()
    for method, path in map(str.split, operations)
]
COUNT, LIST_EXPORTS, CREATE, STATUS, FIELDS, LISTS, SEGMENTS = ALL
ACCOUNT = Account(30)
UNKNOWN_ID = "7f0b8a3e-7c5c-4b5e-9c53-0d6b9a4a1c55"


def send(
    sandbox: Sandbox, operation: str, *, key: str = "", id_: str = UNKNOWN_ID, **options: Any
) -> requests.Response:
    method, path = operation.split()
    return requests.request(
        method,
        sandbox.url + path.replace("{id}", id_),
        headers={"Authorization": f"Bearer {key or sandbox.api_key}"},
        timeout=TIMEOUT,
        allow_redirects=False,
        **options,
    )


def send_all(sandbox: Sandbox, key: str = "") -> None:
    """Send a request of each operation, and list the exports when there are none, too."""
    send(sandbox, LIST_EXPORTS, key=key)
    created = send(sandbox, CREATE, key=key, json={})
    export_id = created.json()["id"] if created.status_code == 202 else UNKNOWN_ID
    for operation in ALL:
        if operation != CREATE:
            send(sandbox, operation, key=key, id_=export_id)


def statuses(exchanges: list[Exchange]) -> set[tuple[int, str]]:
    """The statuses of the responses, with their operations."""
    return {
        (response.status_code, operation_of(exchange))
        for exchange in exchanges
        if (response := exchange.response)
    }


def operation_of(exchange: Exchange) -> str:
    method, path = exchange.request.method.upper(), exchange.request.path
    return STATUS if path.startswith(f"{EXPORTS}/") else f"{method} {path}"


@pytest.fixture(scope="module")
def tap_traffic(tmp_path_factory: pytest.TempPathFactory) -> list[Exchange]:
    """Each request that the tap sends, with all that it can ask for."""
    tap = Tap(tmp_path_factory.mktemp("tap"))
    with run_sandbox("--contacts", "30", "--pending-polls", "3") as sandbox:
        for arguments in ((), ("--test",)):
            run = tap(
                sandbox,
                *arguments,
                list_ids=[audience.id for audience in ACCOUNT.lists],
                segment_ids=[audience.id for audience in ACCOUNT.segments],
                max_file_size=1,
                notify_email=True,
            )
            assert run.code == 0, run.log
    return sandbox.exchanges


@pytest.fixture(scope="module")
def error_traffic() -> list[Exchange]:
    """Each error status of each operation."""
    with run_sandbox("--contacts", "30") as sandbox:
        send_all(sandbox, key="another")
        for fault in ("forbidden", "rate-limit:0", "rate-limit-reset:0", "error-500:0"):
            sandbox.inject(fault)
            if fault == "error-500:0":
                sandbox.inject("post-500:0")
            send_all(sandbox)
            sandbox.end_faults()
        send(sandbox, CREATE, json={"max_file_size": 0})
        send(sandbox, CREATE, json={"list_ids": [UNKNOWN_ID]})
        send(sandbox, STATUS)
        send(sandbox, LISTS, params={"page_token": "?"})
    return sandbox.exchanges


def test_each_operation(tap_traffic: list[Exchange]) -> None:
    accepted = {operation for status, operation in statuses(tap_traffic) if status in (200, 202)}
    assert accepted == {*ALL}


def test_each_error_status(error_traffic: list[Exchange]) -> None:
    assert statuses(error_traffic) == {
        *((status, operation) for status in (401, 403, 429, 500) for operation in ALL),
        *((400, operation) for operation in (CREATE, LISTS)),
        *((404, operation) for operation in (CREATE, STATUS)),
    }


def violations_of(traffic: list[Exchange], operation: str, **changes: Any) -> list[str]:
    """What the judge says of successful exchanges, with some attributes replaced."""
    exchanges = [
        Exchange(
            replace(request, **{k: v for k, v in changes.items() if hasattr(request, k)}),
            replace(response, **{k: v for k, v in changes.items() if hasattr(response, k)}),
        )
        for exchange in traffic
        for request, response in [exchange]
        if response and operation_of(exchange) == operation
    ]
    assert exchanges
    return find_violations(exchanges)


@pytest.mark.parametrize(
    ("operation", "name", "violation"),
    [
        (COUNT, "contact_count", "response 200: 'contact_count' is a required property"),
        (CREATE, "_metadata", "response 202: '_metadata' is a required property"),
        (CREATE, "id", "response 202: Additional properties are not allowed"),
        (LIST_EXPORTS, "result", "response 200: Additional properties are not allowed"),
        (LIST_EXPORTS, "user_id", "response 200: result/*: Additional properties are not allowed"),
        (LIST_EXPORTS, "ID", "response 200: result/*/lists/*: Additional properties are not"),
        (STATUS, "contact_count", "response 200: Additional properties are not allowed"),
        (STATUS, "expires_at", "response 200: 'expires_at' is a required property"),
        (FIELDS, "custom_fields", "response 200: 'custom_fields' is a required property"),
        (
            FIELDS,
            "field_type",
            "response 200: custom_fields/*: 'field_type' is a required property",
        ),
        (LISTS, "contact_count", "response 200: result/*: Additional properties are not allowed"),
        (SEGMENTS, "results", "response 200: 'results' is a required property"),
        (SEGMENTS, "contacts_count", "response 200: results/*: 'contacts_count' is a required"),
    ],
)
def test_renamed_field_of_response(
    tap_traffic: list[Exchange], operation: str, name: str, violation: str
) -> None:
    renamed = [
        Exchange(
            request, replace(response, data=response.data.replace(f'"{name}"'.encode(), b'"x"'))
        )
        for request, response in tap_traffic
        if response
    ]
    violations = violations_of(renamed, operation)
    assert any(each.startswith(f"{operation}: {violation}") for each in violations), violations
    assert "('x' was unexpected)" in "".join(violations)


@pytest.mark.parametrize(
    ("operation", "changes", "violation"),
    [
        (LISTS, {"query": {"limit": "10"}}, "request: unknown query parameters ['limit']"),
        (
            SEGMENTS,
            {"query": {"page_size": "9"}},
            "request: unknown query parameters ['page_size']",
        ),
        (STATUS, {"query": {"id": "9"}}, "request: unknown query parameters ['id']"),
        (LISTS, {"query": {"page_size": "1001"}}, "request: page_size: "),
        (LISTS, {"query": {"page_size": "all"}}, "request: Failed to cast value to number"),
        (LISTS, {"headers": {}}, "request: Security not found"),
        (COUNT, {"method": "post"}, "request: Operation post not found"),
        (CREATE, {"body": b'{"list_id": []}'}, "request: Additional properties are not allowed"),
        (CREATE, {"body": b'{"list_ids": "x"}'}, "request: list_ids: 'x' is not of type 'array'"),
        (CREATE, {"body": b'{"list_ids": ["x"]}'}, "request: list_ids/*: 'x' is not a 'uuid'"),
        (CREATE, {"body": b'{"file_type": "xml"}'}, "request: file_type: 'xml' is not one of"),
        (CREATE, {"body": b'{"max_file_size": 1.5}'}, "request: max_file_size: 1.5 is not of type"),
        (
            CREATE,
            {"body": b'{"notifications": {"mail": true}}'},
            "request: notifications: Additional",
        ),
        (CREATE, {"content_type": "text/plain"}, "request: Content for the following mimetype"),
        (STATUS, {"data": b"<html>"}, "response 200: Failed to deserialize"),
        (STATUS, {"data": b"[]"}, "response 200: [] is not of type 'object'"),
        (STATUS, {"status_code": 204}, "response 204: Unknown response http status: 204"),
        (LISTS, {"status_code": 404}, "response 404: Unknown response http status: 404"),
    ],
)
def test_other_drifts(
    tap_traffic: list[Exchange], operation: str, changes: dict[str, Any], violation: str
) -> None:
    violations = violations_of(tap_traffic, operation, **changes)
    assert any(violation in each for each in violations), violations


def test_unknown_path(tap_traffic: list[Exchange]) -> None:
    violations = violations_of(tap_traffic, LISTS, path="/v3/marketing/lists/")
    assert violations == ["GET /v3/marketing/lists/: request: unknown path"]


def test_drift_of_the_sandbox_fails_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def count_contacts(_api: Api, _request: web.Request) -> web.Response:
        return web.json_response({"contacts": 1000})

    monkeypatch.setattr(Api, "count_contacts", count_contacts)
    with pytest.raises(pytest.fail.Exception) as failed, run_sandbox() as sandbox:
        Tap(tmp_path)(sandbox, "--test")
    place = f"{COUNT}: response 200"
    title, *violations, hint = str(failed.value).splitlines()
    assert title.startswith("OpenAPI judge (tests/openapi)")
    assert "EXEMPTIONS" in hint
    assert violations == [
        f"{place}: 'contact_count' is a required property",
        f"{place}: Additional properties are not allowed ('contacts' was unexpected)",
    ]


def test_drift_of_the_tap_fails_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = SendGridClient._request  # noqa: SLF001 - all requests of the tap

    def request_with_limit(*arguments: Any, **options: Any) -> object:
        return request(*arguments, **{**options, "params": {"limit": "10"}})

    monkeypatch.setattr(SendGridClient, "_request", request_with_limit)
    with pytest.raises(pytest.fail.Exception) as failed, run_sandbox() as sandbox:
        Tap(tmp_path)(sandbox, "--test")
    _title, *violations, _hint = str(failed.value).splitlines()
    operations = (COUNT, LISTS, SEGMENTS, FIELDS, LIST_EXPORTS)
    assert sorted(violations) == [
        f"{operation}: request: unknown query parameters ['limit']"
        for operation in sorted(operations)
    ]


@pytest.mark.parametrize("amendment", AMENDMENTS, ids=lambda each: "/".join(each.pointer[-4:]))
def test_amendment_is_needed(
    tap_traffic: list[Exchange], error_traffic: list[Exchange], amendment: Amendment
) -> None:
    others = [each for each in AMENDMENTS if each is not amendment]
    operations = [
        f"{method.upper()} {path}" for method, path in map(str.split, OPERATIONS[amendment.file])
    ]
    traffic = [each for each in tap_traffic + error_traffic if operation_of(each) in operations]
    assert find_violations(traffic, ["error-500"], others)


@pytest.mark.parametrize("name", EXEMPTIONS)
def test_exemption_is_needed(name: str) -> None:
    try:
        parse_fault(name)
        options = ["--fault", f"{name}:0"]
    except ValueError:
        options = [f"--{name}"]
    with run_sandbox("--contacts", "0", *options) as sandbox:
        send_all(sandbox)
    assert find_violations(sandbox.exchanges)
