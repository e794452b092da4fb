"""HTTP rules shared by the API and the storage: error mapping and retries.

Error messages never contain a URL or a key: the exceptions of `requests` quote whole signed
URLs, so they are mapped to messages of our own and never shown.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import re
import socket
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

import backoff
import requests
import urllib3.exceptions
from singer_sdk.exceptions import FatalAPIError, RetriableAPIError

from tap_sendgrid_contacts import stopping
from tap_sendgrid_contacts.redaction import sanitize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backoff.types import Details

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

TOO_MANY_FILES_HINT = "Raise the limit of open files (ulimit -n)"

# A server that asks for a longer wait than this is polled again earlier.
_MAX_RETRY_AFTER = 300.0


class TransientError(RetriableAPIError):
    """A failure that may pass: no response, an incomplete one, HTTP 408, 429 or 5xx.

    Whether the server processed the request is not known.

    Attributes:
        retry_after: Seconds the server asks to wait before a retry, 0 if it does not say.
    """

    retry_after = 0.0


class RequestNotProcessedError(TransientError):
    """The request was not processed (connection failed or HTTP 429); safe to send again."""


class UnauthorizedError(FatalAPIError):
    """HTTP 401: SendGrid rejects the API key."""


class ForbiddenError(FatalAPIError):
    """HTTP 403: the API key lacks a permission."""


class NotFoundError(FatalAPIError):
    """HTTP 404."""


def _sleep(seconds: float) -> None:
    # Looked up late: tests replace it.
    stopping.sleep(seconds)


@dataclass(frozen=True)
class RetryPolicy:
    """How to retry a function after a `TransientError`.

    Waits grow and have jitter, so that runs that failed together do not retry together. A
    Retry-After of the server comes on top.

    Args:
        delays: Longest wait before each retry, in seconds; their number is that of the retries.
        wait: Waits for some seconds; an exception that it raises ends the retries.
    """

    delays: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    wait: Callable[[float], None] = _sleep

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function; after the last retry its error is raised."""
        retrying = backoff.on_exception(
            backoff.constant,
            TransientError,
            max_tries=len(self.delays) + 1,
            jitter=None,
            on_backoff=self._back_off,
            # backoff's own log lines contain the arguments, signed URLs included.
            logger=None,
            # `_back_off` waits: backoff itself can only `time.sleep`, which nothing interrupts.
            interval=0,
        )
        return retrying(function)(*args, **kwargs)

    def _back_off(self, details: Details) -> None:
        error: Any = details["exception"]
        tries = details["tries"]
        delay = self.delays[tries - 1]
        seconds = error.retry_after + random.uniform(delay / 2, delay)  # noqa: S311 - jitter
        attempts = len(self.delays) + 1
        logger.warning(
            "%s; retrying in %.1f s (attempt %d/%d)", error, seconds, tries + 1, attempts
        )
        self.wait(seconds)


NO_RETRY = RetryPolicy(())


def raise_for_status(response: requests.Response, description: str, detail: str = "") -> None:
    """Raise the error for an HTTP status; return if it is not an error.

    The message is `description`, method and endpoint or the part, and `detail`, what the status
    means and what the server says about it.

    Raises:
        RequestNotProcessedError: On 429.
        TransientError: On 408 and 5xx.
        UnauthorizedError: On 401.
        ForbiddenError: On 403.
        NotFoundError: On 404.
        FatalAPIError: On any other status that is not 2xx, redirects included.
    """
    status = response.status_code
    if status < requests.codes.multiple_choices:
        return
    message = f"{description}: HTTP {status}" + (f": {detail}" if detail else "")
    if status in {408, 429} or status >= requests.codes.server_error:
        is_rate_limited = status == requests.codes.too_many_requests
        error = (RequestNotProcessedError if is_rate_limited else TransientError)(message)
        error.retry_after = _parse_retry_after(response)
        raise error
    raise _STATUS_ERRORS.get(status, FatalAPIError)(message)


_STATUS_ERRORS = {401: UnauthorizedError, 403: ForbiddenError, 404: NotFoundError}


@contextlib.contextmanager
def map_transport_errors(description: str, url: str, origin: str) -> Iterator[None]:
    """Map the exceptions of `requests` and `urllib3` to errors without a URL.

    They have host and port of `url`, and its `origin`, such as a setting.

    Raises:
        RequestNotProcessedError: If no connection was made.
        TransientError: If there was no response, or an incomplete one.
        FatalAPIError: If a retry cannot help: an invalid certificate, URL or header.
    """
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        # After a redirect, the host is another one.
        request = getattr(error, "request", None)
        peer = f"{_host_and_port(getattr(request, 'url', None) or url)} ({origin})"
        error_type, cause = _classify(error, peer)
        # Not chained: the text of the original contains the URL.
        raise error_type(f"{description}: {cause}") from None


