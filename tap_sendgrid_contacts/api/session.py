"""HTTP sessions: proxies, CA bundles, bounded responses.

Proxies and CA bundles come from the environment, as `requests` and curl read them. What is wrong
with them is an error before the first request.
"""

from __future__ import annotations

import http.client
import io
import os
import ssl
import time
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import requests
import requests.adapters
import requests.utils
from singer_sdk.exceptions import ConfigurationError, FatalAPIError
from typing_extensions import override

from tap_sendgrid_contacts.api.http import TransientError
from tap_sendgrid_contacts.api.urls import is_loopback

if TYPE_CHECKING:
    import socket

    from typing_extensions import Buffer

T = TypeVar("T")

_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_PROXY_SCHEMES = {"http", "https"}
_SOCKS_SCHEMES = {"socks4", "socks4a", "socks5", "socks5h"}

_MAX_RESPONSE_BYTES = 16 * 1024 * 1024
_READ_BYTES = 64 * 1024


class Session(requests.Session):
    """A session for one base URL.

    Bytes are requested as they are: ranges and limits count them so.

    Raises:
        ConfigurationError: If a proxy or CA variable of the environment is invalid.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        for scheme in ("https://", "http://"):
            self.mount(scheme, _Adapter())
        self.headers["Accept-Encoding"] = "identity"
        _check_proxies(url)
        # requests reads the first two variables itself, and ignores the one of OpenSSL.
        if bundle := _find_ca_bundle(url):
            self.verify = bundle

    @override
    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        # Plain http is for the loopback interface only: a proxy would get the API key.
        if (request.url or "").lower().startswith("http:"):
            kwargs["proxies"] = {}
        return super().send(request, **kwargs)


class _Adapter(requests.adapters.HTTPAdapter):
    @override
    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _with_deadlines(pool.ConnectionCls)
        return pool


@cache
def _with_deadlines(connection_class: Any) -> Any:  # noqa: ANN401 - http, https or SOCKS
    if issubclass(connection_class.response_class, _Response):
        return connection_class
    return type("Connection", (connection_class,), {"response_class": _Response})


class _Response(http.client.HTTPResponse):
    """A response whose head has a deadline, and so has each read of its body.

    The timeout of the socket is one for each byte: a head, what announces a chunk and what follows
    the last one could come a byte at a time, or never end.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        # The raw stream of the buffer that `socket.makefile` has made.
        self._raw = _DeadlineReader(self.fp.detach(), sock.gettimeout())
        self.fp = io.BufferedReader(self._raw)

    @override
    def read1(self, n: int = -1) -> bytes:
        self._raw.start()
        return super().read1(n)


class _DeadlineReader(io.RawIOBase):
    """Reads from a stream until a deadline.

    Args:
        raw: The stream.
        timeout: Seconds from the start to the deadline; None for no deadline.
    """

    def __init__(self, raw: io.RawIOBase, timeout: float | None) -> None:
        self._stream = raw
        self._timeout = timeout
        self.start()

    def start(self) -> None:
        """Set a new deadline."""
        self._started = time.monotonic()

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Buffer, /) -> int | None:
        if self._timeout is not None and time.monotonic() - self._started > self._timeout:
            raise TimeoutError
        return self._stream.readinto(buffer)

    @override
    def close(self) -> None:
        self._stream.close()
        super().close()


def _check_proxies(url: str) -> None:
    """Check the proxy for a URL that the environment sets."""
    parts = urlsplit(url)
    if parts.scheme == "http" and is_loopback(parts.hostname or ""):
        return
    proxies = requests.utils.get_environ_proxies(url)
    for key in (parts.scheme, "all"):
        if proxy := proxies.get(key):
            _check_proxy(f"{key.upper()}_PROXY", proxy)
            return


def _check_proxy(variable: str, proxy: str) -> None:
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        is_valid = bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ConfigurationError(
            f"{variable} is not a valid proxy URL; special characters in its password must be "
            "percent-encoded"
        )
    if parts.scheme in _SOCKS_SCHEMES:
        try:
            import socks  # type: ignore[import-untyped]  # noqa: F401, PLC0415 - only if needed
        except ImportError:
            raise ConfigurationError(f"{variable} is a SOCKS proxy: pip install pysocks") from None
    elif parts.scheme not in _PROXY_SCHEMES:
        raise ConfigurationError(f"{variable} has an unsupported scheme; use http or https")


def _find_ca_bundle(url: str) -> str | None:
    """Return the CA bundle that the environment sets for a URL, if any."""
    variable = next((name for name in _CA_VARIABLES if os.environ.get(name)), None)
    if variable is None or not url.lower().startswith("https:"):
        return None
    bundle = os.environ[variable]
    _check_ca_bundle(variable, bundle)
    return bundle


@lru_cache(maxsize=1)
def _check_ca_bundle(variable: str, bundle: str) -> None:
    # Once, not for each export: loading hundreds of certificates takes longer than a request.
    try:
        if os.path.isdir(bundle):  # noqa: PTH112 - a text for requests
            ssl.create_default_context(capath=bundle)
        else:
            ssl.create_default_context(cafile=bundle)
    except ssl.SSLError:
        raise ConfigurationError(f"{variable} is not a PEM file with CA certificates") from None
    except OSError as error:
        raise ConfigurationError(f"{variable}: cannot read CA bundle: {error.strerror}") from None


def read_body(response: requests.Response, description: str, timeout: float) -> bytes:
    """Read the body of a streamed response, decompressed, within limits of size and time.

    Raises:
        FatalAPIError: If it is larger than 16 MiB.
        TransientError: If it takes longer than `timeout`, in seconds.
        DecodeError: If it cannot be decompressed; for `map_transport_errors`.
    """
    deadline = time.monotonic() + timeout
    body = bytearray()
    while chunk := response.raw.read1(_READ_BYTES, decode_content=True):
        body += chunk
        if len(body) > _MAX_RESPONSE_BYTES:
            raise FatalAPIError(
                f"{description}: response larger than {_MAX_RESPONSE_BYTES >> 20} MiB"
            )
        if time.monotonic() > deadline:
            raise TransientError(f"{description}: read timed out (request_timeout)")
    return bytes(body)


def decode_json(body: bytes, type_: type[T]) -> T:
    """Decode JSON. Null in an object is as no value, and numbers may be text."""
    return msgspec.convert(_drop_nulls(msgspec.json.decode(body)), type_, strict=False)


def _drop_nulls(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {key: _drop_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_drop_nulls(each) for each in value]
    return value
