"""INCREMENTAL: what a bookmark leaves out, and where the next one stands."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from tap_sendgrid_contacts.decode.contact import contact_type
from tap_sendgrid_contacts.incremental import picker, set_bookmark

SOURCE = {"list_ids": ["a"]}
contact = contact_type(["contact_id", "updated_at"])


def day(number: int) -> datetime:
    return datetime(2020, 1, number, tzinfo=timezone.utc)


def state(value: object, source: object = SOURCE) -> dict[str, Any]:
    return {"replication_key_value": value, "source": source}


def picked(state: dict[str, Any], start_date: str | None = None) -> list[int]:
    contacts = [contact(str(number), day(number)) for number in (1, 2, 3)]
    found, newest = picker(state, SOURCE, start_date)(contacts, None)
    assert newest == day(3)
    return [contacts.index(each) + 1 for each in found]


@pytest.mark.parametrize(
    ("bookmark", "start_date", "numbers"),
    [
        ("2020-01-02T00:00:00Z", None, [2, 3]),
        ("2020-01-02T00:00:00Z", "2020-01-03", [3]),
        ("2020-01-02T00:00:00Z", "2020-01-01", [2, 3]),
    ],
)
def test_contacts_from_the_bookmark_on_are_sent(
    bookmark: str, start_date: str | None, numbers: list[int]
) -> None:
    assert picked(state(bookmark), start_date) == numbers


def test_without_a_bookmark_the_start_date_counts() -> None:
    assert picked({}) == [1, 2, 3]
    assert picked({}, "2020-01-03") == [3]


@pytest.mark.parametrize("value", ["yesterday", 5, True, None, "0001-01-01T00:00:00+05:00"])
def test_a_bookmark_that_is_no_date_is_none(
    value: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert picked(state(value)) == [1, 2, 3]
    assert "or no date: not used" in caplog.text


def test_a_bookmark_of_other_contacts_is_none() -> None:
    assert picked(state("2020-01-02T00:00:00Z", {"list_ids": ["b"]})) == [1, 2, 3]


def test_contacts_without_a_time_are_sent() -> None:
    nameless = contact("a", None)
    pick = picker(state("2020-01-02T00:00:00Z"), SOURCE, None)
    assert pick([nameless], day(1)) == ([nameless], day(1))


@pytest.mark.parametrize(
    ("before", "newest", "created", "after"),
    [
        (None, day(3), None, "2020-01-03T00:00:00Z"),
        (None, day(3), day(2), "2020-01-02T00:00:00Z"),
        ("2020-01-04T00:00:00Z", day(3), None, "2020-01-04T00:00:00Z"),
    ],
)
def test_the_bookmark_goes_as_far_as_the_export_and_never_back(
    before: str | None, newest: datetime, created: datetime | None, after: str
) -> None:
    there = state(before)
    set_bookmark(there, SOURCE, newest, created)
    assert there == {
        "replication_key": "updated_at",
        "replication_key_value": after,
        "source": SOURCE,
    }
