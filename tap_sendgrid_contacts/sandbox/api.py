"""SendGrid's Marketing API, as far as exporting contacts needs it (DOC)."""

from __future__ import annotations

import asyncio
import hmac
import json
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from tap_sendgrid_contacts.sandbox.faults import error
from tap_sendgrid_contacts.sandbox.fields import reserved_fields
from tap_sendgrid_contacts.sandbox.files import ExportSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tap_sendgrid_contacts.sandbox.account import Account, Audience
    from tap_sendgrid_contacts.sandbox.faults import Faults, Handler, Stage
    from tap_sendgrid_contacts.sandbox.files import ExportFiles, ExportWriter
    from tap_sendgrid_contacts.sandbox.storage import Storage

_USER_ID = "12345678"
_FILE_LIFE = timedelta(hours=12)  # SEEN; the documentation names no time
_DEFAULT_MAX_FILE_SIZE = 5000
_MAX_PAGE = 1000
# The first status check waits this long for the files, so that a small export takes
# as many checks as asked for, whatever the machine.
_WRITING_SECONDS = 0.5


@dataclass
class _Export:
    spec: ExportSpec
    quirks: frozenset[str]
    files: asyncio.Task[ExportFiles]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    created: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    completed: datetime | None = None
    status: str = "pending"
    checks: int = 0
    ready_checks: int = 0

    @property
    def expires(self) -> datetime:
        life = timedelta(hours=-1) if "expired" in self.quirks else _FILE_LIFE
        return self.created + life


