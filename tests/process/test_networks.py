"""TLS with a private CA, and CONNECT proxies: what works, and what each error says."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
import trustme

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.harness import Sandbox, Tap, TapRun

VARIABLES = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"),
)
NOW = datetime.now(timezone.utc)
CREDENTIALS = "someone:very-secret"


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


class Relay:
    """Accepts connections, optionally over TLS, and copies bytes to where `route` says.

    Attributes:
        port: Its port.
        heads: First line and headers of each CONNECT request.
    """

    def __init__(
        self,
        route: Callable[[socket.socket], tuple[str, int] | None],
        leaf: trustme.LeafCert | None = None,
    ) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._route = route
        self._context = None
        if leaf is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            leaf.configure_cert(self._context)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop accepting."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(connection)
            if self._context:
                # Not in one call: a socket whose handshake fails would stay open.
                connection = self._context.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
                stack.enter_context(connection)
                connection.do_handshake()
            address = self._route(connection)
            if address is None:
                return
            upstream = stack.enter_context(socket.create_connection(address))
            back = threading.Thread(target=_copy, args=(upstream, connection), daemon=True)
            back.start()
            _copy(connection, upstream)
            back.join(10)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class Proxy:
    """A CONNECT proxy that reaches the given port, whatever host is requested."""

    def __init__(self, port: int, status: int = 200, leaf: trustme.LeafCert | None = None) -> None:
        self.heads: list[str] = []
        self._target = port
        self._status = status
        self._relay = Relay(self._route, leaf)
        self.port = self._relay.port

    def _route(self, connection: socket.socket) -> tuple[str, int] | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        self.heads.append(head.decode())
        connection.sendall(b"HTTP/1.1 %d Whatever\r\n\r\n" % self._status)
        return ("127.0.0.1", self._target) if self._status == 200 else None


@pytest.fixture
def sandbox(start_sandbox: Callable[..., Sandbox]) -> Sandbox:
    return start_sandbox("--contacts", "50")


@pytest.fixture
def https(sandbox: Sandbox, authority: trustme.CA) -> Iterator[Callable[..., Sandbox]]:
    """Put TLS before the sandbox, with a certificate as given."""
    port = int(sandbox.url.rpartition(":")[2])
    with contextlib.ExitStack() as stack:

        def start(*names: str, host: str = "localhost", **options: Any) -> Sandbox:
            issuer = options.pop("issuer", authority)
            leaf = issuer.issue_cert(*(names or ("localhost", "127.0.0.1")), **options)
            relay = Relay(lambda _: ("127.0.0.1", port), leaf)
            stack.callback(relay.close)
            sandbox.url = f"https://{host}:{relay.port}"
            return sandbox

        yield start


def discover(tap: Tap, sandbox: Sandbox, code: int, /, **env: str) -> TapRun:
    return tap(sandbox, "--test", env=env, code=code)


# --- TLS ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_private_ca(https: Callable[..., Sandbox], tap: Tap, bundle: str, variable: str) -> None:
    run = discover(tap, https(), 0, **{variable: bundle})
    assert "API key valid" in run.log


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"issuer": trustme.CA()}, ["unknown CA", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"]),
        ({"not_after": NOW - timedelta(days=1)}, ["expired", "clock"]),
        ({"not_before": NOW + timedelta(days=1)}, ["not yet valid", "clock"]),
        ({"names": ["sendgrid.example"]}, ["not valid for the host name"]),
    ],
    ids=["unknown CA", "expired", "not yet valid", "other host"],
)
def test_invalid_certificate(
    https: Callable[..., Sandbox],
    tap: Tap,
    bundle: str,
    options: dict[str, Any],
    words: list[str],
) -> None:
    options = dict(options)
    names = options.pop("names", [])
    run = discover(tap, https(*names, **options), 1, REQUESTS_CA_BUNDLE=bundle)
    assert " not verified: " in run.error
    assert all(word in run.error for word in words), run.error
    # A retry cannot help.
    assert "retrying" not in run.log


# --- proxies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
def test_connect_proxy_with_credentials(
    https: Callable[..., Sandbox], tap: Tap, bundle: str, variable: str
) -> None:
    sandbox = https("sendgrid.example", host="sendgrid.example")
    proxy = Proxy(int(sandbox.url.rpartition(":")[2]))
    env = {variable: f"http://{CREDENTIALS}@127.0.0.1:{proxy.port}", "LOGLEVEL": "DEBUG"}
    run = discover(tap, sandbox, 0, REQUESTS_CA_BUNDLE=bundle, **env)
    token = base64.b64encode(CREDENTIALS.encode()).decode()
    assert all(f"Proxy-Authorization: Basic {token}" in head for head in proxy.heads)
    # The tunnel is all that the proxy sees.
    assert not any("Bearer" in head for head in proxy.heads)
    assert "very-secret" not in run.log


@pytest.mark.parametrize(("status", "requests"), [(403, 1), (407, 1), (502, 6)])
def test_proxy_that_rejects(
    https: Callable[..., Sandbox], tap: Tap, bundle: str, status: int, requests: int
) -> None:
    sandbox = https("sendgrid.example", host="sendgrid.example")
    proxy = Proxy(0, status)
    url = f"http://{CREDENTIALS}@127.0.0.1:{proxy.port}"
    run = discover(tap, sandbox, 1, REQUESTS_CA_BUNDLE=bundle, HTTPS_PROXY=url)
    assert f"proxy 127.0.0.1:{proxy.port} (HTTPS_PROXY): HTTP {status}" in run.error
    # A server error is retried.
    assert len(proxy.heads) == requests
    assert "very-secret" not in run.log


def test_proxy_with_an_untrusted_certificate(
    https: Callable[..., Sandbox], tap: Tap, bundle: str
) -> None:
    sandbox = https("sendgrid.example", host="sendgrid.example")
    proxy = Proxy(0, leaf=trustme.CA().issue_cert("localhost"))
    url = f"https://localhost:{proxy.port}"
    run = discover(tap, sandbox, 1, REQUESTS_CA_BUNDLE=bundle, HTTPS_PROXY=url)
    assert f"TLS certificate of proxy localhost:{proxy.port} (HTTPS_PROXY) not" in run.error
    assert "unknown CA" in run.error


def test_loopback_http_is_not_sent_to_a_proxy(sandbox: Sandbox, tap: Tap) -> None:
    proxy = Proxy(0)
    url = f"http://127.0.0.1:{proxy.port}"
    run = tap(sandbox, env={"HTTP_PROXY": url, "http_proxy": url, "ALL_PROXY": url})
    assert len(run.records) == 50
    assert proxy.heads == []
