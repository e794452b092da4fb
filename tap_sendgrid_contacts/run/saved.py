"""A run in the state: its form, whether it is resumed, and what earlier versions have saved."""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from tap_sendgrid_contacts.checkpoint import Checkpoint, Time
from tap_sendgrid_contacts.dates import parse_date, utc_now
from tap_sendgrid_contacts.redaction import sanitize

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

    from tap_sendgrid_contacts.api.request import ExportRequest
    from tap_sendgrid_contacts.columns import ColumnLayout

logger = logging.getLogger(__name__)

COLUMNS_KEY = "columns"
"""State key of the custom columns that were loaded; see `catalog.fields`."""

# A file exists for twelve hours: lists that were finished before are as old as that, too.
_MAX_RUN_AGE = timedelta(hours=12)

_MAX_VERSION = 1 << 40  # A larger one was not written by this tap.

_OLD_KEYS = ("exports", "partitions", "scope")


class SavedRun(msgspec.Struct, omit_defaults=True):
    """A run in progress.

    Attributes:
        started_at: When it was started.
        fingerprint: What decides on its records; with another one, it cannot be resumed.
        version: Its table version, if ACTIVATE_VERSION is to be emitted.
        bookmark: What it filters by, with INCREMENTAL.
        finished: Contacts of each export that was read and verified.
        exports: Checkpoints of the exports in flight.
        discarded: The last discarded export of each key: it must not be adopted.
        unproven: Why rows of its version may be missing or outdated, if so.
        max_updated_at: The latest `updated_at` of the finished exports.
        exported_at: When the earliest of them was created.
    """

    started_at: Time
    fingerprint: dict[str, Any]
    version: int | None = None
    bookmark: Time | None = None
    finished: dict[str, int] = {}
    exports: dict[str, Checkpoint] = {}
    discarded: dict[str, str] = {}
    unproven: str | None = None
    max_updated_at: Time | None = None
    exported_at: Time | None = None

    @property
    def has_emitted(self) -> bool:
        """Whether contacts were emitted."""
        return bool(self.finished) or any(each.contacts_read for each in self.exports.values())

    @property
    def resumable_until(self) -> datetime | None:
        """When what the run has finished is too old to be kept; None if that is nothing."""
        if not self.finished:
            return None
        # A run may have waited for hours before its first export was created.
        return max(self.started_at, self.exported_at or self.started_at) + _MAX_RUN_AGE


def load_run(
    state: MutableMapping[str, Any], fingerprint: dict[str, Any], *, has_version: bool
) -> SavedRun:
    """Return the run of a stream's state, or a new one where it cannot be resumed."""
    saved = state.get("run")
    if not saved:
        return new_run(state, fingerprint, _read_bookmark(state), has_version=has_version)
    try:
        (run,) = msgspec.convert(saved, tuple[SavedRun])
    except msgspec.ValidationError as error:
        logger.warning("Invalid run in state (%s); starting a new export", error)
        return new_run(state, fingerprint, None, has_version=has_version)
    if reason := _why_not_resumable(run, fingerprint):
        if run.exports or run.finished:
            logger.warning("%s; starting a new export", reason)
        return next_run(run, state, fingerprint, has_version=has_version)
    if has_version and not run.has_emitted:
        # It may have been completed, with a target that did not keep the last STATE.
        run.version = new_version(state)
    return run


def new_run(
    state: MutableMapping[str, Any],
    fingerprint: dict[str, Any],
    bookmark: datetime | None,
    *,
    has_version: bool,
) -> SavedRun:
    """Return a run that starts now."""
    version = new_version(state) if has_version else None
    return SavedRun(utc_now(), fingerprint, version, bookmark)


def next_run(
    run: SavedRun,
    state: MutableMapping[str, Any],
    fingerprint: dict[str, Any],
    *,
    has_version: bool,
) -> SavedRun:
    """Return the run that replaces a discarded one."""
    # Not with the bookmark of the state: Meltano brings that back after `--full-refresh`.
    following = new_run(state, fingerprint, run.bookmark, has_version=has_version)
    in_flight = {key: each.export_id for key, each in run.exports.items() if each.export_id}
    following.discarded = run.discarded | in_flight
    return following


def new_version(state: MutableMapping[str, Any]) -> int:
    """Return a version that no earlier run has had: epoch seconds, as the SDK's."""
    last = state.get("version")
    version = int(utc_now().timestamp())
    if isinstance(last, int) and last < _MAX_VERSION:
        version = max(version, last + 1)
    state["version"] = version
    return version


