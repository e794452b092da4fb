"""The sandbox: account, API and storage behind one port of the loopback interface."""

from __future__ import annotations

import socket
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from tap_sendgrid_contacts.sandbox.api import Api
from tap_sendgrid_contacts.sandbox.encoders import FileFormat
from tap_sendgrid_contacts.sandbox.faults import ELSEWHERE, Faults, error
from tap_sendgrid_contacts.sandbox.files import ExportWriter
from tap_sendgrid_contacts.sandbox.storage import Storage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from aiohttp.typedefs import Middleware

    from tap_sendgrid_contacts.sandbox.account import Account
    from tap_sendgrid_contacts.sandbox.faults import Handler


@dataclass(frozen=True)
class Settings:
    """What a sandbox is to be like.

    Attributes:
        api_key: who may use the API
        host: the interface to listen on
        port: the port to listen on, 0 for a free one
        pending_polls: how many status checks answer that an export is not ready yet
        url_ttl: seconds that the URL of a part lives
        throttle: MB per second of one download, if limited
        file_format: how its files are written
        faults: what is to go wrong, and how often
    """

    api_key: str
    host: str = "127.0.0.1"
    port: int = 0
    pending_polls: int = 1
    url_ttl: int = 300
    throttle: float | None = None
    file_format: FileFormat = field(default_factory=FileFormat)
    faults: Mapping[str, int] = field(default_factory=dict)


@asynccontextmanager
async def serving(
    account: Account, settings: Settings, log: Callable[[str], None]
) -> AsyncIterator[str]:
    """Serve an account.

    Args:
        account: whose contacts
        settings: what the sandbox is to be like
        log: where each request and each fault is noted

    Yields:
        The URL of the API.
    """
    faults = Faults(settings.faults, log)
    with tempfile.TemporaryDirectory(prefix="sendgrid-sandbox-") as folder:
        writer = ExportWriter(account, settings.file_format, Path(folder))
        storage = Storage(
            settings.url_ttl,
            settings.throttle,
            content_encoding=settings.file_format.compression == "encoded",
            faults=faults,
        )
        api = Api(
            account,
            writer,
            storage,
            api_key=settings.api_key,
            pending_polls=settings.pending_polls,
            faults=faults,
        )
        app = web.Application(middlewares=[_noting(log), _elsewhere(log), api.guard])
        app.add_routes(api.routes() + storage.routes())
        doors = [socket.create_server((settings.host, port)) for port in (settings.port, 0)]
        url, app[ELSEWHERE] = (f"http://{settings.host}:{door.getsockname()[1]}" for door in doors)
        # A client that goes away ends its request, and whatever hangs in it.
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await runner.setup()
        try:
            for door in doors:
                await web.SockSite(runner, door).start()
            yield url
        finally:
            writer.cancel()
            await runner.cleanup()
            await api.close()


def _noting(log: Callable[[str], None]) -> Middleware:
    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = f"{request.path}?…" if "X-Amz-Signature" in request.query else request.path_qs
        body = (await request.read()).decode(errors="replace")
        status = "-"
        size = 0
        try:
            try:
                response = await handler(request)
            except web.HTTPException as unknown:
                response = error(unknown.status, unknown.reason)
            status = "cut" if "cut" in request else str(response.status)
            size = request.get("sent", response.content_length or 0)
        finally:
            subuser = request.headers.get("on-behalf-of")
            words = (request.method, path, status, str(size), body, subuser and f"for {subuser}")
            log(" ".join(word for word in words if word))
        return response

    return note


def _elsewhere(log: Callable[[str], None]) -> Middleware:
    @web.middleware
    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        """On the port that redirects lead to, serve parts and watch for the key."""
        transport = request.transport
        port = transport.get_extra_info("sockname")[1] if transport else 0
        if not request.app[ELSEWHERE].endswith(f":{port}"):
            return await handler(request)
        if "Authorization" in request.headers:
            log("LEAK")
        if request.path.startswith("/v3/"):
            return error(401, "authorization required")
        return await handler(request)

    return refuse
