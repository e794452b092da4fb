"""Resumed runs: one export, no contact lost, few emitted again."""

from __future__ import annotations

import random
import signal
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from sendgrid_sandbox.account import Account
from tap_sendgrid_contacts.run.state import STATE_INTERVAL
from tests.harness import (
    Sandbox,
    Tap,
    both_file_types,
    checkpoint_of,
    contacts_read,
    deselect,
    emit_states_every,
    incremental,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def first_checkpoint(state: dict[str, Any]) -> dict[str, Any]:
    saved = checkpoint_of(state)
    assert saved is not None
    return saved


# --- in any state -----------------------------------------------------------------------------


@both_file_types
def test_resume_from_every_state(
    monkeypatch: pytest.MonkeyPatch,
    start_sandbox: Callable[..., Sandbox],
    tap: Tap,
    file_type: str,
) -> None:
    # At the end of each part, and within.
    emit_states_every(monkeypatch, 500)
    size = ("--contacts", "3000", "--no-edge-cases", "--parts", "3")
    # The order of the URLs changes from run to run.
    sandbox = start_sandbox(*size, "--fault", "shuffled-parts")
    config: dict[str, Any] = {"file_type": file_type, "emit_activate_version_messages": True}
    complete = tap(sandbox, **config)
    assert complete.contact_ids.total() == 3000
    assert len(complete.states) > 6
    assert any("part_digest" in first_checkpoint(state) for state in complete.states[:-1])
    (activate,) = complete.of_type("ACTIVATE_VERSION")
    for state in complete.states[:-1]:
        run = tap(sandbox, state=state, **config)
        # Nothing is lost, and nothing is emitted again.
        assert complete.ids_before(state) + run.contact_ids == complete.contact_ids
        assert run.checkpoint is None
        versions = {message["version"] for message in run.of_type("RECORD")}
        (last,) = run.of_type("ACTIVATE_VERSION")
        assert versions <= {last["version"]}
        if contacts_read(state):
            assert last == activate
        else:
            # A target may have activated that of the state, and kept no later STATE.
            assert last["version"] > activate["version"]
        if "export_id" in first_checkpoint(state):
            (resumed,) = run.lines("Resuming Export")
            assert first_checkpoint(state)["requested_at"][:10] in resumed
            assert f"{contacts_read(state)} contacts already emitted" in resumed
    assert sandbox.exports_created == 1


def test_killed_at_random(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    contacts = 12_000
    size = ("--contacts", str(contacts), "--no-edge-cases", "--parts", "3")
    sandbox = start_sandbox(*size, "--fault", "shuffled-parts")
    everyone = {contact.values["contact_id"] for contact in Account(contacts, edge_cases=False)}
    chance = random.Random(0)
    # Before the STATE of the first 10,000 contacts, and after it.
    kills = [chance.randrange(*range_) for range_ in ((2, 9_000), (10_100, 11_500))]
    state: dict[str, Any] | None = None
    emitted: Counter[str] = Counter()
    versions: dict[int, set[str]] = {}
    killed = 0
    for lines in [*kills, sys.maxsize]:
        process = tap.start(sandbox, emit_activate_version_messages=True, state=state)
        process.read_lines(lines)
        process.send_signal(signal.SIGKILL)
        run = process.finish(torn=True)
        killed += run.code == -signal.SIGKILL
        emitted += run.contact_ids
        for message in run.of_type("RECORD"):
            versions.setdefault(message["version"], set()).add(message["record"]["contact_id"])
        if run.of_type("STATE"):
            state = run.state
            if run.checkpoint is None:
                break
    assert run.checkpoint is None, run.log
    assert emitted.keys() == everyone
    again = emitted.total() - len(everyone)
    assert again <= len(kills) * STATE_INTERVAL
    (activate,) = run.of_type("ACTIVATE_VERSION")
    # Contacts of other versions would be deleted.
    assert versions[activate["version"]] == everyone
    assert sandbox.exports_created == 1
    assert killed


# --- a new export -----------------------------------------------------------------------------


class TestNewExport:
    """Where the state's export cannot be had, or another one is requested."""

    @pytest.fixture
    def sandbox(self, start_sandbox: Callable[..., Sandbox]) -> Sandbox:
        return start_sandbox("--contacts", "50", "--no-edge-cases", "--parts", "2")

    @pytest.fixture
    def state(self, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, tap: Tap) -> dict[str, Any]:
        """The state after the first of two parts."""
        emit_states_every(monkeypatch, STATE_INTERVAL)
        run = tap(sandbox)
        (state,) = (state for state in run.states if 0 < contacts_read(state) < 50)
        return state

    @pytest.mark.parametrize(
        ("setting", "value", "changed"),
        [
            ("list_ids", [Account(50).lists[0].id], "list_ids"),
            ("segment_ids", [Account(50).segments[0].id], "segment_ids"),
            ("file_type", "csv", "file_type"),
            ("on_behalf_of", "subuser", "on_behalf_of"),
            ("emit_activate_version_messages", True, "activate_version"),
            ("start_date", "2020-01-01T00:00:00Z", "start_date"),
            ("stream_maps", {"contacts": {"email": "__NULL__"}}, "stream_maps"),
            ("stream_map_config", {"hash_seed": "1"}, "stream_maps"),
            ("flattening_max_depth", 2, "stream_maps"),
        ],
    )
    def test_changed_setting(
        self,
        sandbox: Sandbox,
        tap: Tap,
        state: dict[str, Any],
        setting: str,
        value: object,
        changed: str,
    ) -> None:
        config: dict[str, Any] = {setting: value}
        run = tap(sandbox, state=state, **config)
        assert f"{changed} changed since the last run; starting a new export" in run.log
        assert sandbox.exports_created == 2
        if not setting.endswith("_ids"):
            assert len(run.records) == 50

    @pytest.mark.parametrize(
        ("setting", "value"),
        [("poll_timeout", 60), ("max_file_size", 7), ("allow_count_mismatch", True)],
    )
    def test_other_settings_resume(
        self, sandbox: Sandbox, tap: Tap, state: dict[str, Any], setting: str, value: object
    ) -> None:
        config: dict[str, Any] = {setting: value}
        run = tap(sandbox, state=state, **config)
        assert len(run.records) == 50 - contacts_read(state)
        assert sandbox.exports_created == 1

    def test_changed_selection(self, sandbox: Sandbox, tap: Tap, state: dict[str, Any]) -> None:
        catalog = tap.discover(sandbox)
        # All columns, as without a catalog.
        assert len(tap(sandbox, catalog=catalog, state=state).records) < 50
        assert sandbox.exports_created == 1
        run = tap(sandbox, catalog=deselect(catalog, "city"), state=state)
        assert "columns changed since the last run; starting a new export" in run.log
        assert len(run.records) == 50
        assert not any("city" in record for record in run.records)
        assert sandbox.exports_created == 2

    def test_changed_replication_method(
        self, sandbox: Sandbox, tap: Tap, state: dict[str, Any]
    ) -> None:
        run = tap(sandbox, catalog=incremental(tap.discover(sandbox)), state=state)
        assert "replication_method changed" in run.log
        assert len(run.records) == 50

    def test_read_to_its_end_but_incomplete(
        self, monkeypatch: pytest.MonkeyPatch, start_sandbox: Callable[..., Sandbox], tap: Tap
    ) -> None:
        emit_states_every(monkeypatch, STATE_INTERVAL)
        sandbox = start_sandbox("--contacts", "50", "--parts", "2", "--fault", "count-high:1")
        # As if it had been killed before it saw that.
        state = next(each for each in tap(sandbox, code=1).states if contacts_read(each) == 50)
        finished = tap(sandbox, state=state, allow_count_mismatch=True)
        assert (finished.code, finished.records) == (0, [])
        assert sandbox.exports_created == 1
        run = tap(sandbox, state=state)
        assert "is fully read but incomplete; starting a new export" in run.log
        assert (run.code, len(run.records)) == (0, 50)
        assert sandbox.exports_created == 2


# --- unconfirmed requests ---------------------------------------------------------------------


def test_killed_before_response(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "50", "--fault", "post-accepted-hang")
    process = tap.start(sandbox)
    process.read_lines(2)  # SCHEMA, and the STATE before the request
    sandbox.wait_for("fault post-accepted-hang")
    process.send_signal(signal.SIGKILL)
    first = process.finish(torn=True)
    assert "export_id" not in first_checkpoint(first.state)
    second = tap(sandbox, state=first.state)
    assert "adopting export" in second.log
    assert len(second.records) == 50
    assert sandbox.exports_created == 0  # its 202 was never sent


# --- states that targets and orchestrators return ---------------------------------------------


def test_state_merged_by_meltano(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "60", "--parts", "3")
    complete = tap(sandbox)

    def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        # Objects key by key, all else replaced.
        return {
            key: merge(old[key], value)
            if isinstance(value, dict) and isinstance(old.get(key), dict)
            else value
            for key, value in {**old, **new}.items()
        }

    in_progress = complete.states[-2]
    assert checkpoint_of(in_progress)
    assert checkpoint_of(merge(in_progress, complete.state)) is None
    requested = tap(sandbox, list_ids=[Account(60).lists[0].id]).states[1]
    assert checkpoint_of(merge(in_progress, requested)) == checkpoint_of(requested)


def test_state_without_checkpoint_is_not_emitted(
    start_sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    sandbox = start_sandbox("--contacts", "60", "--fault", "never-ready")
    done: dict[str, Any] = {"bookmarks": {"contacts": {"exports": []}}}
    first = tap(sandbox, state=done, poll_timeout=1, code=1)
    # Some targets keep the first STATE of a load without records.
    second = tap(sandbox, state=first.states[0], poll_timeout=1, code=1)
    assert first.checkpoint
    assert second.checkpoint
    found = {"requested_at": second.checkpoint["requested_at"], "adopted": True}
    assert second.checkpoint == {**first.checkpoint, **found}
    assert sandbox.exports_created == 1


def test_partitions_in_state_are_ignored(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "20")
    partitions = [{"context": {"list_id": number}} for number in (1, 2)]
    run = tap(sandbox, state={"bookmarks": {"contacts": {"partitions": partitions}}})
    assert len(run.records) == 20
    assert sandbox.exports_created == 1


@pytest.mark.parametrize("state", [{}, {"bookmarks": {}}, {"bookmarks": {"other": {"a": 1}}}])
def test_state_without_stream(
    start_sandbox: Callable[..., Sandbox], tap: Tap, state: dict[str, Any]
) -> None:
    run = tap(start_sandbox("--contacts", "20"), state=state)
    assert len(run.records) == 20
