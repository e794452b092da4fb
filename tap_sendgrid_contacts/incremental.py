"""INCREMENTAL replication: emit the contacts updated since the bookmark."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from tap_sendgrid_contacts.columns import Row

    ContactFilter = Callable[[list[Row], datetime | None], tuple[list[Row], datetime | None]]

logger = logging.getLogger(__name__)


def emit_all(
    contacts: list[Row], max_updated_at: datetime | None
) -> tuple[list[Row], datetime | None]:
    """Return all contacts: the filter of FULL_TABLE."""
    return contacts, max_updated_at


def make_incremental_filter(
    bookmark: datetime | None, start_date: datetime | None, index: int
) -> ContactFilter:
    """Make the filter of INCREMENTAL.

    Args:
        bookmark: The bookmark of the last run, if any.
        start_date: The earliest `updated_at` to emit, if any.
        index: Index of `updated_at` in a contact.

    Returns:
        A function from contacts and the latest `updated_at` so far to the contacts to emit and
        the latest `updated_at` including theirs.
    """
    since = max(filter(None, (bookmark, start_date)), default=None)
    logger.info("Emitting %s", f"contacts updated since {since}" if since else "all contacts")

    def filter_contacts(
        contacts: list[Row], max_updated_at: datetime | None
    ) -> tuple[list[Row], datetime | None]:
        recent, latest = select_contacts(contacts, index, since)
        return recent, max(filter(None, (max_updated_at, latest)), default=None)

    return filter_contacts


def select_contacts(
    contacts: list[Row], index: int, since: datetime | None
) -> tuple[list[Row], datetime | None]:
    """Return the contacts updated since a time, and the latest `updated_at` of all.

    A contact without `updated_at` may be new, so it is among them.

    Args:
        contacts: The contacts.
        index: Index of `updated_at` in a contact.
        since: The time; all contacts are returned if None.
    """
    timestamps: list[Any] = [contact[index] for contact in contacts]
    recent = [
        contact
        for contact, timestamp in zip(contacts, timestamps, strict=True)
        if since is None or timestamp is None or timestamp >= since
    ]
    return recent, max(filter(None, timestamps), default=None)


def next_bookmark(max_updated_at: datetime, export_created_at: datetime | None) -> datetime:
    """Return the bookmark after a complete export.

    Args:
        max_updated_at: The latest `updated_at` read.
        export_created_at: When SendGrid created the export, if it says.
    """
    # A change during the export may be in it or not: the next export contains it.
    return min(max_updated_at, export_created_at or max_updated_at)
