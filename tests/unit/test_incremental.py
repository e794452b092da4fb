"""INCREMENTAL: which contacts are emitted, and the next bookmark."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from tap_sendgrid_contacts.decode.contact import make_contact_class
from tap_sendgrid_contacts.incremental import emit_all, make_incremental_filter, next_bookmark

make_contact = make_contact_class(["contact_id", "updated_at"])


def day(number: int) -> datetime:
    return datetime(2020, 1, number, tzinfo=timezone.utc)


def emitted(bookmark: datetime | None, start_date: datetime | None = None) -> list[int]:
    contacts = [make_contact(str(number), day(number)) for number in (1, 2, 3)]
    selected, latest = make_incremental_filter(bookmark, start_date)(contacts, None)
    assert latest == day(3)
    return [contacts.index(each) + 1 for each in selected]


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
    bookmark: datetime | None, start_date: datetime | None, numbers: list[int]
) -> None:
    assert emitted(bookmark, start_date) == numbers


def test_contacts_without_updated_at_are_emitted() -> None:
    contact = make_contact("a", None)
    filter_contacts = make_incremental_filter(day(2), None)
    assert filter_contacts([contact], day(1)) == ([contact], day(1))
    assert filter_contacts([contact], None) == ([contact], None)


@pytest.mark.parametrize("before", [1, 3])
def test_latest_updated_at_never_decreases(before: int) -> None:
    filter_contacts = make_incremental_filter(None, None)
    assert filter_contacts([make_contact("a", day(2))], day(before))[1] == day(max(2, before))


def test_latest_updated_at_includes_contacts_that_are_not_emitted() -> None:
    assert make_incremental_filter(day(3), None)([make_contact("a", day(2))], None) == ([], day(2))


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
