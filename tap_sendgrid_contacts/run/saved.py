"""The form of a run in the state, and of what earlier versions of the tap have saved."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from tap_sendgrid_contacts.checkpoint import Checkpoint, Time
from tap_sendgrid_contacts.dates import parse_date

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

    from tap_sendgrid_contacts.api.request import ExportRequest

logger = logging.getLogger(__name__)

COLUMNS_KEY = "columns"
"""State key of the custom columns that were loaded; see `catalog.fields`."""

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
        given_up: The last export that was given up of each: it must not be adopted.
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
    given_up: dict[str, str] = {}
    unproven: str | None = None
    max_updated_at: Time | None = None
    exported_at: Time | None = None

    @property
    def has_emitted(self) -> bool:
        """Whether contacts were emitted."""
        return bool(self.finished) or any(each.contacts_read for each in self.exports.values())


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


def request_fingerprint(request: ExportRequest, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides on whose contacts a run has, and in which files."""
    return {
        "api_url": config["api_url"],
        "on_behalf_of": config.get("on_behalf_of"),
        # There can be hundreds, and it is in every STATE.
        "list_ids": _digest_ids(request.list_ids),
        "segment_ids": _digest_ids(request.segment_ids),
        "separate_exports": config["separate_exports"],
        "file_type": request.file_type,
    }


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
