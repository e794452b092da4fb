"""SendGrid's API: its requests, the shapes of its answers, its errors in words."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

import msgspec
import requests
from requests.auth import AuthBase
from singer_sdk.exceptions import FatalAPIError
from typing_extensions import override

from tap_sendgrid_contacts.transport import (
    NotTakenError,
    UnansweredError,
    check,
    http_date,
    in_words,
    quotable,
    retrying,
)

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class FieldDefinition(msgspec.Struct):
    """A custom field, as `GET /v3/marketing/field_definitions` has it."""

    id: str
    name: str
    field_type: str


class Named(msgspec.Struct):
    """A list or a segment."""

    id: str
    name: str = ""


class _Ref(msgspec.Struct):
    """A list or a segment, as `GET /v3/marketing/contacts/exports` has it."""

    id: str = msgspec.field(name="ID", default="")


class Export(msgspec.Struct):
    """An export job, as its status and the list of exports have it."""

    id: str = ""
    status: str = ""
    created_at: str | None = None
    expires_at: str | None = None
    urls: list[str] | None = None
    message: str | None = None
    contact_count: int | None = None
    lists: list[_Ref] | None = None
    segments: list[_Ref] | None = None


class _FieldDefinitions(msgspec.Struct):
    custom_fields: list[FieldDefinition] | None = None


class _PageMetadata(msgspec.Struct):
    next: str | None = None


class _Lists(msgspec.Struct):
    result: list[Named] | None = None
    metadata: _PageMetadata | None = msgspec.field(name="_metadata", default=None)


class _Segments(msgspec.Struct):
    results: list[Named] | None = None


class _Exports(msgspec.Struct):
    result: list[Export] | None = None


class SendGrid:
    """The part of SendGrid's API v3 that an export needs.

    Every method raises `FatalAPIError` when SendGrid refuses, and `RetriableAPIError` when it
    could not be reached, retries included.

    Args:
        api_key: API key, sent to `api_url` alone.
        api_url: Base URL, `https`, or `http` on the loopback interface.
        on_behalf_of: Subuser to act for.
        request_timeout: Seconds to wait for a connection, and for each answer.
        on_answer: Is told of each answer the endpoint, with `{id}` for an id, the status and
            the seconds it took.
    """

    def __init__(
        self,
        api_key: str,
        *,
        api_url: str = "https://api.sendgrid.com",
        on_behalf_of: str | None = None,
        request_timeout: int = 300,
        on_answer: Callable[[str, int, float], None] = lambda *_: None,
    ) -> None:
        self._url = api_url.rstrip("/")
        self._api_key = api_key
        self._timeout = request_timeout
        self._session = requests.Session()
        # As an auth object the key is not replaced by ~/.netrc.
        self._session.auth = _Bearer(api_key)
        if on_behalf_of:
            self._session.headers["on-behalf-of"] = on_behalf_of
        self._on_answer = on_answer
        self._clock_offset = 0.0

    @property
    def now(self) -> datetime:
        """The time by SendGrid's clock, as far as its last answer told it."""
        return datetime.fromtimestamp(time.time() + self._clock_offset, timezone.utc)

    def field_definitions(self) -> list[FieldDefinition]:
        """List the custom fields: `GET /v3/marketing/field_definitions`."""
        path = "/v3/marketing/field_definitions"
        return self._get(path, "the field definitions", _FieldDefinitions).custom_fields or []

    def lists(self) -> list[Named]:
        """List the contact lists, all pages of them: `GET /v3/marketing/lists`."""
        lists: list[Named] = []
        params = {"page_size": "1000"}
        while True:
            page = self._get("/v3/marketing/lists", "the lists", _Lists, params)
            lists += page.result or []
            following = urlsplit((page.metadata and page.metadata.next) or "")
            token = parse_qs(following.query).get("page_token", [""])[0]
            if not page.result or token in {"", params.get("page_token")}:
                return lists
            params["page_token"] = token

    def segments(self) -> list[Named]:
        """List the segments: `GET /v3/marketing/segments/2.0`."""
        return self._get("/v3/marketing/segments/2.0", "the segments", _Segments).results or []

    def start_export(self, body: dict[str, Any]) -> str:
        """Ask for an export: `POST /v3/marketing/contacts/exports`.

        Sent again only when it was certainly not taken.

        Args:
            body: The request as the API takes it.

        Returns:
            The export's id.

        Raises:
            UnansweredError: When it may have been taken.
        """
        send = retrying(NotTakenError)(self._send)
        export = send("POST", "/v3/marketing/contacts/exports", "an export", Export, json=body)
        if not export.id:
            # The documentation does not mark it as required.
            raise UnansweredError("SendGrid took the request and did not name the export")
        return export.id

    def export(self, export_id: str) -> Export:
        """Read an export's status: `GET /v3/marketing/contacts/exports/{id}`.

        Raises:
            NotFoundError: When SendGrid does not know the export, or no longer.
        """
        send = retrying(UnansweredError)(self._send)
        path = "/v3/marketing/contacts/exports/{id}"
        return send("GET", path, f"export {export_id}", Export, of=export_id)

    def exports(self) -> list[Export]:
        """List the exports in flight or done of late: `GET /v3/marketing/contacts/exports`."""
        return self._get("/v3/marketing/contacts/exports", "the exports", _Exports).result or []

    def _get(
        self, path: str, what: str, shape: type[_T], params: dict[str, str] | None = None
    ) -> _T:
        return retrying(UnansweredError)(self._send)("GET", path, what, shape, params=params)

    def _send(
        self, method: str, path: str, what: str, shape: type[_T], of: str = "", **kwargs: Any
    ) -> _T:
        who = f"SendGrid, asked for {what}"
        url = self._url + path.replace("{id}", quote(of, safe=""))
        with in_words(who):
            response = self._session.request(
                method, url, timeout=self._timeout, allow_redirects=False, **kwargs
            )
        self._on_answer(path, response.status_code, response.elapsed.total_seconds())
        if date := http_date(response.headers.get("Date")):
            self._clock_offset = date - time.time()
        check(response, who, self._reason)
        try:
            return msgspec.json.decode(response.content, type=shape)
        except msgspec.ValidationError as error:
            raise FatalAPIError(f"{who}, gave an undocumented answer: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise UnansweredError(f"{who}, answered with no JSON") from None

    def _reason(self, response: requests.Response) -> str:
        """Say what an error status means, with what SendGrid says of it."""
        try:
            said = "; ".join(str(error["message"]) for error in response.json()["errors"])
        except (ValueError, LookupError, TypeError):
            said = ""
        said = quotable(said.replace(self._api_key, "***"))
        return ": ".join(filter(None, (_MEANINGS.get(response.status_code), said)))


_MEANINGS = {
    401: "it does not accept `api_key`; is it right, whole, and not revoked?",
    403: (
        "`api_key` lacks the right; give it access to Marketing (scope marketing.read; the export "
        "may ask for full access). Accounts on legacy Marketing Campaigns have no contacts export"
    ),
}


class _Bearer(AuthBase):
    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    @override
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._api_key}"
        return request
