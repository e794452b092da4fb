"""File storage with presigned URLs, as S3 serves them.

SEEN: `X-Amz-Expires=300`, a new signature for every status request; 400 for a request with an
Authorization header; 403 and XML when the signature is invalid or expired.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from aiohttp import web

from sendgrid_sandbox.responses import BYTES_SENT, HANG_SECONDS, close_connection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sendgrid_sandbox.faults import Fault, Faults
    from sendgrid_sandbox.files import ExportFile
    from sendgrid_sandbox.settings import Settings

_CHUNK_SIZE = 1 << 18
# GUESS: other clients of these files behave as if the header were x-gzip.
_CONTENT_ENCODINGS = ("x-gzip", "gzip")
_DATE_FORMAT = "%Y%m%dT%H%M%SZ"
_CLIENT_READ_SECONDS = 0.05


class Storage:
    """Serves parts to clients with a valid signed URL.

    Args:
        settings: Settings of the sandbox.
        faults: Faults to inject.
    """

    def __init__(self, settings: Settings, faults: Faults) -> None:
        self._settings = settings
        self._faults = faults
        self._secret = secrets.token_bytes()
        self._parts: dict[tuple[str, str | None], ExportFile] = {}

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.get("/exports/{name}", self.get, allow_head=False)]

    def put(self, path: str, part_number: str | None, part: ExportFile) -> None:
        """Store a part under a path and, if several parts share it, a part number."""
        self._parts[path, part_number] = part

    def delete(self, path: str, part_number: str | None) -> None:
        """Delete a part if it exists."""
        self._parts.pop((path, part_number), None)

    def sign(self, path: str, query: Mapping[str, str], *, age: timedelta = timedelta()) -> str:
        """Return the path and signed query of a part, signed `age` ago."""
        signed = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": "ASIASANDBOX/20260101/us-east-1/s3/aws4_request",
            "X-Amz-Date": (datetime.now(timezone.utc) - age).strftime(_DATE_FORMAT),
            "X-Amz-Expires": str(self._settings.url_ttl),
            "X-Amz-Security-Token": secrets.token_urlsafe(96),
            "X-Amz-SignedHeaders": "host",
            **query,
        }
        signed["X-Amz-Signature"] = self._signature(path, signed)
        return f"{path}?{urlencode(signed)}"

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Serve a part."""
        if "Authorization" in request.headers:
            return _s3_error(400, "InvalidArgument", "Only one auth mechanism allowed")
        if reason := self._signature_error(request):
            return _s3_error(403, "AccessDenied", reason)
        part = self._parts.get((request.path, request.query.get("partNumber")))
        if not part:
            return _s3_error(404, "NoSuchKey", "The specified key does not exist.")
        fault = self._faults.next_fault("part")
        if fault and fault.name == "part-expired":
            return _s3_error(403, "AccessDenied", "Request has expired")
        if fault and fault.action:
            return await fault.action(request, self.get)
        return await self._send(request, part, fault)

    def _signature(self, path: str, query: dict[str, str]) -> str:
        canonical_query = urlencode(sorted(query.items()))
        return hmac.new(self._secret, f"{path}\n{canonical_query}".encode(), "sha256").hexdigest()

    def _signature_error(self, request: web.Request) -> str | None:
        query = dict(request.query)
        signature = query.pop("X-Amz-Signature", "")
        if not signature:
            return "Access Denied"
        if not hmac.compare_digest(signature, self._signature(request.path, query)):
            return "The request signature we calculated does not match the signature you provided."
        signed_at = datetime.strptime(query["X-Amz-Date"], _DATE_FORMAT).replace(
            tzinfo=timezone.utc
        )
        if datetime.now(timezone.utc) >= signed_at + timedelta(seconds=int(query["X-Amz-Expires"])):
            return "Request has expired"
        return None

    async def _send(
        self, request: web.Request, part: ExportFile, fault: Fault | None
    ) -> web.StreamResponse:
        storage_faults = self._faults.active_faults("storage")
        etag = f'"{secrets.token_hex(16)}"' if "etag-changes" in storage_faults else part.etag
        headers = {"Content-Type": "binary/octet-stream", "Accept-Ranges": "bytes", "ETag": etag}
        if "no-etag" in storage_faults:
            del headers["ETag"]
        elif request.headers.get("If-Match", etag) not in (etag, "*"):
            return _s3_error(412, "PreconditionFailed", "A pre-condition did not hold")
        if self._settings.file_format.compression in _CONTENT_ENCODINGS:
            headers["Content-Encoding"] = self._settings.file_format.compression

        start, end, status = 0, part.size, 200
        byte_range = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        unchanged = request.headers.get("If-Range", etag) == headers.get("ETag", etag)
        if byte_range and unchanged and "no-range" not in storage_faults:
            start, status = int(byte_range[1]), 206
            if start >= end:
                response = _s3_error(416, "InvalidRange", "The requested range is not satisfiable")
                response.headers["Content-Range"] = f"bytes */{end}"
                return response
            end = min(int(byte_range[2]) + 1, end) if byte_range[2] else end
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{part.size}"

        if "malformed-header" in storage_faults:
            data = await asyncio.to_thread(_read, part, start, end - start)
            return _send_malformed_header(request, status, headers, data)
        response = web.StreamResponse(status=status, headers=headers)
        if "chunked" in storage_faults:
            response.enable_chunked_encoding()
        else:
            response.content_length = end - start
        await response.prepare(request)
        drips = fault is not None and fault.name == "drip"
        if fault and not drips:
            await self._copy(part, start, (start + end) // 2, response, request)
            return await _interrupt(request, fault)
        await self._copy(part, start, end, response, request, drips=drips)
        await response.write_eof()
        return response

    async def _copy(
        self,
        part: ExportFile,
        start: int,
        end: int,
        response: web.StreamResponse,
        request: web.Request,
        *,
        drips: bool = False,
    ) -> None:
        request[BYTES_SENT] = 0
        chunk_size = 1 if drips else _CHUNK_SIZE
        bytes_per_second = 1 if drips else (self._settings.throttle or 0) * 1_000_000
        for offset in range(start, end, chunk_size):
            chunk = await asyncio.to_thread(_read, part, offset, min(chunk_size, end - offset))
            await response.write(chunk)
            request[BYTES_SENT] += len(chunk)
            if bytes_per_second:
                await asyncio.sleep(len(chunk) / bytes_per_second)


def _read(part: ExportFile, offset: int, size: int) -> bytes:
    with part.path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


async def _interrupt(request: web.Request, fault: Fault) -> web.StreamResponse:
    """End a transfer in the middle."""
    if fault.name == "part-stall":
        await asyncio.sleep(HANG_SECONDS)
    # A reset discards data that the client has not read yet.
    await asyncio.sleep(_CLIENT_READ_SECONDS)
    return close_connection(request, reset=fault.name == "part-reset")


def _send_malformed_header(
    request: web.Request, status: int, headers: Mapping[str, str], data: bytes
) -> web.StreamResponse:
    """Send a response past aiohttp, which cannot send such a header, and close the connection."""
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        *(f"{name}: {value}" for name, value in headers.items()),
        f"Content-Length: {len(data)}",
        "a header without a colon",
        *("", ""),
    ]
    request[BYTES_SENT] = len(data)
    if request.transport:
        request.transport.write("\r\n".join(lines).encode() + data)
    return close_connection(request, reset=False)


def _s3_error(status: int, code: str, message: str) -> web.StreamResponse:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
    return web.Response(status=status, text=body, content_type="application/xml")
