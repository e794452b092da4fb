"""One export per list and segment in a run: stamped contacts, state per source, failures."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any

import pytest

from sendgrid_sandbox.account import Account
from tap_sendgrid_contacts.api.http import ForbiddenError
from tap_sendgrid_contacts.run.saved import export_key
from tests.expected import RESERVED, expected
from tests.harness import (
    both_file_types,
    deselect,
    emit_states_every,
    incremental,
    is_complete,
    run_of,
)
from tests.process.test_batches import batch_config, batches_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.harness import Sandbox, Tap, TapRun

CONTACTS = 600
ACCOUNT = Account(CONTACTS)
# Three lists that overlap, and a segment.
LISTS = ACCOUNT.lists[:3]
SEGMENT = ACCOUNT.segments[0]
IDS = [audience.id for audience in (*LISTS, SEGMENT)]
EMPTY_LIST = ACCOUNT.lists[4]
SOURCES: dict[str, Any] = {
    "separate_exports": True,
    "list_ids": [audience.id for audience in LISTS],
    "segment_ids": [SEGMENT.id],
}
STAMP = ["source_type", "source_id", "source_name"]


@pytest.fixture
def sandbox(start_sandbox: Callable[..., Sandbox]) -> Sandbox:
    return start_sandbox("--contacts", str(CONTACTS), "--parts", "2")


def members(schema: dict[str, Any], source_id: str) -> dict[Any, dict[str, Any]]:
    """Return the records of one source."""
    name = next(each.name for each in (*ACCOUNT.lists, SEGMENT) if each.id == source_id)
    kind = "segment" if source_id == SEGMENT.id else "list"
    stamp = dict(zip(STAMP, (kind, source_id, name), strict=True))
    ids = {f"{kind}_ids": [source_id]}
    return {key: {**record, **stamp} for key, record in expected(ACCOUNT, schema, **ids).items()}


def keys_of(records: Iterable[dict[str, Any]]) -> Counter[tuple[str, str]]:
    return Counter((record["contact_id"], record["source_id"]) for record in records)


def sources_in(exports: Iterable[str], api_url: str) -> set[str]:
    """Return the sources of exports in a state."""
    keys = {
        export_key(api_url, None, *(((), (each,)) if each == SEGMENT.id else ((each,), ()))): each
        for each in (*IDS, EMPTY_LIST.id)
    }
    return {keys[key] for key in exports}


def finished_in(state: dict[str, Any]) -> set[str]:
    """Return the sources whose export is finished in the state of an interrupted run."""
    run = run_of(state)
    return sources_in(run.get("finished", {}), run["fingerprint"]["api_url"])


def in_flight_in(state: dict[str, Any]) -> set[str]:
    """Return the sources whose export is requested, but not finished."""
    run = run_of(state)
    return sources_in(run["exports"], run["fingerprint"]["api_url"])


def posted(sandbox: Sandbox) -> list[str]:
    """Return the source of each export that was created, in order."""
    bodies = [
        json.loads(line.partition("{")[1] + line.partition("{")[2])
        for line in sandbox.log
        if line.startswith("POST /v3/marketing/contacts/exports 202")
    ]
    return [(body.get("list_ids") or body["segment_ids"])[0] for body in bodies]


# --- records --------------------------------------------------------------------------------


@both_file_types
def test_contacts_are_stamped_with_their_source(sandbox: Sandbox, tap: Tap, file_type: str) -> None:
    run = tap(sandbox, file_type=file_type, **SOURCES)
    (schema,) = run.of_type("SCHEMA")
    assert schema["key_properties"] == ["contact_id", "source_id"]
    custom = [name for name in run.schema["properties"] if name.startswith("custom_")]
    columns = [*RESERVED, *STAMP, *custom]
    assert list(run.schema["properties"]) == columns
    assert {tuple(record) for record in run.records} == {tuple(columns)}
    # Source after source, in the order of the settings.
    assert [source for source, _ in groupby(r["source_id"] for r in run.records)] == IDS
    for source_id in IDS:
        records = [record for record in run.records if record["source_id"] == source_id]
        assert {r["contact_id"]: r for r in records} == members(run.schema, source_id)
        assert len(records) == len(members(run.schema, source_id))
    assert posted(sandbox) == IDS
    assert is_complete(run.state)
    (counts,) = run.state["bookmarks"]["contacts"]["counts"]
    assert sources_in(counts, sandbox.url) == set(IDS)
    assert [*counts.values()] == [len(members(run.schema, source_id)) for source_id in IDS]


def test_without_lists_and_segments_each_list_of_the_account_is_exported(
    sandbox: Sandbox, tap: Tap
) -> None:
    run = tap(sandbox, separate_exports=True)
    assert posted(sandbox) == [audience.id for audience in ACCOUNT.lists]
    assert {record["source_name"] for record in run.records} == {
        audience.name for audience in ACCOUNT.lists if audience is not EMPTY_LIST
    }


def test_account_without_lists(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "20", "--no-audiences")
    run = tap(sandbox, separate_exports=True, emit_activate_version_messages=True)
    assert "The account has no lists" in run.log
    assert run.of_type("ACTIVATE_VERSION") == run.records == []
    assert sandbox.exports_created == 0


@both_file_types
def test_batches(sandbox: Sandbox, tap: Tap, tmp_path: Path, file_type: str) -> None:
    records = tap(sandbox, file_type=file_type, **SOURCES).records
    config = batch_config(tmp_path, batch_size=100)
    run = tap(sandbox, file_type=file_type, batch_config=config, **SOURCES)
    batches = batches_of(run)
    assert [*chain(*batches)] == records
    # No file has contacts of two sources.
    assert all(len({record["source_id"] for record in batch}) == 1 for batch in batches)


def test_incremental_has_one_bookmark(sandbox: Sandbox, tap: Tap) -> None:
    catalog = incremental(tap.discover(sandbox, separate_exports=True))
    first = tap(sandbox, catalog=catalog, **{**SOURCES, "list_ids": IDS[1:3]})
    bookmark = first.state["bookmarks"]["contacts"]["replication_key_value"]
    assert bookmark == max(record["updated_at"] for record in first.records)
    second = tap(sandbox, catalog=catalog, state=first.state, **SOURCES)
    # A list that was not in the run before is read as a whole.
    whole = keys_of(members(second.schema, IDS[0]).values())
    recent = keys_of(record for record in first.records if record["updated_at"] >= bookmark)
    assert keys_of(second.records) == whole + recent
    (warning,) = second.lines("Ignoring bookmark")
    assert f"list {IDS[0]}" in warning


def test_stream_map_sees_the_source(sandbox: Sandbox, tap: Tap) -> None:
    maps = {"contacts": {"origin": "source_type + ' ' + source_name", "source_name": None}}
    run = tap(sandbox, stream_maps=maps, **SOURCES)
    assert {record["origin"] for record in run.records} == {
        *(f"list {audience.name}" for audience in LISTS),
        f"segment {SEGMENT.name}",
    }
    assert not any("source_name" in record for record in run.records)


@both_file_types
def test_selection(sandbox: Sandbox, tap: Tap, file_type: str) -> None:
    catalog = tap.discover(sandbox, separate_exports=True)
    deselect(catalog, "source_type", "source_id", "source_name", "email", "contact_id")
    run = tap(sandbox, catalog=catalog, file_type=file_type, **SOURCES)
    left_out = {"source_type", "source_name", "email"}
    full = {source_id: members(run.schema, source_id) for source_id in IDS}
    for record in run.records:
        assert not left_out & record.keys()
        expected_record = full[record["source_id"]][record["contact_id"]]
        assert record == {key: expected_record[key] for key in record}


def test_names_without_permission_are_null(
    sandbox: Sandbox, tap: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(_client: object) -> None:
        raise ForbiddenError("GET /v3/marketing/lists: HTTP 403")

    monkeypatch.setattr("tap_sendgrid_contacts.api.client.SendGridClient.list_lists", forbidden)
    run = tap(sandbox, **SOURCES)
    assert {record["source_name"] for record in run.records} == {None, SEGMENT.name}
    assert "source_name is null: GET /v3/marketing/lists: HTTP 403" in run.log


# --- resume ---------------------------------------------------------------------------------


def test_resume_from_every_state(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, tap: Tap
) -> None:
    emit_states_every(monkeypatch, 100)
    config = {**SOURCES, "emit_activate_version_messages": True}
    complete = tap(sandbox, **config)
    (activate,) = complete.of_type("ACTIVATE_VERSION")
    in_progress = complete.states[:-1]
    assert len(in_progress) > 3 * len(IDS)
    for state in in_progress:
        created = sandbox.exports_created
        run = tap(sandbox, state=state, **config)
        assert run.states[0] == state
        before = before_state(complete, state)
        assert keys_of(before) + keys_of(run.records) == keys_of(complete.records)
        finished = finished_in(state)
        missing = set(IDS) - finished - in_flight_in(state)
        assert sandbox.exports_created - created == len(missing)
        assert not finished & {record["source_id"] for record in run.records}
        (last,) = run.of_type("ACTIVATE_VERSION")
        assert (last == activate) == bool(before)
        assert {m["version"] for m in run.of_type("RECORD")} <= {last["version"]}
        assert is_complete(run.state)


def before_state(run: TapRun, state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records before one of the states."""
    end = next(i for i, message in enumerate(run.messages) if message.get("value") is state)
    return [m["record"] for m in run.messages[:end] if m["type"] == "RECORD"]


