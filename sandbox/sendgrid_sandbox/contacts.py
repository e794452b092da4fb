"""Generation of single contacts: typical values and edge cases, derived from digests."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from sendgrid_sandbox import values as pool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sendgrid_sandbox.fields import Field, FieldType

ReservedValues = dict[str, str | list[str] | datetime]
CustomValue = str | int | float | datetime
CustomValues = dict[str, CustomValue]

# Column, text format for the contact's number, and a bit mask: more bits, rarer value.
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
_EDGE_CASES: Mapping[FieldType, Sequence[CustomValue]] = {
    "Text": pool.EDGE_CASE_TEXTS,
    "Number": pool.EDGE_CASE_NUMBERS,
    "Date": pool.EDGE_CASE_DATES,
}
_LONG_TEXT_CASE = 2
_MAX_EDGE_CASE_FIELDS = 8


class GeneratedContact(NamedTuple):
    """A contact. Empty values are absent from both dicts.

    Attributes:
        number: Position of the contact in the account, the same on every day.
        edge_case: Index that selects awkward values and encodings, if the contact has any.
        values: Values of reserved columns.
        custom: Values of custom fields by name; dates are midnights in UTC.
    """

    number: int
    edge_case: int | None
    values: ReservedValues
    custom: CustomValues


def make_reserved_values(number: int, identity: bytes, profile: bytes) -> ReservedValues:
    """Return typical values of reserved columns.

    Testing one bit of a digest selects one contact in two, two bits one in four.

    Args:
        number: Position of the contact in the account.
        identity: Digest that never changes for a contact.
        profile: Digest that changes whenever the contact changes.
    """
    email = f"contact.{number}@{pool.DOMAINS[identity[46] % len(pool.DOMAINS)]}"
    values: ReservedValues = (
        {"email": email} if identity[47] & 31 else {"phone_number_id": f"+4520{number:08}"}
    )
    if profile[0] & 7:
        values["first_name"] = pool.FIRST_NAMES[profile[1] % len(pool.FIRST_NAMES)]
        values["last_name"] = pool.LAST_NAMES[profile[2] % len(pool.LAST_NAMES)]
    if profile[3] & 3:
        place = pool.PLACES[profile[4] % len(pool.PLACES)]
        values["city"], values["state_province_region"] = place[:2]
        values["postal_code"], values["country"] = place[2:]
        values["address_line_1"] = f"{profile[5]} {pool.STREETS[profile[6] % len(pool.STREETS)]}"
    if not profile[7] & 7:
        values["alternate_emails"] = [f"{n}.{email}" for n in range(1 + profile[8] % 3)]
    for (column, text_format, mask), byte in zip(_RARE_COLUMNS, profile[9:17], strict=True):
        if not byte & mask:
            values[column] = text_format % number
    return values


def make_custom_values(fields: Sequence[Field], profile: bytes) -> CustomValues:
    """Return typical values of a few of the custom fields, however many there are."""
    count = min(len(fields), 2 + profile[17] % 4)
    offset = profile[18] << 8 | profile[19]
    custom: CustomValues = {}
    for index in range(count):
        field = fields[(offset + index * (len(fields) // count)) % len(fields)]
        custom[field.name] = typical_value(field.type, profile[20 + index], profile[30 + index])
    return custom


def typical_value(field_type: FieldType, high: int, low: int) -> CustomValue:
    """Return a typical value of a custom field, selected by two bytes."""
    if field_type == "Text":
        return pool.WORDS[high % len(pool.WORDS)]
    if field_type == "Date":
        return pool.DATES[(high << 8 | low) % len(pool.DATES)]
    return (high << 8 | low) / 100 if low & 1 else high


def add_edge_cases(values: ReservedValues, fields: Sequence[Field], case: int) -> CustomValues:
    """Put awkward values into the reserved columns and return awkward custom values."""
    texts = pool.EDGE_CASE_TEXTS
    values["first_name"] = texts[case % len(texts)]
    values["address_line_2"] = texts[(case * 7 + 3) % len(texts)]
    values["external_id"] = texts[(case * 11 + 5) % len(texts)]
    if case == _LONG_TEXT_CASE:
        values["unique_name"] = pool.LONG_TEXT
    if case % 9 == 0:
        values.pop("email", None)
        values["phone_number_id"] = f"+0049{case:07}"
    custom: CustomValues = {}
    if case % 5 == 0:
        return custom
    for index in range(min(len(fields), _MAX_EDGE_CASE_FIELDS)):
        field = fields[(case * 3 + index) % len(fields)]
        edge_cases = _EDGE_CASES[field.type]
        custom[field.name] = edge_cases[(case + index * 5) % len(edge_cases)]
    return custom
