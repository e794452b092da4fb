"""INCREMENTAL replication: emit the contacts updated since the bookmark."""

from __future__ import annotations

import logging
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from pyarrow import RecordBatch

    from tap_sendgrid_contacts.decode.contact import Contact, ContactsT

    ContactFilter = Callable[[ContactsT, datetime | None], tuple[ContactsT, datetime | None]]

REPLICATION_KEY = "updated_at"

logger = logging.getLogger(__name__)


def emit_all(
    contacts: ContactsT, max_updated_at: datetime | None
) -> tuple[ContactsT, datetime | None]:
    """Return all contacts: the filter of FULL_TABLE."""
    return contacts, max_updated_at


def make_incremental_filter(
    bookmark: datetime | None,
    start_date: datetime | None,
    select: Callable[[ContactsT, datetime | None], tuple[ContactsT, datetime | None]],
) -> ContactFilter[ContactsT]:
    """Make the filter of INCREMENTAL.

    Args:
        bookmark: The bookmark of the last run, if any.
        start_date: The earliest `updated_at` to emit, if any.
        select: `select_contacts`, or `select_rows` for record batches.

    Returns:
        A function from contacts and the latest `updated_at` so far to the contacts to emit and
        the latest `updated_at` including theirs.
    """
    since = max(filter(None, (bookmark, start_date)), default=None)
    logger.info("Emitting %s", f"contacts updated since {since}" if since else "all contacts")

    def filter_contacts(
        contacts: ContactsT, max_updated_at: datetime | None
    ) -> tuple[ContactsT, datetime | None]:
        recent, latest = select(contacts, since)
        return recent, max(filter(None, (max_updated_at, latest)), default=None)

    return filter_contacts


def select_contacts(
    contacts: list[Contact], since: datetime | None
) -> tuple[list[Contact], datetime | None]:
    """Return the contacts updated since a time, and the latest `updated_at` of all.

    A contact without `updated_at` may be new, so it is among them.
    """
    updated_at: Callable[[Contact], datetime | None] = attrgetter(REPLICATION_KEY)
    timestamps = list(map(updated_at, contacts))
    recent = [
        contact
        for contact, timestamp in zip(contacts, timestamps, strict=True)
        if since is None or timestamp is None or timestamp >= since
    ]
    return recent, max(filter(None, timestamps), default=None)


def select_rows(batch: RecordBatch, since: datetime | None) -> tuple[RecordBatch, datetime | None]:
    """Do the same as `select_contacts` with a record batch."""
    import pyarrow.compute as pc  # noqa: PLC0415 - an extra

    timestamps = batch.column(REPLICATION_KEY)
    latest: datetime | None = pc.max(timestamps).as_py()
    if since is None:
        return batch, latest
    is_recent = pc.fill_null(pc.greater_equal(timestamps, since), True)  # noqa: FBT003 - a value
    return batch.filter(is_recent), latest


def next_bookmark(max_updated_at: datetime, export_created_at: datetime | None) -> datetime:
    """Return the bookmark after a complete export.

    Args:
        max_updated_at: The latest `updated_at` read.
        export_created_at: When SendGrid created the export, if it says.
    """
    # A change during the export may be in it or not: the next export contains it.
    return min(max_updated_at, export_created_at or max_updated_at)
