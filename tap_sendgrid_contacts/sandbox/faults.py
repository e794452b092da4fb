"""What can go wrong, by name: one table, and the count of how often each still has to happen."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from typing import Literal, NamedTuple

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Act = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]
Stage = Literal["api", "get", "post", "fields", "status", "export", "data", "part", "storage"]

ALWAYS = 0
ELSEWHERE = web.AppKey("elsewhere", str)
HANG_SECONDS = 3600
_SLOW_SECONDS = 1


class Fault(NamedTuple):
    """Something that goes wrong.

    Attributes:
        name: what it is called on the command line
        times: how often it happens unless told otherwise
        help: what happens
        act: what happens to a request, where that is all there is to it
    """

    name: str
    times: int
    help: str
    act: Act | None = None


def cut(request: web.Request, *, reset: bool) -> web.Response:
    """Close the connection under a request.

    Args:
        request: whose connection
        reset: whether the peer gets a TCP RST instead of a proper end

    Returns:
        A response to leave the handler with; nobody will see it.
    """
    request["cut"] = True
    if transport := request.transport:
        if reset:
            linger = struct.pack("ii", 1, 0)
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
        else:
            transport.close()
    return web.Response()


def error(status: int, message: str, field: str | None = None) -> web.Response:
    """An error in the shape that the API documents."""
    return web.json_response({"errors": [{"field": field, "message": message}]}, status=status)


def _fails(status: int) -> Act:
    async def act(_request: web.Request, _handler: Handler) -> web.StreamResponse:
        return error(status, "internal server error")

    return act


def _limited(headers: Callable[[], Mapping[str, str]]) -> Act:
    async def act(_request: web.Request, _handler: Handler) -> web.StreamResponse:
        response = error(429, "too many requests")
        response.headers.update(headers())
        return response

    return act


def _reset_headers() -> dict[str, str]:
    return {
        "X-RateLimit-Limit": "600",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(int(time.time()) + 2),
    }


async def _html(_request: web.Request, _handler: Handler) -> web.StreamResponse:
    page = "<!DOCTYPE html><html><body><h1>Scheduled maintenance</h1></body></html>"
    return web.Response(text=page, content_type="text/html")


async def _reset(request: web.Request, _handler: Handler) -> web.StreamResponse:
    return cut(request, reset=True)


async def _hang(_request: web.Request, _handler: Handler) -> web.StreamResponse:
    await asyncio.sleep(HANG_SECONDS)
    return web.Response()


async def _slow(request: web.Request, handler: Handler) -> web.StreamResponse:
    await asyncio.sleep(_SLOW_SECONDS)
    return await handler(request)


async def _forbidden(_request: web.Request, _handler: Handler) -> web.StreamResponse:
    return error(403, "access forbidden")


async def _redirect(request: web.Request, _handler: Handler) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": request.app[ELSEWHERE] + request.path_qs})


def _taken(act: Act) -> Act:
    async def then(request: web.Request, handler: Handler) -> web.StreamResponse:
        await handler(request)
        return await act(request, handler)

    return then


FAULTS: dict[Stage, tuple[Fault, ...]] = {
    "api": (
        Fault("rate-limit", 1, "429 without any delay header", _limited(dict)),
        Fault(
            "rate-limit-seconds",
            1,
            "429 with Retry-After: 1",
            _limited(lambda: {"Retry-After": "1"}),
        ),
        Fault(
            "rate-limit-date",
            1,
            "429 with Retry-After as a date 2 s ahead",
            _limited(lambda: {"Retry-After": formatdate(time.time() + 2, usegmt=True)}),
        ),
        Fault(
            "rate-limit-reset", 1, "429 with X-RateLimit-Reset 2 s ahead", _limited(_reset_headers)
        ),
        Fault("html", 1, "200 with an HTML page instead of JSON", _html),
        Fault("reset", 1, "connection reset (TCP RST) instead of a response", _reset),
        Fault("hang", 1, "no response", _hang),
        Fault("slow", 1, "response after 1 s", _slow),
        Fault("forbidden", ALWAYS, "403 for every request", _forbidden),
        Fault(
            "redirect-api",
            ALWAYS,
            "307 to another port, which logs LEAK when it receives the API key",
            _redirect,
        ),
    ),
    "get": tuple(
        Fault(f"error-{status}", 1, f"{status} for a GET", _fails(status))
        for status in (500, 502, 503, 504)
    ),
    "post": (
        *(
            Fault(f"post-{status}", 1, f"{status} for the POST, no export created", _fails(status))
            for status in (500, 502, 503, 504)
        ),
        Fault("post-lost-reset", 1, "POST reset, no export created", _reset),
        Fault("post-accepted-reset", 1, "POST reset, export created", _taken(_reset)),
        Fault("post-accepted-hang", 1, "no response to the POST, export created", _taken(_hang)),
        Fault("post-accepted-500", 1, "500 for the POST, export created", _taken(_fails(500))),
    ),
    "fields": (Fault("forbidden-fields", ALWAYS, "403 for the field definitions", _forbidden),),
    "status": (Fault("export-not-found", 1, "404 for the export from its next status request on"),),
    "export": (
        Fault("failure", 1, "export ends in status `failure`, with a message"),
        Fault("expired", 1, "export is ready but expired; its URLs return 403"),
        Fault("unknown-status", ALWAYS, "export ends in an unknown status"),
        Fault("never-ready", ALWAYS, "export stays pending"),
        Fault("no-urls", ALWAYS, "export is ready and has contacts but no URLs"),
        Fault("count-high", ALWAYS, "contact_count is one more than the files hold"),
        Fault("count-low", ALWAYS, "contact_count is one less than the files hold"),
        Fault("count-missing", ALWAYS, "no contact_count"),
        Fault("part-missing", ALWAYS, "a URL is missing from the second ready status on"),
        Fault("shuffled-parts", ALWAYS, "order of the URLs changes with every ready status"),
    ),
    "data": (
        Fault("truncated-gzip", ALWAYS, "gzip stream of the last part is truncated"),
        Fault("bad-crc", ALWAYS, "gzip checksum of the last part is wrong"),
        Fault("bad-line", ALWAYS, "a malformed line in the middle"),
        Fault("bad-width", ALWAYS, "a CSV row with an extra cell (JSON: trailing data)"),
        Fault("no-contact-id", ALWAYS, "no contact has a contact_id"),
        Fault("duplicate-header", ALWAYS, "two CSV headers that differ only in case"),
        Fault("bad-number", ALWAYS, "a Number field with text that is not a number"),
        Fault("bad-date", ALWAYS, "a Date field with text that is not a date"),
        Fault("unknown-field", ALWAYS, "a custom field missing from the field definitions"),
        Fault("invalid-utf8", ALWAYS, "an invalid UTF-8 byte"),
    ),
    "part": (
        Fault("part-reset", 1, "connection reset (TCP RST) in the middle of a part"),
        Fault("part-truncated", 1, "connection closed in the middle of a part"),
        Fault("part-stall", 1, "transfer stalls in the middle of a part"),
        Fault("part-expired", 1, "403: the signed URL has already expired"),
        Fault("part-500", 1, "500 for a part", _fails(500)),
        Fault("part-503", 1, "503 for a part", _fails(503)),
        Fault("redirect-part", 1, "307 for a part, to another port", _redirect),
    ),
    "storage": (
        Fault("no-range", ALWAYS, "Range is ignored: 200 and the complete part"),
        Fault("etag-changes", ALWAYS, "another ETag in every response"),
        Fault("no-etag", ALWAYS, "no ETag"),
        Fault("chunked", ALWAYS, "chunked transfer encoding, no Content-Length"),
    ),
}
BY_NAME = {fault.name: fault for faults in FAULTS.values() for fault in faults}


class Faults:
    """The faults of one server.

    Args:
        asked: how often each fault is to happen, in the order in which they do
        log: where each is noted when it happens
    """

    def __init__(self, asked: Mapping[str, int], log: Callable[[str], None]) -> None:
        self._left = {name: times or float("inf") for name, times in asked.items()}
        self._log = log

    def strikes(self, name: str) -> bool:
        """Whether a fault happens now; if so, it has happened once more."""
        if not self._left.get(name):
            return False
        self._left[name] -= 1
        self._log(f"fault {name}")
        return True

    def first(self, *stages: Stage) -> Fault | None:
        """The one fault that happens now, if any does."""
        here = {fault.name for stage in stages for fault in FAULTS[stage]}
        return next(
            (BY_NAME[name] for name in self._left if name in here and self.strikes(name)), None
        )

    def all(self, *stages: Stage) -> frozenset[str]:
        """Every fault that happens now."""
        here = [fault.name for stage in stages for fault in FAULTS[stage]]
        return frozenset(name for name in here if self.strikes(name))