def _why_not_resumable(run: SavedRun, fingerprint: Mapping[str, Any]) -> str | None:
    changed = [
        key
        for key in sorted({*fingerprint, *run.fingerprint})
        if fingerprint.get(key) != run.fingerprint.get(key)
    ]
    if changed:
        return f"{', '.join(map(sanitize, changed))} changed since the last run"
    if run.resumable_until and utc_now() > run.resumable_until:
        return "The interrupted run is older than 12 hours"
    return None


def _read_bookmark(state: Mapping[str, Any]) -> datetime | None:
    value = state.get("replication_key_value")
    if value is None:
        return None
    try:
        bookmark = parse_date(value)
    except (TypeError, ValueError, OverflowError):
        logger.warning("Ignoring bookmark: replication_key_value is not a valid timestamp")
        return None
    if bookmark > utc_now() + timedelta(days=1):
        logger.warning("Ignoring bookmark: it is in the future")
        return None
    return bookmark


def has_exports(state: Mapping[str, Any]) -> bool:
    """Return whether a stream's state has exports in flight, or finished ones of a run."""
    try:
        (run,) = msgspec.convert(state.get("run"), tuple[SavedRun])
    except msgspec.ValidationError:
        return False
    return bool(run.exports or run.finished)


def export_key(
    api_url: str, on_behalf_of: str | None, list_ids: tuple[str, ...], segment_ids: tuple[str, ...]
) -> str:
    """Return the key of an export in the state: a digest of whose contacts it has."""
    scope = (
        api_url.rstrip("/"),
        on_behalf_of or None,
        sorted(each.lower() for each in list_ids),
        sorted(each.lower() for each in segment_ids),
    )
    return digest(scope)


def run_fingerprint(
    request: ExportRequest,
    config: Mapping[str, Any],
    layout: ColumnLayout,
    *,
    is_incremental: bool,
    has_version: bool,
) -> dict[str, Any]:
    """Return what decides on the records of a run: with another one, it cannot be resumed.

    Without what is not set, and with digests: it is in every STATE.
    """
    mapping = {
        key: value
        for key, value in config.items()
        if key.startswith(("stream_map", "flattening_", "faker_"))
    }
    columns = [(name, column_type.name) for name, column_type in layout.types.items()]
    fingerprint = {
        "api_url": config["api_url"],
        "on_behalf_of": config.get("on_behalf_of"),
        "list_ids": _digest_ids(request.list_ids),
        "segment_ids": _digest_ids(request.segment_ids),
        "separate_exports": config["separate_exports"],
        "file_type": request.file_type,
        "replication_method": "INCREMENTAL" if is_incremental else "FULL_TABLE",
        "start_date": config.get("start_date"),
        "activate_version": has_version,
        "columns": digest(columns),
        "stream_maps": digest(mapping),
        "hash_columns": layout.hasher and layout.hasher.digest(),
    }
    return {key: value for key, value in fingerprint.items() if value}


def _digest_ids(ids: Sequence[str]) -> str | None:
    return digest(sorted(each.lower() for each in ids)) if ids else None


def digest(value: object) -> str:
    """Return a short digest of a value that JSON can express."""
    encoded = msgspec.json.encode(value, order="sorted", enc_hook=str)
    return hashlib.sha256(encoded).hexdigest()[:12]


def read_counts(state: Mapping[str, Any]) -> dict[str, int | None]:
    """Return the contacts of each export of the last complete run; none if not known."""
    try:
        (counts,) = msgspec.convert(state["counts"], tuple[dict[str, int | None]])
    except (LookupError, msgspec.ValidationError):
        return {}
    return counts


def convert_old_state(state: MutableMapping[str, Any]) -> None:
    """Convert a state of version 0.1.0: its bookmark is kept, its export in progress is not."""
    partitions = state.get("partitions")
    old = [state, *(partitions if isinstance(partitions, list) else ())]
    old = [each for each in old if isinstance(each, dict)]
    if any(each.get("exports") for each in old):
        logger.info("The state is of an earlier version of the tap; starting a new export")
    bookmarks: dict[str, str] = {}
    for each in old:
        try:
            scope = each["scope"]
            key = export_key(
                scope["api_url"],
                scope["on_behalf_of"],
                tuple(scope["list_ids"]),
                tuple(scope["segment_ids"]),
            )
            parse_date(each["replication_key_value"])
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
            continue
        bookmarks[key] = each["replication_key_value"]
    if bookmarks:
        state["replication_key_value"] = min(bookmarks.values(), key=parse_date)
        state["counts"] = [dict.fromkeys(bookmarks)]
    for key in _OLD_KEYS:
        state.pop(key, None)
