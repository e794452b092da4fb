"""Judge API traffic by SendGrid's own description: the tap's requests, the sandbox's responses.

The description is read as closed: names that it does not have are violations. Where SendGrid is
known to differ from it, an amendment says so; where a fault of the sandbox breaks it on purpose,
an exemption.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cache, reduce
from operator import getitem
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from aiohttp import web
from jsonschema import ValidationError
from openapi_core import OpenAPI
from openapi_core.datatypes import RequestParameters
from openapi_core.validation.request.exceptions import InvalidParameter
from openapi_core.validation.schemas.exceptions import InvalidSchemaValue

from sendgrid_sandbox.responses import IS_CLOSED
from tests.openapi.excerpt import FOLDER, OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from aiohttp.typedefs import Middleware

    from sendgrid_sandbox.responses import Handler

# The sandbox has it for the check of a real account; the tap does not use it.
_NOT_JUDGED = "/v3/scopes"


@dataclass(frozen=True, eq=False)
class Amendment:
    """A correction of the description.

    Attributes:
        file: File of the description.
        pointer: Keys that lead to an object in it.
        change: Members to set in this object.
        source: Where the correction is known from.
    """

    file: str
    pointer: tuple[str, ...]
    change: Mapping[str, Any]
    source: str


_CONTACTS, _FIELDS, _LISTS, _SEGMENTS = OPERATIONS
_PAGES = "https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api"
_NULLABLE_STRING = {"type": ["string", "null"]}
_ERRORS = {
    "type": "object",
    "properties": {
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": _NULLABLE_STRING, "message": {"type": "string"}},
                "required": ["message"],
            },
        }
    },
    "required": ["errors"],
}


def _errors(file: str, *statuses: str) -> Iterator[Amendment]:
    """Add the error statuses of all endpoints, which this file leaves out."""
    response = {"description": "", "content": {"application/json": {"schema": _ERRORS}}}
    for operation in OPERATIONS[file]:
        method, path = operation.split()
        pointer = ("paths", path, method, "responses")
        for status in statuses:
            page = "rate-limits" if status == "429" else "errors"
            yield Amendment(file, pointer, {status: response}, f"DOC: {_PAGES}/{page}")


AMENDMENTS = (
    *_errors(_CONTACTS, "429"),
    *_errors(_FIELDS, "401", "403", "429", "500"),
    *_errors(_LISTS, "400", "401", "403", "429", "500"),
    *_errors(_SEGMENTS, "401", "403", "429"),
    Amendment(
        _CONTACTS,
        ("components", "schemas", "ErrorResponse", "properties", "errors", "items", "properties"),
        {"field": _NULLABLE_STRING},
        "DOC: `nullable` in the same place, which OpenAPI 3.1 no longer has",
    ),
    Amendment(
        _CONTACTS,
        ("components", "schemas", "ContactExport", "properties", "urls"),
        {"type": ["array", "null"]},
        "SEEN: null while an export is pending",
    ),
    Amendment(
        _FIELDS,
        ("components", "schemas", "ReservedFieldDefinitionsResponse", "items", "properties"),
        {"id": {"type": "string"}},
        "DOC: the example of the same response",
    ),
    Amendment(
        _SEGMENTS,
        (
            *("paths", "/v3/marketing/segments/2.0", "get", "responses"),
            *("200", "content", "application/json"),
        ),
        {
            "schema": {
                "type": "object",
                "properties": {
                    "results": {
                        "type": "array",
                        "items": {"$ref": "#/components/schemas/AllSegments200"},
                    }
                },
                "required": ["results"],
            }
        },
        "DOC: the text of the same operation; its schema is that of one segment, not of `results`",
    ),
)

_UNDOCUMENTED = "response {0}: Unknown response http status: {0}"
_HTML = r"response 200: (Unknown response http status: 200|.* mimetype not found: text/html\..*)"
# Violations that faults and options of the sandbox cause on purpose, as regular expressions. The
# one place for them: a sandbox is exempt by its options, and a test checks that each is needed.
EXEMPTIONS = {
    # SEEN for an empty collection of another marketing endpoint.
    "null-collections": r"response 200: (results?|custom_fields): None is not of type 'array'",
    "html": _HTML,
    "status-html": _HTML,
    # Gateways send these, whatever the API documents.
    **{
        f"{request}-{status}": _UNDOCUMENTED.format(status)
        for request in ("error", "post")
        for status in (502, 503, 504)
    },
    "status-503": _UNDOCUMENTED.format(503),
    "redirect-api": _UNDOCUMENTED.format(307),
    # The description has a field in this error for segments, and for contacts it has none.
    "error-500": r"response 500: errors/\*: 'field' is a required property",
    "unknown-status": r"response 200: status: 'archived' is not one of .*",
}


@dataclass
class JudgedRequest:
    """A request, with the attributes that openapi-core expects."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    content_type: str
    body: bytes
    parameters: RequestParameters = field(init=False)
    host_url = "https://api.sendgrid.com"

    def __post_init__(self) -> None:
        self.parameters = RequestParameters(query=self.query, header=self.headers)


@dataclass
class JudgedResponse:
    """A response, with the attributes that openapi-core expects."""

    status_code: int
    headers: Mapping[str, str]
    content_type: str
    data: bytes


