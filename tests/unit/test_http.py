"""HTTP rules: error mapping, retries and their waits, safe URLs."""

from __future__ import annotations

import re
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import requests
import urllib3
from singer_sdk.exceptions import FatalAPIError, RetriableAPIError
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
)

from tap_sendgrid_contacts.api.http import (
    NO_RETRY,
    ForbiddenError,
    NotFoundError,
    RequestNotProcessedError,
    RetryPolicy,
    TransientError,
    UnauthorizedError,
    map_transport_errors,
    parse_http_date,
    raise_for_status,
)
from tap_sendgrid_contacts.api.urls import is_loopback, is_safe_url
from tests.unit.conftest import NO_WAIT, causes

if TYPE_CHECKING:
    from tests.unit.conftest import Clock

URL = "https://storage.example/part?X-Amz-Signature=secret"
DATE = "Sun, 22 Nov 2026 10:00:00 GMT"
DATE_EPOCH = 1795341600


# --- statuses -------------------------------------------------------------------------------


def response_of(status: int, **headers: str) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206])
def test_2xx_raises_nothing(status: int) -> None:
    raise_for_status(response_of(status), "GET /x")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (300, FatalAPIError),
        (302, FatalAPIError),
        (400, FatalAPIError),
        (401, UnauthorizedError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (408, TransientError),
        (410, FatalAPIError),
        (429, RequestNotProcessedError),
        (500, TransientError),
        (503, TransientError),
        (599, TransientError),
    ],
)
def test_status_is_mapped_to_its_error(status: int, error: type[Exception]) -> None:
    with pytest.raises((FatalAPIError, RetriableAPIError)) as raised:
        raise_for_status(response_of(status), "GET /x")
    assert type(raised.value) is error
    assert str(raised.value) == f"GET /x: HTTP {status}"


def test_error_detail_follows_the_status() -> None:
    with pytest.raises(FatalAPIError, match=r"^GET /x: HTTP 400: of 400$"):
        raise_for_status(response_of(400), "GET /x", "of 400")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "7"}, 7),
        ({"Retry_After": "0"}, 0),
        ({"Retry_After": "86400"}, 300),
        ({"Retry_After": "Sun, 22 Nov 2026 10:00:20 GMT"}, 20),
        ({"Retry_After": "Sun, 22 Nov 2026 09:00:00 GMT"}, 0),
        ({"Retry_After": "soon"}, 0),
        ({"Retry_After": "-5"}, 0),
        ({"X_RateLimit_Reset": str(DATE_EPOCH + 30)}, 30),
        ({"X_RateLimit_Reset": str(DATE_EPOCH - 30)}, 0),
        ({"X_RateLimit_Reset": "9" * 30}, 300),
        ({"X_RateLimit_Reset": "9" * 5000}, 300),
        ({"Retry_After": "9" * 5000}, 300),
        ({"X_RateLimit_Reset": "soon"}, 0),
        ({"Retry_After": "7", "X_RateLimit_Reset": str(DATE_EPOCH + 30)}, 7),
        ({"Retry_After": "soon", "X_RateLimit_Reset": str(DATE_EPOCH + 30)}, 30),
        ({}, 0),
    ],
)
@pytest.mark.parametrize("status", [408, 429, 503])
def test_retry_after_goes_by_the_clock_of_the_server(
    status: int, headers: dict[str, str], seconds: float
) -> None:
    with pytest.raises(TransientError) as raised:
        raise_for_status(response_of(status, Date=DATE, **headers), "GET /x")
    assert raised.value.retry_after == seconds


def test_retry_after_without_date_goes_by_our_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: DATE_EPOCH - 12.0)
    with pytest.raises(TransientError) as raised:
        raise_for_status(response_of(503, Retry_After=DATE), "GET /x")
    assert raised.value.retry_after == 12


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(DATE, DATE_EPOCH), (None, None), ("", None), ("yesterday", None), ("9" * 400, None)],
)
def test_http_date(text: str | None, seconds: float | None) -> None:
    assert parse_http_date(text) == seconds


# --- broken connections ---------------------------------------------------------------------


