"""Client of SendGrid's API v3: one method per endpoint, without retries."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import parse_qs, quote

import msgspec
import requests
from singer_sdk import metrics
from singer_sdk.authenticators import BearerTokenAuthenticator
from singer_sdk.exceptions import FatalAPIError
from typing_extensions import override

from tap_sendgrid_contacts import stopping
from tap_sendgrid_contacts.api.http import (
    RetryPolicy,
    TransientError,
    map_transport_errors,
    parse_http_date,
    raise_for_status,
)
from tap_sendgrid_contacts.api.session import Session, decode_json, read_body
from tap_sendgrid_contacts.redaction import hide, sanitize

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

_EXPORTS = "/v3/marketing/contacts/exports"
_FIELDS = "/v3/marketing/field_definitions"
_LISTS = "/v3/marketing/lists"

_STATUS_HINTS: Mapping[int, str] = {
    **dict.fromkeys(range(300, 400), "Redirects are not followed; check api_url"),
    401: "API key rejected: check that api_key is correct, complete and not revoked",
    403: (
        "Permission denied: give api_key access to Marketing (scope marketing.read; creating "
        "exports may need full access). Legacy Marketing Campaigns accounts have no contacts export"
    ),
}
_ID_HINT = "To check the list and segment ids, run --test"
_CREATE_HINTS: Mapping[int, str] = {**_STATUS_HINTS, 400: _ID_HINT, 404: _ID_HINT}

# SendGrid allows 500.
_MAX_FIELDS = 5000

# Of up to 1,000 lists each.
_MAX_PAGES = 1000

_Count = Annotated[int, msgspec.Meta(ge=0)]
_NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]


class FieldDefinition(msgspec.Struct):
    """A custom field, as in `GET /v3/marketing/field_definitions`."""

    id: _NonEmpty
    name: _NonEmpty
    field_type: str


class Audience(msgspec.Struct):
    """A list or a segment.

    The count of a segment is as of its last sample, and may differ from that of an export.
    """

    id: _NonEmpty
    name: str = ""
    contact_count: _Count | None = None


class _Segment(Audience):
    contact_count: _Count | None = msgspec.field(name="contacts_count", default=None)


class _ContactCount(msgspec.Struct):
    contact_count: _Count | None = None


class _AudienceRef(msgspec.Struct):
    """A list or a segment, as in `GET /v3/marketing/contacts/exports`."""

    id: str = msgspec.field(name="ID", default="")


class ExportStatus(msgspec.Struct):
    """Status of an export job, as in its own endpoint and in the list of exports."""

    id: str = ""
    status: str = ""
    created_at: str | None = None
    expires_at: str | None = None
    urls: list[str] = []
    message: str = ""
    contact_count: _Count | None = None
    lists: list[_AudienceRef] = []
    segments: list[_AudienceRef] = []


class _FieldDefinitions(msgspec.Struct):
    custom_fields: list[FieldDefinition] = []


class _PageMetadata(msgspec.Struct):
    next: str = ""


class _Lists(msgspec.Struct):
    result: list[Audience] = []
    metadata: _PageMetadata = msgspec.field(name="_metadata", default_factory=_PageMetadata)


class _Segments(msgspec.Struct):
    results: list[_Segment] = []


class _Exports(msgspec.Struct):
    result: list[ExportStatus] = []


class _Error(msgspec.Struct):
    message: str = ""


class _Errors(msgspec.Struct):
    errors: list[_Error] = []


class _ApiSession(Session):
    """A session that follows no redirects."""

    @override
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """None: for a target, `requests` reads the body of the response, whatever its size."""


class SendGridClient:
    """Client of the endpoints that a contacts export needs.

    Every method raises `FatalAPIError` on a response that a retry cannot change, and
    `TransientError` otherwise. Callers decide about retries, usually with `retry`.

    Args:
        api_key: API key, sent to `api_url` only.
        api_url: Base URL without a trailing slash, `https`, or `http` on the loopback interface.
        on_behalf_of: Subuser to act for.
        request_timeout: Connect and read timeout of each request, in seconds.
        retry: How callers retry requests.

    Attributes:
        allows_http: Whether parts may be downloaded over `http` on the loopback interface: only
            if the API is there, too.
        clock_offset: SendGrid's clock minus this machine's, according to its last response.
    """

    def __init__(
        self,
        api_key: str,
        *,
        api_url: str,
        on_behalf_of: str | None,
        request_timeout: float,
        retry: RetryPolicy,
    ) -> None:
        self.request_timeout = request_timeout
        self.retry = retry
        self.allows_http = not api_url.lower().startswith("https:")
        self.clock_offset = timedelta()
        self._base_url = api_url
        hide(api_key)
        self._session = _ApiSession(api_url)
        # An auth object, not a header: requests replaces the header by ~/.netrc, and sends it
        # along on redirects.
        self._session.auth = BearerTokenAuthenticator(token=api_key)
        if on_behalf_of:
            self._session.headers["on-behalf-of"] = on_behalf_of

    def list_field_definitions(self) -> list[FieldDefinition]:
        """List the custom fields: `GET /v3/marketing/field_definitions`."""
        fields = self._request("GET", _FIELDS, _FieldDefinitions).custom_fields
        if len(fields) > _MAX_FIELDS:
            raise FatalAPIError(
                f"GET {_FIELDS}: {len(fields):,} custom fields; the limit is {_MAX_FIELDS:,}"
            )
        by_name: dict[str, FieldDefinition] = {}
        for field in fields:
            if by_name.setdefault(field.name.lower(), field) != field:
                # The files name fields by their names, which are unique ignoring case.
                raise FatalAPIError(
                    f"GET {_FIELDS}: two custom fields have the name '{sanitize(field.name)}'; "
                    "rename or delete one in SendGrid"
                )
        return [*by_name.values()]

    def list_lists(self) -> list[Audience]:
        """List the contact lists, all pages: `GET /v3/marketing/lists`."""
        lists: list[Audience] = []
        params = {"page_size": "1000"}
        tokens: set[str] = set()
        for _ in range(_MAX_PAGES):
            page = self._request("GET", _LISTS, _Lists, params=params)
            lists += page.result
            _, _, query = page.metadata.next.partition("?")
            token = parse_qs(query).get("page_token", [""])[0]
            # A last page that names itself has no next one either.
            if not page.result or token in {"", params.get("page_token")}:
                return lists
            if token in tokens:
                raise FatalAPIError(
                    f"GET {_LISTS}: the pages are a cycle (page_token in _metadata.next)"
                )
            tokens.add(token)
            params["page_token"] = token
        raise FatalAPIError(f"GET {_LISTS}: more than {_MAX_PAGES:,} pages")

    def list_segments(self) -> list[Audience]:
        """List the segments: `GET /v3/marketing/segments/2.0`."""
        return [*self._request("GET", "/v3/marketing/segments/2.0", _Segments).results]

    def count_contacts(self) -> int | None:
        """Count the contacts of the account: `GET /v3/marketing/contacts/count`."""
        return self._request("GET", "/v3/marketing/contacts/count", _ContactCount).contact_count

    def create_export(self, body: dict[str, Any]) -> str:
        """Create an export, and return its id: `POST /v3/marketing/contacts/exports`.

        Raises:
            RequestNotProcessedError: If the export was not created; safe to send again.
            TransientError: If the export may have been created.
        """
        export = self._request("POST", _EXPORTS, ExportStatus, hints=_CREATE_HINTS, json=body)
        if not export.id:
            # The API description does not mark the id as required.
            raise TransientError(f"POST {_EXPORTS}: export accepted but response has no id")
        return export.id

    def get_export(self, export_id: str, *, timeout: float | None = None) -> ExportStatus:
        """Get the status of an export: `GET /v3/marketing/contacts/exports/{id}`.

        `timeout`, in seconds, applies if it is shorter than `request_timeout`.

        Raises:
            NotFoundError: If the export does not exist, or no longer.
        """
        path = _EXPORTS + "/{id}"
        return self._request("GET", path, ExportStatus, resource_id=export_id, timeout=timeout)

    def list_exports(self) -> list[ExportStatus]:
        """List the exports in progress or recently done: `GET /v3/marketing/contacts/exports`."""
        return self._request("GET", _EXPORTS, _Exports).result

    def _request(
        self,
        method: str,
        path: str,
        response_type: type[T],
        *,
        resource_id: str = "",
        timeout: float | None = None,
        hints: Mapping[int, str] = _STATUS_HINTS,
        **options: Any,
    ) -> T:
        description = f"{method} {path.replace('{id}', sanitize(resource_id))}"
        timeout = min(self.request_timeout, timeout or self.request_timeout)
        url = self._base_url + path.replace("{id}", quote(resource_id, safe=""))

        def send() -> tuple[requests.Response, bytes]:
            with (
                map_transport_errors(description, url, "api_url"),
                self._session.request(
                    method, url, timeout=timeout, stream=True, **options
                ) as response,
            ):
                return response, read_body(response, description, timeout)

        started = time.monotonic()
        response, body = stopping.run(send)
        _log_metric(path, response.status_code, time.monotonic() - started)
        if date := parse_http_date(response.headers.get("Date")):
            self.clock_offset = timedelta(seconds=date - time.time())
        details = _read_messages(body), hints.get(response.status_code)
        raise_for_status(response, description, ". ".join(filter(None, details)))
        try:
            return decode_json(body, response_type)
        except msgspec.ValidationError as error:
            raise FatalAPIError(f"{description}: unexpected response schema: {error}") from None
        except RecursionError:
            raise FatalAPIError(f"{description}: response is nested too deeply") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise TransientError(f"{description}: response is not valid JSON") from None


def _read_messages(body: bytes) -> str:
    """Return the API's own messages of an error."""
    try:
        errors = decode_json(body, _Errors).errors
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return sanitize("; ".join(error.message for error in errors if error.message))


def _log_metric(endpoint: str, status: int, seconds: float) -> None:
    is_error = status >= requests.codes.bad_request
    tags: dict[str, Any] = {
        metrics.Tag.ENDPOINT: endpoint,
        metrics.Tag.HTTP_STATUS_CODE: status,
        metrics.Tag.STATUS: metrics.Status.FAILED if is_error else metrics.Status.SUCCEEDED,
    }
    duration = metrics.Metric.HTTP_REQUEST_DURATION
    metrics.log(metrics.get_metrics_logger(), metrics.Point("timer", duration, seconds, tags))
