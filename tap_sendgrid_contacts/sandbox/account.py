"""An account and its contacts: what a reader of the exports must find in them.

Every contact is worked out from the seed, its number and the day, so an account of
millions takes no memory and two readers of it always agree.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from hashlib import blake2b
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple
from uuid import UUID

from tap_sendgrid_contacts.sandbox import values as pool

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Values = dict[str, str | list[str] | datetime]
    Custom = dict[str, str | int | float | datetime]

FieldType = Literal["Text", "Number", "Date"]
FIELD_TYPES: tuple[FieldType, ...] = ("Text", "Number", "Date")
MAX_CUSTOM_FIELDS = 500  # DOC

_PLAIN_NAMES = ("company_name", "Num_Orders", "dob", "Plan", "LifetimeValue", "Renewal_Date_2")
_HARD_NAMES = (
    *("_x", "score_1", "X", "t" + "Long_Name_" * 9 + "100_chars", "email", "__", "Company_Name_"),
    *("shared_prefix_" * 6 + "first", "SHARED_prefix_" * 6 + "SECOND", "custom_email", "id"),
)
# DOC: the reserved fields, and which of them are read-only. Their ids are samples only.
_RESERVED = (
    *("first_name", "last_name", "email", "alternate_emails", "address_line_1", "address_line_2"),
    *("city", "state_province_region", "postal_code", "country", "phone_number", "whatsapp"),
    *("line", "facebook", "unique_name"),
)
_READ_ONLY: tuple[tuple[str, FieldType], ...] = (
    ("email_domains", "Text"),
    ("last_clicked", "Date"),
    ("last_opened", "Date"),
    ("last_emailed", "Date"),
    ("singlesend_id", "Text"),
    ("automation_id", "Text"),
    ("created_at", "Date"),
    ("updated_at", "Date"),
    ("contact_id", "Text"),
)

# Of every hundred contacts, what happens to how many between one day and the next.
_CHANGED, _CLEARED, _GONE = range(5), range(5, 7), 7
_CLEARED_COLUMNS = ("first_name", "city", "postal_code", "phone_number", "alternate_emails")
# Column, text made of the contact's number, and how rare it is.
_RARE_COLUMNS = (
    ("phone_number", "+45 %08d", 1),
    ("unique_name", "member.%d", 3),
    ("external_id", "%010d", 3),
    ("address_line_2", "%d. floor", 7),
    ("whatsapp", "+4530%08d", 7),
    ("line", "line-%d", 15),
    ("facebook", "fb.%d", 15),
    ("anonymous_id", "anonymous-%d", 15),
)
_HARD_EVERY = 8
_LONG_CASE = 2
_EPOCH = datetime(2019, 1, 1, tzinfo=timezone.utc)
_FIRST_DAY = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Field(NamedTuple):
    """A custom field, as the account's owner has defined it."""

    id: str
    name: str
    type: FieldType


class Group(NamedTuple):
    """A list or a segment: one contact in `every`, none when that is 0."""

    id: str
    name: str
    every: int
    moves: bool = False

    def holds(self, number: int, day: int) -> bool:
        """Whether the contact is a member; those of a segment move without being changed."""
        return self.every > 0 and (number + day * self.moves) % self.every == 1


class Contact(NamedTuple):
    """A contact. What is empty is absent from both dicts.

    Attributes:
        number: which contact of the account it is, the same on every day
        hard: a number to vary spellings by, if the contact has hard values
        values: reserved columns
        custom: custom fields by name as typed; their dates are midnights in UTC
    """

    number: int
    hard: int | None
    values: Values
    custom: Custom