def wrapped(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def failed_connection(cause: Exception) -> Exception:
    """Return what requests raises for it, with the URL in its text as always."""
    retries = MaxRetryError(urllib3.HTTPSConnectionPool("storage.example"), URL, cause)
    return wrapped(requests.ConnectionError(retries), wrapped(retries, cause))


def not_connected(cause: OSError) -> Exception:
    error = NewConnectionError(urllib3.connection.HTTPConnection("storage.example"), URL)
    return failed_connection(wrapped(error, cause))


@pytest.mark.parametrize(
    ("error", "mapped", "words"),
    [
        pytest.param(
            not_connected(ConnectionRefusedError()),
            RequestNotProcessedError,
            "connection refused by {}",
            id="refused",
        ),
        pytest.param(
            not_connected(socket.gaierror(-2)),
            RequestNotProcessedError,
            "host name not found: {}",
            id="host name",
        ),
        pytest.param(
            not_connected(OSError(URL)),
            RequestNotProcessedError,
            "connection to {} failed",
            id="no connection",
        ),
        pytest.param(
            failed_connection(ConnectTimeoutError(None, URL)),
            RequestNotProcessedError,
            "connection to {} timed out (request_timeout)",
            id="connect timeout",
        ),
        pytest.param(
            failed_connection(ProxyError(URL, OSError())),
            RequestNotProcessedError,
            "connection to proxy proxy.example:3128 (HTTPS_PROXY) broken",
            id="proxy",
        ),
        pytest.param(
            requests.ReadTimeout(URL),
            TransientError,
            "read from {} timed out (request_timeout)",
            id="read timeout",
        ),
        pytest.param(
            ReadTimeoutError(None, URL, URL),  # type: ignore[arg-type]
            TransientError,
            "read from {} timed out (request_timeout)",
            id="read timeout of urllib3",
        ),
        pytest.param(
            failed_connection(ConnectionResetError(URL)),
            TransientError,
            "connection reset by {}",
            id="reset",
        ),
        pytest.param(
            failed_connection(ssl.SSLError(1, URL)),
            TransientError,
            "TLS connection to {} failed",
            id="TLS",
        ),
        pytest.param(
            failed_connection(ssl.SSLCertVerificationError(1, URL)),
            FatalAPIError,
            "TLS certificate of {} not verified: unknown reason",
            id="certificate",
        ),
        pytest.param(
            requests.TooManyRedirects(URL),
            FatalAPIError,
            "too many redirects by {}",
            id="redirects",
        ),
        pytest.param(
            requests.exceptions.InvalidURL(URL),
            FatalAPIError,
            "invalid URL, header or proxy setting",
            id="URL",
        ),
        pytest.param(
            requests.exceptions.ChunkedEncodingError(URL),
            TransientError,
            "connection to {} broken",
            id="body",
        ),
        pytest.param(ProtocolError(URL), TransientError, "connection to {} broken", id="protocol"),
        pytest.param(
            requests.ConnectionError(URL), TransientError, "connection to {} broken", id="unknown"
        ),
    ],
)
def test_transport_error_is_mapped_without_its_url(
    error: Exception, mapped: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.example:3128")
    with pytest.raises((FatalAPIError, TransientError)) as raised:  # noqa: SIM117 - the code under test
        with map_transport_errors("GET /x", URL, "storage"):
            raise error
    assert type(raised.value) is mapped
    assert str(raised.value) == "GET /x: " + words.format("storage.example:443 (storage)")
    assert "secret" not in "".join(map(repr, causes(raised.value)))


def test_other_errors_are_not_mapped() -> None:
    with pytest.raises(LookupError), map_transport_errors("GET /x", URL, "storage"):
        raise LookupError


@pytest.mark.parametrize(
    ("url", "peer"),
    [
        ("http://127.0.0.1:9/x", "127.0.0.1:9"),
        ("http://storage.example", "storage.example:80"),
        ("https://user:secret@[::1]/x?secret", "[::1]:443"),
        ("https://host:secret", "an invalid URL"),
        ("https://[secret", "an invalid URL"),
    ],
)
def test_transport_error_names_the_peer(url: str, peer: str) -> None:
    with (
        pytest.raises(TransientError, match=f"refused by {re.escape(peer)} "),
        map_transport_errors("GET /x", url, "api_url"),
    ):
        raise not_connected(ConnectionRefusedError())


def test_host_is_shown_without_control_characters() -> None:
    with (
        pytest.raises(TransientError, match=r"read from x\.example:443"),
        map_transport_errors("GET /x", "https://\x1bx.\u202eexample/x", "storage"),
    ):
        raise requests.ReadTimeout


def test_transport_error_after_a_redirect_names_the_last_host() -> None:
    error = requests.ReadTimeout(request=requests.Request("GET", "https://other.example/x"))
    with (
        pytest.raises(TransientError, match=r"read from other\.example:443 \(storage\)"),
        map_transport_errors("GET /x", URL, "storage"),
    ):
        raise error


# --- retries --------------------------------------------------------------------------------


class Flaky:
    """A function that fails some times."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, value: str) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return value


def transient(retry_after: float = 0.0) -> TransientError:
    error = TransientError("no response")
    error.retry_after = retry_after
    return error


def test_retry_returns_the_result_after_failures(clock: Clock) -> None:
    flaky = Flaky(transient(), RequestNotProcessedError("x"), transient())
    assert RetryPolicy().call(flaky, "done") == "done"
    assert flaky.calls == 4
    assert len(clock.sleeps) == 3


def test_retry_raises_the_last_error_after_the_last_delay(clock: Clock) -> None:
    errors = [transient() for _ in range(10)]
    flaky = Flaky(*errors)
    with pytest.raises(TransientError) as raised:
        RetryPolicy().call(flaky, "never")
    assert raised.value is errors[5]
    assert flaky.calls == 6
    assert len(clock.sleeps) == 5


@pytest.mark.parametrize("error", [FatalAPIError("x"), NotFoundError("x"), ValueError("x")])
def test_retry_raises_other_errors_at_once(clock: Clock, error: Exception) -> None:
    flaky = Flaky(error)
    with pytest.raises(type(error)):
        RetryPolicy().call(flaky, "never")
    assert flaky.calls == 1
    assert clock.sleeps == []


def test_waits_grow_and_have_jitter(clock: Clock) -> None:
    waits: list[list[float]] = []
    for _ in range(50):
        clock.sleeps = []
        with pytest.raises(TransientError):
            RetryPolicy().call(Flaky(*(transient() for _ in range(6))), "never")
        waits.append(clock.sleeps)
    for delay, column in zip((1, 2, 4, 8, 16), zip(*waits, strict=True), strict=True):
        assert all(delay / 2 <= wait <= delay for wait in column)
        assert len(set(column)) > 40


def test_retry_after_is_added_to_the_wait(clock: Clock) -> None:
    RetryPolicy((1.0, 4.0)).call(Flaky(transient(7), transient(20)), "done")
    first, second = clock.sleeps
    assert 7.5 <= first <= 8
    assert 22 <= second <= 24


def test_each_call_starts_with_the_first_delay(clock: Clock) -> None:
    flaky = Flaky(transient(3))
    NO_WAIT.call(flaky, "a")
    flaky.errors = [transient(5)] * 5
    NO_WAIT.call(flaky, "b")
    assert clock.sleeps == [3, 5, 5, 5, 5, 5]


def test_policy_without_delays_calls_once(clock: Clock) -> None:
    flaky = Flaky(transient(), transient())
    with pytest.raises(TransientError):
        NO_RETRY.call(flaky, "never")
    assert (flaky.calls, clock.sleeps) == (1, [])


def test_wait_may_end_the_retries() -> None:
    class CancelledError(Exception):
        pass

    def wait(_seconds: float) -> None:
        raise CancelledError

    flaky = Flaky(transient())
    with pytest.raises(CancelledError):
        RetryPolicy(wait=wait).call(flaky, "never")
    assert flaky.calls == 1


def test_retry_is_logged_without_arguments(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    RetryPolicy((0.0, 0.0)).call(Flaky(transient(7)), URL)
    assert caplog.messages == ["no response; retrying in 7.0 s (attempt 2/3)"]
    assert clock.sleeps == [7]


# --- URLs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://api.sendgrid.com",
        "https://api.eu.sendgrid.com/",
        "HTTPS://api.sendgrid.com:8443",
        "https://storage.example/path@1?user=a@b",
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
        "https://user@host",
        "https://user:password@host",
        "https://host:port",
        "https://host:99999",
        "https://[::1",
        "https://evil.com\\.host/",
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


@pytest.mark.parametrize("url", ["http://evil.com\\@127.0.0.1/", "http://127.0.0.1\\@evil.com/"])
def test_safe_url_has_the_host_that_requests_connects_to(url: str) -> None:
    # Parsers differ, and the request goes by that of `requests`.
    host = urlsplit(requests.Request("GET", url).prepare().url or "").hostname
    assert host in {"localhost", "127.0.0.1"} or not is_safe_url(url)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_host_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", "0.0.0.0", "::", "localhost.example", "x.localhost", "10.0.0.1"],  # noqa: S104 - not bound
)
def test_host_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)
