"""INCREMENTAL replication, chosen in the catalog's metadata as Meltano and users do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tap_sendgrid_contacts.run.saved import export_key
from tests.harness import both_file_types, contacts_read, incremental

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Sandbox, Tap, TapRun


def bookmark_of(run: TapRun) -> str:
    bookmark: str = run.state["bookmarks"]["contacts"]["replication_key_value"]
    return bookmark


@both_file_types
def test_second_run_emits_changes(
    start_sandbox: Callable[..., Sandbox], tap: Tap, file_type: str
) -> None:
    first_day = start_sandbox("--contacts", "300")
    catalog = incremental(tap.discover(first_day))
    first = tap(first_day, catalog=catalog, file_type=file_type)
    assert len(first.records) == 300
    (caveat,) = first.lines("INCREMENTAL misses")
    assert "INFO" in caveat
    assert "FULL_TABLE with emit_activate_version_messages" in caveat
    assert bookmark_of(first) == max(record["updated_at"] for record in first.records)
    state = first.state
    second_day = start_sandbox("--contacts", "300", "--day", "2")
    # The same account, at another URL.
    key = export_key(second_day.url, None, (), ())
    state["bookmarks"]["contacts"]["counts"] = [{key: 300}]
    second = tap(second_day, catalog=catalog, state=state, file_type=file_type)
    assert 0 < len(second.records) < 100
    full = tap(second_day)
    changed = {r["contact_id"] for r in full.records if r["updated_at"] >= bookmark_of(first)}
    assert {record["contact_id"] for record in second.records} == changed


@pytest.mark.parametrize("start_date", ["2020-06-01T00:00:00Z", "2020-06-01", "06/01/2020"])
def test_start_date(start_sandbox: Callable[..., Sandbox], tap: Tap, start_date: str) -> None:
    sandbox = start_sandbox("--contacts", "300")
    catalog = incremental(tap.discover(sandbox))
    run = tap(sandbox, catalog=catalog, start_date=start_date)
    assert 0 < len(run.records) < 300
    assert min(record["updated_at"] for record in run.records) >= "2020-06-01"
    again = tap(sandbox, catalog=catalog, start_date=start_date, state=run.state)
    assert {record["updated_at"] for record in again.records} == {bookmark_of(run)}


def test_updated_at_must_be_a_date(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "5")
    catalog = incremental(tap.discover(sandbox))
    del catalog["streams"][0]["schema"]["properties"]["updated_at"]["format"]
    run = tap(sandbox, catalog=catalog, code=1)
    assert "'updated_at' is not of type date-time" in run.error
    assert sandbox.exports_created == 0


def test_activate_version_is_ignored(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "20")
    catalog = incremental(tap.discover(sandbox))
    run = tap(sandbox, catalog=catalog, emit_activate_version_messages=True)
    assert run.of_type("ACTIVATE_VERSION") == []
    assert "Ignoring emit_activate_version_messages in INCREMENTAL mode" in run.log


def test_states_count_contacts_read(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    # One part, few contacts to emit: a STATE every 10,000 read all the same.
    sandbox = start_sandbox("--contacts", "21000", "--no-edge-cases")
    config: dict[str, Any] = {"catalog": incremental(tap.discover(sandbox))}
    run = tap(sandbox, **config, start_date="2999-01-01")
    assert run.records == []
    offsets = [offset for state in run.states if 0 < (offset := contacts_read(state)) < 21_000]
    assert [round(offset, -3) for offset in offsets] == [10_000, 20_000]
    assert offsets[0] <= 10_000
    resumed = tap(sandbox, **config, start_date="2999-01-01", state=run.states[3])
    assert f"skipping {offsets[1]} already emitted contacts" in resumed.log
    assert bookmark_of(resumed) == bookmark_of(run)
