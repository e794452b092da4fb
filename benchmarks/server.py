"""Low-overhead local server for generated exports: SendGrid's API and its storage in one.

The first path segment names the export, so the tap's `api_url` selects it: `/json-1000-5-1`.
A suffix limits the download rate: `/json-1000-5-1@20` sends 20 MB/s. Requesting an export that
does not exist returns 400.

Usage: python -m benchmarks.server DATA_DIR
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from benchmarks.exports import FIELD_DEFINITIONS_FILE, METADATA_FILE

_MB = 1_000_000
_CHUNK_BYTES = 256 * 1024


class ExportHandler(BaseHTTPRequestHandler):
    """Implements the endpoints that an export needs."""

    protocol_version = "HTTP/1.1"
    data_dir: ClassVar[Path]

    def do_POST(self) -> None:
        """Accept an export request, or reject it if the export does not exist."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        export_dir = self._parse_path()[0]
        if (export_dir / METADATA_FILE).exists():
            self._send_json({"id": "export"}, 202)
        else:
            self._send_json({"errors": [{"message": "export not found"}]}, 400)

    def do_GET(self) -> None:
        """Send a part, the field definitions or the export status."""
        export_dir, rate_limit, path = self._parse_path()
        if path.endswith(".gz"):
            self._send_part(export_dir / Path(path).name, rate_limit)
        elif path.endswith("/field_definitions"):
            # Also for exports that do not exist: only the request for one is to fail.
            definitions = export_dir / FIELD_DEFINITIONS_FILE
            content = definitions.read_text() if definitions.exists() else '{"custom_fields": []}'
            self._send_json(json.loads(content))
        else:
            self._send_json(self._export_status(export_dir))

    @override
    def log_message(self, *_: object) -> None:
        pass

    def _parse_path(self) -> tuple[Path, float, str]:
        """Return the export's directory, the rate limit in MB/s (0: none) and the rest."""
        first, _, path = self.path.lstrip("/").partition("/")
        name, _, rate_limit = first.partition("@")
        return self.data_dir / Path(name).name, float(rate_limit or 0), path

    def _export_status(self, export_dir: Path) -> dict[str, object]:
        host, first = self.headers["Host"], self.path.split("/")[1]
        metadata = json.loads((export_dir / METADATA_FILE).read_text())
        return {
            "id": "export",
            "status": "ready",
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
            "expires_at": "2099-01-01T00:00:00Z",
            "contact_count": metadata["contacts"],
            "urls": [
                f"http://{host}/{first}/{part.name}" for part in sorted(export_dir.glob("*.gz"))
            ],
        }

    def _send_json(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_part(self, part: Path, rate_limit: float) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "binary/octet-stream")
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(part.stat().st_size))
        self.end_headers()
        with part.open("rb") as file:
            if not rate_limit:
                self.connection.sendfile(file)
                return
            start = time.monotonic()
            while chunk := file.read(_CHUNK_BYTES):
                self.connection.sendall(chunk)
                # The rate applies to the whole part: a late chunk shortens later delays.
                due = start + file.tell() / rate_limit / _MB
                time.sleep(max(0.0, due - time.monotonic()))


def main() -> None:
    """Serve the data directory on a free port and print the server's URL."""
    ExportHandler.data_dir = Path(sys.argv[1])
    with ThreadingHTTPServer(("127.0.0.1", 0), ExportHandler) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
