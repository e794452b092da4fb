"""SendGrid's side: the API's requests, their retries, and errors in words.

Nothing here lets a key or a signed URL into a text: the exceptions of `requests` quote whole
URLs, so they are put in words of our own and never shown.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import ssl
import time
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

import backoff
import msgspec
import requests
import urllib3.exceptions
from requests.auth import AuthBase
from singer_sdk.exceptions import FatalAPIError, RetriableAPIError
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from backoff._typing import Details

logger = logging.getLogger(__name__)

# At DEBUG, and in some warnings, urllib3 writes whole URLs: the signatures of parts too.
logging.getLogger("urllib3").setLevel(logging.CRITICAL)

MAX_TRIES = 6
_LONGEST_WAIT = 300.0

_P = ParamSpec("_P")
_T = TypeVar("_T")


class UnansweredError(RetriableAPIError):
    """No usable answer; whether the request was carried out is not known.

    Attributes:
        wait: Seconds the server asks to wait before the next try, 0 if it does not say.
    """

    wait = 0.0


class NotTakenError(UnansweredError):
    """The request was certainly not carried out: no connection, or turned away."""


class ForbiddenError(FatalAPIError):
    """The key does not have the right."""


class NotFoundError(FatalAPIError):
    """There is no such thing, or no longer."""


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
        """Prepare a session; nothing is sent.

        Args:
            api_key: API key, sent to `api_url` alone.
            api_url: Base URL, `https`, or `http` on the loopback interface.
            on_behalf_of: Subuser to act for.
            request_timeout: Seconds to wait for a connection, and for each answer.
            on_answer: Is told of each answer the endpoint, with `{id}` for an id, the status
                and the seconds it took.
        """
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
        send = _retrying(NotTakenError)(self._send)
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
        send = _retrying(UnansweredError)(self._send)
        path = "/v3/marketing/contacts/exports/{id}"
        return send("GET", path, f"export {export_id}", Export, of=export_id)

    def exports(self) -> list[Export]:
        """List the exports in flight or done of late: `GET /v3/marketing/contacts/exports`."""
        return self._get("/v3/marketing/contacts/exports", "the exports", _Exports).result or []

    def _get(
        self, path: str, what: str, shape: type[_T], params: dict[str, str] | None = None
    ) -> _T:
        return _retrying(UnansweredError)(self._send)("GET", path, what, shape, params=params)

    def _send(
        self, method: str, path: str, what: str, shape: type[_T], of: str = "", **kwargs: Any
    ) -> _T:
        who = f"SendGrid, asked for {what}"
        url = self._url + path.replace("{id}", quote(of, safe=""))
        with words(who):
            response = self._session.request(
                method, url, timeout=self._timeout, allow_redirects=False, **kwargs
            )
        self._on_answer(path, response.status_code, response.elapsed.total_seconds())
        if date := _http_date(response.headers.get("Date")):
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
        said = " ".join(said.replace(self._api_key, "***").split())[:300]
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


# --- what the API and the parts share -------------------------------------------------------


def is_safe_url(url: str) -> bool:
    """Tell whether secrets and contacts may travel there: `https`, or this machine itself."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if "\\" in url:
        # Taken for a part of the host by some parsers, and for its end by others.
        return False
    if parts.scheme == "https":
        return bool(host)
    if parts.scheme != "http":
        return False
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check(
    response: requests.Response,
    who: str,
    reason: Callable[[requests.Response], str] = lambda _: "",
) -> None:
    """Raise what an answer's status calls for.

    Args:
        response: The answer.
        who: Who answered to what, for the error.
        reason: Adds what the status means.

    Raises:
        NotTakenError: On 429 and 503.
        UnansweredError: On 408 and the other 5xx.
        ForbiddenError: On 403.
        NotFoundError: On 404.
        FatalAPIError: On any other that is no success, redirects included.
    """
    status = response.status_code
    if status < requests.codes.multiple_choices:
        return
    detail = reason(response)
    text = f"{who}, answered {status}" + (f": {detail}" if detail else "")
    if status in {408, 429} or status >= requests.codes.server_error:
        error = (NotTakenError if status in {429, 503} else UnansweredError)(text)
        error.wait = _asked_wait(response)
        raise error
    if status == requests.codes.forbidden:
        raise ForbiddenError(text)
    if status == requests.codes.not_found:
        raise NotFoundError(text)
    if status < requests.codes.bad_request:
        text = f"{text}: a redirect, which is not followed; check `api_url`"
    raise FatalAPIError(text)


