"""States as users and Meltano pass them."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from singer_sdk.exceptions import ConfigurationError

from tap_sendgrid_contacts.catalog.normalize import quote_names
from tap_sendgrid_contacts.columns import STREAM

logger = logging.getLogger(__name__)


class _PartitionState(msgspec.Struct):
    progress_markers: dict[str, Any] = {}


class _StreamState(_PartitionState):
    partitions: list[_PartitionState] = []


class _State(msgspec.Struct):
    bookmarks: dict[str, _StreamState] = {}


def normalize_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state without what the SDK would not survive, empty if it is none of this tap.

    Raises:
        ConfigurationError: If it has another shape.
    """
    if not state:
        return {}
    if "bookmarks" not in state:
        hint = "it is not one of this tap"
        if "value" in state:
            hint = "it is a whole STATE message; pass its value"
        elif "singer_state" in state:
            hint = "it is what `meltano state get` prints; pass its singer_state"
        logger.warning("Ignoring --state, which has no bookmarks: %s. The run is a first one", hint)
        return {}
    try:
        msgspec.convert(state, _State)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"--state: {error}") from None
    bookmarks = state["bookmarks"]
    if bookmarks and STREAM not in bookmarks:
        logger.warning(
            "--state has no bookmark of stream '%s', but of %s: it is of another tap. The run is "
            "a first one",
            STREAM,
            quote_names(bookmarks),
        )
    if dropped := sum(map(_drop_invalid_partitions, bookmarks.values())):
        logger.warning(
            "Ignoring %d partition(s) of --state that have no context, or that of another one",
            dropped,
        )
    return state


def _drop_invalid_partitions(bookmark: dict[str, Any]) -> int:
    """Keep one partition per context, as the SDK requires; return how many were dropped."""
    partitions = bookmark.get("partitions", [])
    kept: list[dict[str, Any]] = []
    for each in partitions:
        context = each.get("context")
        if isinstance(context, dict) and context not in (other["context"] for other in kept):
            kept.append(each)
    dropped = len(partitions) - len(kept)
    partitions[:] = kept
    return dropped
