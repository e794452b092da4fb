"""HTTP as the API and the storage share it: errors in words, retries, safe URLs.

Nothing here lets a key or a signed URL into a text: the exceptions of `requests` quote whole
URLs, so they are put in words of our own and never shown.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import re
import socket
import ssl
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

import backoff
import requests
import urllib3.exceptions
from singer_sdk.exceptions import FatalAPIError, RetriableAPIError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from backoff._typing import Details

_P = ParamSpec("_P")
_T = TypeVar("_T")

logger = logging.getLogger(__name__)

# At DEBUG, and in some warnings, urllib3 writes whole URLs: the signatures of parts too. A filter,
# for a logging configuration may set the level again.
logging.getLogger("urllib3.connectionpool").addFilter(lambda _: False)

_DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0)
_LONGEST_WAIT = 300.0


class UnansweredError(RetriableAPIError):
    """No usable answer; whether the request was carried out is not known.

    Attributes:
        wait: Seconds the server asks to wait before the next try, 0 if it does not say.
        spent: Whether it was tried often enough.
    """

    wait = 0.0
    spent = False


class NotTakenError(UnansweredError):
    """The request was certainly not carried out: no connection, or turned away."""


class ForbiddenError(FatalAPIError):
    """The key does not have the right."""


class NotFoundError(FatalAPIError):
    """There is no such thing, or no longer."""


def is_safe_url(url: str) -> bool:
    """Tell whether secrets and contacts may travel there: `https`, or this machine itself."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    # A backslash is a part of the host to some parsers, and its end to others; a password would
    # stand in every STATE.
    if "\\" in url or "@" in parts.netloc:
        return False
    if parts.scheme == "https":
        return bool(host)
    if parts.scheme != "http":
        return False
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def quotable(text: str) -> str:
    """Put what a server says on one line, not too long, without the queries of its links."""
    return " ".join(re.sub(r"(://[^\s?]*)\?\S*", r"\1", text).split())[:300]


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
        NotTakenError: On 429.
        UnansweredError: On 408 and 5xx.
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
        turned_away = status == requests.codes.too_many_requests
        error = (NotTakenError if turned_away else UnansweredError)(text)
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
def in_words(who: str) -> Iterator[None]:
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
    elif moment := http_date(after):
        seconds = moment - (http_date(headers.get("Date")) or time.time())
    elif (reset := headers.get("X-RateLimit-Reset", "")).isdecimal():
        seconds = int(reset) - (http_date(headers.get("Date")) or time.time())
    else:
        seconds = 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT)


def http_date(text: str | None) -> float | None:
    """Read an HTTP date as epoch seconds; None where there is none."""
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, TypeError, OverflowError):
        return None


def retrying(on: type[UnansweredError]) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Have a request tried again, five times at most, waiting longer each time.

    Args:
        on: What to try again after, unless it was raised by a request tried often enough.
    """

    def log(details: Details) -> None:
        logger.warning("%s; trying again in %.0f s", details["exception"], details["wait"])

    def give_up(details: Details) -> None:
        cast("UnansweredError", details["exception"]).spent = True

    return backoff.on_exception(
        _waits,
        on,
        max_tries=len(_DELAYS) + 1,
        giveup=lambda error: error.spent,
        jitter=None,
        on_backoff=log,
        on_giveup=give_up,
        # Its own lines would hold the arguments.
        logger=None,
    )


def _waits() -> Generator[float, UnansweredError, None]:
    """Seconds between tries: growing, and at least what the server asks for."""
    error = yield 0.0
    for delay in _DELAYS:
        error = yield max(delay, error.wait)
