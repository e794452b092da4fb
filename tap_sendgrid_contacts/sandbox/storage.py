"""Where the files of exports lie: presigned URLs, as S3 serves them.

SEEN: `X-Amz-Expires=300`, signed afresh by every status check; 400 for a request that
brings an Authorization header as well; 403 and XML when signature or time do not fit.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from aiohttp import web

from tap_sendgrid_contacts.sandbox.faults import HANG_SECONDS, cut

if TYPE_CHECKING:
    from tap_sendgrid_contacts.sandbox.faults import Fault, Faults
    from tap_sendgrid_contacts.sandbox.files import Part

_CHUNK = 1 << 18
_DATE = "%Y%m%dT%H%M%SZ"
_TIME_TO_READ = 0.05


class Storage:
    """Serves parts to whoever has a URL that is signed and alive.

    Args:
        ttl: seconds that a URL lives
        throttle: MB per second of one download, if limited
        content_encoding: whether to say that a part is gzip
        faults: what is to go wrong
    """

    def __init__(
        self, ttl: int, throttle: float | None, *, content_encoding: bool, faults: Faults
    ) -> None:
        self._ttl = ttl
        self._throttle = throttle
        self._content_encoding = content_encoding
        self._faults = faults
        self._secret = secrets.token_bytes()
        self._parts: dict[str, Part] = {}

    def routes(self) -> list[web.RouteDef]:
        """What the storage answers to."""
        return [web.get("/exports/{name}", self.get, allow_head=False)]

    def put(self, path: str, part: Part) -> None:
        """Take a part in."""
        self._parts[path] = part

    def sign(self, path: str, *, age: timedelta = timedelta()) -> str:
        """The path and the query that open a part, made some time ago."""
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": "ASIASANDBOX/20260101/us-east-1/s3/aws4_request",
            "X-Amz-Date": (datetime.now(timezone.utc) - age).strftime(_DATE),
            "X-Amz-Expires": str(self._ttl),
            "X-Amz-Security-Token": secrets.token_urlsafe(96),
            "X-Amz-SignedHeaders": "host",
        }
        query["X-Amz-Signature"] = self._signature(path, query)
        return f"{path}?{urlencode(query)}"

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer a download."""
        if "Authorization" in request.headers:
            return _refused(400, "InvalidArgument", "Only one auth mechanism allowed")
        if reason := self._locked(request):
            return _refused(403, "AccessDenied", reason)
        part = self._parts.get(request.path)
        if not part:
            return _refused(404, "NoSuchKey", "The specified key does not exist.")
        fault = self._faults.first("part")
        if fault and fault.name == "part-expired":
            return _refused(403, "AccessDenied", "Request has expired")
        if fault and fault.act:
            return await fault.act(request, self.get)
        return await self._send(request, part, fault)

    def _signature(self, path: str, query: dict[str, str]) -> str:
        signed = urlencode(sorted(query.items()))
        return hmac.new(self._secret, f"{path}\n{signed}".encode(), "sha256").hexdigest()

    def _locked(self, request: web.Request) -> str | None:
        query = dict(request.query)
        given = query.pop("X-Amz-Signature", "")
        if not given:
            return "Access Denied"
        if not hmac.compare_digest(given, self._signature(request.path, query)):
            return "The request signature we calculated does not match the signature you provided."
        made = datetime.strptime(query["X-Amz-Date"], _DATE).replace(tzinfo=timezone.utc)
        if datetime.now(timezone.utc) >= made + timedelta(seconds=int(query["X-Amz-Expires"])):
            return "Request has expired"
        return None

    async def _send(
        self, request: web.Request, part: Part, fault: Fault | None
    ) -> web.StreamResponse:
        traits = self._faults.all("storage")
        etag = f'"{secrets.token_hex(16)}"' if "etag-changes" in traits else part.etag
        headers = {"Content-Type": "binary/octet-stream", "Accept-Ranges": "bytes", "ETag": etag}
        if "no-etag" in traits:
            del headers["ETag"]
        elif request.headers.get("If-Match", etag) not in (etag, "*"):
            return _refused(412, "PreconditionFailed", "A pre-condition did not hold")
        if self._content_encoding:
            headers["Content-Encoding"] = "gzip"

        start, end, status = 0, part.size, 200
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        same = request.headers.get("If-Range", etag) == headers.get("ETag", etag)
        if span and same and "no-range" not in traits:
            start, status = int(span[1]), 206
            if start >= end:
                response = _refused(416, "InvalidRange", "The requested range is not satisfiable")
                response.headers["Content-Range"] = f"bytes */{end}"
                return response
            end = min(int(span[2]) + 1, end) if span[2] else end
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{part.size}"

        response = web.StreamResponse(status=status, headers=headers)
        if "chunked" in traits:
            response.enable_chunked_encoding()
        else:
            response.content_length = end - start
        await response.prepare(request)
        if fault:
            end = (start + end) // 2
        await self._copy(part, start, end, response, request)
        if not fault:
            await response.write_eof()
            return response
        if fault.name == "part-stall":
            await asyncio.sleep(HANG_SECONDS)
        # A reset overtakes what the client has not read yet.
        await asyncio.sleep(_TIME_TO_READ)
        return cut(request, reset=fault.name == "part-reset")

    async def _copy(
        self, part: Part, start: int, end: int, response: web.StreamResponse, request: web.Request
    ) -> None:
        request["sent"] = 0
        for offset in range(start, end, _CHUNK):
            chunk = await asyncio.to_thread(_read, part, offset, min(_CHUNK, end - offset))
            await response.write(chunk)
            request["sent"] += len(chunk)
            if self._throttle:
                await asyncio.sleep(len(chunk) / self._throttle / 1_000_000)


def _read(part: Part, offset: int, size: int) -> bytes:
    with part.path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _refused(status: int, code: str, message: str) -> web.StreamResponse:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
    return web.Response(status=status, text=body, content_type="application/xml")
