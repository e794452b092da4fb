"""The sandbox server: API and storage of one account on one port of the loopback interface."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from sendgrid_sandbox.api import Api
from sendgrid_sandbox.exports import ExportJobs
from sendgrid_sandbox.files import ExportWriter
from sendgrid_sandbox.responses import (
    BYTES_SENT,
    IS_CLOSED,
    REDIRECT_ORIGIN,
    error_response,
)
from sendgrid_sandbox.storage import Storage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp.typedefs import Middleware

    from sendgrid_sandbox.account import Account
    from sendgrid_sandbox.faults import Faults
    from sendgrid_sandbox.responses import Handler
    from sendgrid_sandbox.settings import Settings


@asynccontextmanager
async def run_server(
    account: Account,
    settings: Settings,
    faults: Faults,
    log: Callable[[str], None],
    *middlewares: Middleware,
) -> AsyncIterator[str]:
    """Serve an account.

    Args:
        account: Account to serve.
        settings: Settings of the sandbox.
        faults: Faults to inject.
        log: Called with a line for each request.
        middlewares: What else sees requests and responses, all faults included.

    Yields:
        The URL of the API.
    """
    with tempfile.TemporaryDirectory(prefix="sendgrid-sandbox-") as folder:
        writer = ExportWriter(account, settings.file_format, Path(folder))
        storage = Storage(settings, faults)
        jobs = ExportJobs(account, writer, storage, settings, faults)
        api = Api(account, jobs, settings, faults)
        app = web.Application(
            middlewares=[
                _log_requests(log),
                _detect_leaks(log),
                *middlewares,
                api.auth_middleware,
            ]
        )
        app.add_routes(api.routes() + storage.routes())
        sockets = [socket.create_server((settings.host, port)) for port in (settings.port, 0)]
        url, app[REDIRECT_ORIGIN] = (
            f"http://{settings.host}:{each.getsockname()[1]}" for each in sockets
        )
        # A client that disconnects cancels its request, including one that hangs.
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await runner.setup()
        try:
            for each in sockets:
                await web.SockSite(runner, each).start()
            yield url
        finally:
            writer.cancel()
            await runner.cleanup()
            await jobs.close()


def _log_requests(log: Callable[[str], None]) -> Middleware:
    @web.middleware
    async def log_request(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = f"{request.path}?…" if "X-Amz-Signature" in request.query else request.path_qs
        body = (await request.read()).decode(errors="replace")
        status = "-"
        size = 0
        try:
            try:
                response = await handler(request)
            except web.HTTPException as error:
                response = error_response(error.status, error.reason)
            except ConnectionResetError as error:
                # The client hung up, which aiohttp would log as an error of the server.
                raise asyncio.CancelledError from error
            status = "closed" if IS_CLOSED in request else str(response.status)
            size = request.get(BYTES_SENT, response.content_length or 0)
        finally:
            subuser = request.headers.get("on-behalf-of")
            fields = (
                *(request.method, path, status, str(size), body),
                subuser and f"on-behalf-of={subuser}",
            )
            log(" ".join(value for value in fields if value))
        return response

    return log_request


def _detect_leaks(log: Callable[[str], None]) -> Middleware:
    @web.middleware
    async def detect_leak(request: web.Request, handler: Handler) -> web.StreamResponse:
        """On the port of redirects, serve only parts and log whether the API key arrives."""
        transport = request.transport
        port = transport.get_extra_info("sockname")[1] if transport else 0
        if not request.app[REDIRECT_ORIGIN].endswith(f":{port}"):
            return await handler(request)
        if "Authorization" in request.headers:
            log("LEAK")
        if request.path.startswith("/v3/"):
            return error_response(401, "authorization required")
        return await handler(request)

    return detect_leak