class Account:
    """A SendGrid account on one day of its life.

    Args:
        contacts: how many contacts it has on day 1
        custom_fields: how many custom fields it has on day 1
        seed: another seed, other contacts
        day: from day 2 on, some contacts are changed, cleared, new or gone since the day
            before, there is one custom field more, and members of segments have moved
        edge_cases: whether some contacts have values that break careless readers
    """

    def __init__(
        self,
        contacts: int = 1000,
        custom_fields: int = 5,
        seed: int = 0,
        day: int = 1,
        *,
        edge_cases: bool = True,
    ) -> None:
        self.day = day
        self._contacts = contacts
        self._new_a_day = -(-contacts // 50)
        self._first_fields = custom_fields
        self._edge_cases = edge_cases
        self._key = b"%d" % seed
        self.fields = [
            _field(number, edge_cases=edge_cases)
            for number in range(min(custom_fields + day - 1, MAX_CUSTOM_FIELDS))
        ]
        self.lists = [
            Group(self._uuid("list", name), name, every)
            for name, every in (
                ("Customers", 2),
                ("Newsletter", 3),
                ("Überraschung 🎁", 5),
                ("Trial, 14 days", 10),
                ("Nobody", 0),
            )
        ]
        self.segments = [
            Group(self._uuid("segment", name), name, every, moves=True)
            for name, every in (("Opened last month", 4), ("Has a phone", 7), ("VIP", 50))
        ]

    @property
    def reserved_fields(self) -> list[dict[str, object]]:
        """The reserved fields, as the API describes them."""
        writable: list[dict[str, object]] = [
            {"name": name, "field_type": "Text"} for name in _RESERVED
        ]
        read_only: list[dict[str, object]] = [
            {"name": name, "field_type": kind, "read_only": True} for name, kind in _READ_ONLY
        ]
        return [
            {"id": f"_rf{number}_{str(field['field_type'])[0]}", **field}
            for number, field in enumerate(writable + read_only)
        ]

    def __iter__(self) -> Iterator[Contact]:
        """Every contact of the account."""
        return self.members()

    def members(
        self,
        list_ids: Sequence[str] = (),
        segment_ids: Sequence[str] = (),
        *,
        repeats: bool = False,
    ) -> Iterator[Contact]:
        """The contacts of lists and segments, of the whole account when none is named.

        Args:
            list_ids: lists to take contacts from
            segment_ids: segments to take contacts from
            repeats: whether a contact comes once for each of them that it is in

        Yields:
            The contacts in the order of their number.
        """
        for number, revision, times in self._numbers(list_ids, segment_ids):
            contact = self._contact(number, revision)
            for _ in range(times if repeats else 1):
                yield contact

    def count(
        self,
        list_ids: Sequence[str] = (),
        segment_ids: Sequence[str] = (),
        *,
        repeats: bool = False,
    ) -> int:
        """How many contacts `members` yields for the same arguments."""
        return sum(times if repeats else 1 for _, _, times in self._numbers(list_ids, segment_ids))

    def contact(self, number: int) -> Contact | None:
        """One contact, unless it is gone or not there yet."""
        if number >= self._ever:
            return None
        revision = self._revision(number)
        return self._contact(number, revision) if revision else None

    @property
    def _ever(self) -> int:
        return self._contacts + self._new_a_day * (self.day - 1)

    def _numbers(
        self, list_ids: Sequence[str], segment_ids: Sequence[str]
    ) -> Iterator[tuple[int, int, int]]:
        asked = {*list_ids, *segment_ids}
        groups = [group for group in chain(self.lists, self.segments) if group.id in asked]
        for number in range(self._ever):
            times = sum(group.holds(number, self.day) for group in groups) if asked else 1
            if times and (revision := self._revision(number)):
                yield number, revision, times

    def _born(self, number: int) -> int:
        return 1 if number < self._contacts else 2 + (number - self._contacts) // self._new_a_day

    def _revision(self, number: int) -> int:
        """The day of the contact's last change; 0 when it is gone."""
        revision = born = self._born(number)
        for day in range(born + 1, self.day + 1):
            event = _event(number, day)
            if event == _GONE:
                return 0
            if event < _GONE:
                revision = day
        return revision

    def _contact(self, number: int, revision: int) -> Contact:
        born = self._born(number)
        cleared = revision > born and _event(number, revision) in _CLEARED
        # What a contact is stays; what is known of it is drawn anew by a change.
        being = self._noise(b"%d" % number)
        known = being if cleared or revision == 1 else self._noise(b"%d %d" % (number, revision))
        name = being.hex()

        if born > 1:
            created = updated = _FIRST_DAY + timedelta(born - 1, being[40] * 300)
        else:
            created = _EPOCH + timedelta(
                being[40] << 3 | being[41] & 7, being[42] * 300 + being[43]
            )
            updated = created + timedelta(being[44], being[45] * 300 + 1)
        if revision > born:
            updated = _FIRST_DAY + timedelta(revision - 1, being[45] * 300)

        values = _values(number, being, known)
        values["contact_id"] = f"{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:32]}"
        values["created_at"] = created
        values["updated_at"] = updated
        fields = self.fields
        if revision < self.day:
            # A field made since has no value yet.
            fields = fields[: self._first_fields + revision - 1]
        hard = None
        if self._edge_cases and number % _HARD_EVERY == 1:
            hard = number // _HARD_EVERY + revision - 1
            custom = _harden(values, fields, hard)
        else:
            custom = _custom(fields, known)
        if fields and revision > 1:
            # So that the day's new field is never without a value.
            custom[fields[-1].name] = _ordinary(fields[-1].type, known[46], known[47])
        if cleared:
            for column in _CLEARED_COLUMNS:
                values.pop(column, None)
            custom.clear()
        return Contact(number, hard, values, custom)

    def _noise(self, data: bytes) -> bytes:
        return blake2b(data, key=self._key).digest()

    def _uuid(self, *what: str) -> str:
        return str(UUID(bytes=self._noise(" ".join(what).encode())[:16], version=4))


def _field(number: int, *, edge_cases: bool) -> Field:
    names = _PLAIN_NAMES + _HARD_NAMES if edge_cases else _PLAIN_NAMES
    name = names[number] if number < len(names) else f"Field_{number}"
    kind = FIELD_TYPES[number % 3]
    return Field(f"{'ew'[number % 2]}{number + 1}_{kind[0]}", name, kind)


def _event(number: int, day: int) -> int:
    return (number * 37 + day * 101) % 100


def _values(number: int, being: bytes, known: bytes) -> Values:
    """Ordinary reserved values; one bit tested is one contact in two, two bits one in four."""
    email = f"contact.{number}@{pool.DOMAINS[being[46] % len(pool.DOMAINS)]}"
    values: Values = (
        {"email": email} if being[47] & 31 else {"phone_number_id": f"+4520{number:08}"}
    )
    if known[0] & 7:
        values["first_name"] = pool.FIRST_NAMES[known[1] % len(pool.FIRST_NAMES)]
        values["last_name"] = pool.LAST_NAMES[known[2] % len(pool.LAST_NAMES)]
    if known[3] & 3:
        place = pool.PLACES[known[4] % len(pool.PLACES)]
        values["city"], values["state_province_region"] = place[:2]
        values["postal_code"], values["country"] = place[2:]
        values["address_line_1"] = f"{known[5]} {pool.STREETS[known[6] % len(pool.STREETS)]}"
    if not known[7] & 7:
        values["alternate_emails"] = [f"{n}.{email}" for n in range(1 + known[8] % 3)]
    for (column, form, bits), chance in zip(_RARE_COLUMNS, known[9:17], strict=True):
        if not chance & bits:
            values[column] = form % number
    return values


def _custom(fields: Sequence[Field], known: bytes) -> Custom:
    """A handful of the fields, however many there are."""
    asked = min(len(fields), 2 + known[17] % 4)
    custom: Custom = {}
    for turn in range(asked):
        field = fields[((known[18] << 8 | known[19]) + turn * (len(fields) // asked)) % len(fields)]
        custom[field.name] = _ordinary(field.type, known[20 + turn], known[30 + turn])
    return custom


def _ordinary(kind: FieldType, coarse: int, fine: int) -> str | int | float | datetime:
    if kind == "Text":
        return pool.WORDS[coarse % len(pool.WORDS)]
    if kind == "Date":
        return pool.DATES[(coarse << 8 | fine) % len(pool.DATES)]
    return (coarse << 8 | fine) / 100 if fine & 1 else coarse


def _harden(values: Values, fields: Sequence[Field], case: int) -> Custom:
    """Put hard values into the reserved columns, and give back a set of hard custom values."""
    texts = pool.HARD_TEXTS
    values["first_name"] = texts[case % len(texts)]
    values["address_line_2"] = texts[(case * 7 + 3) % len(texts)]
    values["external_id"] = texts[(case * 11 + 5) % len(texts)]
    if case == _LONG_CASE:
        values["unique_name"] = pool.LONG_TEXT
    if case % 9 == 0:
        values.pop("email", None)
        values["phone_number_id"] = f"+0049{case:07}"
    custom: Custom = {}
    if case % 5 == 0:
        return custom
    for turn in range(min(len(fields), 8)):
        field = fields[(case * 3 + turn) % len(fields)]
        which = case + turn * 5
        if field.type == "Text":
            custom[field.name] = texts[which % len(texts)]
        elif field.type == "Date":
            custom[field.name] = pool.HARD_DATES[which % len(pool.HARD_DATES)]
        else:
            custom[field.name] = pool.HARD_NUMBERS[which % len(pool.HARD_NUMBERS)]
    return custom
