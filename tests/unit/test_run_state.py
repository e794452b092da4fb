"""The state of a run: what is saved, when it is emitted, what the next run makes of it."""

from __future__ import annotations

import copy
import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tap_sendgrid_contacts.checkpoint import Checkpoint
from tap_sendgrid_contacts.dates import utc_now
from tap_sendgrid_contacts.run.incremental import Since
from tap_sendgrid_contacts.run.saved import export_key, has_exports
from tap_sendgrid_contacts.run.state import STATE_INTERVAL, RunState

if TYPE_CHECKING:
    from tap_sendgrid_contacts.columns import Row
    from tests.unit.conftest import Clock

START = Checkpoint(utc_now(), export_id="e1")
A, B = "key-a", "key-b"


def day(number: int) -> datetime:
    return datetime(2020, 1, number, tzinfo=timezone.utc)


class FakeStream:
    """A run of the exports A and B, its state, and a copy of the state for each STATE."""

    def __init__(
        self,
        state: dict[str, Any] | None = None,
        *,
        keys: str | tuple[str, ...] = (A, B),
        has_version: bool = False,
        **fingerprint: Any,
    ) -> None:
        # As a target returns it.
        self.state: dict[str, Any] = json.loads(json.dumps(state or {}))
        self.emitted: list[dict[str, Any]] = []
        emitter: Any = self
        self.run = RunState(
            self.state,
            emitter,
            fingerprint=fingerprint,
            has_version=has_version,
        )
        self.run.set_exports({key: f"list {key}" for key in keys})

    def emit(self) -> None:
        self.emitted.append(copy.deepcopy(self.state))

    def finish(self, key: str, contacts: int, *, count: int | None = -1, **more: Any) -> None:
        self.run.save(key, replace(START, contacts_before=contacts, **more))
        self.run.finish(key, contacts if count == -1 else count, None)


def with_counts(**more: Any) -> dict[str, Any]:
    return {"counts": [{A: 100, B: 0}], **more}


# --- save and load --------------------------------------------------------------------------

TIMES = st.datetimes(timezones=st.just(timezone.utc))
CHECKPOINTS = st.builds(
    Checkpoint,
    TIMES,
    export_id=st.none() | st.text(),
    adopted=st.booleans(),
    part_count=st.integers(0, 10_000),
    part_set=st.none() | st.text(),
    finished_parts=st.text("0123456789abcdef: "),
    contacts_before=st.integers(0, 2**53),
    part_digest=st.none() | st.text(),
    part_offset=st.integers(0, 2**53),
    max_updated_at=st.none() | TIMES,
    failed_at=st.none() | st.integers(0, 2**53),
)


@given(CHECKPOINTS)
def test_checkpoint_is_loaded_as_saved(checkpoint: Checkpoint) -> None:
    stream = FakeStream({"other": 1})
    stream.run.save(A, checkpoint)
    loaded = FakeStream(stream.state)
    assert loaded.run.checkpoint(A) == checkpoint
    assert loaded.run.checkpoint(B) is None
    assert loaded.state["other"] == 1


def test_state_has_what_is_not_default_only() -> None:
    stream = FakeStream(file_type="csv")
    stream.run.save(A, START)
    assert stream.state == {
        "run": [
            {
                "started_at": stream.state["run"][0]["started_at"],
                "fingerprint": {"file_type": "csv"},
                "exports": {
                    A: {
                        "requested_at": stream.state["run"][0]["exports"][A]["requested_at"],
                        "export_id": "e1",
                    }
                },
            }
        ]
    }


RUN = {"started_at": "2026-11-22T10:00:00Z", "fingerprint": {}}


@pytest.mark.parametrize(
    "saved",
    [
        RUN,
        [RUN, RUN],
        [{"fingerprint": {}}],
        [{**RUN, "started_at": "2026-11-22T10:00:00"}],
        [{**RUN, "fingerprint": []}],
        [{**RUN, "bookmark": "yesterday"}],
        [{**RUN, "finished": {A: None}}],
        [{**RUN, "exports": {A: {}}}],
        [{**RUN, "exports": {A: {"requested_at": "2026-11-22T10:00:00Z", "part_offset": "3"}}}],
        [[]],
        [None],
        "text",
        5,
    ],
    ids=str,
)
def test_invalid_run_starts_a_new_one(saved: object, caplog: pytest.LogCaptureFixture) -> None:
    stream = FakeStream({"run": saved})
    assert "Invalid run in state" in caplog.text
    assert stream.run.checkpoint(A) is None
    assert not has_exports({"run": saved})


