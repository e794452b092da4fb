"""Checkpoints in the state: what is saved, when STATE is emitted, the bookmark."""

from __future__ import annotations

import copy
import json
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tap_sendgrid_contacts.checkpoint import (
    STATE_INTERVAL,
    Checkpoint,
    CheckpointStore,
    InvalidCheckpointError,
    resume_run,
    retain_partitions,
)
from tap_sendgrid_contacts.dates import utc_now

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=timezone.utc)
SCOPE = {"list_ids": ["a"]}
FINGERPRINT = {**SCOPE, "file_type": "json"}
START = Checkpoint(NOW, FINGERPRINT)


class Stream:
    """A store, its state, and a copy of the state for each STATE it emits."""

    def __init__(self, state: dict[str, Any] | None = None, scope: Any = SCOPE) -> None:  # noqa: ANN401 - any JSON
        self.state: dict[str, Any] = {} if state is None else state
        self.emitted: list[dict[str, Any]] = []
        self.store = CheckpointStore(
            self.state, lambda: self.emitted.append(copy.deepcopy(self.state)), scope, FINGERPRINT
        )


@pytest.fixture
def stream() -> Stream:
    return Stream()


# --- load and save --------------------------------------------------------------------------

CHECKPOINTS = st.builds(
    Checkpoint,
    st.datetimes(timezones=st.just(timezone.utc)),
    st.just(FINGERPRINT),
    export_id=st.none() | st.text(),
    adopted=st.booleans(),
    version=st.none() | st.integers(0, 2**53),
    part_count=st.integers(0, 10_000),
    finished_parts=st.text("0123456789abcdef: "),
    contacts_before=st.integers(0, 2**53),
    part_digest=st.none() | st.text(),
    part_offset=st.integers(0, 2**53),
    max_updated_at=st.none() | st.datetimes(timezones=st.just(timezone.utc)),
    is_complete=st.booleans(),
    contact_count=st.none() | st.integers(0, 2**53),
)


@given(CHECKPOINTS)
def test_saved_checkpoint_is_loaded_through_json(checkpoint: Checkpoint) -> None:
    stream = Stream()
    stream.store.save(checkpoint)
    state = json.loads(json.dumps(stream.emitted[0]))
    assert Stream(state).store.load() == checkpoint


@pytest.mark.parametrize("state", [{}, {"exports": []}, {"exports": None}, {"other": 1}])
def test_no_checkpoint_is_loaded(state: dict[str, Any]) -> None:
    assert Stream(state).store.load() is None


@pytest.mark.parametrize(
    "saved",
    [
        # The form of earlier versions.
        [{"asked_at": "2026-11-22T10:00:00Z", "request": {"file_type": "json"}, "parts": 3}],
        {"requested_at": "2026-11-22T10:00:00Z", "fingerprint": {}},
        [{"requested_at": "2026-11-22T10:00:00Z", "fingerprint": {}}] * 2,
        [{"requested_at": "2026-11-22T10:00:00", "fingerprint": {}}],
        [{"requested_at": "yesterday", "fingerprint": {}}],
        [{"requested_at": "2026-11-22T10:00:00Z"}],
        [{"requested_at": "2026-11-22T10:00:00Z", "fingerprint": []}],
        [{"requested_at": "2026-11-22T10:00:00Z", "fingerprint": {}, "part_offset": "3"}],
        [{"requested_at": "2026-11-22T10:00:00Z", "fingerprint": {}, "finished_parts": []}],
        [[]],
        [None],
        "text",
        5,
    ],
    ids=str,
)
def test_invalid_checkpoint_is_an_error(saved: object) -> None:
    with pytest.raises(InvalidCheckpointError, match="Invalid export checkpoint in state"):
        Stream({"exports": saved}).store.load()


def test_unknown_keys_of_a_checkpoint_are_ignored() -> None:
    saved = [{"requested_at": "2026-11-22T10:00:00Z", "fingerprint": FINGERPRINT, "new": 1}]
    assert Stream({"exports": saved}).store.load() == START


