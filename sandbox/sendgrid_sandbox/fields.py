"""Field definitions of an account: generated custom fields, documented reserved fields."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

FieldType = Literal["Text", "Number", "Date"]
FIELD_TYPES: tuple[FieldType, ...] = get_args(FieldType)
MAX_CUSTOM_FIELDS = 500  # DOC
_MAX_NAME_LENGTH = 100  # DOC
FieldChanges = Literal["none", "rename", "retype"]

_TYPICAL_NAMES = ("company_name", "Num_Orders", "dob", "Plan", "LifetimeValue", "Renewal_Date_2")
_EDGE_CASE_NAMES = (
    *("_x", "score_1", "X", "t" + "Long_Name_" * 9 + "100_chars", "email", "__", "Company_Name_"),
    *("shared_prefix_" * 6 + "first", "SHARED_prefix_" * 6 + "SECOND", "custom_email", "id"),
)
# DOC: the reserved fields, and which of them are read-only. Their ids are only samples.
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


class Field(NamedTuple):
    """A custom field definition."""

    id: str
    name: str
    type: FieldType


def make_custom_fields(
    count: int, *, edge_cases: bool, changes: FieldChanges = "none"
) -> list[Field]:
    """Return the first `count` custom fields.

    Args:
        count: Number of fields, capped at SendGrid's limit.
        edge_cases: Whether to include awkward names.
        changes: Whether all fields were renamed, or deleted and created again with another type.
    """
    names = _TYPICAL_NAMES + _EDGE_CASE_NAMES if edge_cases else _TYPICAL_NAMES
    is_renamed, is_retyped = changes == "rename", changes == "retype"
    fields = []
    for index in range(min(count, MAX_CUSTOM_FIELDS)):
        name = names[index] if index < len(names) else f"Field_{index}"
        if is_renamed:
            name = f"New_{name}"[:_MAX_NAME_LENGTH]
        field_type = FIELD_TYPES[(index + is_retyped) % len(FIELD_TYPES)]
        number = index + 1 + is_retyped * MAX_CUSTOM_FIELDS
        fields.append(Field(f"{'ew'[index % 2]}{number}_{field_type[0]}", name, field_type))
    return fields


def reserved_fields() -> list[dict[str, object]]:
    """Return the reserved fields as the API describes them."""
    writable: list[dict[str, object]] = [{"name": name, "field_type": "Text"} for name in _RESERVED]
    read_only: list[dict[str, object]] = [
        {"name": name, "field_type": field_type, "read_only": True}
        for name, field_type in _READ_ONLY
    ]
    return [
        {"id": f"_rf{index}_{str(field['field_type'])[0]}", **field}
        for index, field in enumerate(writable + read_only)
    ]
