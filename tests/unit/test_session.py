"""Sessions: proxies and CA bundles of the environment, bounded responses."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import certifi
import pytest
import requests
from singer_sdk.exceptions import ConfigurationError, FatalAPIError

from tap_sendgrid_contacts.api.http import TransientError
from tap_sendgrid_contacts.api.session import Session
from tests.unit.conftest import make_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from requests_mock import Mocker

    from tap_sendgrid_contacts.api.client import SendGridClient

API = "https://api.sendgrid.com"
FIELDS = f"{API}/v3/marketing/field_definitions"
VARIABLES = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"),
)


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@contextmanager
def server(respond: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[bytes]]]:
    """Accept one connection, read the head of its request, and respond."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                received.append(connection.recv(65536))
                respond(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        host, port = listener.getsockname()
        yield f"http://{host}:{port}", received
        thread.join(10)


# --- proxies --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "proxy",
    [
        "http://proxy.example:3128",
        "proxy.example:3128",
        "https://proxy.example",
        "http://user:pass%23word@proxy.example:3128",
    ],
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_proxy_is_accepted(monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str) -> None:
    monkeypatch.setenv(variable, proxy)
    Session(API)


@pytest.mark.parametrize(
    "proxy",
    [
        "http://",
        "http://proxy.example:port",
        "http://proxy.example:99999",
        "http://user:very#secret@proxy.example:3128",
        "http://[::1",
        "ftp://proxy.example",
        "socks5://proxy.example",
    ],
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
def test_invalid_proxy_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str) -> None:
    monkeypatch.setenv(variable, proxy)
    with pytest.raises(ConfigurationError, match=f"^{variable}") as raised:
        Session(API)
    assert "secret" not in str(raised.value)


def test_no_proxy_excludes_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://")
    monkeypatch.setenv("NO_PROXY", "sendgrid.com")
    Session(API)


def test_loopback_http_never_uses_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    def respond(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    # Nobody listens there.
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with server(respond) as (url, received):
        assert make_client(api_url=url).list_field_definitions() == []
    assert received[0].startswith(b"GET /v3/marketing/field_definitions HTTP/1.1\r\n")


# --- CA bundles -----------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_ca_bundle_of_the_environment(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, certifi.where())
    assert Session(API).verify == certifi.where()


def test_ca_bundle_is_certifi_by_default() -> None:
    assert Session(API).verify is True


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_invalid_ca_bundle_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "missing.pem"))
    with pytest.raises(ConfigurationError, match=f"^{variable}: cannot read CA bundle"):
        Session(API)
    no_pem = tmp_path / "no.pem"
    no_pem.write_text("no certificate")
    monkeypatch.setenv(variable, str(no_pem))
    with pytest.raises(ConfigurationError, match=f"^{variable} is not a PEM file"):
        Session(API)
    # Plain http needs none.
    Session("http://127.0.0.1:8000")


# --- bodies ---------------------------------------------------------------------------------


def test_response_larger_than_the_limit(requests_mock: Mocker, client: SendGridClient) -> None:
    requests_mock.get(FIELDS, content=b" " * (16 * 1024 * 1024 + 1))
    with pytest.raises(FatalAPIError, match="larger than 16 MiB"):
        client.list_field_definitions()


@pytest.mark.parametrize("status", [200, 302, 307, 400, 503])
def test_compressed_response_larger_than_the_limit(
    requests_mock: Mocker, client: SendGridClient, status: int
) -> None:
    bomb = gzip.compress(b" " * (17 * 1024 * 1024))
    headers = {"Content-Encoding": "gzip", "Location": "/v3/other"}
    requests_mock.get(FIELDS, content=bomb, headers=headers, status_code=status)
    with pytest.raises(FatalAPIError, match="larger than 16 MiB"):
        client.list_field_definitions()


def test_compressed_response_is_read(requests_mock: Mocker, client: SendGridClient) -> None:
    field = b'{"custom_fields": [{"id": "e1_T", "name": "a", "field_type": "Text"}]}'
    headers = {"Content-Encoding": "gzip"}
    requests_mock.get(FIELDS, content=gzip.compress(field), headers=headers)
    assert len(client.list_field_definitions()) == 1


def test_corrupt_compressed_response(requests_mock: Mocker, client: SendGridClient) -> None:
    requests_mock.get(FIELDS, content=b"no gzip", headers={"Content-Encoding": "gzip"})
    with pytest.raises(TransientError, match="corrupt compression by api"):
        client.list_field_definitions()


@pytest.mark.parametrize(
    ("start", "forever"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 307 X\r\nLocation: /x\r\nContent-Length: 1000\r\n\r\n", b" "),
    ],
    ids=["header", "responses", "body", "chunk size", "trailers", "body of a redirect"],
)
def test_response_that_drips_has_a_deadline(start: bytes, forever: bytes) -> None:
    def respond(connection: socket.socket) -> None:
        with suppress(OSError):
            connection.sendall(start)
            for _ in range(500):
                connection.sendall(forever)
                time.sleep(0.02)

    with server(respond) as (url, _):
        client = make_client(api_url=url, request_timeout=0.2)
        with pytest.raises(TransientError, match="request_timeout"):
            client.list_field_definitions()


@pytest.mark.parametrize("status", [200, 400])
def test_deep_json(requests_mock: Mocker, client: SendGridClient, status: int) -> None:
    deep = '{"custom_fields": ' + "[" * 100_000
    requests_mock.get(FIELDS, text=deep, status_code=status)
    with pytest.raises((FatalAPIError, TransientError), match="field_definitions: "):
        client.list_field_definitions()


def test_session_requests_no_compression(requests_mock: Mocker) -> None:
    requests_mock.get(API, text="")
    Session(API).get(API, timeout=1)
    assert requests_mock.request_history[0].headers["Accept-Encoding"] == "identity"
    assert isinstance(Session(API), requests.Session)