def test_other_keys_of_the_state_are_kept(stream: Stream) -> None:
    stream.state["other"] = 1
    stream.store.save(START)
    stream.store.discard()
    assert stream.state["other"] == 1


def test_state_has_what_is_not_default_only(stream: Stream) -> None:
    stream.store.save(START)
    assert stream.state["exports"] == [
        {"requested_at": "2026-11-22T10:00:00Z", "fingerprint": FINGERPRINT}
    ]


# --- parts ----------------------------------------------------------------------------------


def test_finished_part_counts_its_contacts_and_resets_the_offset() -> None:
    checkpoint = replace(START, part_digest="digest", part_offset=3, contacts_before=4)
    assert checkpoint.contacts_read == 7
    finished = checkpoint.finish_part("name", "content")
    assert finished == replace(START, contacts_before=7, finished_parts="name:content")
    assert finished.contacts_read == 7


def test_finished_parts_accumulate() -> None:
    checkpoint = START
    for name, content, contacts in (("a", "A", 5), ("b", "B", 0), ("c", "C", 1)):
        checkpoint = replace(checkpoint, part_offset=contacts).finish_part(name, content)
    # Two parts without contacts may have the same content.
    assert checkpoint.finished() == {"a": "A", "b": "", "c": "C"}
    assert checkpoint.contacts_before == 6


def test_nothing_is_finished_at_first() -> None:
    assert START.finished() == {}
    assert START.contacts_read == 0


# --- when STATE is emitted ------------------------------------------------------------------


def test_state_is_emitted_when_the_export_changes(stream: Stream) -> None:
    stream.store.save(START)
    stream.store.save(replace(START, export_id="e1"))
    stream.store.save(replace(START, export_id="e2"))
    assert [state["exports"][0].get("export_id") for state in stream.emitted] == [None, "e1", "e2"]


def test_state_is_emitted_at_the_end_of_each_part(stream: Stream) -> None:
    checkpoint = replace(START, export_id="e1")
    stream.store.save(checkpoint)
    for name in "abc":
        stream.store.save(replace(checkpoint, part_offset=1))
        checkpoint = replace(checkpoint, part_offset=1).finish_part(name, name)
        stream.store.save(checkpoint)
        stream.store.save(checkpoint)
    assert len(stream.emitted) == 4
    assert stream.emitted[-1]["exports"][0]["finished_parts"] == "a:a b:b c:c"


def test_state_is_emitted_every_10_000_contacts_read(stream: Stream) -> None:
    checkpoint = replace(START, export_id="e1", contacts_before=500)
    stream.store.save(checkpoint)
    offsets = range(0, 35_000, 128)
    for offset in offsets:
        stream.store.save(replace(checkpoint, part_offset=offset))
    emitted = [state["exports"][0].get("part_offset", 0) for state in stream.emitted]
    assert len(emitted) == 1 + 3
    assert all(
        STATE_INTERVAL <= later - earlier < STATE_INTERVAL + 128
        for earlier, later in pairwise(emitted)
    )


def test_resumed_contacts_do_not_count_for_the_interval(stream: Stream) -> None:
    checkpoint = replace(START, export_id="e1", contacts_before=50_000)
    stream.store.save(checkpoint)
    stream.store.save(replace(checkpoint, part_offset=STATE_INTERVAL - 1))
    assert len(stream.emitted) == 1
    stream.store.save(replace(checkpoint, part_offset=STATE_INTERVAL))
    assert len(stream.emitted) == 2


def test_state_is_emitted_on_demand(stream: Stream) -> None:
    stream.store.save(START)
    stream.store.save(replace(START, part_offset=1))
    assert len(stream.emitted) == 1
    stream.store.save(replace(START, part_offset=2), emit=True)
    assert [state["exports"][0].get("part_offset") for state in stream.emitted] == [None, 2]


