"""The stream's state: the checkpoint of an export in progress, and the bookmark.

Nothing else reads, writes or emits state.
"""

from __future__ import annotations

import copy
import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec.structs import replace
from singer_sdk.singerlib import StateMessage

from tap_sendgrid_contacts.dates import parse_date, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping, Sequence

    from singer_sdk import Tap


logger = logging.getLogger(__name__)

CHECKPOINT_KEY = "exports"
"""State key of the checkpoint: a list with one element, or none.

Meltano merges states on `--full-refresh`: in an object, keys that a later state lacks would
survive; lists are replaced as a whole.
"""

COLUMNS_KEY = "columns"
"""State key of the custom columns that were loaded: a list, as of `CHECKPOINT_KEY`."""

STATE_INTERVAL = 10_000
"""Contacts read between two STATE messages."""


# A file exists for twelve hours: by then an interrupted run cannot be continued anyway.
_MAX_RUN_AGE = timedelta(hours=12)


class InvalidCheckpointError(ValueError):
    """The checkpoint in the state cannot be read."""


class CheckpointMismatchError(Exception):
    """The export of the checkpoint cannot be resumed; a new one is required."""


class Checkpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far an export has been read.

    Attributes:
        requested_at: When it was requested, by this machine's clock.
        fingerprint: What was requested, and what else decides on the records; with another one
            the export cannot be resumed.
        export_id: The export; absent until SendGrid has confirmed the request.
        adopted: Whether the export was found in the list of exports, its request unconfirmed.
        version: Table version, if ACTIVATE_VERSION is to be emitted.
        part_count: Number of parts; 0 until the export is ready.
        part_set: Digest of the names of all parts.
        finished_parts: Name and content digest of each part that was read to its end, as
            `name:content`, separated by blanks; no digest for a part without contacts. One
            string, since it is copied with every checkpoint and there can be thousands.
        contacts_before: Contacts read from the finished parts.
        part_digest: Content of the part being read.
        part_offset: Contacts read from that part.
        max_updated_at: With INCREMENTAL, the latest `updated_at` read.
        is_complete: Whether all contacts were read and verified. With several exports in a run,
            the next run skips it if this one is interrupted.
        contact_count: Number of contacts according to SendGrid, of a complete export.
    """

    requested_at: Annotated[datetime, msgspec.Meta(tz=True)]
    fingerprint: dict[str, Any]
    export_id: str | None = None
    adopted: bool = False
    version: int | None = None
    part_count: int = 0
    part_set: str | None = None
    finished_parts: str = ""
    contacts_before: int = 0
    part_digest: str | None = None
    part_offset: int = 0
    max_updated_at: datetime | None = None
    is_complete: bool = False
    contact_count: int | None = None

    @property
    def contacts_read(self) -> int:
        """Contacts read from all parts."""
        return self.contacts_before + self.part_offset

    def finished(self) -> dict[str, str]:
        """Return the content digest of each finished part, by the digest of its name."""
        pairs = (part.partition(":") for part in self.finished_parts.split())
        return {name: content for name, _, content in pairs}

    def finish_part(self, name: str, content: str) -> Checkpoint:
        """Return the checkpoint after the last contact of a part.

        Args:
            name: Digest of the part's name.
            content: Digest of its content.
        """
        part = f"{name}:{content if self.part_offset else ''}"
        return replace(
            self,
            finished_parts=f"{self.finished_parts} {part}".lstrip(),
            contacts_before=self.contacts_read,
            part_digest=None,
            part_offset=0,
        )


class CheckpointStore:
    """Checkpoint and bookmark in the state of one stream or partition.

    STATE is emitted when the export changes, at the end of each part, and every
    `STATE_INTERVAL` contacts read.

    Args:
        state: The state of the stream or partition; it is written to.
        emit: Emits the whole state as a STATE message.
        scope: Whose contacts they are: a bookmark is valid for these only.
        fingerprint: What else decides on the records: with another one, an export cannot be
            resumed.
    """

    def __init__(
        self,
        state: MutableMapping[str, Any],
        emit: Callable[[], None],
        scope: dict[str, Any],
        fingerprint: dict[str, Any],
    ) -> None:
        self._state = state
        self._emit = emit
        self._scope = scope
        self._fingerprint = scope | fingerprint
        self._emitted: tuple[str | None, str] | None = None
        self._emitted_contacts = 0

    def new(self, requested_at: datetime, version: int | None) -> Checkpoint:
        """Return the checkpoint of a new export."""
        # Without defaults: with an export per list, the state has as many checkpoints.
        fingerprint = {key: value for key, value in self._fingerprint.items() if value}
        return Checkpoint(requested_at, fingerprint, version=version)

    def load(self) -> Checkpoint | None:
        """Return the checkpoint in the state, if there is one.

        Raises:
            InvalidCheckpointError: If it cannot be read.
            CheckpointMismatchError: If it is of another export than this run would create.
        """
        checkpoint = _read_checkpoint(self._state)
        if checkpoint is None:
            return None
        saved = checkpoint.fingerprint
        changed = [
            key
            for key, value in self._fingerprint.items()
            if (value or None) != (saved.get(key) or None)
        ]
        if changed:
            raise CheckpointMismatchError(f"{', '.join(changed)} changed since the last run")
        return checkpoint

    def load_valid(self) -> Checkpoint | None:
        """Return the checkpoint, if there is one that can be resumed."""
        try:
            return self.load()
        except (InvalidCheckpointError, CheckpointMismatchError):
            return None

    def restart(self) -> None:
        """Keep the export for a run that starts anew, but nothing that was read of it.

        Without table versions, an export that was read in part can still be continued.
        """
        checkpoint = self.load_valid()
        if checkpoint is None:
            return
        if checkpoint.is_complete or (checkpoint.version and checkpoint.contacts_read):
            self.clear()
        else:
            self._state[CHECKPOINT_KEY] = [msgspec.to_builtins(replace(checkpoint, version=None))]

    def save(self, checkpoint: Checkpoint, *, emit: bool = False) -> None:
        """Save a checkpoint; emit STATE if that is due, or `emit` is set."""
        self._state[CHECKPOINT_KEY] = [msgspec.to_builtins(checkpoint)]
        key = (checkpoint.export_id, checkpoint.finished_parts)
        is_due = checkpoint.contacts_read - self._emitted_contacts >= STATE_INTERVAL
        if emit or is_due or key != self._emitted:
            self._emitted = key
            self._emitted_contacts = checkpoint.contacts_read
            self._emit()

    def discard(self) -> None:
        """Remove the checkpoint, so that the next run starts a new export; emit STATE."""
        self.clear()
        self._emit()

    def clear(self) -> None:
        """Remove the checkpoint: its export is complete."""
        self._state[CHECKPOINT_KEY] = []

    def bookmark(self) -> datetime | None:
        """Return the bookmark, if it is valid and of the same scope."""
        bookmark = self._read_bookmark()
        if bookmark is None and "replication_key_value" in self._state:
            logger.info(
                "Ignoring bookmark: it belongs to other lists, segments or account, or is not a "
                "valid timestamp"
            )
        return bookmark

    def _read_bookmark(self) -> datetime | None:
        if self._state.get("scope") != self._scope:
            return None
        try:
            return parse_date(self._state["replication_key_value"])
        except (LookupError, TypeError, ValueError, OverflowError):
            return None

    def advance_bookmark(self, replication_key: str, value: datetime) -> None:
        """Advance the bookmark; never move it backwards."""
        value = max(value, self._read_bookmark() or value)
        self._state["replication_key"] = replication_key
        self._state["replication_key_value"] = value.isoformat().replace("+00:00", "Z")
        self._state["scope"] = self._scope


def _read_checkpoint(state: Mapping[str, Any]) -> Checkpoint | None:
    saved = state.get(CHECKPOINT_KEY)
    if not saved:
        return None
    try:
        (checkpoint,) = msgspec.convert(saved, tuple[Checkpoint])
    except msgspec.ValidationError as error:
        raise InvalidCheckpointError(f"Invalid export checkpoint in state: {error}") from error
    return checkpoint


def retain_partitions(
    state: MutableMapping[str, Any], contexts: Sequence[Mapping[str, str]]
) -> bool:
    """Remove the state of sources that are no longer synced.

    Args:
        state: The stream's state; it is written to.
        contexts: Contexts of the sources; none if the stream has one export.

    Returns:
        Whether an interrupted run has an export of a removed source.
    """
    if contexts:
        state[CHECKPOINT_KEY] = []
    partitions: Any = state.get("partitions")
    if not isinstance(partitions, list):
        partitions = []
    kept: list[Any] = []
    removed: list[Any] = []
    for partition in partitions:
        is_kept = isinstance(partition, dict) and partition.get("context") in contexts
        (kept if is_kept else removed).append(partition)
    if contexts or removed:
        state["partitions"] = kept
    return any(map(_has_export, removed))


def _has_export(partition: Any) -> bool:  # noqa: ANN401 - from a state file
    try:
        checkpoint = _read_checkpoint(partition)
    except (InvalidCheckpointError, AttributeError):
        return False
    return checkpoint is not None and checkpoint.export_id is not None


def resume_run(stores: Sequence[CheckpointStore], *, is_reduced: bool) -> int | None:
    """Prepare the checkpoints of several exports for a run that shares a table version.

    An interrupted run is continued, unless it is too old, or may have emitted contacts of a
    source that is gone: these would keep the version that is activated.

    Args:
        stores: The checkpoints.
        is_reduced: Whether the interrupted run had an export of a source that is gone.

    Returns:
        The table version of the interrupted run, if it had one and is continued.
    """
    checkpoints = [checkpoint for store in stores if (checkpoint := store.load_valid())]
    oldest = min((checkpoint.requested_at for checkpoint in checkpoints), default=utc_now())
    version = next((each.version for each in checkpoints if each.version), None)
    if utc_now() - oldest <= _MAX_RUN_AGE and not (is_reduced and version):
        return version
    logger.info("The interrupted run cannot be continued; reading all lists and segments again")
    for store in stores:
        store.restart()
    return None


def suppress_initial_state(tap: Tap) -> None:
    """Keep the SDK from starting the run with the old STATE, if no export is in progress in it.

    target-duckdb keeps the first STATE of a load without records: it must be the one of the new
    export.
    """
    states = [
        state
        for bookmark in tap.state.get("bookmarks", {}).values()
        for state in (bookmark, *(bookmark.get("partitions") or ()))
    ]
    if not any(state.get(CHECKPOINT_KEY) for state in states):
        tap.state_writer._last_emitted_state = copy.deepcopy(tap.state)  # noqa: SLF001


def emit_state(tap: Tap) -> None:
    """Emit the state, unless it is the one that was emitted last.

    As the SDK's `write_state` does, whose deep copy takes milliseconds with a checkpoint per list.
    """
    writer = tap.state_writer
    if tap.state != writer._last_emitted_state:  # noqa: SLF001
        tap.write_message(StateMessage(tap.state))
        copied = msgspec.json.decode(msgspec.json.encode(tap.state))
        writer._last_emitted_state = copied  # noqa: SLF001


def emit_final_state(tap: Tap) -> None:
    """Emit the state as the last message of a run that was stopped.

    The SDK's state writer would skip a STATE that it has emitted before. Before `--state` is read
    there is none.
    """
    if tap.state:
        tap.write_message(StateMessage(tap.state))
