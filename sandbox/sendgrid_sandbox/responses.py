"""Responses and connection faults shared by the API and the storage."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Action = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]

# C0, C1, line separators and bidirectional overrides.
CONTROL_CHARACTERS = "\x00\x07\x1b[31m\r\n\x7f\x85\x9b2J\u2028\u202e\u2066"
REDIRECT_ORIGIN = web.AppKey("redirect_origin", str)
IS_CLOSED = web.RequestKey("is_closed", bool)
BYTES_SENT = web.RequestKey("bytes_sent", int)
HANG_SECONDS = 3600
_SLOW_SECONDS = 1
# Another name of 127.0.0.1.
_OTHER_HOST = "127.1"
_TEXT_KEYS = {"message", "field", "name", "Name"}
_RATE_LIMIT_SECONDS = 2
_STATUSES_WITH_NULL_FIELD = {401, 403, 404, 429}


def error_response(status: int, message: str, field: str | None = None) -> web.Response:
    """Return an error in the documented shape: 400 and 500 have no `field` that is null."""
    error = {"field": field, "message": message}
    if field is None and status not in _STATUSES_WITH_NULL_FIELD:
        del error["field"]
    return web.json_response({"errors": [error]}, status=status)


def add_to_texts(fault: str, request: web.Request, body: object) -> object:
    """Return a decoded JSON response with the fault in its texts."""
    if fault == "control-characters":
        return _append(body, CONTROL_CHARACTERS, _TEXT_KEYS)
    if fault == "leaky-messages":
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        url = f"{request.url.origin()}/exports/leak.csv.gzip?X-Amz-Signature={'5ec2e7' * 10}"
        return _append(body, f": key {key} of ada.lovelace@example.com, {url}", {"message"})
    raise ValueError(fault)


def _append(value: object, text: str, keys: Collection[str]) -> object:
    if isinstance(value, list):
        return [_append(item, text, keys) for item in value]
    if isinstance(value, dict):
        return {
            key: item + text if isinstance(item, str) and key in keys else _append(item, text, keys)
            for key, item in value.items()
        }
    return value


def close_connection(request: web.Request, *, reset: bool) -> web.Response:
    """Close the connection of a request.

    Args:
        request: The request.
        reset: Whether to send a TCP RST instead of a regular end.

    Returns:
        A response for the handler to return; it is never sent.
    """
    request[IS_CLOSED] = True
    if transport := request.transport:
        if reset:
            linger = struct.pack("ii", 1, 0)
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
        else:
            transport.close()
    return web.Response()


def respond(status: int) -> Action:
    """Return an action that responds with an error status."""

    async def act(_request: web.Request, _handler: Handler) -> web.StreamResponse:
        return error_response(status, HTTPStatus(status).phrase.lower())

    return act


def _rate_limit(make_headers: Callable[[], Mapping[str, str]]) -> Action:
    """Return an action that responds 429 with these headers."""

    async def act(_request: web.Request, _handler: Handler) -> web.StreamResponse:
        response = error_response(429, "too many requests")
        response.headers.update(make_headers())
        return response

    return act


def _rate_limit_headers() -> dict[str, str]:
    """Return the documented headers."""
    return {
        "X-RateLimit-Limit": "600",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(int(time.time()) + _RATE_LIMIT_SECONDS),
    }


rate_limit = _rate_limit(dict)
rate_limit_seconds = _rate_limit(lambda: {"Retry-After": "1"})
rate_limit_date = _rate_limit(
    lambda: {"Retry-After": formatdate(time.time() + _RATE_LIMIT_SECONDS, usegmt=True)}
)
rate_limit_reset = _rate_limit(_rate_limit_headers)


async def html(_request: web.Request, _handler: Handler) -> web.StreamResponse:
    """Respond with an HTML page."""
    page = "<!DOCTYPE html><html><body><h1>Scheduled maintenance</h1></body></html>"
    return web.Response(text=page, content_type="text/html")


async def reset(request: web.Request, _handler: Handler) -> web.StreamResponse:
    """Reset the connection."""
    return close_connection(request, reset=True)


async def hang(_request: web.Request, _handler: Handler) -> web.StreamResponse:
    """Never respond."""
    await asyncio.sleep(HANG_SECONDS)
    return web.Response()


async def slow(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Respond late."""
    await asyncio.sleep(_SLOW_SECONDS)
    return await handler(request)


async def forbidden(_request: web.Request, _handler: Handler) -> web.StreamResponse:
    """Respond 403."""
    return error_response(403, "access forbidden")


async def redirect(request: web.Request, _handler: Handler) -> web.StreamResponse:
    """Redirect to the same path on the sandbox's other port."""
    location = request.app[REDIRECT_ORIGIN] + request.path_qs
    return web.Response(status=307, headers={"Location": location})


async def redirect_loop(request: web.Request, _handler: Handler) -> web.StreamResponse:
    """Redirect to the same URL."""
    location = f"{request.url.origin()}{request.path_qs}"
    return web.Response(status=302, headers={"Location": location})


async def redirect_empty(_request: web.Request, _handler: Handler) -> web.StreamResponse:
    """Redirect without a location."""
    return web.Response(status=302)


async def redirect_host(request: web.Request, _handler: Handler) -> web.StreamResponse:
    """Redirect to the sandbox's other port with a location that has a host but no scheme."""
    port = request.app[REDIRECT_ORIGIN].rpartition(":")[2]
    location = f"//{_OTHER_HOST}:{port}{request.path_qs}"
    return web.Response(status=302, headers={"Location": location})


def after(action: Action) -> Action:
    """Return an action that runs after the request has been processed."""

    async def act(request: web.Request, handler: Handler) -> web.StreamResponse:
        await handler(request)
        return await action(request, handler)

    return act
