"""INCREMENTAL replication: contacts changed since the bookmark, and the bookmark behind them."""

from __future__ import annotations

import logging
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from tap_sendgrid_contacts.decode.values import MISFITS, parse_date

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from tap_sendgrid_contacts.decode.contact import Contact

    Pick = Callable[[list[Contact], datetime | None], tuple[list[Contact], datetime | None]]

REPLICATION_KEY = "updated_at"

logger = logging.getLogger(__name__)


def picker(state: dict[str, Any], source: dict[str, Any], start_date: str | None) -> Pick:
    """Choose the contacts to send.

    Args:
        state: The stream's state.
        source: Whose contacts they are: the bookmark of others means nothing.
        start_date: The earliest `updated_at` to send.

    Returns:
        A function of some contacts and the latest `updated_at` so far; it gives those to send,
        and the latest `updated_at` behind them.
    """
    logger.warning(
        "INCREMENTAL leaves out contacts that came into a list or segment without any change "
        "to their updated_at, and never tells of those that left; FULL_TABLE does neither"
    )
    bookmark = _bookmark(state, source)
    if bookmark is None and "replication_key_value" in state:
        logger.info("The bookmark is of other lists, segments or account, or no date: not used")
    start = parse_date(start_date) if start_date else None
    since = max(filter(None, (bookmark, start)), default=None)
    logger.info("Sending %s", f"contacts updated since {since}" if since else "all contacts")
    updated_at: Callable[[Contact], datetime | None] = attrgetter(REPLICATION_KEY)

    def pick(
        contacts: list[Contact], newest: datetime | None
    ) -> tuple[list[Contact], datetime | None]:
        moments = list(map(updated_at, contacts))
        picked = [
            contact
            for contact, moment in zip(contacts, moments, strict=True)
            # What has no time may be new.
            if since is None or moment is None or moment >= since
        ]
        return picked, max((m for m in (newest, *moments) if m), default=None)

    return pick


def set_bookmark(
    state: dict[str, Any],
    source: dict[str, Any],
    newest: datetime,
    export_created_at: datetime | None,
) -> None:
    """Set the bookmark for the next run, never back.

    Args:
        state: The stream's state.
        source: Whose contacts they are.
        newest: The latest `updated_at` read.
        export_created_at: When SendGrid made the export, if it says.
    """
    # What changed while the export was made may be in it or not: the next one has it.
    reached = min(newest, export_created_at or newest)
    reached = max(reached, _bookmark(state, source) or reached)
    state["replication_key"] = REPLICATION_KEY
    state["replication_key_value"] = reached.isoformat().replace("+00:00", "Z")
    state["source"] = source


def _bookmark(state: dict[str, Any], source: dict[str, Any]) -> datetime | None:
    """The state's bookmark, if it is one of the same contacts."""
    if state.get("source") != source:
        return None
    try:
        return parse_date(state["replication_key_value"])
    except (LookupError, *MISFITS):
        return None
