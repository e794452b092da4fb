"""One export per list and segment in a run: stamped contacts, state per source, failures."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from datetime import timedelta
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any

import pytest

from sendgrid_sandbox.account import Account
from tap_sendgrid_contacts.api.http import ForbiddenError
from tap_sendgrid_contacts.run.saved import export_key
from tap_sendgrid_contacts.run.state import STATE_INTERVAL
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

    from tests.harness import Run, Sandbox, Tap

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
UNKNOWN_LIST = "00000000-0000-4000-8000-000000000000"


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
    assert run.code == 0, run.log
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
    assert run.code == 0, run.log
    assert posted(sandbox) == [audience.id for audience in ACCOUNT.lists]
    assert {record["source_name"] for record in run.records} == {
        audience.name for audience in ACCOUNT.lists if audience is not EMPTY_LIST
    }


def test_account_without_lists(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "20", "--no-audiences")
    run = tap(sandbox, separate_exports=True, emit_activate_version_messages=True)
    assert run.code == 0, run.log
    assert "The account has no lists" in run.log
    assert run.of_type("ACTIVATE_VERSION") == run.records == []
    assert sandbox.exports_created == 0


def test_ids_that_differ_in_case_are_one_source(sandbox: Sandbox, tap: Tap) -> None:
    ids = [LISTS[0].id.upper(), LISTS[0].id]
    run = tap(sandbox, separate_exports=True, list_ids=ids)
    assert run.code == 0, run.log
    assert {record["source_id"] for record in run.records} == {LISTS[0].id}
    assert sandbox.exports_created == 1


@both_file_types
def test_batches(sandbox: Sandbox, tap: Tap, tmp_path: Path, file_type: str) -> None:
    records = tap(sandbox, file_type=file_type, **SOURCES).records
    config = batch_config(tmp_path, batch_size=100)
    run = tap(sandbox, file_type=file_type, batch_config=config, **SOURCES)
    assert run.code == 0, run.log
    batches = batches_of(run)
    assert [*chain(*batches)] == records
    # No file has contacts of two sources.
    assert all(len({record["source_id"] for record in batch}) == 1 for batch in batches)


def test_incremental_has_one_bookmark(sandbox: Sandbox, tap: Tap) -> None:
    catalog = incremental(tap.discover(sandbox, separate_exports=True))
    first = tap(sandbox, catalog=catalog, **{**SOURCES, "list_ids": IDS[1:3]})
    assert first.code == 0, first.log
    bookmark = first.state["bookmarks"]["contacts"]["replication_key_value"]
    assert bookmark == max(record["updated_at"] for record in first.records)
    second = tap(sandbox, catalog=catalog, state=first.state, **SOURCES)
    assert second.code == 0, second.log
    # A list that was not in the run before is read as a whole.
    whole = keys_of(members(second.schema, IDS[0]).values())
    recent = keys_of(record for record in first.records if record["updated_at"] >= bookmark)
    assert keys_of(second.records) == whole + recent
    (warning,) = second.lines("Ignoring bookmark")
    assert f"list {IDS[0]}" in warning


def test_stream_map_sees_the_source(sandbox: Sandbox, tap: Tap) -> None:
    maps = {"contacts": {"origin": "source_type + ' ' + source_name", "source_name": None}}
    run = tap(sandbox, stream_maps=maps, **SOURCES)
    assert run.code == 0, run.log
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
    assert run.code == 0, run.log
    left_out = {"source_type", "source_name", "email"}
    for record in run.records:
        assert not left_out & record.keys()
        full = members(run.schema | {}, record["source_id"])[record["contact_id"]]
        assert record == {key: value for key, value in full.items() if key in record}


@pytest.mark.parametrize("discovered", [True, False])
def test_catalog_of_the_other_kind(sandbox: Sandbox, tap: Tap, *, discovered: bool) -> None:
    catalog = tap.discover(sandbox, separate_exports=discovered)
    run = tap(sandbox, catalog=catalog, separate_exports=not discovered)
    assert run.code == 1
    assert "separate_exports" in run.error
    assert "re-run discovery" in run.error
    assert sandbox.exports_created == 0


def test_names_without_permission_are_null(
    sandbox: Sandbox, tap: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(_client: object) -> None:
        raise ForbiddenError("GET /v3/marketing/lists: HTTP 403")

    monkeypatch.setattr("tap_sendgrid_contacts.api.client.SendGridClient.list_lists", forbidden)
    run = tap(sandbox, **SOURCES)
    assert run.code == 0, run.log
    assert {record["source_name"] for record in run.records} == {None, SEGMENT.name}
    assert "source_name is null: GET /v3/marketing/lists: HTTP 403" in run.log


# --- exports up front -----------------------------------------------------------------------


def test_exports_are_created_ahead(
    sandbox: Sandbox, tap: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tap_sendgrid_contacts.run.run.EXPORTS_AHEAD", 2)
    assert tap(sandbox, **SOURCES).code == 0
    kinds = [
        "create" if line.startswith("POST") else "read"
        for line in sandbox.log
        if line.startswith(("POST", "GET /exports"))
    ]
    assert [(kind, len([*group])) for kind, group in groupby(kinds)] == [
        ("create", 3),
        ("read", 2),
        ("create", 1),
        ("read", 6),
    ]


@pytest.mark.parametrize("limit", [1, 2])
def test_rate_limited_exports_are_created_when_another_is_ready(
    start_sandbox: Callable[..., Sandbox], tap: Tap, limit: int
) -> None:
    size = ("--contacts", str(CONTACTS), "--pending-polls", "2")
    sandbox = start_sandbox(*size, "--limit-exports", str(limit))
    run = tap(sandbox, **SOURCES)
    assert run.code == 0, run.log
    assert posted(sandbox) == IDS
    assert "creating the next exports later" in run.log
    # No retry that waits: it could not succeed before one of ours is ready.
    assert "retrying in" not in run.log
    assert "Unconfirmed" not in run.log


def test_poll_timeout_is_that_of_the_run(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "50", "--fault", "never-ready")
    run = tap(sandbox, poll_timeout=20, **SOURCES)
    assert run.code == 1
    failures = [line for line in run.errors if "timed out after 20 s (poll_timeout)" in line]
    assert len(failures) == len(IDS)
    # The first one takes all the time, the others are looked at once.
    polls = Counter(line.split()[1] for line in sandbox.log if "/exports/" in line)
    assert sorted(polls.values())[:-1] == [1, 1, 1]
    resumed = tap(sandbox, state=run.state, poll_timeout=20, **SOURCES)
    assert len(resumed.lines("Resuming Export")) == len(IDS)
    assert sandbox.exports_created == len(IDS)


def test_run_that_poll_timeout_ends_is_continued(
    start_sandbox: Callable[..., Sandbox], tap: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tap_sendgrid_contacts.run.run.EXPORTS_AHEAD", 1)
    # Some 50 seconds for each export.
    sandbox = start_sandbox("--contacts", str(CONTACTS), "--pending-polls", "8")
    first = tap(sandbox, poll_timeout=60, **SOURCES)
    assert first.code == 1
    *failures, end = first.errors
    assert [re.search(r"of list (\S+)", line)[1] for line in failures] == IDS[1:3]  # type: ignore[index]
    assert "3 of 4 exports are not complete. The next run continues this one" in end
    assert posted(sandbox) == IDS[:3]
    second = tap(sandbox, poll_timeout=600, state=first.state, **SOURCES)
    assert second.code == 0, second.log
    assert posted(sandbox) == IDS
    assert {record["source_id"] for record in first.records} == {IDS[0]}
    assert {record["source_id"] for record in second.records} == set(IDS[1:])


# --- resume ---------------------------------------------------------------------------------


@both_file_types
def test_resume_from_every_state(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, tap: Tap, file_type: str
) -> None:
    emit_states_every(monkeypatch, 50)
    config = {**SOURCES, "file_type": file_type, "emit_activate_version_messages": True}
    complete = tap(sandbox, **config)
    (activate,) = complete.of_type("ACTIVATE_VERSION")
    in_progress = complete.states[:-1]
    assert len(in_progress) > 4 * len(IDS)
    for state in in_progress:
        created = sandbox.exports_created
        run = tap(sandbox, state=state, **config)
        assert run.code == 0, run.log
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


def before_state(run: Run, state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records before one of the states."""
    end = next(i for i, message in enumerate(run.messages) if message.get("value") is state)
    return [m["record"] for m in run.messages[:end] if m["type"] == "RECORD"]


