"""The state of a run: what it filters by, what it has finished, what is in flight.

Nothing else reads or writes the stream's state. All of it is in `bookmarks.contacts`:

- `replication_key`, `replication_key_value`: the bookmark after the last complete INCREMENTAL run.
- `counts`: the exports of the last complete run, and how many contacts each had. The bookmark is
  valid for these only.
- `version`: the last table version used.
- `run`: the run in progress. A list with one element, or none: Meltano merges the state of an
  interrupted `--full-refresh` onto the old one, key by key, but replaces lists as a whole.
- `columns`: see `catalog.fields`.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from tap_sendgrid_contacts.run.saved import (
    convert_old_state,
    load_run,
    new_version,
    next_run,
    read_counts,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping
    from datetime import datetime

    from tap_sendgrid_contacts.checkpoint import Checkpoint
    from tap_sendgrid_contacts.run.emitter import StateEmitter

logger = logging.getLogger(__name__)

STATE_INTERVAL = 10_000
"""Contacts read between two STATE messages, at most: so many can be emitted twice."""

_STATE_SECONDS = 1.0  # Between those at the ends of small parts.


class RunState:
    """The state of a run, resumed or new.

    Exports are named by keys: see `export_key`.

    Args:
        state: The stream's state; it is written to.
        emitter: Emits it.
        fingerprint: See `run_fingerprint`.
        has_version: Whether the run is to end with ACTIVATE_VERSION.
    """

    def __init__(
        self,
        state: MutableMapping[str, Any],
        emitter: StateEmitter,
        *,
        fingerprint: dict[str, Any],
        has_version: bool,
    ) -> None:
        self._state = state
        self._emitter = emitter
        self._labels: Mapping[str, str] = {}
        self._contacts_since_emitted = self._largest_block = 0
        self._emitted_at = time.monotonic()
        if not {"run", "counts"} & state.keys():
            convert_old_state(state)
        self._counts = read_counts(state)
        self._fingerprint = fingerprint
        self._has_version = has_version
        self._run = load_run(state, self._fingerprint, has_version=has_version)
        self._write()

    def set_exports(self, labels: Mapping[str, str]) -> None:
        """Set the exports of the run; forget those of lists and segments that are gone.

        Args:
            labels: What each export is of, for messages, by its key.
        """
        self._labels = labels
        run = self._run
        gone = {*run.finished, *run.exports} - labels.keys()
        for key in gone:
            run.finished.pop(key, None)
            run.exports.pop(key, None)
        if gone and run.version:
            logger.warning(
                "A list or segment of the interrupted run is gone; starting a new export"
            )
            self.restart()
        else:
            self._write()

    # --- read -------------------------------------------------------------------------------

    @property
    def version(self) -> int | None:
        """The table version of the run's records; None if it has none."""
        return self._run.version

    @property
    def resumable_until(self) -> datetime | None:
        """When what the run has finished is too old to be kept; None if that is nothing."""
        return self._run.resumable_until

    def since(self, key: str) -> datetime | None:
        """Return the bookmark that an export is filtered by, if any."""
        bookmark = self._run.bookmark
        if bookmark and key not in self._counts:
            logger.warning(
                "%sIgnoring bookmark: it belongs to other lists, segments or another account",
                self._prefix(key),
            )
            return None
        return bookmark

    def checkpoint(self, key: str) -> Checkpoint | None:
        """Return the checkpoint of an export in flight."""
        return self._run.exports.get(key)

    def contacts_read(self, key: str) -> int:
        """Return how many contacts of an export this run and earlier ones have read."""
        checkpoint = self._run.exports.get(key)
        return checkpoint.contacts_read if checkpoint else self._run.finished.get(key, 0)

    def discarded(self, key: str) -> str | None:
        """Return the id of the last discarded export of a key."""
        return self._run.discarded.get(key)

    def is_finished(self, key: str) -> bool:
        """Return whether this run has finished an export."""
        return key in self._run.finished

    def why_deletes_are_unsafe(self, max_shrink_percent: int) -> str | None:
        """Return why rows that were not in this run must not be deleted, if so.

        Args:
            max_shrink_percent: By how much an export may be smaller than that of the last
                complete run.
        """
        if not self._run.finished:
            return "nothing was exported"
        if self._run.unproven:
            return self._run.unproven
        for key, count in self._run.finished.items():
            before = self._counts.get(key)
            # Without an earlier run, only none at all is suspicious.
            expected = 1 if before is None else before
            if (expected - count) * 100 > expected * max_shrink_percent:
                problem = (
                    f"has {count} contacts and had {before} the last time: a drop by more than "
                    f"max_shrink_percent ({max_shrink_percent})"
                )
                if before is None:
                    problem = "is empty, and max_shrink_percent has no earlier one to compare with"
                return (
                    f"{self._prefix(key)}the export {problem}. If that is right, run again: the "
                    "next run is compared with this one"
                )
        return None

    # --- write ------------------------------------------------------------------------------

    def save(self, key: str, checkpoint: Checkpoint) -> None:
        """Save the checkpoint of an export in flight; emit STATE if that is due.

        It is due when another block would exceed `STATE_INTERVAL` contacts, and at the end of a
        part once a second.
        """
        before = self._run.exports.get(key, checkpoint)
        self._run.exports[key] = checkpoint
        self._state["run"][0]["exports"][key] = msgspec.to_builtins(checkpoint)
        block = checkpoint.contacts_read - before.contacts_read
        self._largest_block = max(self._largest_block, block)
        self._contacts_since_emitted += block
        is_part_end = checkpoint.finished_parts != before.finished_parts
        if self._contacts_since_emitted + self._largest_block > STATE_INTERVAL or (
            is_part_end and time.monotonic() - self._emitted_at >= _STATE_SECONDS
        ):
            self.emit()

    def emit(self) -> None:
        """Emit STATE now, unless it is the one that was emitted last."""
        self._contacts_since_emitted = 0
        self._emitted_at = time.monotonic()
        self._emitter.emit()

    def drop(self, key: str) -> None:
        """Remove the checkpoint of an export that was never created."""
        self._run.exports.pop(key, None)
        self._write()

    def discard(self, key: str) -> None:
        """Remove the checkpoint of an export that cannot be resumed, so that a new one is created.

        What was emitted of it may be outdated by then: it must not have a version that is
        activated.
        """
        checkpoint = self._run.exports.pop(key, None)
        if checkpoint and checkpoint.export_id:
            self._run.discarded[key] = checkpoint.export_id
        if not self._run.has_emitted and self._has_version:
            self._run.version = new_version(self._state)
        elif checkpoint and (checkpoint.contacts_read or checkpoint.failed_at):
            self._run.unproven = (
                f"{self._prefix(key)}another export was read in part before, and its contacts may "
                "be outdated"
            )
        self._write()

    def keep_once(self, key: str) -> bool:
        """Keep an export that could not be read further, unless that was so before.

        The part may have been damaged on its way, or a setting may be changed. It is read again
        from its start: the digest of a damaged one would be that of another part.

        Returns:
            Whether it is kept.
        """
        checkpoint = self._run.exports.get(key)
        # One that was found, not created by this run, may be of the other file type.
        if checkpoint is None or (checkpoint.adopted and not checkpoint.contacts_read):
            return False
        if checkpoint.failed_at == checkpoint.contacts_read:
            return False
        failed_at = checkpoint.contacts_read
        self.save(key, replace(checkpoint, failed_at=failed_at, part_digest=None, part_offset=0))
        return True

    def finish(self, key: str, contact_count: int | None, created_at: datetime | None) -> None:
        """Replace the checkpoint of an export by its count: it is read, verified and durable.

        Args:
            key: The export.
            contact_count: Its number of contacts according to SendGrid.
            created_at: When SendGrid created it.
        """
        run = self._run
        checkpoint = run.exports.pop(key)
        count = run.finished[key] = checkpoint.contacts_read
        if contact_count != count and not run.unproven:
            run.unproven = self._prefix(key) + _describe_mismatch(count, contact_count)
        latest = checkpoint.max_updated_at
        run.max_updated_at = max(filter(None, (run.max_updated_at, latest)), default=None)
        # A change during the export may be in it or not: the next run contains it.
        exported_at = created_at or latest
        run.exported_at = min(filter(None, (run.exported_at, exported_at)), default=None)
        self._write()

    def complete(self, replication_key: str | None) -> None:
        """End the run: all of its exports are finished.

        Args:
            replication_key: With INCREMENTAL, the column of the bookmark.
        """
        latest, exported_at = self._run.max_updated_at, self._run.exported_at
        if replication_key and latest:
            bookmark = min(latest, exported_at or latest)
            self._state["replication_key"] = replication_key
            self._state["replication_key_value"] = bookmark.isoformat().replace("+00:00", "Z")
        self._state["counts"] = [dict(self._run.finished)]
        self._state["run"] = []

    def restart(self) -> None:
        """Discard the run: the next one reads all exports again."""
        self._run = next_run(
            self._run, self._state, self._fingerprint, has_version=self._has_version
        )
        self._write()

    def _write(self) -> None:
        self._state["run"] = [msgspec.to_builtins(self._run) | {"exports": {}}]
        exports = {key: msgspec.to_builtins(each) for key, each in self._run.exports.items()}
        self._state["run"][0]["exports"] = exports

    def _prefix(self, key: str) -> str:
        label = self._labels.get(key)
        return f"{label}: " if label else ""


def _describe_mismatch(count: int, contact_count: int | None) -> str:
    if contact_count is None:
        return "the export status has no contact_count, so contacts may be missing"
    problem = "fewer" if count < contact_count else "more"
    hint = "" if count < contact_count else ", so some are duplicates and others may be missing"
    return f"{problem} contacts were read ({count}) than contact_count ({contact_count}){hint}"