# By the first type that is among the causes, from the most to the least specific.
_TRANSPORT_ERRORS: tuple[tuple[type[BaseException], type[Exception], str], ...] = (
    (ssl.SSLError, TransientError, "TLS connection to {} failed"),
    (socket.gaierror, RequestNotProcessedError, "host name not found: {}"),
    (ConnectionRefusedError, RequestNotProcessedError, "connection refused by {}"),
    # Derived from ConnectTimeoutError, so it comes first.
    (
        urllib3.exceptions.NewConnectionError,
        RequestNotProcessedError,
        "connection to {} failed",
    ),
    (
        urllib3.exceptions.ConnectTimeoutError,
        RequestNotProcessedError,
        "connection to {} timed out (request_timeout)",
    ),
    (requests.TooManyRedirects, FatalAPIError, "too many redirects by {}"),
    *(
        (error, TransientError, "read from {} timed out (request_timeout)")
        for error in (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError)
    ),
    (ConnectionResetError, TransientError, "connection reset by {}"),
    (urllib3.exceptions.DecodeError, TransientError, "corrupt compression by {}"),
    (BaseException, TransientError, "connection to {} broken"),
)


def _classify(error: Exception, peer: str) -> tuple[type[Exception], str]:
    """Return type and message of the error that an exception is mapped to."""
    # requests derives its errors of invalid URLs, headers and proxies from ValueError.
    if isinstance(error, ValueError):
        return FatalAPIError, "invalid URL, header or proxy setting"
    causes = tuple(_iter_causes(error))
    is_proxy = any(isinstance(cause, urllib3.exceptions.ProxyError) for cause in causes)
    if is_proxy:
        peer = _describe_proxy()
        status = next((match[1] for cause in causes if (match := _TUNNEL.search(str(cause)))), "")
        if status:
            is_rejected = status.startswith("4")
            message = f"{peer}: HTTP {status}"
            return FatalAPIError if is_rejected else RequestNotProcessedError, message
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return FatalAPIError, _describe_certificate_error(cause, peer)
        if isinstance(cause, OSError) and cause.errno in {errno.EMFILE, errno.ENFILE}:
            return FatalAPIError, f"{cause.strerror}. {TOO_MANY_FILES_HINT}"
    error_type, message = next(
        (error_type, message)
        for cause_type, error_type, message in _TRANSPORT_ERRORS
        if any(isinstance(cause, cause_type) for cause in causes)
    )
    return RequestNotProcessedError if is_proxy else error_type, message.format(peer)


def _describe_certificate_error(error: ssl.SSLCertVerificationError, peer: str) -> str:
    reason, hint = _CERTIFICATE_ERRORS.get(
        getattr(error, "verify_code", 0),
        (getattr(error, "verify_message", "unknown reason"), ""),
    )
    return f"TLS certificate of {peer} not verified: {reason}{hint}"


# By OpenSSL's verification result, X509_V_ERR_*.
_CA_HINT = ". For a private CA, set REQUESTS_CA_BUNDLE (or SSL_CERT_FILE) to its PEM file"
_CLOCK_HINT = ". Check this machine's clock"
_CERTIFICATE_ERRORS = {
    **dict.fromkeys((2, 18, 19, 20, 21), ("issued by an unknown CA", _CA_HINT)),
    9: ("not yet valid", _CLOCK_HINT),
    10: ("expired", _CLOCK_HINT),
    62: ("not valid for the host name", ""),
    64: ("not valid for the IP address", ""),
}

_TUNNEL = re.compile(r"Tunnel connection failed: ([0-9]{3})")


def _describe_proxy() -> str:
    names = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
    name = next((name for name in names if os.environ.get(name)), "HTTPS_PROXY")
    url = os.environ.get(name, "")
    return f"proxy {_host_and_port(url if '://' in url else f'http://{url}')} ({name})"


def _host_and_port(url: str) -> str:
    """Return host and port of a URL, and nothing else of it."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return "an invalid URL"
    host = sanitize(parts.hostname or "")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _iter_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        context = None if error.__suppress_context__ else error.__context__
        # urllib3 keeps some causes in the arguments only.
        wrapped = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        error = error.__cause__ or context or wrapped


def _parse_retry_after(response: requests.Response) -> float:
    """Return the seconds to wait by `Retry-After`, in both forms, or `X-RateLimit-Reset`."""
    headers = response.headers
    retry_after = headers.get("Retry-After", "")
    server_time = parse_http_date(headers.get("Date")) or time.time()
    # As floats: Python refuses to convert thousands of digits to an integer.
    if retry_after.isdecimal():
        seconds = float(retry_after)
    elif retry_at := parse_http_date(retry_after):
        seconds = retry_at - server_time
    elif (reset := headers.get("X-RateLimit-Reset", "")).isdecimal():
        seconds = float(reset) - server_time
    else:
        seconds = 0.0
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)


def parse_http_date(text: str | None) -> float | None:
    """Return an HTTP date as epoch seconds, or None if there is none."""
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, TypeError, OverflowError):
        return None
