from __future__ import annotations

from typing import Any
from unittest.mock import Mock

from msgspec.structs import replace

from tap_sendgrid_contacts.checkpoint import Checkpoint
from tap_sendgrid_contacts.dates import utc_now
from tap_sendgrid_contacts.run.state import RunState


def make_state(state: dict[str, Any]) -> RunState:
    return RunState(state, Mock(), fingerprint={}, labels={"key": ""})


def test_part_that_failed_is_read_again_from_its_start() -> None:
    saved: dict[str, Any] = {}
    state = make_state(saved)
    checkpoint = Checkpoint(utc_now(), "e1", contacts_before=5, part_digest="cut", part_offset=2)
    state.save("key", checkpoint)

    assert state.keep_once("key")

    # The digest is that of a damaged download: the whole part would seem to have changed.
    assert make_state(saved).checkpoint("key") == replace(
        checkpoint, part_digest=None, part_offset=0, failed_at=7
    )


def test_contacts_of_a_part_that_failed_are_no_proof() -> None:
    state = RunState({}, Mock(), fingerprint={}, labels={"a": "", "b": ""}, has_version=True)
    state.save("a", Checkpoint(utc_now(), "e1", contacts_before=1))
    state.finish("a", 1, None)
    state.save("b", Checkpoint(utc_now(), "e2", part_digest="cut", part_offset=2))
    state.keep_once("b")

    state.give_up("b")

    assert "another export was read in part" in (state.why_deletes_are_unsafe(100) or "")
