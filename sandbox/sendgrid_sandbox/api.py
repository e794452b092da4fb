"""SendGrid's Marketing API, as far as exporting contacts needs it (DOC)."""

from __future__ import annotations

import hmac
import json
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from sendgrid_sandbox.exports import format_time
from sendgrid_sandbox.fields import reserved_fields
from sendgrid_sandbox.responses import add_to_texts, error_response
from sendgrid_sandbox.spec import parse_export_spec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sendgrid_sandbox.account import Account
    from sendgrid_sandbox.exports import ExportJobs
    from sendgrid_sandbox.faults import Faults
    from sendgrid_sandbox.responses import Handler
    from sendgrid_sandbox.settings import Settings

_MAX_PAGE_SIZE = 1000
_OK = 200


class Api:
    """The API of one account.

    Args:
        account: Account to serve.
        jobs: Export jobs of the account.
        settings: Settings of the sandbox.
        faults: Faults to inject.
    """

    def __init__(
        self, account: Account, jobs: ExportJobs, settings: Settings, faults: Faults
    ) -> None:
        self._account = account
        self._jobs = jobs
        self._settings = settings
        self._faults = faults

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        get = partial(web.get, allow_head=False)
        exports = "/v3/marketing/contacts/exports"
        return [
            web.post(exports, self.create_export),
            get(exports, self.list_exports),
            get(exports + "/{id}", self.get_export),
            get("/v3/scopes", self.list_scopes),
            get("/v3/marketing/contacts/count", self.count_contacts),
            get("/v3/marketing/field_definitions", self.list_field_definitions),
            get("/v3/marketing/lists", self.list_lists),
            get("/v3/marketing/segments/2.0", self.list_segments),
        ]

    @web.middleware
    async def auth_middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the API key, then inject faults."""
        if not request.path.startswith("/v3/"):
            return await handler(request)
        key = f"Bearer {self._settings.api_key}".encode()
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), key):
            return self._with_text_faults(request, error_response(401, "authorization required"))
        stages = ["api", "post" if request.method == "POST" else "get"]
        if request.path.endswith("/field_definitions"):
            stages.append("fields")
        elif "id" in request.match_info:
            stages.append("status")
        fault = self._faults.next_fault(*stages)
        response = await (
            fault.action(request, handler) if fault and fault.action else handler(request)
        )
        return self._with_text_faults(request, response)

    async def create_export(self, request: web.Request) -> web.Response:
        """Create an export."""
        try:
            text = await request.text()
            body = json.loads(text) if text else {}
            spec = parse_export_spec(body, self._account)
        except (TypeError, ValueError) as error:
            return error_response(400, str(error))
        except LookupError as error:
            return error_response(404, str(error))
        export = self._jobs.create(spec)
        created = {"id": export.id, "_metadata": {"self": str(request.url / export.id)}}
        return web.json_response(created, status=202)

    async def get_export(self, request: web.Request) -> web.Response:
        """Return the status of an export, with new signed URLs once it is ready."""
        export = self._jobs.find(request.match_info["id"])
        if not export:
            return error_response(404, "export not found")
        body = await self._jobs.poll(export, request.url.origin())
        return web.json_response(body | {"_metadata": {"self": str(request.url)}})

    async def list_exports(self, request: web.Request) -> web.Response:
        """List the exports."""
        return web.json_response(
            {
                "result": self._collection(self._jobs.summaries(request.url.origin())),
                "_metadata": {"self": str(request.url)},
            }
        )

    async def list_scopes(self, _request: web.Request) -> web.Response:
        """List the scopes of the API key."""
        return web.json_response({"scopes": ["marketing.read"]})

    async def count_contacts(self, _request: web.Request) -> web.Response:
        """Return the number of contacts."""
        count = self._account.count()
        return web.json_response({"contact_count": count, "billable_count": count})

    async def list_field_definitions(self, request: web.Request) -> web.Response:
        """List the custom and the reserved fields."""
        return web.json_response(
            {
                "custom_fields": self._collection(
                    {"id": field.id, "name": field.name, "field_type": field.type}
                    for field in self._account.fields
                ),
                "reserved_fields": reserved_fields(),
                "_metadata": {"self": str(request.url)},
            }
        )

    async def list_lists(self, request: web.Request) -> web.Response:
        """Return a page of the lists."""
        try:
            size = int(request.query.get("page_size", "100"))
            start = int(request.query.get("page_token") or "0")
        except ValueError:
            return error_response(400, "invalid page_size or page_token")
        if not 1 <= size <= _MAX_PAGE_SIZE:
            return error_response(400, "page_size must be between 1 and 1000", "page_size")
        lists = self._account.lists
        metadata = {"self": str(request.url), "count": len(lists)}
        following = start + size
        if following < len(lists):
            metadata["next"] = str(
                request.url.with_query(page_size=str(size), page_token=str(following))
            )
        list_url = request.url.origin() / "v3/marketing/lists"
        return web.json_response(
            {
                "result": self._collection(
                    {
                        "id": item.id,
                        "name": item.name,
                        "contact_count": self._account.count([item.id]),
                        "_metadata": {"self": str(list_url / item.id)},
                    }
                    for item in lists[start : start + size]
                ),
                "_metadata": metadata,
            }
        )

    async def list_segments(self, _request: web.Request) -> web.Response:
        """List the segments; not paginated."""
        now = format_time(datetime.now(timezone.utc))
        return web.json_response(
            {
                "results": self._collection(
                    {
                        "id": segment.id,
                        "name": segment.name,
                        "contacts_count": self._account.count([], [segment.id]),
                        "created_at": now,
                        "updated_at": now,
                        "sample_updated_at": now,
                        "next_sample_update": now,
                        "parent_list_ids": [],
                        "query_version": "2",
                        "status": {"query_validation": "VALID"},
                    }
                    for segment in self._account.segments
                )
            }
        )

    def _with_text_faults(
        self, request: web.Request, response: web.StreamResponse
    ) -> web.StreamResponse:
        if (
            not isinstance(response, web.Response)
            or response.content_type != "application/json"
            # SendGrid only allows letters, digits and _ in the names of fields.
            or (request.path.endswith("/field_definitions") and response.status == _OK)
        ):
            return response
        for fault in sorted(self._faults.active_faults("text")):
            body = add_to_texts(fault, request, json.loads(response.text or ""))
            response.text = json.dumps(body)
        return response

    def _collection(self, items: Iterable[object]) -> list[object] | None:
        return list(items) or (None if self._settings.null_collections else [])