def test_checkpoint_is_in_the_state_also_when_it_is_not_emitted(stream: Stream) -> None:
    stream.store.save(START)
    stream.store.save(replace(START, part_offset=1))
    assert stream.state["exports"][0]["part_offset"] == 1


def test_cleared_checkpoint_is_an_empty_list_and_not_emitted(stream: Stream) -> None:
    stream.store.save(START)
    stream.store.clear()
    assert stream.state == {"exports": []}
    assert len(stream.emitted) == 1


def test_discarded_checkpoint_is_emitted(stream: Stream) -> None:
    stream.store.save(START)
    stream.store.discard()
    assert stream.emitted[1:] == [{"exports": []}]
    assert stream.store.load() is None


# --- bookmark -------------------------------------------------------------------------------


def bookmark_state(value: object, scope: object = SCOPE) -> dict[str, Any]:
    return {"replication_key_value": value, "scope": scope}


def day(number: int) -> datetime:
    return datetime(2020, 1, number, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("value", "bookmark"),
    [
        ("2020-01-02T00:00:00Z", day(2)),
        ("2020-01-02T01:00:00+01:00", day(2)),
        ("2020-01-02", day(2)),
    ],
)
def test_bookmark_is_read(value: str, bookmark: datetime) -> None:
    store = Stream(bookmark_state(value)).store
    assert store.bookmark() == bookmark