def last_state_with(run: Run, finished: int) -> dict[str, Any]:
    """Return the last state in which so many exports are finished and others are not."""
    return next(each for each in reversed(run.states[:-1]) if len(finished_in(each)) == finished)


def test_batches_are_resumed(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, tap: Tap, tmp_path: Path
) -> None:
    emit_states_every(monkeypatch, 100)
    config = {**SOURCES, "batch_config": batch_config(tmp_path, batch_size=100)}
    complete = tap(sandbox, **config)
    everything = keys_of(chain(*batches_of(complete)))
    for state in complete.states[:-1]:
        end = next(i for i, m in enumerate(complete.messages) if m.get("value") is state)
        files = sum(m["type"] == "BATCH" for m in complete.messages[:end])
        run = tap(sandbox, state=state, **config)
        assert run.code == 0, run.log
        again = keys_of(chain(*batches_of(run)))
        assert not everything - keys_of(chain(*batches_of(complete)[:files])) - again
        assert not finished_in(state) & {source_id for _, source_id in again}


def test_killed_in_the_second_source(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "30000", "--no-edge-cases")
    account = Account(30_000, edge_cases=False)
    config = {**SOURCES, "emit_activate_version_messages": True}
    sizes = [sum(1 for _ in account.members([each.id], [])) for each in LISTS]
    process = tap.start(sandbox, **config)
    process.read_lines(sizes[0] + sizes[1] * 3 // 4)
    process.send_signal(signal.SIGKILL)
    killed = process.finish(torn=True)
    assert killed.code == -signal.SIGKILL
    assert {record["source_id"] for record in killed.records} == set(IDS[:2])
    before = [line for line in sandbox.log if "field_definitions" not in line]
    sandbox.log.clear()
    run = tap(sandbox, state=killed.state, **config)
    assert run.code == 0, run.log
    emitted = keys_of(killed.records) + keys_of(run.records)
    everything = keys_of(tap(sandbox, **SOURCES).records)
    assert emitted.keys() == everything.keys()
    # What was emitted after the last STATE is emitted again, all of it of the second source.
    again = emitted - everything
    assert {source_id for _, source_id in again} <= {IDS[1]}
    assert again.total() <= STATE_INTERVAL + 1000
    assert {record["source_id"] for record in run.records} == set(IDS[1:])
    assert sum(line.startswith("POST") for line in before) == len(IDS)
    (activate,) = run.of_type("ACTIVATE_VERSION")
    versions = {m["version"] for each in (killed, run) for m in each.of_type("RECORD")}
    assert versions == {activate["version"]}


@pytest.mark.parametrize("activate", [True, False])
def test_old_run_is_not_continued(
    sandbox: Sandbox, tap: Tap, monkeypatch: pytest.MonkeyPatch, *, activate: bool
) -> None:
    emit_states_every(monkeypatch, STATE_INTERVAL)
    config = {**SOURCES, "emit_activate_version_messages": activate}
    complete = tap(sandbox, **config)
    state = last_state_with(complete, 2)
    monkeypatch.setattr("tap_sendgrid_contacts.run.state._MAX_RUN_AGE", timedelta(0))
    run = tap(sandbox, state=state, **config)
    assert run.code == 0, run.log
    assert "The interrupted run is older than 12 hours; starting a new export" in run.log
    assert keys_of(run.records) == keys_of(complete.records)


# --- ACTIVATE_VERSION -----------------------------------------------------------------------


def test_version_is_activated_once_after_the_last_source(sandbox: Sandbox, tap: Tap) -> None:
    run = tap(sandbox, emit_activate_version_messages=True, **SOURCES)
    kinds = [message["type"] for message in run.messages if message["type"] != "STATE"]
    assert kinds == ["SCHEMA", *["RECORD"] * len(run.records), "ACTIVATE_VERSION"]
    assert {m["version"] for m in run.of_type("RECORD")} == {run.messages[-2]["version"]}


def test_interrupted_run_of_a_removed_list_gets_a_new_version(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, tap: Tap
) -> None:
    emit_states_every(monkeypatch, STATE_INTERVAL)
    config = {**SOURCES, "emit_activate_version_messages": True}
    first = tap(sandbox, **config)
    state = last_state_with(first, 2)
    used = run_of(state)["version"]
    run = tap(sandbox, state=state, **{**config, "list_ids": IDS[1:3]})
    assert run.code == 0, run.log
    (activate,) = run.of_type("ACTIVATE_VERSION")
    assert activate["version"] > used
    assert {m["version"] for m in run.of_type("RECORD")} == {activate["version"]}
    kept = [record for record in first.records if record["source_id"] != IDS[0]]
    assert keys_of(run.records) == keys_of(kept)
    (counts,) = run.state["bookmarks"]["contacts"]["counts"]
    assert sources_in(counts, sandbox.url) == set(IDS[1:])


def test_list_that_was_empty_before_allows_deletes(sandbox: Sandbox, tap: Tap) -> None:
    ids = [LISTS[0].id, EMPTY_LIST.id]
    config: dict[str, Any] = {"separate_exports": True, "emit_activate_version_messages": True}
    first = tap(sandbox, list_ids=ids, **config)
    assert first.code == 0, first.log
    assert first.of_type("ACTIVATE_VERSION") == []
    run = tap(sandbox, state=first.state, list_ids=ids, **config)
    assert run.code == 0, run.log
    assert len(run.of_type("ACTIVATE_VERSION")) == 1


def test_list_that_is_unexpectedly_empty_does_not(
    start_sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    sandbox = start_sandbox("--contacts", str(CONTACTS), "--fault", "empty-once")
    config = {**SOURCES, "emit_activate_version_messages": True}
    run = tap(sandbox, **config)
    assert run.code == 0, run.log
    assert run.of_type("ACTIVATE_VERSION") == []
    (withheld,) = run.lines("ACTIVATE_VERSION withheld")
    assert f"list {IDS[0]} ({LISTS[0].name}): the export has 0 contacts" in withheld
    sandbox.inject("empty-once")
    run = tap(sandbox, max_shrink_percent=100, **config)
    assert len(run.of_type("ACTIVATE_VERSION")) == 1


# --- sources that fail ----------------------------------------------------------------------


@pytest.mark.parametrize("activate", [True, False])
def test_unknown_list_does_not_hide_the_others(
    sandbox: Sandbox, tap: Tap, *, activate: bool
) -> None:
    config: dict[str, Any] = {"emit_activate_version_messages": activate, **SOURCES}
    config["list_ids"] = [IDS[0], UNKNOWN_LIST, *IDS[1:3]]
    run = tap(sandbox, **config)
    assert run.code == 1
    assert {record["source_id"] for record in run.records} == set(IDS)
    assert run.of_type("ACTIVATE_VERSION") == []
    failure, summary = run.errors
    assert f"list {UNKNOWN_LIST}: POST /v3/marketing/contacts/exports: HTTP 4" in failure
    assert "1 of 5 exports are not complete" in summary
    assert "The next run reads all lists and segments again" in summary
    # The next run is as complete as can be, too, with a version of its own.
    again = tap(sandbox, state=run.state, **config)
    assert again.code == 1
    assert keys_of(again.records) == keys_of(run.records)
    versions = [{m.get("version") for m in each.of_type("RECORD")} for each in (run, again)]
    assert not activate or versions[0].isdisjoint(versions[1])
    fixed = tap(sandbox, state=run.state, **{**config, "list_ids": IDS[:3]})
    assert fixed.code == 0, fixed.log
    assert keys_of(fixed.records) == keys_of(run.records)
    assert len(fixed.of_type("ACTIVATE_VERSION")) == activate


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("failure", "failed: "),
        ("expired", "expired at"),
        ("export-not-found", "no longer exists"),
    ],
)
def test_failed_export_does_not_hide_the_others(
    sandbox: Sandbox, tap: Tap, fault: str, message: str
) -> None:
    config = {**SOURCES, "emit_activate_version_messages": True}
    complete = keys_of(tap(sandbox, **config).records)
    sandbox.inject(fault)
    run = tap(sandbox, **config)
    assert run.code == 1, run.log
    failure, summary = run.errors
    assert f"of list {IDS[0]} ({LISTS[0].name})" in failure
    assert message in failure
    assert "1 of 4 exports are not complete" in summary
    assert "The next run reads all lists and segments again" in summary
    assert {record["source_id"] for record in run.records} == set(IDS[1:])
    assert run.of_type("ACTIVATE_VERSION") == []
    again = tap(sandbox, state=run.state, **config)
    assert again.code == 0, again.log
    assert keys_of(again.records) == complete
    assert len(again.of_type("ACTIVATE_VERSION")) == 1


@pytest.mark.parametrize("fault", ["bad-line", "count-high", "copied-part", "truncated-gzip"])
def test_every_export_with_bad_data_is_named(
    start_sandbox: Callable[..., Sandbox], tap: Tap, fault: str
) -> None:
    sandbox = start_sandbox("--contacts", str(CONTACTS), "--parts", "2", "--fault", fault)
    run = tap(sandbox, **SOURCES)
    assert run.code == 1
    *failures, summary = run.errors
    assert "4 of 4 exports are not complete" in summary
    assert [any(source_id in line for line in failures) for source_id in IDS] == [True] * 4
    assert "Traceback" not in run.log


def test_rejected_key_ends_the_run(sandbox: Sandbox, tap: Tap) -> None:
    catalog = tap.discover(sandbox, separate_exports=True)
    sandbox.inject("forbidden")
    run = tap(sandbox, catalog=catalog, **SOURCES)
    assert run.code == 1
    assert "HTTP 403" in run.error
