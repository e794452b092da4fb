"""Export jobs: created by a POST, written in the background, described by status requests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID, uuid4, uuid5

from sendgrid_sandbox.responses import CONTROL_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yarl import URL

    from sendgrid_sandbox.account import Account, ContactGroup
    from sendgrid_sandbox.faults import Faults
    from sendgrid_sandbox.files import ExportFile, ExportFiles, ExportWriter
    from sendgrid_sandbox.settings import Settings
    from sendgrid_sandbox.spec import ExportSpec
    from sendgrid_sandbox.storage import Storage

_USER_ID = "12345678"
_FILE_LIFETIME = timedelta(hours=12)  # SEEN; not documented
# The first status request waits this long for the files, so that a small export takes the
# configured number of polls on any machine.
_WRITE_TIMEOUT = 0.5


@dataclass
class Export:
    """An export job."""

    spec: ExportSpec
    faults: frozenset[str]
    files: asyncio.Task[ExportFiles]
    uuid: UUID = field(default_factory=uuid4)
    created_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    completed_at: datetime | None = None
    status: str = "pending"
    polls: int = 0
    ready_polls: int = 0

    @property
    def id(self) -> str:
        """The id as returned by the API."""
        suffix = CONTROL_CHARACTERS if "control-characters" in self.faults else ""
        return f"{self.uuid}{suffix}"

    @property
    def expires_at(self) -> datetime:
        """The time at which the files expire."""
        lifetime = timedelta(hours=-1) if "expired" in self.faults else _FILE_LIFETIME
        return self.created_at + lifetime


class _StoredFile(NamedTuple):
    path: str
    part_number: str | None
    part: ExportFile


class ExportJobs:
    """The export jobs of one account.

    Args:
        account: Account to export.
        writer: Writer of the files.
        storage: Storage that serves the files.
        settings: Settings of the sandbox.
        faults: Faults to inject.
    """

    def __init__(
        self,
        account: Account,
        writer: ExportWriter,
        storage: Storage,
        settings: Settings,
        faults: Faults,
    ) -> None:
        self._account = account
        self._writer = writer
        self._storage = storage
        self._settings = settings
        self._faults = faults
        self._exports: dict[str, Export] = {}
        self._written: dict[tuple[ExportSpec, frozenset[str]], asyncio.Task[ExportFiles]] = {}

    def create(self, spec: ExportSpec) -> Export:
        """Create an export and start writing its files, unless they exist already."""
        data_faults = self._faults.active_faults("data")
        files = self._written.get((spec, data_faults))
        if not files:
            prefix = f"export{len(self._written)}"
            files = asyncio.create_task(
                asyncio.to_thread(self._writer.write, spec, data_faults, prefix)
            )
            self._written[spec, data_faults] = files
        faults = self._faults.active_faults("export")
        if self._faults.is_active("control-characters"):
            faults |= {"control-characters"}
        export = Export(spec, faults, files)
        self._exports[export.id] = export
        return export

    def find(self, export_id: str) -> Export | None:
        """Return an export unless it does not exist or has been removed by a fault."""
        if export_id in self._exports and self._faults.consume("export-not-found"):
            del self._exports[export_id]
        return self._exports.get(export_id)

    async def poll(self, export: Export, origin: URL) -> dict[str, object]:
        """Advance an export by one status request.

        Args:
            export: The export.
            origin: Origin of the signed URLs.

        Returns:
            The body of the response.
        """
        export.polls += 1
        body: dict[str, object] = {
            "id": export.id,
            "status": export.status,
            "created_at": format_time(export.created_at),
            "updated_at": format_time(export.created_at),
            "expires_at": format_time(export.expires_at),
        }
        if not await self._is_complete(export):
            # All three have been observed while an export is pending.
            return body | ({"urls": []}, {}, {"urls": None})[export.polls % 3 - 1]

        completed_at = export.completed_at = export.completed_at or datetime.now(timezone.utc)
        body |= {"updated_at": format_time(completed_at), "completed_at": format_time(completed_at)}
        if "unknown-status" in export.faults:
            export.status = "archived"
        elif "failure" in export.faults:
            export.status = "failure"
            body["message"] = "the export could not be completed"
        else:
            export.status = "ready"
            export.ready_polls += 1
            body["urls"] = [] if "no-urls" in export.faults else self._signed_urls(export, origin)
            count = export.files.result().contact_count
            count += ("count-high" in export.faults) - ("count-low" in export.faults)
            if "count-missing" not in export.faults:
                body["contact_count"] = count
        return body | {"status": export.status}

    def summaries(self, origin: URL) -> list[dict[str, object]]:
        """Return all exports as listed by the API: without contact_count and file_type."""
        return [self._summarize(export, origin) for export in self._exports.values()]

    async def close(self) -> None:
        """Wait until no file is being written."""
        await asyncio.gather(*self._written.values(), return_exceptions=True)

    async def _is_complete(self, export: Export) -> bool:
        if "never-ready" in export.faults or export.polls <= self._settings.pending_polls:
            return False
        await asyncio.wait([export.files], timeout=_WRITE_TIMEOUT)
        return export.files.done()

    def _signed_urls(self, export: Export, origin: URL) -> list[str]:
        age = timedelta(days=1) if "expired" in export.faults else timedelta()
        urls = []
        for file in self._list_files(export):
            self._storage.put(*file)
            query = {"partNumber": file.part_number} if file.part_number else {}
            if "changing-query" in export.faults:
                query["request"] = uuid4().hex
            urls.append(f"{origin}{self._storage.sign(file.path, query, age=age)}")
        return urls

    def _list_files(self, export: Export) -> list[_StoredFile]:
        """Return the files of a ready export, with faults in their names, contents and order."""
        faults, listing = export.faults, export.ready_polls
        parts = list(export.files.result().parts)
        if "copied-part" in faults:
            parts[-1] = parts[0]
        files = [_StoredFile(*_name_file(export, index), part) for index, part in enumerate(parts)]
        if "repeated-part" in faults:
            files[-1] = files[0]
        if "vanished-part" in faults and listing > 1:
            self._storage.delete(files[-1].path, files[-1].part_number)
            files[-1] = files[0]._replace(path=_path(export.spec, f"{export.uuid}_replacement"))
        if "part-missing" in faults and listing > 1:
            files.pop()
        if faults & {"shuffled-parts", "same-path", "renamed-parts"} and files:
            shift = listing % len(files)
            files = files[shift:] + files[:shift]
        return files

    def _summarize(self, export: Export, origin: URL) -> dict[str, object]:
        summary: dict[str, object] = {
            "id": export.id,
            "status": export.status,
            "created_at": format_time(export.created_at),
            "expires_at": format_time(export.expires_at),
            "user_id": _USER_ID,
            "export_type": "contacts_export",
            "lists": _references(export.spec.list_ids, self._account.lists),
            "segments": _references(export.spec.segment_ids, self._account.segments),
        }
        if export.completed_at:
            summary["completed_at"] = format_time(export.completed_at)
        if export.status == "ready":
            summary["urls"] = self._signed_urls(export, origin)
        return summary


def _name_file(export: Export, index: int) -> tuple[str, str | None]:
    """Return path and part number of a file."""
    is_path_shared = "same-path" in export.faults
    name = str(export.uuid) if is_path_shared else f"{export.uuid}_{index}"
    if "renamed-parts" in export.faults:
        # New names for each listing; their order does not follow that of the contents.
        name = str(uuid5(export.uuid, f"{export.ready_polls} {name}"))
    return _path(export.spec, name), str(index + 1) if is_path_shared else None


def _path(spec: ExportSpec, name: str) -> str:
    # SEEN with .csv; the name of a JSON file is a GUESS.
    return f"/exports/{_USER_ID}_{name}.{spec.file_type}.gzip"


def format_time(time: datetime) -> str:
    """Return a UTC time in RFC 3339."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _references(ids: Sequence[str], audiences: Sequence[ContactGroup]) -> list[dict[str, str]]:
    return [{"ID": each.id, "Name": each.name} for each in audiences if each.id in ids]