@pytest.mark.parametrize("state", [{}, {"run": []}, {"run": None}, {"other": 1}])
def test_no_run(state: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    assert FakeStream(state).run.checkpoint(A) is None
    assert not has_exports(state)
    assert not caplog.messages


def test_unknown_keys_are_ignored() -> None:
    stream = FakeStream()
    stream.run.save(A, START)
    stream.state["run"][0]["new"] = stream.state["run"][0]["exports"][A]["new"] = 1
    assert FakeStream(stream.state).run.checkpoint(A) == START
    assert has_exports(stream.state)


def test_finished_parts_accumulate() -> None:
    assert START.finished() == {}
    checkpoint = replace(START, part_digest="digest")
    for name, content, contacts in (("a", "A", 5), ("b", "B", 0), ("c", "C", 1)):
        checkpoint = replace(checkpoint, part_offset=contacts).finish_part(name, content)
    # Two parts without contacts may have the same content.
    assert checkpoint.finished() == {"a": "A", "b": "", "c": "C"}
    assert (checkpoint.contacts_before, checkpoint.part_offset) == (6, 0)
    assert checkpoint.part_digest is None


@pytest.mark.parametrize(
    "same", [("https://x/", None, ("B", "a"), ()), ("https://x", "", ("A", "b"), ())]
)
def test_key_is_the_same_for_the_same_contacts(same: Any) -> None:  # noqa: ANN401 - arguments
    assert export_key(*same) == export_key("https://x", None, ("a", "b"), ())
    others = [
        export_key("https://y", None, ("a", "b"), ()),
        export_key("https://x", "sub", ("a", "b"), ()),
        export_key("https://x", None, (), ("a", "b")),
        export_key("https://x", None, ("a",), ()),
    ]
    assert len({export_key(*same), *others}) == 5


# --- when STATE is emitted ------------------------------------------------------------------


def test_state_is_emitted_every_10_000_contacts_of_the_run(clock: Clock) -> None:
    stream = FakeStream()
    resumed = replace(START, contacts_before=50_000)
    for offset in range(0, STATE_INTERVAL - 999, 1000):
        stream.run.save(A, replace(resumed, part_offset=offset))
    stream.run.finish(A, None, None)
    stream.run.save(B, START)
    assert stream.emitted == []
    stream.run.save(B, replace(START, part_offset=7))
    assert len(stream.emitted) == 1
    assert stream.emitted[0]["run"][0]["exports"][B]["part_offset"] == 7
    stream.run.save(B, replace(START, part_offset=1007))
    assert len(stream.emitted) == 1
    assert clock.sleeps == []


def test_state_is_emitted_at_the_end_of_a_part_once_a_second(clock: Clock) -> None:
    stream = FakeStream()
    checkpoint = START
    for name in "abcdef":
        for offset in (1, 2):
            stream.run.save(A, replace(checkpoint, part_offset=offset))
        clock.sleep(0.5)
        checkpoint = replace(checkpoint, part_offset=2).finish_part(name, name)
        stream.run.save(A, checkpoint)
    finished = [
        len(each["run"][0]["exports"][A]["finished_parts"].split()) for each in stream.emitted
    ]
    assert finished == [2, 4, 6]


# --- the next run ---------------------------------------------------------------------------


@pytest.mark.parametrize("progress", ["none", "requested", "read", "finished"])
def test_changed_setting_starts_a_new_run(progress: str, caplog: pytest.LogCaptureFixture) -> None:
    stream = FakeStream(list_ids=["a"], columns="x")
    if progress != "none":
        stream.run.save(A, replace(START, part_offset=int(progress != "requested")))
    if progress == "finished":
        stream.run.finish(A, None, None)
    new = FakeStream(stream.state, columns="y", start_date="2020-01-01")
    assert new.run.checkpoint(A) is None
    assert not new.run.is_finished(A)
    warned = "columns, list_ids, start_date changed since the last run; starting a new export"
    assert caplog.messages == ([warned] if progress != "none" else [])
    # One that it had in flight can be of the same second as the one of the next request.
    assert new.run.discarded(A) == ("e1" if progress in {"requested", "read"} else None)


def test_what_has_changed_forges_no_line(caplog: pytest.LogCaptureFixture) -> None:
    stream = FakeStream()
    stream.run.save(A, START)
    stream.state["run"][0]["fingerprint"]["a\r\nINFO b\x1b"] = "x"
    FakeStream(stream.state)
    assert caplog.messages == ["a INFO b changed since the last run; starting a new export"]


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(("hours", "is_old"), [(11, False), (13, True)])
def test_finished_exports_are_valid_for_12_hours(
    *, finished: bool, hours: int, is_old: bool, caplog: pytest.LogCaptureFixture
) -> None:
    stream = FakeStream()
    stream.run.save(B, START)
    if finished:
        stream.finish(A, 5)
    stream.state["run"][0]["started_at"] = (utc_now() - timedelta(hours=hours)).isoformat()
    run = FakeStream(stream.state).run
    assert run.is_finished(A) == (finished and not is_old)
    assert (run.checkpoint(B) is None) == (finished and is_old)
    assert ("older than 12 hours" in caplog.text) == (finished and is_old)


@pytest.mark.parametrize("hours", [11, 13])
def test_age_of_a_run_is_that_of_its_exports(hours: int) -> None:
    stream = FakeStream()
    stream.run.save(A, replace(START, contacts_before=1))
    stream.run.finish(A, 1, utc_now() - timedelta(hours=hours))
    # It waited for SendGrid for a day.
    stream.state["run"][0]["started_at"] = (utc_now() - timedelta(hours=24)).isoformat()
    assert FakeStream(stream.state).run.is_finished(A) == (hours < 12)


@pytest.mark.parametrize("has_version", [True, False])
def test_list_that_is_gone_ends_a_run_with_a_version(*, has_version: bool) -> None:
    stream = FakeStream(has_version=has_version)
    stream.finish(A, 5)
    stream.finish(B, 5)
    run = FakeStream(stream.state, keys=(B,), has_version=has_version)
    assert run.run.is_finished(B) is not has_version
    assert A not in run.state["run"][0].get("finished", {})


def test_restart_keeps_nothing_but_the_bookmark() -> None:
    stream = FakeStream(with_counts(replication_key_value="2020-01-02T00:00:00Z"), has_version=True)
    version = stream.run.version
    stream.finish(A, 5)
    stream.run.save(B, START)
    stream.run.restart()
    assert (stream.run.version or 0) > (version or 0)
    run = FakeStream(stream.state, has_version=True).run
    assert run.since(A) == day(2)
    assert not run.is_finished(A)
    assert run.checkpoint(B) is None


def test_part_that_failed_is_read_again_from_its_start() -> None:
    stream = FakeStream()
    checkpoint = replace(START, contacts_before=5, part_digest="cut", part_offset=2)
    stream.run.save(A, checkpoint)
    assert stream.run.keep_once(A)
    # The digest is that of a damaged download: the whole part would seem to have changed.
    again = FakeStream(stream.state)
    assert again.run.checkpoint(A) == replace(
        checkpoint, part_digest=None, part_offset=0, failed_at=7
    )
    again.run.save(A, replace(checkpoint, failed_at=7))
    assert not again.run.keep_once(A)


# --- deletes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("percent", "allowed"),
    [(0, {100, 101}), (49, {51, 100, 101}), (51, {49, 51, 100, 101}), (100, {0, 49, 51, 100, 101})],
)
def test_deletes_need_most_contacts_of_the_last_complete_run(
    percent: int, allowed: set[int]
) -> None:
    for count in (0, 49, 51, 100, 101):
        stream = FakeStream(with_counts(), has_version=True)
        stream.finish(A, count)
        # It was empty before.
        stream.finish(B, 0)
        # An interrupted run changes nothing.
        reason = FakeStream(stream.state, has_version=True).run.why_deletes_are_unsafe(percent)
        assert (reason is None) == (count in allowed), reason
        if reason:
            assert f"list {A}: the export has {count} contacts and had 100 the last time" in reason
            assert f"max_shrink_percent ({percent})" in reason


