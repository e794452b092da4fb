"""Runs of a pipeline against a SendGrid that is made of dictionaries."""

from __future__ import annotations

import contextlib
import copy
import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from tap_sendgrid_contacts.columns import ColumnLayout
from tap_sendgrid_contacts.run.run import Run
from tap_sendgrid_contacts.run.saved import run_fingerprint
from tap_sendgrid_contacts.run.state import RunState
from tap_sendgrid_contacts.schema import build_schema, columns_from_schema
from tests.unit.conftest import make_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from requests_mock import Mocker

    from tap_sendgrid_contacts.api.client import SendGridClient
    from tap_sendgrid_contacts.checkpoint import Block, Checkpoint
    from tests.unit.conftest import Clock

API = "https://api.sendgrid.com"
EXPORTS = f"{API}/v3/marketing/contacts/exports"
STORAGE = "https://storage.example"
NOW = datetime(2026, 11, 22, 10, 0, tzinfo=timezone.utc)
COLUMNS = columns_from_schema(build_schema([], separate_exports=False), {"updated_at"}.__contains__)


def day(number: int) -> datetime:
    return datetime(2020, 1, number, tzinfo=timezone.utc)


def part(ids: Iterable[int]) -> bytes:
    """Return a part of contacts; each was updated on the day of its id."""
    return b"".join(
        b'{"contact_id":"%d","updated_at":"%s"}\n'
        % (i, day(i % 28 + 1).isoformat().replace("+00:00", "Z").encode())
        for i in ids
    )


PARTS = {"a": part(range(10)), "b": part(range(10, 13)), "c": part(range(13, 30))}


@dataclass
class FakeExport:
    """An export that SendGrid has.

    Attributes:
        parts: Content of each part by its path.
        count: Its `contact_count`.
        status: What its status has beside that.
        created_at: When it was created.
        lists: The lists it is of.
    """

    parts: dict[str, bytes] = field(default_factory=lambda: dict(PARTS))
    count: int | None = 30
    status: dict[str, Any] = field(default_factory=lambda: {"status": "ready"})
    created_at: datetime = NOW
    lists: list[str] = field(default_factory=list)


class FakeSendGrid:
    """The API and the storage, by requests_mock.

    Attributes:
        exports: The exports by id.
        next_export: What the next export to be created is like.
        of_list: The same, by list.
        create_errors: Status of each request to create an export; less than 0 if it is created all
            the same.
        errors: Status with which all requests of a method and path fail.
        seconds: How long each request to create an export takes.
        requests: Method and path of each request.
    """

    def __init__(self, requests_mock: Mocker, clock: Clock) -> None:
        self.exports: dict[str, FakeExport] = {}
        self.next_export = FakeExport()
        self.of_list: dict[str, FakeExport] = {}
        self.create_errors: list[int] = []
        self.errors: dict[str, int] = {}
        self.seconds = 0
        self.requests: list[str] = []
        self._clock = clock
        requests_mock.post(EXPORTS, json=self._create)
        requests_mock.get(EXPORTS, json=self._list)
        requests_mock.get(re.compile(f"{EXPORTS}/"), json=self._get)
        requests_mock.get(re.compile(f"{STORAGE}/"), content=self._download)
        requests_mock.get(f"{API}/v3/marketing/lists", json=self._list_lists)

    @property
    def created(self) -> int:
        """Number of requests to create an export."""
        return self.requests.count("POST exports")

    def _log(self, context: Any, line: str) -> bool:  # noqa: ANN401 - of requests_mock
        self.requests.append(line)
        context.headers["Date"] = format_datetime(NOW, usegmt=True)
        context.status_code = self.errors.get(line, 200)
        return bool(context.status_code == 200)

    def _create(self, request: Any, context: Any) -> dict[str, Any]:  # noqa: ANN401
        self._clock.sleep(self.seconds)
        if self._log(context, "POST exports"):
            context.status_code = status = self.create_errors.pop(0) if self.create_errors else 202
            if status < 0:
                context.status_code = -status
            elif status != 202:
                return {}
            export_id = f"e{len(self.exports) + 1}"
            ids = request.json().get("list_ids", [])
            export = self.of_list.get("".join(ids), self.next_export)
            self.exports[export_id] = copy.deepcopy(export)
            self.exports[export_id].lists = ids
            return {"id": export_id}
        return {}

    def _list(self, _request: object, context: Any) -> dict[str, Any]:  # noqa: ANN401
        self._log(context, "GET exports")
        return {
            "result": [
                {
                    "id": export_id,
                    "created_at": export.created_at.isoformat(),
                    "lists": [{"ID": each, "Name": ""} for each in export.lists],
                    **export.status,
                }
                for export_id, export in self.exports.items()
            ]
        }

    def _list_lists(self, _request: object, context: Any) -> dict[str, Any]:  # noqa: ANN401
        self._log(context, "GET lists")
        return {"result": [{"id": each, "name": ""} for each in self.of_list]}

    def _get(self, request: Any, context: Any) -> dict[str, Any]:  # noqa: ANN401
        export_id = request.path.rpartition("/")[2]
        self._log(context, f"GET {export_id}")
        if export_id not in self.exports:
            context.status_code = 404
            return {}
        export = self.exports[export_id]
        return {
            "id": export_id,
            "contact_count": export.count,
            "created_at": export.created_at.isoformat(),
            "urls": [
                f"{STORAGE}/{export_id}/{name}?X-Amz-Expires=300&X-Amz-Signature=s"
                for name in export.parts
            ],
            **export.status,
        }

    def _download(self, request: Any, context: Any) -> bytes:  # noqa: ANN401
        _, export_id, name = request.path.split("/")
        self._log(context, f"GET {export_id}/{name}")
        return self.exports[export_id].parts[name]


