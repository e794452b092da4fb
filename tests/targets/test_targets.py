"""Real targets, piped to: deletes, INCREMENTAL, BATCH, and judges of the messages."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tap_sendgrid_contacts.sandbox.account import Account
from tests.conftest import Run, Sandbox, Tap, serve
from tests.warehouse import (
    CUSTOM_FIELDS,
    SINGER_TOOLS,
    TARGET_STITCH,
    DuckDb,
    Postgres,
    Row,
    Target,
    feed,
    installed,
    kinds,
    rows_of,
)

if TYPE_CHECKING:
    from pathlib import Path

# One database server for all of them.
pytestmark = pytest.mark.xdist_group("targets")

CONTACTS = 300
SIZE = ("--contacts", str(CONTACTS), "--custom-fields", str(CUSTOM_FIELDS), "--pending-polls", "0")


@dataclass
class Day:
    """A day of the account, and how the tap tells of it."""

    account: Account
    run: Run

    @cached_property
    def schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = self.run.of("SCHEMA")[0]["schema"]
        return schema

    @cached_property
    def rows(self) -> dict[str, Row]:
        return rows_of(self.account, self.schema)


Days = Callable[..., Day]
Made = Callable[..., Any]


@pytest.fixture(scope="session")
def days(tmp_path_factory: pytest.TempPathFactory) -> Days:
    """The days by number, each run once for the same settings."""
    ran: dict[tuple[object, ...], Day] = {}

    def day(number: int, *options: str, **config: Any) -> Day:
        key = (number, *options, *config.items())
        if key not in ran:
            tap = Tap(tmp_path_factory.mktemp("tap"))
            with serve(*SIZE, "--day", str(number), *options) as sandbox:
                account = Account(CONTACTS, CUSTOM_FIELDS, day=number)
                ran[key] = Day(account, tap(sandbox, **config))
        return ran[key]

    return day


def in_full(run: Run) -> bytes:
    """The messages of a run that went well."""
    assert run.code == 0, run.log
    return run.out


# --- judges ---------------------------------------------------------------------------------


@pytest.mark.parametrize("file_type", ["json", "csv"])
@pytest.mark.parametrize(
    ("tool", "command", "verdict"),
    [
        (SINGER_TOOLS, ["singer-check-tap"], "The output is valid"),
        (
            TARGET_STITCH,
            ["target-stitch", "--dry-run"],
            '{"bookmarks": {"contacts": {"exports": []}}}',
        ),
    ],
    ids=["singer-check-tap", "target-stitch"],
)
def test_judges_of_singer_accept_the_messages(
    tmp_path: Path, days: Days, tool: str, command: list[str], verdict: str, file_type: str
) -> None:
    program, *options = command
    messages = in_full(days(1, file_type=file_type).run)
    assert verdict in feed([installed(tool) / program, *options], messages, tmp_path)


# --- contacts that are gone -----------------------------------------------------------------

DELETED = "_sdc_deleted_at"


@pytest.mark.parametrize(
    ("kind", "config", "outcome"),
    [
        (Postgres, {}, "marked"),
        (Postgres, {"hard_delete": True}, "deleted"),
        # It knows of no ACTIVATE_VERSION.
        (DuckDb, {}, "kept"),
    ],
    ids=["Postgres", "Postgres-hard_delete", "DuckDb"],
)
def test_contacts_that_are_gone_are_deleted_on_request(
    days: Days, target: Made, kind: type[Target], config: dict[str, bool], outcome: str
) -> None:
    first, second = (days(number, emit_activate_version_messages=True) for number in (1, 2))
    there = target(kind, **config)
    for day in (first, second):
        there.load(in_full(day.run))

    rows = {row["contact_id"]: row for row in there.raw_rows()}
    gone = first.rows.keys() - second.rows.keys()
    assert gone
    assert rows.keys() == (
        second.rows.keys() if outcome == "deleted" else first.rows.keys() | second.rows.keys()
    )
    marked = {key for key, row in rows.items() if row.get(DELETED) is not None}
    assert marked == (gone if outcome == "marked" else set())


def test_an_export_that_is_not_whole_deletes_nothing(days: Days, target: Made) -> None:
    there = target(Postgres, hard_delete=True)
    first = days(1, emit_activate_version_messages=True)
    there.load(in_full(first.run))
    for fault in ("truncated-gzip", "count-high"):
        broken = days(2, "--parts", "3", "--fault", fault, emit_activate_version_messages=True)
        assert broken.run.code == 1
        assert broken.run.records
        there.load(broken.run.out)
        assert first.rows.keys() <= {row["contact_id"] for row in there.raw_rows()}


# --- INCREMENTAL ----------------------------------------------------------------------------


def test_incremental_sends_only_what_changed(tmp_path: Path, target: Made) -> None:
    tap, there = Tap(tmp_path), target(Postgres)
    state: dict[str, Any] = {}
    ran = []
    port = "0"
    for number in (1, 2):
        with serve(*SIZE, "--day", str(number), "--port", port) as sandbox:
            # A bookmark is good for the same address alone.
            port = str(urlsplit(sandbox.url).port)
            run = tap(sandbox, catalog=incremental(tap, sandbox), state=state or None)
        state = there.load(in_full(run))
        ran.append(Day(Account(CONTACTS, CUSTOM_FIELDS, day=number), run))

    first, second = ran
    last_bookmark = max(row["updated_at"] for row in first.rows.values())
    changed = {key: row for key, row in second.rows.items() if row["updated_at"] >= last_bookmark}
    assert 0 < len(changed) < CONTACTS / 4
    assert {record["contact_id"] for record in second.run.records} == changed.keys()
    no_values_yet = dict.fromkeys(second.schema["properties"])
    assert there.rows(kinds(second.schema)) == {
        key: no_values_yet | row for key, row in (first.rows | changed).items()
    }
    assert state["bookmarks"]["contacts"]["replication_key_value"] == max(
        row["updated_at"] for row in changed.values()
    )


def incremental(tap: Tap, sandbox: Sandbox) -> dict[str, Any]:
    """The catalog, with the replication method chosen in its metadata."""
    catalog = tap.discover(sandbox)
    entries = itertools.chain.from_iterable(each["metadata"] for each in catalog["streams"])
    next(entry for entry in entries if not entry["breadcrumb"])["metadata"].update(
        {"replication-method": "INCREMENTAL", "replication-key": "updated_at"}
    )
    return catalog


# --- BATCH ----------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_files_are_loaded_value_for_value(tmp_path: Path, target: Made, compression: str) -> None:
    batch_config = {
        "encoding": {"format": "jsonl", "compression": compression},
        "storage": {"root": tmp_path.as_uri(), "prefix": "contacts-files-"},
        "batch_size": 70,
    }
    with serve(*SIZE, "--parts", "2") as sandbox:
        run = Tap(tmp_path)(sandbox, batch_config=batch_config)
    day, there = Day(Account(CONTACTS, CUSTOM_FIELDS), run), target(Postgres)

    assert there.load(in_full(run)) == {"bookmarks": {"contacts": {"exports": []}}}
    assert there.rows(kinds(day.schema)) == day.rows
    assert len(run.of("BATCH")) > 2
    assert run.records == []