@pytest.mark.parametrize(
    ("count", "percent", "is_safe"), [(1, 0, True), (0, 99, False), (0, 100, True)]
)
def test_first_run_deletes_nothing_if_it_has_nothing(
    count: int, percent: int, *, is_safe: bool
) -> None:
    stream = FakeStream(has_version=True)
    stream.finish(A, count)
    reason = stream.run.why_deletes_are_unsafe(percent)
    assert (reason is None) == is_safe
    assert is_safe or "no earlier one" in str(reason)


def test_run_without_exports_deletes_nothing() -> None:
    assert FakeStream(has_version=True).run.why_deletes_are_unsafe(100) == "nothing was exported"


@pytest.mark.parametrize(
    ("count", "words"), [(4, "more contacts"), (6, "fewer"), (None, "no contact_count")]
)
def test_unproven_export_stays_so_when_the_run_is_resumed(count: int | None, words: str) -> None:
    stream = FakeStream(has_version=True)
    stream.finish(A, 5, count=count)
    resumed = FakeStream(stream.state, has_version=True)
    resumed.finish(B, 5)
    reason = str(resumed.run.why_deletes_are_unsafe(100))
    assert words in reason
    assert reason.startswith(f"list {A}: ")


@pytest.mark.parametrize(("read", "is_safe"), [(0, True), (1, False)])
def test_export_that_is_given_up_after_contacts_of_it_were_emitted(
    read: int, *, is_safe: bool
) -> None:
    stream = FakeStream(has_version=True)
    stream.finish(A, 5)
    stream.run.save(B, replace(START, part_offset=read))
    version = stream.run.version
    stream.run.discard(B)
    stream.finish(B, 5)
    assert stream.run.version == version
    assert (stream.run.why_deletes_are_unsafe(100) is None) == is_safe