class Rows:
    """An output that hands on the id and the version of each contact."""

    def __init__(self) -> None:
        self.records_emitted = 0

    def write(
        self, blocks: Iterable[Block], version: int | None
    ) -> Iterator[tuple[list[Any], Checkpoint]]:
        for rows, checkpoint in blocks:
            self.records_emitted += len(rows)
            yield [(int(str(row[0])), version) for row in rows], checkpoint


class Pipeline:
    """Runs of a pipeline, each with the last STATE of the one before.

    Attributes:
        states: The stream's state of each STATE of the last run.
        items: What the last run emitted: id and version of each contact, or file.
        run: The last run.
        withheld: Why it must not activate its version, if so.
    """

    run: Run

    def __init__(self, client: SendGridClient) -> None:
        self._client = client
        self.states: list[dict[str, Any]] = [{}]
        self.items: list[Any] = []
        self.withheld: str | None = None

    @property
    def ids(self) -> list[int]:
        """Ids of the contacts that the last run emitted."""
        return [id_ for id_, _ in self.items]

    @property
    def saved(self) -> dict[str, Any]:
        """The run in progress in the last STATE."""
        (run,) = self.states[-1]["run"]
        assert isinstance(run, dict)
        return run

    @property
    def checkpoints(self) -> list[dict[str, Any]]:
        """The checkpoints in the last STATE."""
        return [*self.saved["exports"].values()]

    def __call__(
        self,
        state: dict[str, Any] | None = None,
        *,
        stop_after: int | None = None,
        list_ids: tuple[str, ...] = (),
        separate: bool = False,
        incremental: bool = False,
        output: Any = None,  # noqa: ANN401 - of any items
        **config: Any,
    ) -> list[int]:
        """Run to the end, or until it is killed; return the ids of the emitted contacts."""
        stream: dict[str, Any] = json.loads(json.dumps(self.states[-1] if state is None else state))
        self.states, self.items, self.withheld = [], [], None

        def emit() -> None:
            if not self.states or self.states[-1] != stream:
                self.states.append(copy.deepcopy(stream))

        config = {
            "api_url": API,
            "separate_exports": separate or len(list_ids) > 1,
            "poll_interval": 1,
            "poll_timeout": 3600,
            "allow_count_mismatch": False,
            "on_invalid_value": "fail",
            "max_shrink_percent": 50,
            **config,
        }
        emitter: Any = type("Emitter", (), {"emit": staticmethod(emit)})
        request = make_request(list_ids, file_type=config.pop("file_type", "json"))
        layout = ColumnLayout(COLUMNS, config["on_invalid_value"], stamp={}, hasher=None)
        fingerprint = run_fingerprint(
            request, config, layout, is_incremental=incremental, has_version=not incremental
        )
        run_state = RunState(stream, emitter, fingerprint=fingerprint, has_version=not incremental)
        self.run = Run(self._client, request, config, layout, run_state, is_incremental=incremental)
        items = self.run.read(output or Rows())
        with contextlib.closing(items):  # type: ignore[type-var]
            for item in items:
                self.items.append(item)
                if len(self.items) == stop_after:
                    return self.ids
        self.withheld = self.run.state.why_deletes_are_unsafe(config["max_shrink_percent"])
        self.run.complete()
        emit()
        return self.ids if output is None else []
