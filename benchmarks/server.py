"""Serves exports that lie on disk, at little cost: API and storage in one.

The folder of an export is the first step of every path, so the tap's `api_url` says which export
it gets; `folder@20` is the same at 20 MB/s. What is no export answers to the POST with 400.
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from benchmarks.data import EXPORT, FIELDS

_MB = 1_000_000
_PIECE = 256 * 1024


class Handler(BaseHTTPRequestHandler):
    """Answers what an export takes."""

    protocol_version = "HTTP/1.1"
    data: ClassVar[Path]

    def do_POST(self) -> None:
        """Accept an export request, or reject it if the path names no export."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        folder = self._split()[0]
        if (folder / EXPORT).exists():
            self._answer({"id": "export"}, 202)
        else:
            self._answer({"errors": [{"message": "there is no such export"}]}, 400)

    def do_GET(self) -> None:
        """Serve the export's status, its field definitions or one of its parts."""
        folder, rate, path = self._split()
        if path.endswith(".gz"):
            self._send(folder / Path(path).name, rate)
        elif path.endswith("/field_definitions"):
            file = folder / FIELDS
            self._answer(json.loads(file.read_text()) if file.exists() else {"custom_fields": []})
        else:
            self._answer(self._status(folder))

    @override
    def log_message(self, *_: object) -> None:
        pass

    def _split(self) -> tuple[Path, float, str]:
        first, _, path = self.path.lstrip("/").partition("/")
        name, _, rate = first.partition("@")
        return self.data / Path(name).name, float(rate or 0), path

    def _status(self, folder: Path) -> dict[str, object]:
        host, first = self.headers["Host"], self.path.split("/")[1]
        return {
            "id": "export",
            "status": "ready",
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
            "expires_at": "2099-01-01T00:00:00Z",
            "contact_count": json.loads((folder / EXPORT).read_text())["contacts"],
            "urls": [f"http://{host}/{first}/{part.name}" for part in sorted(folder.glob("*.gz"))],
        }

    def _answer(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send(self, part: Path, rate: float) -> None:
        size = part.stat().st_size
        self.send_response(200)
        self.send_header("Content-Type", "binary/octet-stream")
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(size))
        self.end_headers()
        with part.open("rb") as file:
            if not rate:
                self.connection.sendfile(file)
                return
            start = time.monotonic()
            while piece := file.read(_PIECE):
                self.connection.sendall(piece)
                # Late pieces are caught up with: the rate holds over the whole part.
                due = start + file.tell() / rate / _MB
                time.sleep(max(0.0, due - time.monotonic()))


def main() -> None:
    """Serve the folder that the command line names, and say where."""
    Handler.data = Path(sys.argv[1])
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