class Exchange(NamedTuple):
    """A request and its response, None if there is none to judge."""

    request: JudgedRequest
    response: JudgedResponse | None


def make_recorder(exchanges: list[Exchange]) -> Middleware:
    """Return a middleware of the sandbox that adds the exchanges with its API to a list."""

    @web.middleware
    async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
        response: web.StreamResponse | None = None
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = error
            raise
        finally:
            if request.path.startswith("/v3/") and request.path != _NOT_JUDGED:
                exchanges.append(await _read_exchange(request, response))
        return response

    return record


async def _read_exchange(request: web.Request, response: web.StreamResponse | None) -> Exchange:
    recorded = JudgedRequest(
        request.method.lower(),
        request.path,
        request.query,
        request.headers,
        request.content_type,
        await request.read(),
    )
    if not isinstance(response, web.Response) or IS_CLOSED in request:
        return Exchange(recorded, None)
    body = response.body or b""
    assert isinstance(body, bytes)
    return Exchange(
        recorded, JudgedResponse(response.status, response.headers, response.content_type, body)
    )


def check_traffic(exchanges: Iterable[Exchange], exempt: Iterable[str]) -> None:
    """Fail the test if something is not as the description says.

    Args:
        exchanges: Requests and their responses.
        exempt: Names of faults and options of the sandbox whose violations are intended.
    """
    if violations := find_violations(exchanges, exempt):
        title = "OpenAPI judge (tests/openapi): not as in SendGrid's description:"
        hint = "If a fault or option does it on purpose, add it to EXEMPTIONS in judge.py."
        pytest.fail("\n".join([title, *violations, hint]), pytrace=False)


def find_violations(
    exchanges: Iterable[Exchange],
    exempt: Iterable[str] = (),
    amendments: Collection[Amendment] = AMENDMENTS,
) -> list[str]:
    """Return what in some exchanges is not as the description says, each violation once.

    Args:
        exchanges: Requests and their responses.
        exempt: Names of faults and options of the sandbox whose violations are intended.
        amendments: Corrections of the description.
    """
    patterns = [EXEMPTIONS[name] for name in exempt if name in EXEMPTIONS]
    paths = [
        path
        for file in OPERATIONS
        for path in _load_paths(file, tuple(each for each in amendments if each.file == file))
    ]
    violations = {
        f"{operation}: {violation}": None
        for exchange in exchanges
        for operation, violation in _judge(exchange, paths)
        if not any(re.fullmatch(pattern, violation) for pattern in patterns)
    }
    return list(violations)


def _judge(exchange: Exchange, paths: list[_Path]) -> Iterator[tuple[str, str]]:
    request, response = exchange
    path = next((path for path in paths if path.pattern.fullmatch(request.path)), None)
    operation = f"{request.method.upper()} {path.template if path else request.path}"
    if not path:
        yield operation, "request: unknown path"
        return
    for error in path.api.iter_request_errors(request):
        yield from ((operation, f"request: {text}") for text in _describe(error))
    # openapi-core ignores them.
    if unknown := request.query.keys() - path.query_parameters.get(request.method, ()):
        yield operation, f"request: unknown query parameters {sorted(unknown)}"
    if response:
        for error in path.api.iter_response_errors(request, response):
            status = response.status_code
            yield from ((operation, f"response {status}: {text}") for text in _describe(error))


def _describe(error: Exception) -> Iterator[str]:
    """Return what is wrong, without the whole body, which openapi-core quotes."""
    cause = error.__cause__
    name = [error.name] if isinstance(error, InvalidParameter) else []
    if isinstance(cause, InvalidSchemaValue):
        for each in cause.schema_errors:
            assert isinstance(each, ValidationError)
            # All items of an array are named alike, so that each violation is reported once.
            keys = ("*" if isinstance(key, int) else str(key) for key in each.absolute_path)
            place = "/".join((*name, *keys))
            yield f"{place}: {each.message}" if place else each.message
    else:
        yield str(cause or error)


class _Path(NamedTuple):
    """A path of the description.

    Attributes:
        template: The path, with `{id}` for an id.
        query_parameters: Names of the query parameters, by method.
        api: The description that it is from.
    """

    template: str
    query_parameters: dict[str, list[str]]
    api: OpenAPI

    @property
    def pattern(self) -> re.Pattern[str]:
        """What requests of this path look like."""
        return re.compile(self.template.replace("{id}", "[^/]+"))


@cache
def _load_paths(file: str, amendments: tuple[Amendment, ...]) -> list[_Path]:
    description = json.loads((FOLDER / file).read_text())
    for amendment in amendments:
        reduce(getitem, amendment.pointer, description).update(amendment.change)
    _close(description)
    api = OpenAPI.from_dict(description)
    return [
        _Path(
            template,
            {
                method: [each["name"] for each in operation.get("parameters", ())]
                for method, operation in item.items()
                if method != "parameters"
            },
            api,
        )
        for template, item in description["paths"].items()
    ]


def _close(schema: object) -> None:
    """Forbid properties that are not in the description."""
    if isinstance(schema, dict):
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
        schema = list(schema.values())
    if isinstance(schema, list):
        for each in schema:
            _close(each)