class Api:
    """The API of one account.

    Args:
        account: whose contacts
        writer: what writes its exports
        storage: where they are served
        api_key: who may ask
        pending_polls: how many status checks answer that an export is not ready yet
        faults: what is to go wrong
    """

    def __init__(
        self,
        account: Account,
        writer: ExportWriter,
        storage: Storage,
        *,
        api_key: str,
        pending_polls: int,
        faults: Faults,
    ) -> None:
        self._account = account
        self._writer = writer
        self._storage = storage
        self._api_key = api_key
        self._pending_polls = pending_polls
        self._faults = faults
        self._exports: dict[str, _Export] = {}
        self._written: dict[tuple[ExportSpec, frozenset[str]], asyncio.Task[ExportFiles]] = {}

    def routes(self) -> list[web.RouteDef]:
        """What the API answers to."""
        get = partial(web.get, allow_head=False)
        exports = "/v3/marketing/contacts/exports"
        return [
            web.post(exports, self.create_export),
            get(exports, self.exports),
            get(exports + "/{id}", self.export_status),
            get("/v3/marketing/field_definitions", self.field_definitions),
            get("/v3/marketing/lists", self.lists),
            get("/v3/marketing/segments/2.0", self.segments),
        ]

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let nobody in without the key, and let happen what is to go wrong."""
        if not request.path.startswith("/v3/"):
            return await handler(request)
        key = f"Bearer {self._api_key}".encode()
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), key):
            return error(401, "authorization required")
        stages: list[Stage] = ["api", "post" if request.method == "POST" else "get"]
        if request.path.endswith("/field_definitions"):
            stages.append("fields")
        fault = self._faults.first(*stages)
        if fault and fault.act:
            return await fault.act(request, handler)
        return await handler(request)

    async def close(self) -> None:
        """Wait until nothing is being written any more."""
        await asyncio.gather(*self._written.values(), return_exceptions=True)

    async def create_export(self, request: web.Request) -> web.Response:
        """Start an export."""
        try:
            text = await request.text()
            asked = self._asked(json.loads(text) if text else {})
        except (TypeError, ValueError) as wrong:
            return error(400, str(wrong))
        except LookupError as unknown:
            return error(404, str(unknown))
        data_faults = self._faults.all("data")
        files = self._written.get((asked, data_faults))
        if not files:
            files = asyncio.create_task(
                asyncio.to_thread(
                    self._writer.write, asked, data_faults, f"export{len(self._written)}"
                )
            )
            self._written[asked, data_faults] = files
        quirks = self._faults.all("export")
        export = _Export(asked, quirks, files)
        self._exports[export.id] = export
        body = {"id": export.id, "_metadata": {"self": f"{request.url}/{export.id}"}}
        return web.json_response(body, status=202)

    async def export_status(self, request: web.Request) -> web.Response:
        """Say how far an export is, with fresh URLs once it is there."""
        export = self._exports.get(request.match_info["id"])
        if not export:
            return error(404, "export not found")
        if self._faults.strikes("export-not-found"):
            del self._exports[export.id]
            return error(404, "export not found")
        export.checks += 1
        body: dict[str, object] = {
            "id": export.id,
            "status": export.status,
            "created_at": _time(export.created),
            "updated_at": _time(export.created),
            "expires_at": _time(export.expires),
            "_metadata": {"self": str(request.url)},
        }
        if not await self._is_complete(export):
            # All three have been described, so all three are served.
            body.update(({"urls": []}, {}, {"urls": None})[export.checks % 3 - 1])
            return web.json_response(body)

        completed = export.completed = export.completed or datetime.now(timezone.utc)
        body |= {"updated_at": _time(completed), "completed_at": _time(completed)}
        if "unknown-status" in export.quirks:
            export.status = "archived"
        elif "failure" in export.quirks:
            export.status = "failure"
            body["message"] = "the export could not be completed"
        else:
            export.status = "ready"
            body["urls"] = self._odd_urls(export, request)
            count = export.files.result().contact_count
            count += ("count-high" in export.quirks) - ("count-low" in export.quirks)
            if "count-missing" not in export.quirks:
                body["contact_count"] = count
        body["status"] = export.status
        return web.json_response(body)

    async def exports(self, request: web.Request) -> web.Response:
        """List the exports; neither their contact_count nor their file_type is told."""
        return web.json_response(
            {
                "result": [self._summary(export, request) for export in self._exports.values()],
                "_metadata": {"self": str(request.url)},
            }
        )

    async def field_definitions(self, request: web.Request) -> web.Response:
        """Tell the custom and the reserved fields."""
        return web.json_response(
            {
                "custom_fields": [
                    {"id": field.id, "name": field.name, "field_type": field.type}
                    for field in self._account.fields
                ],
                "reserved_fields": reserved_fields(),
                "_metadata": {"self": str(request.url)},
            }
        )

    async def lists(self, request: web.Request) -> web.Response:
        """Tell the lists, a page at a time."""
        try:
            size = int(request.query.get("page_size", "100"))
            start = int(request.query.get("page_token") or "0")
        except ValueError:
            return error(400, "invalid page_size or page_token")
        if not 1 <= size <= _MAX_PAGE:
            return error(400, "page_size must be between 1 and 1000", "page_size")
        audiences = self._account.lists
        metadata = {"self": str(request.url), "count": len(audiences)}
        if start + size < len(audiences):
            metadata["next"] = str(
                request.url.with_query(page_size=str(size), page_token=str(start + size))
            )
        return web.json_response(
            {
                "result": [
                    {
                        "id": audience.id,
                        "name": audience.name,
                        "contact_count": self._account.count([audience.id]),
                        "_metadata": {
                            "self": str(request.url.origin() / "v3/marketing/lists" / audience.id)
                        },
                    }
                    for audience in audiences[start : start + size]
                ],
                "_metadata": metadata,
            }
        )

    async def segments(self, request: web.Request) -> web.Response:
        """Tell the segments, all at once."""
        now = _time(datetime.now(timezone.utc))
        return web.json_response(
            {
                "results": [
                    {
                        "id": audience.id,
                        "name": audience.name,
                        "contacts_count": self._account.count([], [audience.id]),
                        "created_at": now,
                        "updated_at": now,
                        "sample_updated_at": now,
                        "next_sample_update": now,
                        "parent_list_ids": [],
                        "query_version": "2",
                        "status": {"query_validation": "VALID"},
                    }
                    for audience in self._account.segments
                ],
                "_metadata": {"self": str(request.url)},
            }
        )

    def _asked(self, body: object) -> ExportSpec:
        """What a POST asks for; stricter than SendGrid may be, so that no slip goes unseen."""
        if not isinstance(body, dict):
            message = "request body must be a JSON object"
            raise TypeError(message)
        known = {"list_ids", "segment_ids", "notifications", "file_type", "max_file_size"}
        if unknown := body.keys() - known:
            message = f"unknown field {sorted(unknown)}"
            raise ValueError(message)
        file_type = body.get("file_type", "csv")
        if file_type not in ("csv", "json"):
            message = "file_type must be csv or json"
            raise ValueError(message)
        size = body.get("max_file_size", _DEFAULT_MAX_FILE_SIZE)
        if type(size) is not int or size < 1:
            message = "max_file_size must be a positive integer"
            raise ValueError(message)
        notifications = body.get("notifications", {})
        if not isinstance(notifications, dict) or not all(
            key == "email" and isinstance(value, bool) for key, value in notifications.items()
        ):
            message = "notifications must be an object with a boolean email"
            raise ValueError(message)
        return ExportSpec(
            file_type,
            _ids(body, "list_ids", self._account.lists),
            _ids(body, "segment_ids", self._account.segments),
            size,
        )

    async def _is_complete(self, export: _Export) -> bool:
        if "never-ready" in export.quirks or export.checks <= self._pending_polls:
            return False
        await asyncio.wait([export.files], timeout=_WRITING_SECONDS)
        return export.files.done()

    def _urls(self, export: _Export, request: web.Request) -> list[str]:
        age = timedelta(days=1) if "expired" in export.quirks else timedelta()
        urls = []
        for number, part in enumerate(export.files.result().parts):
            # SEEN with .csv; what a JSON file is called is a GUESS.
            path = f"/exports/{_USER_ID}_{export.id}_{number}.{export.spec.file_type}.gzip"
            self._storage.put(path, part)
            urls.append(f"{request.url.origin()}{self._storage.sign(path, age=age)}")
        return urls

    def _odd_urls(self, export: _Export, request: web.Request) -> list[str]:
        if "no-urls" in export.quirks:
            return []
        urls = self._urls(export, request)
        export.ready_checks += 1
        if "part-missing" in export.quirks and export.ready_checks > 1:
            urls.pop()
        if "shuffled-parts" in export.quirks:
            turn = export.ready_checks % len(urls) if urls else 0
            urls = urls[turn:] + urls[:turn]
        return urls

    def _summary(self, export: _Export, request: web.Request) -> dict[str, object]:
        summary: dict[str, object] = {
            "id": export.id,
            "status": export.status,
            "created_at": _time(export.created),
            "expires_at": _time(export.expires),
            "user_id": _USER_ID,
            "export_type": "contacts_export",
            "lists": _named(export.spec.list_ids, self._account.lists),
            "segments": _named(export.spec.segment_ids, self._account.segments),
        }
        if export.completed:
            summary["completed_at"] = _time(export.completed)
        if export.status == "ready":
            summary["urls"] = self._urls(export, request)
        return summary


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _ids(body: dict[str, object], key: str, audiences: Sequence[Audience]) -> tuple[str, ...]:
    if key not in body:
        return ()
    ids = body[key]
    if not isinstance(ids, list) or not ids or not all(isinstance(id_, str) for id_ in ids):
        # GUESS: what SendGrid makes of an empty array is unknown.
        message = f"{key} must be an array of ids"
        raise ValueError(message)
    for id_ in ids:
        if id_ not in {audience.id for audience in audiences}:
            message = f"{key}: no such id {id_}"
            raise LookupError(message)
    return tuple(sorted({*ids}))


def _named(ids: Sequence[str], audiences: Sequence[Audience]) -> list[dict[str, str]]:
    return [{"ID": each.id, "Name": each.name} for each in audiences if each.id in ids]