# --- ACTIVATE_VERSION -----------------------------------------------------------------------


def test_version_is_activated_once_after_the_last_source(sandbox: Sandbox, tap: Tap) -> None:
    run = tap(sandbox, emit_activate_version_messages=True, **SOURCES)
    kinds = [message["type"] for message in run.messages if message["type"] != "STATE"]
    assert kinds == ["SCHEMA", *["RECORD"] * len(run.records), "ACTIVATE_VERSION"]
    assert {m["version"] for m in run.of_type("RECORD")} == {run.messages[-2]["version"]}


# --- sources that fail ----------------------------------------------------------------------


def test_failed_export_does_not_hide_the_others(sandbox: Sandbox, tap: Tap) -> None:
    config = {**SOURCES, "emit_activate_version_messages": True}
    complete = keys_of(tap(sandbox, **config).records)
    sandbox.inject("expired")
    run = tap(sandbox, **config, code=1)
    failure, summary = run.errors
    assert f"of list {IDS[0]} ({LISTS[0].name})" in failure
    assert "expired at" in failure
    assert "1 of 4 exports are not complete" in summary
    assert "The next run reads all lists and segments again" in summary
    assert {record["source_id"] for record in run.records} == set(IDS[1:])
    assert run.of_type("ACTIVATE_VERSION") == []
    again = tap(sandbox, state=run.state, **config)
    assert keys_of(again.records) == complete
    assert len(again.of_type("ACTIVATE_VERSION")) == 1
