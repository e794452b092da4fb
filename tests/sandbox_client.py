"""A client of the sandbox that is not the tap."""

from __future__ import annotations

import gzip
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import requests

from tests.harness import run_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

EXPORTS = "/v3/marketing/contacts/exports"
TIMEOUT = 20


class SandboxClient:
    def __init__(self, url: str, api_key: str, log: list[str]) -> None:
        self.url = url
        self.api_key = api_key
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {api_key}"
        self._log = log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    @property
    def log(self) -> str:
        return "\n".join(self._log)

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
def serve(*options: object, faults: str = "") -> Iterator[SandboxClient]:
    """Run a sandbox, to which also what is not as SendGrid describes it may be sent."""
    arguments = [*map(str, options), *(f"--fault={name}" for name in faults.split())]
    with (
        run_sandbox(*arguments, judged=False) as sandbox,
        SandboxClient(sandbox.url, sandbox.api_key, sandbox.log) as client,
    ):
        yield client
