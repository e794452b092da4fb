"""INCREMENTAL: which contacts are emitted, and the next bookmark."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

import pytest

from tap_sendgrid_contacts.incremental import (
    emit_all,
    make_incremental_filter,
    next_bookmark,
)

if TYPE_CHECKING:
    from tap_sendgrid_contacts.columns import Row


def day(number: int) -> datetime:
    return datetime(2020, 1, number, tzinfo=timezone.utc)


def emitted(
    days: list[int],
    bookmark: datetime | None,
    start_date: datetime | None = None,
    max_updated_at: datetime | None = None,
) -> tuple[list[int], datetime | None]:
    """Return what is emitted of contacts: their ids are the days of their `updated_at`, or 0."""
    contacts: list[Row] = [(number, day(number) if number else None) for number in days]
    selected, latest = make_incremental_filter(bookmark, start_date, 1)(contacts, max_updated_at)
    return [contact[0] for contact in selected], latest  # type: ignore[misc]


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
    assert emitted([1, 2, 3], bookmark, start_date) == (numbers, day(3))


def test_contacts_without_updated_at_are_emitted() -> None:
    assert emitted([0], day(2), None, day(1)) == ([0], day(1))
    assert emitted([0], day(2)) == ([0], None)


@pytest.mark.parametrize("before", [1, 3])
def test_latest_updated_at_never_decreases(before: int) -> None:
    assert emitted([2], None, None, day(before))[1] == day(max(2, before))


def test_latest_updated_at_includes_contacts_that_are_not_emitted() -> None:
    assert emitted([2], day(3)) == ([], day(2))


def test_full_table_emits_all_contacts() -> None:
    contacts: list[Row] = [("a", day(2))]
    assert emit_all(contacts, None) == (contacts, None)


@pytest.mark.parametrize(
    ("latest", "created_at", "bookmark"),
    [(day(3), None, day(3)), (day(3), day(2), day(2)), (day(3), day(4), day(3))],
)
def test_bookmark_is_not_later_than_the_export(
    latest: datetime, created_at: datetime | None, bookmark: datetime
) -> None:
    assert next_bookmark(latest, created_at) == bookmark