def test_contacts_of_a_part_that_failed_are_no_proof() -> None:
    stream = FakeStream(has_version=True)
    stream.finish(A, 1)
    stream.run.save(B, replace(START, part_digest="cut", part_offset=2))
    stream.run.keep_once(B)
    stream.run.discard(B)
    assert "another export was read in part" in str(stream.run.why_deletes_are_unsafe(100))


def test_only_export_that_is_given_up_gets_a_new_version() -> None:
    stream = FakeStream(has_version=True)
    stream.run.save(A, replace(START, part_offset=1))
    version = stream.run.version
    stream.run.discard(A)
    assert (stream.run.version or 0) > (version or 0)
    assert stream.state["run"][0]["version"] == stream.run.version
    stream.finish(A, 5)
    assert stream.run.why_deletes_are_unsafe(100) is None


@pytest.mark.parametrize("last", ["1", -1, 1 << 50, None, 5.5])
def test_version_is_of_now_whatever_the_state_says(last: object) -> None:
    version = FakeStream({"version": last, "run": []}, has_version=True).run.version
    assert abs((version or 0) - utc_now().timestamp()) < 60


# --- bookmark -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "bookmark"),
    [
        ("2020-01-02T00:00:00Z", day(2)),
        ("2020-01-02T01:00:00+01:00", day(2)),
        ("2020-01-02T00:00:00.000001Z", day(2).replace(microsecond=1)),
        ("2020-01-02", day(2)),
        ("yesterday", None),
        (5, None),
        (True, None),
        ({}, None),
        ("0001-01-01T00:00:00+05:00", None),
        ("2999-01-01T00:00:00Z", None),
    ],
)
def test_bookmark_is_read_or_ignored_with_a_warning(
    value: object, bookmark: datetime | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert FakeStream(with_counts(replication_key_value=value)).run.since(A) == bookmark
    assert [each.partition(":")[0] for each in caplog.messages] == ["Ignoring bookmark"] * (
        not bookmark
    )


@pytest.mark.parametrize("counts", [[], [{}], [{B: 5}], None, {A: 5}, [{A: "5"}]])
def test_bookmark_of_other_contacts_is_ignored(
    counts: object, caplog: pytest.LogCaptureFixture
) -> None:
    state = {"replication_key_value": "2020-01-02T00:00:00Z", "counts": counts}
    assert FakeStream(state).run.since(A) is None
    assert f"list {A}: Ignoring bookmark: it belongs to other lists" in caplog.text


def test_run_without_bookmark_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert FakeStream(with_counts()).run.since(A) is None
    assert not caplog.messages


def test_unfinished_run_keeps_its_bookmark_and_other_runs_too() -> None:
    first = FakeStream(with_counts(replication_key_value="2020-01-02T00:00:00Z"))
    # As `--full-refresh` merges it: the bookmark of the state is not that of the run.
    first.state["replication_key_value"] = "2020-01-09T00:00:00Z"
    assert FakeStream(first.state).run.since(A) == day(2)
    assert FakeStream(first.state, columns="other").run.since(A) == day(2)


@pytest.mark.parametrize(
    ("latest", "created_at", "bookmark"),
    [
        ((day(3), day(4)), (None, None), "2020-01-03T00:00:00Z"),
        ((day(4), day(3)), (day(9), day(9)), "2020-01-04T00:00:00Z"),
        # Not later than any export: changes since then are not in it.
        ((day(3), day(4)), (day(2), day(9)), "2020-01-02T00:00:00Z"),
        ((None, day(4).replace(microsecond=1)), (None, None), "2020-01-04T00:00:00.000001Z"),
        ((None, None), (None, None), None),
    ],
)
def test_bookmark_of_a_complete_run(
    latest: tuple[datetime | None, ...],
    created_at: tuple[datetime | None, ...],
    bookmark: str | None,
) -> None:
    stream = FakeStream()
    for key, updated_at, created in zip((A, B), latest, created_at, strict=True):
        stream.run.save(key, replace(START, contacts_before=7, max_updated_at=updated_at))
        stream.run.finish(key, 7, created)
    stream.run.complete("updated_at")
    columns = (
        {"replication_key": "updated_at", "replication_key_value": bookmark} if bookmark else {}
    )
    assert stream.state == {"counts": [{A: 7, B: 7}], "run": [], **columns}


@pytest.mark.parametrize(
    ("earliest", "emitted"), [(None, [1, 2, 3, 0]), (day(2), [2, 3, 0]), (day(4), [0])]
)
def test_contacts_since_a_date_and_those_without_are_emitted(
    earliest: datetime | None, emitted: list[int]
) -> None:
    rows: list[Row] = [(number, day(number) if number else None) for number in (1, 2, 3, 0)]
    selected, latest = Since(1, earliest).select(rows)
    assert ([row[0] for row in selected], latest) == (emitted, day(3))
    assert Since(1, earliest).select([(0, None)])[1] is None


# --- the form of version 0.1.0 --------------------------------------------------------------

SCOPE = {"api_url": "https://x", "on_behalf_of": None, "list_ids": ["a"], "segment_ids": []}
OLD = {"replication_key_value": "2020-01-02T00:00:00Z", "scope": SCOPE}
OLD_KEYS = (export_key("https://x", None, ("a",), ()), export_key("https://x", None, ("b",), ()))


@pytest.mark.parametrize("exports", [[], [{"requested_at": "2026-11-22T10:00:00Z"}], "text"])
def test_old_state_keeps_its_bookmark_only(
    exports: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    stream = FakeStream({**OLD, "exports": exports, "columns": []}, keys=OLD_KEYS)
    assert stream.run.since(OLD_KEYS[0]) == day(2)
    assert stream.run.since(OLD_KEYS[1]) is None
    assert stream.state.keys() == {"replication_key_value", "columns", "counts", "run"}
    says = "The state is of an earlier version of the tap; starting a new export"
    assert (says in caplog.messages) == bool(exports)


def test_old_state_of_several_exports_has_the_earliest_bookmark() -> None:
    other = {"replication_key_value": "2020-01-01T12:00:00Z", "scope": {**SCOPE, "list_ids": ["b"]}}
    partitions = [OLD, other, {"scope": SCOPE, "exports": []}, None, {"scope": "text"}]
    run = FakeStream({"partitions": partitions, "exports": []}, keys=OLD_KEYS).run
    assert [run.since(key) for key in OLD_KEYS] == [day(1).replace(hour=12)] * 2


@pytest.mark.parametrize("partitions", [None, {}, "broken", 3, [[]]])
def test_old_state_that_is_broken(partitions: object) -> None:
    assert "partitions" not in FakeStream({"partitions": partitions, "scope": None}).state
