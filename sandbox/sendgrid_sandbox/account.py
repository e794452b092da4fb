"""A SendGrid account: its contacts, lists, segments and fields on a given day.

Every contact is computed from the seed, its number and the day, so an account of millions
takes no memory and two readers of it always agree.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from hashlib import blake2b
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from sendgrid_sandbox.contacts import (
    GeneratedContact,
    add_edge_cases,
    make_custom_values,
    make_reserved_values,
    typical_value,
)
from sendgrid_sandbox.fields import make_custom_fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sendgrid_sandbox.fields import FieldChanges

# Names and sample rates.
_LISTS = (
    ("Customers", 2),
    ("Newsletter", 3),
    ("Überraschung 🎁", 5),
    ("Trial, 14 days", 10),
    ("Nobody", 0),
)
_SEGMENTS = (("Opened last month", 4), ("Has a phone", 7), ("VIP", 50))
# Of every hundred contacts, seven are changed, two of these also cleared, and one is removed
# between two days.
_CLEARED, _REMOVED = range(5, 7), 7
_CLEARED_COLUMNS = ("first_name", "city", "postal_code", "phone_number", "alternate_emails")
_EDGE_CASE_INTERVAL = 8
_EPOCH = datetime(2019, 1, 1, tzinfo=timezone.utc)
_FIRST_DAY = datetime(2026, 1, 1, tzinfo=timezone.utc)


class ContactGroup(NamedTuple):
    """A list or a segment.

    Attributes:
        id: UUID.
        name: Name as displayed.
        sample_rate: One contact in this many is a member; 0 for none.
        drifts: Whether members join and leave from day to day without being changed.
    """

    id: str
    name: str
    sample_rate: int
    drifts: bool = False

    def contains(self, number: int, day: int) -> bool:
        """Return whether the contact is a member on that day."""
        return self.sample_rate > 0 and (number + day * self.drifts) % self.sample_rate == 1


class Account:
    """A SendGrid account on one day.

    Args:
        contacts: Number of contacts on day 1.
        custom_fields: Number of custom fields on day 1.
        seed: Seed for the generated contacts.
        day: Each day after the first changes, clears, adds and removes contacts, adds a
            custom field, and changes the members of segments.
        edge_cases: Whether some contacts have awkward values.
        audiences: Whether the account has lists and segments.
        field_changes: Whether all custom fields were renamed, or deleted and created again with
            another type.
    """

    def __init__(
        self,
        contacts: int = 1000,
        custom_fields: int = 5,
        seed: int = 0,
        day: int = 1,
        *,
        edge_cases: bool = True,
        audiences: bool = True,
        field_changes: FieldChanges = "none",
    ) -> None:
        self.day = day
        self._contacts = contacts
        self._new_per_day = -(-contacts // 50)
        self._initial_fields = custom_fields
        self._edge_cases = edge_cases
        self._key = b"%d" % seed
        self.fields = make_custom_fields(
            custom_fields + day - 1, edge_cases=edge_cases, changes=field_changes
        )
        self.lists = [
            ContactGroup(self._uuid("list", name), name, sample_rate)
            for name, sample_rate in _LISTS
            if audiences
        ]
        self.segments = [
            ContactGroup(self._uuid("segment", name), name, sample_rate, drifts=True)
            for name, sample_rate in _SEGMENTS
            if audiences
        ]

    def __iter__(self) -> Iterator[GeneratedContact]:
        """Iterate over all contacts."""
        return self.members()

    def members(
        self,
        list_ids: Sequence[str] = (),
        segment_ids: Sequence[str] = (),
        *,
        repeats: bool = False,
    ) -> Iterator[GeneratedContact]:
        """Iterate over the contacts of lists and segments, or over all contacts if none is given.

        Args:
            list_ids: Ids of lists.
            segment_ids: Ids of segments.
            repeats: Whether to yield a contact once for each audience that contains it.

        Yields:
            The contacts, ordered by number.
        """
        for number, revision, repetitions in self._select(list_ids, segment_ids):
            contact = self._make_contact(number, revision)
            for _ in range(repetitions if repeats else 1):
                yield contact

    def count(
        self,
        list_ids: Sequence[str] = (),
        segment_ids: Sequence[str] = (),
        *,
        repeats: bool = False,
    ) -> int:
        """Return the number of contacts that `members` yields for the same arguments."""
        return sum(
            repetitions if repeats else 1
            for _, _, repetitions in self._select(list_ids, segment_ids)
        )

    @property
    def _total(self) -> int:
        """The number of contacts ever created."""
        return self._contacts + self._new_per_day * (self.day - 1)

    def _select(
        self, list_ids: Sequence[str], segment_ids: Sequence[str]
    ) -> Iterator[tuple[int, int, int]]:
        """Yield number, revision and count of containing audiences for each selected contact."""
        ids = {*list_ids, *segment_ids}
        audiences = [item for item in chain(self.lists, self.segments) if item.id in ids]
        for number in range(self._total):
            repetitions = sum(item.contains(number, self.day) for item in audiences) if ids else 1
            if repetitions and (revision := self._revision(number)):
                yield number, revision, repetitions

    def _created_day(self, number: int) -> int:
        if number < self._contacts:
            return 1
        return 2 + (number - self._contacts) // self._new_per_day

    def _revision(self, number: int) -> int:
        """Return the day of the contact's last change; 0 if it has been removed."""
        revision = created_day = self._created_day(number)
        for day in range(created_day + 1, self.day + 1):
            event = _daily_event(number, day)
            if event == _REMOVED:
                return 0
            if event < _REMOVED:
                revision = day
        return revision

    def _make_contact(self, number: int, revision: int) -> GeneratedContact:
        created_day = self._created_day(number)
        cleared = revision > created_day and _daily_event(number, revision) in _CLEARED
        # A change redraws the profile; the identity stays.
        identity = self._digest(b"%d" % number)
        redraw = not cleared and revision > 1
        profile = self._digest(b"%d %d" % (number, revision)) if redraw else identity

        if created_day > 1:
            created = updated = _FIRST_DAY + timedelta(created_day - 1, identity[40] * 300)
        else:
            created = _EPOCH + timedelta(
                identity[40] << 3 | identity[41] & 7, identity[42] * 300 + identity[43]
            )
            updated = created + timedelta(identity[44], identity[45] * 300 + 1)
        if revision > created_day:
            updated = _FIRST_DAY + timedelta(revision - 1, identity[45] * 300)

        values = make_reserved_values(number, identity, profile)
        digits = identity.hex()
        values["contact_id"] = "-".join(
            (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32])
        )
        values["created_at"] = created
        values["updated_at"] = updated
        fields = self.fields
        if revision < self.day:
            # Fields added after the last change have no value yet.
            fields = fields[: self._initial_fields + revision - 1]
        edge_case = None
        if self._edge_cases and number % _EDGE_CASE_INTERVAL == 1:
            edge_case = number // _EDGE_CASE_INTERVAL + revision - 1
            custom = add_edge_cases(values, fields, edge_case)
        else:
            custom = make_custom_values(fields, profile)
        if fields and revision > 1:
            # The field added on the day of the change always has a value.
            custom[fields[-1].name] = typical_value(fields[-1].type, profile[46], profile[47])
        if cleared:
            for column in _CLEARED_COLUMNS:
                values.pop(column, None)
            custom.clear()
        return GeneratedContact(number, edge_case, values, custom)

    def _digest(self, data: bytes) -> bytes:
        return blake2b(data, key=self._key).digest()

    def _uuid(self, kind: str, name: str) -> str:
        return str(UUID(bytes=self._digest(f"{kind} {name}".encode())[:16], version=4))


def _daily_event(number: int, day: int) -> int:
    return (number * 37 + day * 101) % 100
