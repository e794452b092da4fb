"""A client of the sandbox: requests and the standard library, nothing of the tap."""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import requests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SANDBOX = [sys.executable, "-m", "sendgrid_sandbox"]
EXPORTS = "/v3/marketing/contacts/exports"
TIMEOUT = 20


class SandboxClient:
    def __init__(self, url: str, key: str, log: Path) -> None:
        self.url = url
        self.api_key = key
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {key}"
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=TIMEOUT, **options)

    def post(self, timeout: float = TIMEOUT, **body: Any) -> requests.Response:
        return self.session.post(self.url + EXPORTS, json=body, timeout=timeout)

    def status(self, export_id: str) -> dict[str, Any]:
        response = self.get(f"{EXPORTS}/{quote(export_id)}")
        assert response.status_code == 200, response.text
        status: dict[str, Any] = response.json()
        return status

    def ready(self, **body: Any) -> dict[str, Any]:
        export_id = self.post(**body).json()["id"]
        for _ in range(20):
            if (status := self.status(export_id))["status"] != "pending":
                return status
        raise AssertionError

    def parts(self, **body: Any) -> list[bytes]:
        return [download(url) for url in self.ready(**body)["urls"]]


def download(url: str, **headers: str) -> bytes:
    """Return the contents of a part, decompressed whatever its headers are."""
    response = get_raw(url, **headers)
    assert response.status_code in (200, 206), response.text
    data: bytes = response.content
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def get_raw(url: str, **headers: str) -> requests.Response:
    """Return a response whose content is not decoded."""
    headers.setdefault("Accept-Encoding", "identity")
    response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    response._content = response.raw.read(decode_content=False)  # noqa: SLF001 - requests has no public way
    return response


@contextmanager
def start_sandbox(tmp_path: Path, *options: object) -> Iterator[SandboxClient]:
    log = tmp_path / "sandbox.log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [*SANDBOX, "serve", *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        ) as process,
    ):
        assert process.stdout
        ready = re.fullmatch(
            r"sandbox ready: (http://127\.0\.0\.1:\d+) api_key=(SG\.\S+)\n",
            process.stdout.readline(),
        )
        assert ready, log.read_text()
        sandbox = SandboxClient(ready[1], ready[2], log)
        try:
            with sandbox.session:
                yield sandbox
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT) == 0
    assert "Traceback" not in sandbox.log
    assert not list(tmp_path.glob("sendgrid-sandbox-*"))


def fault_options(*names: str) -> list[str]:
    return [word for name in names for word in ("--fault", name)]


def part_paths(status: dict[str, Any]) -> list[str]:
    return [url.partition("?")[0] for url in status["urls"]]
