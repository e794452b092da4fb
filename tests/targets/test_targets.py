"""Targets fed with the tap's output: deletes and INCREMENTAL; validators of messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from sendgrid_sandbox import values as pool
from sendgrid_sandbox.account import Account
from tests.expected import RESERVED
from tests.harness import Tap, incremental, run_sandbox
from tests.targets.days import CONTACTS, SIZE, Day
from tests.targets.targets import (
    CUSTOM_FIELDS,
    SINGER_TOOLS,
    TARGET_STITCH,
    Database,
    DuckDb,
    Postgres,
    Row,
    Target,
    column_types,
    pipe_to,
    stored_rows,
    tool_venv,
)

if TYPE_CHECKING:
    from pathlib import Path

    from sendgrid_sandbox.fields import FieldChanges
    from tests.targets.days import Days

# One database server for all of them.
pytestmark = [pytest.mark.targets, pytest.mark.xdist_group("targets")]

NOBODY = Account().lists[-1].id
MakeTarget = Callable[..., Any]


# --- validators -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "command", "verdict"),
    [
        (SINGER_TOOLS, ["singer-check-tap"], "The output is valid"),
        (TARGET_STITCH, ["target-stitch", "--dry-run"], '"run": []'),
    ],
    ids=["singer-check-tap", "target-stitch"],
)
def test_output_passes_validators(
    tmp_path: Path, days: Days, tool: str, command: list[str], verdict: str
) -> None:
    program, *options = command
    day = days(1)
    assert verdict in pipe_to([tool_venv(tool) / program, *options], day.messages, tmp_path)
    # So they would pass those of a CSV export: they are the same.
    from_csv = days(1, file_type="csv").run
    assert from_csv.of_type("SCHEMA") == day.run.of_type("SCHEMA")
    assert from_csv.records == day.run.records
    # The account's address differs: each day has a sandbox of its own.
    columns = [each["bookmarks"]["contacts"]["columns"] for each in (from_csv.state, day.run.state)]
    assert columns[0] == columns[1]


def test_the_account_has_every_edge_case() -> None:
    contacts = Account(CONTACTS, CUSTOM_FIELDS).members()
    values = [value for contact in contacts for value in (contact.values | contact.custom).values()]
    for edge_cases in (
        pool.EDGE_CASE_TEXTS,
        pool.EDGE_CASE_NUMBERS,
        pool.EDGE_CASE_DATES,
        [pool.LONG_TEXT],
    ):
        assert all(value in values for value in edge_cases)


# --- deletes --------------------------------------------------------------------------------


def test_contacts_that_left_are_deleted_only_after_complete_exports(
    days: Days, target: MakeTarget
) -> None:
    first, second = (days(number, emit_activate_version_messages=True) for number in (1, 2))
    postgres = target(Postgres, hard_delete=True)
    postgres.load(first.messages)
    columns = column_types(first.schema)
    assert postgres.rows(columns) == first.rows

    # Nobody is in this list: an export of 0 contacts, as while a list is being refilled.
    before = postgres.raw_rows()
    empty = days(1, list_ids=[NOBODY], emit_activate_version_messages=True)
    assert "ACTIVATE_VERSION withheld: the export is empty" in empty.run.log
    postgres.load(empty.messages)
    assert postgres.raw_rows() == before

    incomplete = [
        days(2, "--parts", "3", "--fault", fault, emit_activate_version_messages=True, code=1).run
        for fault in ("truncated-gzip", "count-high")
    ]
    assert all(run.records for run in incomplete)
    postgres.load(b"".join(run.out for run in incomplete))
    keys = {row["contact_id"] for row in postgres.raw_rows()}
    assert first.rows.keys() < keys <= first.rows.keys() | second.rows.keys()

    postgres.load(second.messages)
    assert first.rows.keys() - second.rows.keys()
    assert postgres.rows(column_types(second.schema)) == second.rows

    wiped = days(2, list_ids=[NOBODY], emit_activate_version_messages=True, max_shrink_percent=100)
    postgres.load(wiped.messages)
    assert postgres.raw_rows() == []


@pytest.mark.parametrize(
    ("kind", "config", "marks_deleted"),
    [
        # The settings for large loads.
        (Postgres, {"use_copy": True, "validate_records": False}, True),
        # It ignores ACTIVATE_VERSION.
        (DuckDb, {}, False),
    ],
    ids=["Postgres-use_copy", "DuckDb"],
)
def test_contacts_that_left_are_kept_without_hard_delete(
    days: Days,
    target: MakeTarget,
    kind: type[Target],
    config: dict[str, Any],
    *,
    marks_deleted: bool,
) -> None:
    first, second = (days(number, emit_activate_version_messages=True) for number in (1, 2))
    loaded = target(kind, **config)
    rows: dict[str, Row] = {}
    for day in (first, second):
        loaded.load(day.messages)
        rows |= day.rows
        columns = column_types(day.schema)
        assert loaded.rows(columns) == stored_rows(loaded, rows, columns)

    left = first.rows.keys() - second.rows.keys()
    assert left
    marked = {row["contact_id"] for row in loaded.raw_rows() if row.get("_sdc_deleted_at")}
    assert marked == (left if marks_deleted else set())


# --- custom fields that change ------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Postgres, DuckDb], ids=lambda kind: kind.__name__)
def test_no_change_of_custom_fields_ends_a_load(
    tmp_path: Path, target: MakeTarget, kind: type[Database]
) -> None:
    tap, loaded = Tap(tmp_path), target(kind)
    rows: dict[str, Row] = {}
    columns: dict[str, Any] = {}
    state: dict[str, Any] | None = None
    # On day 2, half of the fields are renamed and the others deleted.
    accounts: tuple[tuple[FieldChanges, int], ...] = (("none", 6), ("rename", 3), ("retype", 3))
    for changes, custom_fields in accounts:
        options = ("--custom-fields", str(custom_fields), "--field-changes", changes)
        with run_sandbox("--contacts", "60", *options) as sandbox:
            # Meltano discovers the catalog without the state.
            run = tap(sandbox, catalog=tap.discover(sandbox), state=state)
        day = Day(Account(60, custom_fields, field_changes=changes), run)
        state = loaded.load(day.messages)
        # What is no longer exported keeps its values.
        rows = {key: {**rows.get(key, {}), **row} for key, row in day.rows.items()}
        columns |= column_types(day.schema)
        assert loaded.rows(columns) == stored_rows(loaded, rows, columns)
        assert loaded.columns() == {name: loaded.types[each] for name, each in columns.items()}
    assert len(columns) == len(RESERVED) + 6 + 3 + 3


@pytest.mark.parametrize("kind", [Postgres, DuckDb], ids=lambda kind: kind.__name__)
def test_catalog_of_yesterday_overwrites_nothing(
    tmp_path: Path, target: MakeTarget, kind: type[Database]
) -> None:
    tap, loaded = Tap(tmp_path), target(kind)
    catalog: dict[str, Any] | None = None
    state: dict[str, Any] | None = None
    days = []
    for custom_fields in (6, 2):
        with run_sandbox("--contacts", "60", "--custom-fields", str(custom_fields)) as sandbox:
            catalog = catalog or tap.discover(sandbox)
            run = tap(sandbox, catalog=catalog, state=state)
        days.append(Day(Account(60, custom_fields), run))
        state = loaded.load(days[-1].messages)
    first, second = days
    rows = {key: {**first.rows[key], **row} for key, row in second.rows.items()}
    columns = column_types(first.schema)
    assert len(columns) == len(column_types(second.schema)) + 4
    assert loaded.rows(columns) == stored_rows(loaded, rows, columns)
    assert {name for row in rows.values() for name in row if row[name] is not None} == {*columns}


# --- INCREMENTAL ----------------------------------------------------------------------------


def test_incremental_emits_only_what_changed(tmp_path: Path, target: MakeTarget) -> None:
    tap, postgres = Tap(tmp_path), target(Postgres)
    state: dict[str, Any] = {}
    days = []
    port = "0"
    for number in (1, 2):
        with run_sandbox(*SIZE, "--day", str(number), "--port", port) as sandbox:
            # A bookmark is valid only for the same API URL.
            port = str(urlsplit(sandbox.url).port)
            run = tap(sandbox, catalog=incremental(tap.discover(sandbox)), state=state or None)
        day = Day(Account(CONTACTS, CUSTOM_FIELDS, day=number), run)
        state = postgres.load(day.messages)
        days.append(day)

    first, second = days
    last_bookmark = max(row["updated_at"] for row in first.rows.values())
    changed = {key: row for key, row in second.rows.items() if row["updated_at"] >= last_bookmark}
    assert 0 < len(changed) < CONTACTS / 4
    assert {record["contact_id"] for record in second.run.records} == changed.keys()
    columns = column_types(second.schema)
    assert postgres.rows(columns) == stored_rows(postgres, first.rows | changed, columns)
    assert state["bookmarks"]["contacts"]["replication_key_value"] == max(
        row["updated_at"] for row in changed.values()
    )