@contextlib.contextmanager
def words(who: str) -> Iterator[None]:
    """Put what `requests` and `urllib3` raise into words without a URL.

    Args:
        who: Who was asked for what, for the error.

    Raises:
        NotTakenError: When there was no connection.
        UnansweredError: When the answer did not come, or not whole.
        FatalAPIError: When the server's certificate is not to be trusted.
    """
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        chain = list(_chain(error))
        text = f"{who}: {_describe(chain)}"
        if any(isinstance(link, ssl.SSLCertVerificationError) for link in chain):
            raise FatalAPIError(text) from None
        taken = not any(isinstance(link, _NOT_CONNECTED) for link in chain)
        # Not chained: the original's text holds the URL.
        raise (UnansweredError if taken else NotTakenError)(text) from None


_NOT_CONNECTED = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.ProxyError,
)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those it wraps: in its arguments, as `reason`, or as cause."""
    seen: set[int] = set()
    queue: list[object] = [error]
    while queue:
        link = queue.pop(0)
        if isinstance(link, BaseException) and id(link) not in seen:
            seen.add(id(link))
            yield link
            queue += [*link.args, getattr(link, "reason", None), link.__cause__, link.__context__]


def _describe(chain: list[BaseException]) -> str:
    causes: list[tuple[type[BaseException], str]] = [
        (ssl.SSLCertVerificationError, "its TLS certificate is not to be trusted"),
        (ssl.SSLError, "the TLS connection failed"),
        (urllib3.exceptions.ProxyError, "the proxy could not be used"),
        (socket.gaierror, "its host name was not found"),
        (ConnectionRefusedError, "it refused the connection"),
        (urllib3.exceptions.ConnectTimeoutError, "no connection within `request_timeout`"),
        (TimeoutError, "no answer within `request_timeout`"),
        (requests.Timeout, "no answer within `request_timeout`"),
        (urllib3.exceptions.TimeoutError, "nothing more within `request_timeout`"),
        (ConnectionResetError, "the connection was reset"),
        (requests.exceptions.InvalidURL, "its URL is not valid"),
    ]
    for kind, text in causes:
        if any(isinstance(link, kind) for link in chain):
            return text
    return "the connection broke"


def _asked_wait(response: requests.Response) -> float:
    """Seconds the server asks to wait: `Retry-After` in both forms, or `X-RateLimit-Reset`."""
    headers = response.headers
    after = headers.get("Retry-After", "")
    if after.isdecimal():
        seconds = float(after)
    elif moment := _http_date(after):
        seconds = moment - (_http_date(headers.get("Date")) or time.time())
    elif (reset := headers.get("X-RateLimit-Reset", "")).isdecimal():
        seconds = int(reset) - (_http_date(headers.get("Date")) or time.time())
    else:
        seconds = 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT)


def _http_date(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, TypeError, OverflowError):
        return None


def waits() -> Generator[float, UnansweredError, None]:
    """Seconds between tries: growing, and at least what the server asks for."""
    error = yield 0.0
    for delay in (1.0, 2.0, 4.0, 8.0, 16.0):
        error = yield max(delay, error.wait)


def _retrying(on: type[UnansweredError]) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    def log(details: Details) -> None:
        logger.warning("%s; trying again in %.0f s", details["exception"], details["wait"])

    return backoff.on_exception(
        waits,
        on,
        max_tries=MAX_TRIES,
        jitter=None,
        on_backoff=log,
        # Its own lines would hold the arguments.
        logger=None,
    )
