"""INCREMENTAL: which contacts are emitted, and the next bookmark."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pyarrow as pa
import pytest

from tap_sendgrid_contacts.decode.contact import make_contact_class
from tap_sendgrid_contacts.incremental import (
    emit_all,
    make_incremental_filter,
    next_bookmark,
    select_contacts,
    select_rows,
)

make_contact = make_contact_class(["contact_id", "updated_at"])


def day(number: int) -> datetime:
    return datetime(2020, 1, number, tzinfo=timezone.utc)


class Contacts:
    """Filters contacts, as one of the forms that blocks of them have.

    The id of a contact is the day of its `updated_at`, and 0 if it has none.
    """

    def __init__(self, *, is_batch: bool) -> None:
        self._is_batch = is_batch

    def __call__(
        self,
        days: list[int],
        bookmark: datetime | None,
        start_date: datetime | None = None,
        max_updated_at: datetime | None = None,
    ) -> tuple[list[int], datetime | None]:
        rows = [(str(number), day(number) if number else None) for number in days]
        contacts: Any = [make_contact(*row) for row in rows]
        select: Any = select_contacts
        if self._is_batch:
            ids, dates = zip(*rows, strict=True)
            dates = pa.array(dates, pa.timestamp("us", "UTC"))
            contacts = pa.record_batch({"contact_id": pa.array(ids), "updated_at": dates})
            select = select_rows
        selected, latest = make_incremental_filter(bookmark, start_date, select)(
            contacts, max_updated_at
        )
        if self._is_batch:
            return [int(id_) for id_ in selected["contact_id"].to_pylist()], latest
        return [int(contact.contact_id) for contact in selected], latest


@pytest.fixture(params=[False, True], ids=["contacts", "record batch"])
def emitted(request: pytest.FixtureRequest) -> Contacts:
    return Contacts(is_batch=request.param)


@pytest.mark.parametrize(
    ("bookmark", "start_date", "numbers"),
    [
        (day(2), None, [2, 3]),
        (day(2), day(3), [3]),
        (day(2), day(1), [2, 3]),
        (None, None, [1, 2, 3]),
        (None, day(3), [3]),
        (day(4), None, []),
    ],
)
def test_contacts_since_bookmark_or_start_date_are_emitted(
    emitted: Contacts, bookmark: datetime | None, start_date: datetime | None, numbers: list[int]
) -> None:
    assert emitted([1, 2, 3], bookmark, start_date) == (numbers, day(3))


def test_contacts_without_updated_at_are_emitted(emitted: Contacts) -> None:
    assert emitted([0], day(2), None, day(1)) == ([0], day(1))
    assert emitted([0], day(2)) == ([0], None)


@pytest.mark.parametrize("before", [1, 3])
def test_latest_updated_at_never_decreases(emitted: Contacts, before: int) -> None:
    assert emitted([2], None, None, day(before))[1] == day(max(2, before))


def test_latest_updated_at_includes_contacts_that_are_not_emitted(emitted: Contacts) -> None:
    assert emitted([2], day(3)) == ([], day(2))


def test_full_table_emits_all_contacts() -> None:
    contacts = [make_contact("a", day(2))]
    assert emit_all(contacts, None) == (contacts, None)


@pytest.mark.parametrize(
    ("latest", "created_at", "bookmark"),
    [(day(3), None, day(3)), (day(3), day(2), day(2)), (day(3), day(4), day(3))],
)
def test_bookmark_is_not_later_than_the_export(
    latest: datetime, created_at: datetime | None, bookmark: datetime
) -> None:
    assert next_bookmark(latest, created_at) == bookmark
