"""INCREMENTAL replication: emit the contacts updated since the bookmark."""

from __future__ import annotations

import logging
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from tap_sendgrid_contacts.decode.contact import Contact

    ContactFilter = Callable[
        [list[Contact], datetime | None], tuple[list[Contact], datetime | None]
    ]

REPLICATION_KEY = "updated_at"

logger = logging.getLogger(__name__)


def emit_all(
    contacts: list[Contact], max_updated_at: datetime | None
) -> tuple[list[Contact], datetime | None]:
    """Return all contacts: the filter of FULL_TABLE."""
    return contacts, max_updated_at


def make_incremental_filter(
    bookmark: datetime | None, start_date: datetime | None
) -> ContactFilter:
    """Make the filter of INCREMENTAL.

    Args:
        bookmark: The bookmark of the last run, if any.
        start_date: The earliest `updated_at` to emit, if any.

    Returns:
        A function from contacts and the latest `updated_at` so far to the contacts to emit and
        the latest `updated_at` including theirs.
    """
    since = max(filter(None, (bookmark, start_date)), default=None)
    logger.info("Emitting %s", f"contacts updated since {since}" if since else "all contacts")
    updated_at: Callable[[Contact], datetime | None] = attrgetter(REPLICATION_KEY)

    def filter_contacts(
        contacts: list[Contact], max_updated_at: datetime | None
    ) -> tuple[list[Contact], datetime | None]:
        timestamps = list(map(updated_at, contacts))
        recent = [
            contact
            for contact, timestamp in zip(contacts, timestamps, strict=True)
            # A contact without timestamp may be new.
            if since is None or timestamp is None or timestamp >= since
        ]
        latest = max((ts for ts in (max_updated_at, *timestamps) if ts), default=None)
        return recent, latest

    return filter_contacts


def next_bookmark(max_updated_at: datetime, export_created_at: datetime | None) -> datetime:
    """Return the bookmark after a complete export.

    Args:
        max_updated_at: The latest `updated_at` read.
        export_created_at: When SendGrid created the export, if it says.
    """
    # A change during the export may be in it or not: the next export contains it.
    return min(max_updated_at, export_created_at or max_updated_at)
