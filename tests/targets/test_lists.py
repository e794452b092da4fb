"""Overlapping lists in a table, and what the documented SQL says about them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from sendgrid_sandbox.account import Account
from tests.harness import Tap, run_sandbox
from tests.targets.days import starting_at
from tests.targets.targets import (
    ROOT,
    Database,
    DuckDb,
    Postgres,
    Row,
    column_types,
    expected_rows,
    stored_rows,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sendgrid_sandbox.account import ContactGroup
    from tests.harness import TapRun

Rows = dict[Any, Row]

pytestmark = [pytest.mark.targets, pytest.mark.xdist_group("targets")]

YESTERDAY, TODAY = (Account(1000, 0, day=day) for day in (1, 2))
CUSTOMERS, NEWSLETTER, *_ = TODAY.lists
SOURCES = [*TODAY.lists[:3], TODAY.segments[0]]
CONFIG: dict[str, Any] = {
    "separate_exports": True,
    "list_ids": [each.id for each in TODAY.lists[:3]],
    "segment_ids": [TODAY.segments[0].id],
    "emit_activate_version_messages": True,
}

PAGE = (ROOT / "docs" / "lists.md").read_text()
QUERIES = re.findall(r"^```sql\n(.*?);\n```$", PAGE, re.MULTILINE | re.DOTALL)
POSTGRES_VIEW, DUCKDB_VIEW, ON_BOTH, LEFT_IN_POSTGRES, LEFT_IN_DUCKDB = QUERIES
ON_BOTH_RESULT, LEFT_RESULT = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[TapRun]:
    """A run of yesterday, and one of today."""
    tap = Tap(tmp_path_factory.mktemp("tap"))
    runs = []
    for account, start in ((YESTERDAY, 1_800_000_000), (TODAY, 1_800_086_400)):
        options = ("--contacts", "1000", "--custom-fields", "0", "--day", str(account.day))
        with starting_at(start), run_sandbox(*options) as sandbox:
            runs.append(tap(sandbox, **CONFIG))
    return runs


def expected_members(account: Account, source: ContactGroup, schema: dict[str, Any]) -> Rows:
    """Return the rows of a list or segment, by contact and source."""
    kind = "list" if source in account.lists else "segment"
    stamp = {"source_type": kind, "source_id": source.id, "source_name": source.name}
    rows = expected_rows(account, schema, **{f"{kind}_ids": [source.id]})
    return {(key, source.id): row | stamp for key, row in rows.items()}


def as_text(rows: list[Row]) -> str:
    """Return rows as the documentation shows them."""
    first = [f"{row['contact_id']} | {row['email'] or 'NULL'}" for row in rows[:3]]
    return "\n".join([*first, *["…"] * (len(rows) > len(first)), f"({len(rows)} rows)", ""])


@pytest.mark.parametrize(
    ("kind", "config", "view", "left"),
    [
        (
            Postgres,
            {"use_copy": True, "validate_records": False},
            POSTGRES_VIEW,
            LEFT_IN_POSTGRES,
        ),
        (DuckDb, {"add_metadata_columns": True}, DUCKDB_VIEW, LEFT_IN_DUCKDB),
    ],
    ids=["Postgres", "DuckDb"],
)
def test_overlapping_lists(
    runs: list[TapRun],
    target: Callable[..., Any],
    kind: type[Database],
    config: dict[str, Any],
    view: str,
    left: str,
) -> None:
    loaded: Database = target(kind, **config)
    rows: Rows = {}
    for account, run in zip((YESTERDAY, TODAY), runs, strict=True):
        # As if a day were between the two.
        time = f"2026-01-0{account.day}T03:00:00Z".encode()
        loaded.load(re.sub(rb'(?<="time_extracted":")[^"]+', time, run.out))
        for source in SOURCES:
            rows |= expected_members(account, source, run.schema)
    columns = column_types(runs[-1].schema)
    assert columns.keys() >= {"source_type", "source_id", "source_name"}
    stored = {(row["contact_id"], row["source_id"]): row for row in loaded.parsed_rows(columns)}
    assert stored == stored_rows(loaded, rows, columns)
    assert len(loaded.raw_rows()) == len(rows)

    def query(sql: str) -> list[Row]:
        members = view.strip().removeprefix("CREATE VIEW sendgrid_lists.members AS")
        sql = sql.replace("sendgrid_lists.members", "members")
        sql = f"WITH members AS ({members}) SELECT to_json(c) FROM ({sql}) c"  # noqa: S608
        return loaded.query(sql.replace("sendgrid_lists.", f"{loaded.schema}."))

    def ids(account: Account, source: ContactGroup) -> set[object]:
        return {contact.values["contact_id"] for contact in account.members([source.id])}

    on_both = query(ON_BOTH)
    assert {row["contact_id"] for row in on_both} == ids(TODAY, CUSTOMERS) & ids(TODAY, NEWSLETTER)
    assert as_text(on_both) == ON_BOTH_RESULT
    left_newsletter = query(left)
    assert {row["contact_id"] for row in left_newsletter} == (
        ids(YESTERDAY, NEWSLETTER) - ids(TODAY, NEWSLETTER)
    )
    assert as_text(left_newsletter) == LEFT_RESULT