@pytest.mark.parametrize("value", ["yesterday", 5, True, None, "0001-01-01T00:00:00+05:00", {}])
def test_invalid_bookmark_is_ignored(value: object, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert Stream(bookmark_state(value)).store.bookmark() is None
    assert "Ignoring bookmark" in caplog.text


@pytest.mark.parametrize("scope", [{"list_ids": ["b"]}, {}, None, "text"])
def test_bookmark_of_another_scope_is_ignored(
    scope: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert Stream(bookmark_state("2020-01-02T00:00:00Z", scope)).store.bookmark() is None
    assert "Ignoring bookmark" in caplog.text


@pytest.mark.parametrize("state", [{}, {"scope": SCOPE}, {"exports": []}])
def test_state_without_bookmark(state: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert Stream(state).store.bookmark() is None
    assert not caplog.text


@pytest.mark.parametrize(
    ("before", "value", "after"),
    [
        ({}, day(3), "2020-01-03T00:00:00Z"),
        (bookmark_state("2020-01-02T00:00:00Z"), day(3), "2020-01-03T00:00:00Z"),
        # It never moves backwards,
        (bookmark_state("2020-01-04T00:00:00Z"), day(3), "2020-01-04T00:00:00Z"),
        # unless it is one of other contacts, or none at all.
        (bookmark_state("2020-01-04T00:00:00Z", {}), day(3), "2020-01-03T00:00:00Z"),
        (bookmark_state("yesterday"), day(3), "2020-01-03T00:00:00Z"),
    ],
)
def test_bookmark_advances(before: dict[str, Any], value: datetime, after: str) -> None:
    stream = Stream(copy.deepcopy(before))
    stream.store.advance_bookmark("updated_at", value)
    assert stream.state == {
        "replication_key": "updated_at",
        "replication_key_value": after,
        "scope": SCOPE,
    }
    assert stream.emitted == []


def test_bookmark_keeps_microseconds(stream: Stream) -> None:
    stream.store.advance_bookmark("updated_at", day(3).replace(microsecond=1))
    assert stream.state["replication_key_value"] == "2020-01-03T00:00:00.000001Z"
    assert stream.store.bookmark() == day(3).replace(microsecond=1)


# --- several exports in a run ---------------------------------------------------------------


def saved(**values: Any) -> dict[str, Any]:
    """Return a state with a checkpoint of now."""
    now = utc_now().isoformat()
    return {"exports": [{"requested_at": now, "fingerprint": FINGERPRINT, **values}]}


def resume(*states: dict[str, Any], is_reduced: bool = False) -> int | None:
    return resume_run([Stream(state).store for state in states], is_reduced=is_reduced)


@pytest.mark.parametrize(
    ("states", "version"),
    [
        ([{}, {}], None),
        ([{}, saved(version=7)], 7),
        ([saved(), saved(version=7, is_complete=True)], 7),
        ([saved(part_offset=3), {}], None),
    ],
)
def test_interrupted_run_is_continued(states: list[dict[str, Any]], version: int | None) -> None:
    before = copy.deepcopy(states)
    assert resume(*states) == version
    assert states == before


def test_run_that_is_too_old_is_not_continued() -> None:
    old = (utc_now() - timedelta(hours=12, seconds=1)).isoformat()
    unread = saved(version=7)
    states = [saved(version=7, is_complete=True, requested_at=old), unread]
    assert resume(*states) is None
    assert states[0] == {"exports": []}
    assert unread["exports"][0] == saved()["exports"][0] | {
        "requested_at": unread["exports"][0]["requested_at"]
    }


@pytest.mark.parametrize("version", [None, 7])
def test_reduced_run_is_continued_unless_it_has_a_version(version: int | None) -> None:
    progress = {"version": version} if version else {}
    state = saved(is_complete=True, **progress)
    assert resume(state, is_reduced=True) is None
    assert bool(state["exports"]) == (version is None)


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({"is_complete": True}, None),
        ({"version": 7, "part_offset": 1}, None),
        ({"version": 7, "contacts_before": 1}, None),
        ({"version": 7, "export_id": "e1"}, {"export_id": "e1"}),
        ({"part_offset": 1}, {"part_offset": 1}),
    ],
)
def test_restart_keeps_exports_that_fit_a_new_run(
    values: dict[str, Any], kept: dict[str, Any] | None
) -> None:
    state = saved(**values)
    Stream(state).store.restart()
    if kept is None:
        assert state["exports"] == []
    else:
        (checkpoint,) = state["exports"]
        assert checkpoint.keys() == {"requested_at", "fingerprint", *kept}


def test_restart_leaves_what_cannot_be_resumed_to_the_sync() -> None:
    for state in ({"exports": [{"broken": 1}]}, saved(fingerprint={}, version=7)):
        before = copy.deepcopy(state)
        Stream(state).store.restart()
        assert state == before


A, B = {"source_id": "a"}, {"source_id": "b"}


@pytest.mark.parametrize(
    ("removed", "is_reduced"),
    [
        ({"context": B}, False),
        ({"context": B, **saved()}, False),
        ({"context": B, **saved(export_id="e1")}, True),
        ({"context": B, "exports": "broken"}, False),
        ({}, False),
        (None, False),
        ("broken", False),
    ],
)
def test_partitions_of_removed_sources_are_removed(removed: Any, *, is_reduced: bool) -> None:  # noqa: ANN401 - any JSON
    kept = {"context": A, **saved(export_id="e2")}
    state = {"exports": [{"old": 1}], "partitions": [removed, kept], "scope": {}}
    assert retain_partitions(state, [A]) is is_reduced
    assert state == {"exports": [], "partitions": [kept], "scope": {}}


def test_partitions_of_a_run_with_one_export() -> None:
    state = {"partitions": [{"context": A}], **saved()}
    assert retain_partitions(state, []) is False
    assert state == {"partitions": [], **saved(), "exports": state["exports"]}
    state = {**saved()}
    assert retain_partitions(state, []) is False
    assert "partitions" not in state


@pytest.mark.parametrize("partitions", [None, {}, "broken", 3])
def test_partitions_that_are_no_list(partitions: Any) -> None:  # noqa: ANN401 - any JSON
    state = {"partitions": partitions}
    assert retain_partitions(state, [A]) is False
    assert state["partitions"] == []
