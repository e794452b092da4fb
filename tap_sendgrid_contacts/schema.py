"""Columns of the contacts stream and their JSON schema."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from singer_sdk.exceptions import ConfigurationError

from tap_sendgrid_contacts.columns import PRIMARY_KEY, Column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tap_sendgrid_contacts.api.client import FieldDefinition
    from tap_sendgrid_contacts.columns import ColumnType

RESERVED_FIELDS: dict[str, ColumnType] = {
    PRIMARY_KEY: "text",
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
"""Fields that every account has, in the order of the records."""

SOURCE_KEY = "source_id"

SOURCE_COLUMNS = ("source_type", SOURCE_KEY, "source_name")
"""Columns that name the list or segment, with one export for each; after the reserved ones."""

FORBIDDEN_NAME_CHARS = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')
"""Characters msgspec rejects in field names; SendGrid does not allow them either."""

_CUSTOM_PREFIX = "custom_"

# PostgreSQL truncates longer identifiers, and two truncated ones may be equal.
_MAX_IDENTIFIER_BYTES = 63

# Only these four: with other types some targets drop the column or abort the load.
_JSON_SCHEMA: dict[ColumnType, dict[str, Any]] = {
    "text": {"type": ["string", "null"]},
    "number": {"type": ["number", "null"]},
    "date": {"type": ["string", "null"], "format": "date-time"},
    "list": {"type": ["array", "null"], "items": {"type": "string"}},
}

_FIELD_TYPES: dict[str, ColumnType] = {"Text": "text", "Number": "number", "Date": "date"}


def build_schema(
    custom_fields: Iterable[FieldDefinition], *, has_source: bool = False
) -> dict[str, Any]:
    """Build the JSON schema of contacts.

    Args:
        custom_fields: The account's custom fields.
        has_source: Whether contacts have the `SOURCE_COLUMNS`.

    Returns:
        The schema, one property per column.
    """
    properties = {name: dict(_JSON_SCHEMA[type_]) for name, type_ in RESERVED_FIELDS.items()}
    if has_source:
        properties |= {name: dict(_JSON_SCHEMA["text"]) for name in SOURCE_COLUMNS}
    for field in custom_fields:
        # Types that SendGrid may add are read as text.
        column_type = _FIELD_TYPES.get(field.field_type, "text")
        properties[_column_name(field.name, field.id)] = {
            **_JSON_SCHEMA[column_type],
            "title": field.name,
            "description": f"Custom field {field.name} ({field.id}, {field.field_type})",
        }
    return {"type": "object", "properties": properties}


def columns_from_schema(schema: dict[str, Any], is_selected: Callable[[str], bool]) -> list[Column]:
    """Return the columns of a schema that the export fills; it may be that of a catalog.

    Args:
        schema: A schema as `build_schema` makes it, possibly older or edited.
        is_selected: Returns whether a column, by name, is selected. The key always is.

    Returns:
        The columns, reserved ones first.

    Raises:
        ConfigurationError: If the key is missing, two columns are of the same field, or a column
            has an invalid name.
    """
    if PRIMARY_KEY not in schema.get("properties", {}):
        raise ConfigurationError(
            f"{PRIMARY_KEY} missing from the catalog's schema; re-run discovery"
        )
    columns = [
        Column(
            name=name,
            field=_source_field(name, definition),
            is_custom=name.startswith(_CUSTOM_PREFIX),
            type="text" if name == PRIMARY_KEY else _column_type(definition),
            is_selected=name == PRIMARY_KEY or is_selected(name),
        )
        for name, definition in schema["properties"].items()
        if name not in SOURCE_COLUMNS
    ]
    names: dict[tuple[bool, str], str] = {}
    for column in columns:
        if FORBIDDEN_NAME_CHARS.search(column.name):
            raise ConfigurationError(f"Invalid column name {column.name!a} in the catalog")
        other = names.setdefault((column.is_custom, column.field.lower()), column.name)
        if other != column.name:
            raise ConfigurationError(
                f"The catalog's columns {other} and {column.name} map to the same field "
                f"'{column.field}'; re-run discovery"
            )
    return sorted(columns, key=lambda column: column.is_custom)


def find_retyped_columns(
    columns: Iterable[Column], loaded_types: Mapping[str, ColumnType]
) -> dict[str, str]:
    """Find custom fields whose type is not that of the column that was loaded under their name.

    The type of a field cannot change, but it can be deleted and created again with another one.
    Some targets then reject every load, others convert the values. So each type has its column.

    Args:
        columns: The columns as they are named without regard to what was loaded.
        loaded_types: Types of the columns that earlier runs have loaded.

    Returns:
        The name of the column to load them into, by the name they have in `columns`.
    """
    columns = list(columns)
    names = {column.name for column in columns}

    def new_name(column: Column) -> str:
        name = f"{column.name}_{column.type}"
        is_free = name not in names and loaded_types.get(name, column.type) == column.type
        return _limit(name, name) if is_free else _end_in_digest(name, name)

    return {
        column.name: new_name(column)
        for column in columns
        if column.is_custom
        and column.is_selected
        and loaded_types.get(column.name, column.type) != column.type
    }


def rename_columns(schema: dict[str, Any], new_names: Mapping[str, str]) -> dict[str, Any]:
    """Return a schema with other names for some columns of the same fields."""
    properties = {
        new_names.get(name, name): (
            {**definition, "title": _source_field(name, definition)}
            if name in new_names
            else definition
        )
        for name, definition in schema["properties"].items()
    }
    return {**schema, "properties": properties}


def _column_name(field_name: str, field_id: str) -> str:
    full_name = _CUSTOM_PREFIX + field_name.lower()
    name = re.sub(r"[^a-z0-9_]", "_", full_name)
    return _limit(name, field_id) if name == full_name else _end_in_digest(name, field_id)


def _limit(name: str, identity: str) -> str:
    return name if len(name) <= _MAX_IDENTIFIER_BYTES else _end_in_digest(name, identity)


def _end_in_digest(name: str, identity: str) -> str:
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return f"{name[: _MAX_IDENTIFIER_BYTES - len(digest) - 1]}_{digest}"


def _source_field(column_name: str, definition: dict[str, Any]) -> str:
    if not column_name.startswith(_CUSTOM_PREFIX):
        return column_name
    return str(definition.get("title") or column_name.removeprefix(_CUSTOM_PREFIX))


def _column_type(definition: dict[str, Any]) -> ColumnType:
    types = definition.get("type", ())
    if "array" in types:
        return "list"
    if "number" in types or "integer" in types:
        return "number"
    return "date" if definition.get("format") == "date-time" else "text"
