"""Contact columns: the reserved ones, and one for each custom field."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from singer_sdk.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tap_sendgrid_contacts.client import FieldDefinition

Kind = Literal["text", "number", "date", "list"]

KEY = "contact_id"
"""The key: an email may be null, since SendGrid knows contacts by phone or other ids too."""

RESERVED: dict[str, Kind] = {
    KEY: "text",
    "email": "text",
    "first_name": "text",
    "last_name": "text",
    "unique_name": "text",
    "phone_number": "text",
    "phone_number_id": "text",
    "external_id": "text",
    "anonymous_id": "text",
    "alternate_emails": "list",
    "address_line_1": "text",
    "address_line_2": "text",
    "city": "text",
    "state_province_region": "text",
    "postal_code": "text",
    "country": "text",
    "whatsapp": "text",
    "line": "text",
    "facebook": "text",
    "created_at": "date",
    "updated_at": "date",
}
"""Columns that every export has, in the order of the records."""

NOT_IN_NAMES = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')
"""What msgspec takes in no name; SendGrid has none of it either."""

_CUSTOM_PREFIX = "custom_"

# Postgres cuts longer names, and two cut names may be the same.
_NAME_BYTES = 63

# Only these four: other forms make some target drop the column or the load.
_JSON_SCHEMA: dict[Kind, dict[str, Any]] = {
    "text": {"type": ["string", "null"]},
    "number": {"type": ["number", "null"]},
    "date": {"type": ["string", "null"], "format": "date-time"},
    "list": {"type": ["array", "null"], "items": {"type": "string"}},
}

_FIELD_TYPES: dict[str, Kind] = {"Text": "text", "Number": "number", "Date": "date"}


class Column(NamedTuple):
    """A column of the records and the field of the export that fills it.

    Attributes:
        name: Name in the record.
        field: Name in the export: the reserved name, or the custom field's own.
        custom: Whether it stands under `custom_fields` in JSON.
        kind: Type of its values.
        selected: Whether records have it.
    """

    name: str
    field: str
    custom: bool
    kind: Kind
    selected: bool


def contacts_schema(custom_fields: Iterable[FieldDefinition]) -> dict[str, Any]:
    """Describe contacts as a JSON schema.

    Args:
        custom_fields: The account's custom fields.

    Returns:
        The schema, one property a column.
    """
    properties = {name: dict(_JSON_SCHEMA[kind]) for name, kind in RESERVED.items()}
    for field in custom_fields:
        # A type SendGrid adds later is text until the tap knows better.
        kind = _FIELD_TYPES.get(field.field_type, "text")
        properties[_custom_column(field.name, field.id)] = {
            **_JSON_SCHEMA[kind],
            "title": field.name,
            "description": f"Custom field {field.name} ({field.id}, {field.field_type})",
        }
    return {"type": "object", "properties": properties}


def columns_of(schema: dict[str, Any], is_selected: Callable[[str], bool]) -> list[Column]:
    """Read the columns back from a schema, which may have come with a catalog.

    Args:
        schema: A schema as `contacts_schema` makes it, possibly older or edited.
        is_selected: Tells whether a column, by name, is selected. The key always is.

    Returns:
        The columns, reserved ones first.

    Raises:
        ConfigurationError: When it has no key, two columns for one field, or a name that no
            column can have.
    """
    if KEY not in schema.get("properties", {}):
        raise ConfigurationError(f"The catalog's stream has no {KEY}; discover again")
    columns = [
        Column(
            name=name,
            field=_field(name, definition),
            custom=name.startswith(_CUSTOM_PREFIX),
            kind="text" if name == KEY else _kind(definition),
            selected=name == KEY or is_selected(name),
        )
        for name, definition in schema["properties"].items()
    ]
    names: dict[tuple[bool, str], str] = {}
    for column in columns:
        if NOT_IN_NAMES.search(column.name):
            raise ConfigurationError(f"The catalog's column {column.name!a} cannot have that name")
        other = names.setdefault((column.custom, column.field.lower()), column.name)
        if other != column.name:
            raise ConfigurationError(
                f"The catalog's columns {other} and {column.name} are both of the field "
                f"{column.field}; discover again"
            )
    return sorted(columns, key=lambda column: column.custom)


def _custom_column(name: str, field_id: str) -> str:
    wanted = _CUSTOM_PREFIX + name.lower()
    column = re.sub(r"[^a-z0-9_]", "_", wanted)
    if column == wanted and len(column) <= _NAME_BYTES:
        return column
    digest = hashlib.sha256(field_id.encode()).hexdigest()[:8]
    return f"{column[: _NAME_BYTES - len(digest) - 1]}_{digest}"


def _field(column: str, definition: dict[str, Any]) -> str:
    if not column.startswith(_CUSTOM_PREFIX):
        return column
    return str(definition.get("title") or column.removeprefix(_CUSTOM_PREFIX))


def _kind(definition: dict[str, Any]) -> Kind:
    types = definition.get("type", ())
    if "array" in types:
        return "list"
    if "number" in types or "integer" in types:
        return "number"
    return "date" if definition.get("format") == "date-time" else "text"
