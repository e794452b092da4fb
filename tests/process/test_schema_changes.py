"""Custom fields that change between two runs: renamed, deleted, created again with another type."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from sendgrid_sandbox.account import Account
from tests.expected import RESERVED, expected
from tests.harness import (
    both_file_types,
    column_types,
    contacts_read,
    deselect,
    emit_states_every,
    incremental,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.harness import Sandbox, Tap, TapRun

CONTACTS = 60
ORIGINAL = {
    "custom_company_name": "text",
    "custom_num_orders": "number",
    "custom_dob": "date",
    "custom_plan": "text",
    "custom_lifetimevalue": "number",
}
RETYPED = {
    "custom_company_name_number": "number",
    "custom_num_orders_date": "date",
    "custom_dob_text": "text",
    "custom_plan_number": "number",
    "custom_lifetimevalue_date": "date",
}
WARNING = "has another type than before"


@pytest.fixture
def original(start_sandbox: Callable[..., Sandbox]) -> Sandbox:
    return start_sandbox("--contacts", str(CONTACTS), "--parts", "2")


@pytest.fixture
def retyped(start_sandbox: Callable[..., Sandbox]) -> Sandbox:
    return start_sandbox("--contacts", str(CONTACTS), "--field-changes", "retype")


def custom_columns(run: TapRun) -> list[str]:
    assert run.code == 0, run.log
    assert all(record.keys() == run.schema["properties"].keys() for record in run.records)
    return list(run.schema["properties"])[len(RESERVED) :]


@both_file_types
@pytest.mark.parametrize("has_catalog", [False, True])
def test_other_type_is_loaded_into_another_column(
    original: Sandbox, retyped: Sandbox, tap: Tap, file_type: str, *, has_catalog: bool
) -> None:
    def run(sandbox: Sandbox, state: dict[str, Any] | None = None) -> TapRun:
        # Meltano discovers the catalog without the state.
        catalog = tap.discover(sandbox) if has_catalog else None
        return tap(sandbox, catalog=catalog, state=state, file_type=file_type)

    first = run(original)
    assert custom_columns(first) == list(ORIGINAL)
    assert column_types(first.state) == ORIGINAL

    second = run(retyped, first.state)
    assert custom_columns(second) == list(RETYPED)
    assert column_types(second.state) == ORIGINAL | RETYPED
    records = {record["contact_id"]: record for record in second.records}
    assert records == expected(Account(CONTACTS, field_changes="retype"), second.schema)
    warnings = second.lines(WARNING)
    assert len(warnings) == len(RETYPED)
    assert "custom_dob has" in warnings[2]
    assert "custom_dob_text from now on" in warnings[2]

    third = run(retyped, second.state)
    assert third.schema == second.schema
    assert third.records == second.records
    assert third.lines(WARNING) == []

    back = run(original, third.state)
    assert back.schema == first.schema
    assert back.records == first.records
    assert column_types(back.state) == column_types(third.state)
    assert back.lines(WARNING) == []


# --- catalogs that are older than the fields ----------------------------------------------------


@pytest.fixture
def yesterday(original: Sandbox, tap: Tap) -> Callable[..., dict[str, Any]]:
    """Discover a catalog before the fields change; Meltano keeps it."""
    return lambda **config: tap.discover(original, **config)


OUTPUTS: dict[str, dict[str, Any]] = {
    "records": {},
    "sdk": {"stream_maps": {"contacts": {"orders": "custom_num_orders"}}},
    "batches": {"batch_config": {"encoding": {"format": "jsonl", "compression": "none"}}},
    "separate": {"separate_exports": True},
}


@both_file_types
@pytest.mark.parametrize("output", OUTPUTS)
def test_column_of_a_deleted_field_is_left_out(
    start_sandbox: Callable[..., Sandbox],
    tap: Tap,
    tmp_path: Path,
    yesterday: Callable[..., dict[str, Any]],
    file_type: str,
    output: str,
) -> None:
    config = OUTPUTS[output] | {"file_type": file_type}
    if "batch_config" in config:
        root = {"storage": {"root": tmp_path.as_uri()}}
        config["batch_config"] = config["batch_config"] | root
    smaller = start_sandbox("--contacts", str(CONTACTS), "--custom-fields", "2")
    run = tap(smaller, catalog=yesterday(**OUTPUTS[output]), **config)
    (warning,) = run.lines("WARNING")
    assert "'custom_dob', 'custom_plan', 'custom_lifetimevalue' of the catalog" in warning
    records = run.records or [
        json.loads(line)
        for file in tmp_path.glob("*.jsonl")
        for line in file.read_bytes().splitlines()
    ]
    kept = list(ORIGINAL)[:2]
    assert [name for name in run.schema["properties"] if "custom_" in name] == kept
    assert all([name for name in each if "custom_" in name] == kept for each in records)
    assert len(records) >= CONTACTS
    assert any(each["custom_num_orders"] for each in records)


@both_file_types
@pytest.mark.parametrize("change", ["rename", "retype"])
def test_columns_of_other_fields_are_left_out(
    start_sandbox: Callable[..., Sandbox],
    tap: Tap,
    yesterday: Callable[..., dict[str, Any]],
    file_type: str,
    change: str,
) -> None:
    changed = start_sandbox("--contacts", str(CONTACTS), "--field-changes", change)
    state = {"bookmarks": {"contacts": {"columns": ORIGINAL}}}
    run = tap(changed, catalog=yesterday(), state=state, file_type=file_type)
    assert custom_columns(run) == []
    gone, new = run.lines("WARNING")
    assert all(f"'{name}'" in gone for name in ORIGINAL)
    # Once: the files have these fields too.
    assert "(not in catalog)" in new
    assert column_types(run.state) == ORIGINAL
    # A new catalog has them.
    run = tap(changed, catalog=tap.discover(changed), state=run.state, file_type=file_type)
    assert not set(custom_columns(run)) & ORIGINAL.keys()
    assert len(custom_columns(run)) == len(ORIGINAL)


def test_stale_column_in_incremental_runs_and_stream_maps(
    start_sandbox: Callable[..., Sandbox], tap: Tap, yesterday: Callable[..., dict[str, Any]]
) -> None:
    smaller = start_sandbox("--contacts", str(CONTACTS), "--custom-fields", "2")
    maps = {"contacts": {"custom_dob": "__NULL__", "orders": "custom_num_orders"}}
    run = tap(smaller, catalog=incremental(yesterday()), stream_maps=maps)
    assert not {"custom_dob", "custom_plan"} & run.records[0].keys()
    assert run.state["bookmarks"]["contacts"]["replication_key_value"]

    maps["contacts"]["orders"] = "str(custom_dob)"
    run = tap(smaller, catalog=yesterday(), stream_maps=maps, code=1)
    assert "unknown name 'custom_dob'" in run.error
    assert smaller.exports_created == 1


def test_deselected_column_stays_deselected(original: Sandbox, retyped: Sandbox, tap: Tap) -> None:
    catalog = deselect(tap.discover(retyped), "custom_dob")
    run = tap(retyped, state=tap(original).state, catalog=catalog)
    assert custom_columns(run) == [name for name in RETYPED if name != "custom_dob_text"]
    assert len(run.lines(WARNING)) == len(RETYPED) - 1


def test_column_in_a_stream_map_keeps_its_name(
    original: Sandbox, retyped: Sandbox, tap: Tap
) -> None:
    # Under another name, what is to be hidden would be loaded.
    maps = {"contacts": {"custom_dob": "__NULL__", "orders": "custom_num_orders"}}
    run = tap(retyped, state=tap(original).state, stream_maps=maps)
    others = [name for name in RETYPED if name not in {"custom_num_orders_date", "custom_dob_text"}]
    assert set(custom_columns(run)) == {*others, "custom_num_orders", "orders"}
    assert any(record["orders"] for record in run.records)
    assert column_types(run.state) == ORIGINAL | {name: RETYPED[name] for name in others}


@pytest.mark.parametrize(
    "config", [{}, {"stream_maps": {"contacts": {"custom_num_orders": "custom_num_orders"}}}]
)
def test_export_in_progress_with_other_types_is_not_resumed(
    monkeypatch: pytest.MonkeyPatch,
    start_sandbox: Callable[..., Sandbox],
    tap: Tap,
    config: dict[str, Any],
) -> None:
    emit_states_every(monkeypatch, CONTACTS)
    # Numbers as text: a text column rejects others.
    original = start_sandbox(
        *("--contacts", str(CONTACTS), "--parts", "2", "--number-format", "text")
    )
    states = tap(original, **config).states
    state = next(state for state in states if contacts_read(state) == CONTACTS // 2)
    catalog = tap.discover(original)
    properties = catalog["streams"][0]["schema"]["properties"]
    assert len(tap(original, state=copy.deepcopy(state), catalog=catalog, **config).records) == 30

    properties["custom_num_orders"]["type"] = ["string", "null"]
    run = tap(original, state=state, catalog=catalog, **config)
    assert "columns changed since the last run; starting a new export" in run.log
    assert len(run.records) == CONTACTS
    name = "custom_num_orders" if config else "custom_num_orders_text"
    assert {type(record[name]) for record in run.records} == {str, type(None)}
