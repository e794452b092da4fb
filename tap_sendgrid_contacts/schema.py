"""Columns of the contacts stream and their JSON schema."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from singer_sdk.exceptions import ConfigurationError

from tap_sendgrid_contacts.column_types import COLUMN_TYPES, DATE, LIST, TEXT
from tap_sendgrid_contacts.columns import FORBIDDEN_NAME_CHARS, PRIMARY_KEY, Column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tap_sendgrid_contacts.api.client import FieldDefinition
    from tap_sendgrid_contacts.column_types import ColumnType

RESERVED_FIELDS: dict[str, ColumnType] = {
    PRIMARY_KEY: TEXT,
    "email": TEXT,
    "first_name": TEXT,
    "last_name": TEXT,
    "unique_name": TEXT,
    "phone_number": TEXT,
    "phone_number_id": TEXT,
    "external_id": TEXT,
    "anonymous_id": TEXT,
    "alternate_emails": LIST,
    "address_line_1": TEXT,
    "address_line_2": TEXT,
    "city": TEXT,
    "state_province_region": TEXT,
    "postal_code": TEXT,
    "country": TEXT,
    "whatsapp": TEXT,
    "line": TEXT,
    "facebook": TEXT,
    "created_at": DATE,
    "updated_at": DATE,
}
"""Fields that every account has, in the order of the records."""

SOURCE_KEY = "source_id"

SOURCE_COLUMNS = ("source_type", SOURCE_KEY, "source_name")
"""Columns that name the list or segment, with one export for each; after the reserved ones."""

CUSTOM_PREFIX = "custom_"

# PostgreSQL truncates longer identifiers, and two truncated ones may be equal.
_MAX_IDENTIFIER_BYTES = 63

# By SendGrid's name.
_FIELD_TYPES = {name: each for each in COLUMN_TYPES.values() for name in each.field_types}

# What `describe_field` writes.
_DESCRIPTION = re.compile(r"Custom field (.*) \(([^(),]*), [^,]*\)", re.DOTALL)

_TYPE_KEYWORDS = ("type", "format", "items", "properties", "anyOf", "oneOf", "allOf")
_NULL = ({"type": "null"}, {"type": ["null"]})

_TEXT_ITEMS = tuple(
    {"type": each} for each in ("string", ["string"], ["string", "null"], ["null", "string"])
)


def stream_key(*, separate_exports: bool) -> list[str]:
    """Return the names of the key columns."""
    return [PRIMARY_KEY, SOURCE_KEY] if separate_exports else [PRIMARY_KEY]


def build_schema(
    custom_fields: Iterable[FieldDefinition], *, separate_exports: bool
) -> dict[str, Any]:
    """Return the JSON schema of contacts, one property per column."""
    properties = {name: dict(type_.json_schema) for name, type_ in RESERVED_FIELDS.items()}
    if separate_exports:
        properties |= {name: dict(TEXT.json_schema) for name in SOURCE_COLUMNS}
    for field in custom_fields:
        definition = field_column_type(field).json_schema | describe_field(field)
        properties[column_name(field)] = definition
    return {"type": "object", "properties": properties}


def field_column_type(field: FieldDefinition) -> ColumnType:
    """Return the type of a custom field; types that SendGrid may add are read as text."""
    return _FIELD_TYPES.get(field.field_type, TEXT)


def describe_field(field: FieldDefinition) -> dict[str, str]:
    """Return what a column's definition says of its field. Meltano and the SDK keep it."""
    return {
        "title": field.name,
        "description": f"Custom field {field.name} ({field.id}, {field.field_type})",
    }


def described_field(definition: Mapping[str, Any]) -> tuple[str, str]:
    """Return name and id of the field that `describe_field` described; empty without it."""
    description = _DESCRIPTION.fullmatch(str(definition.get("description")))
    name, id_ = description.groups() if description else ("", "")
    return name, id_


def allowed_types(name: str, field: FieldDefinition | None) -> tuple[ColumnType, ...]:
    """Return the types that a catalog may give a column, by its custom field if that is known."""
    if is_custom(name):
        own = [field_column_type(field)] if field else list(_FIELD_TYPES.values())
        others = [COLUMN_TYPES[each] for type_ in own for each in type_.alternatives]
        return tuple(dict.fromkeys((*own, *others)))
    if name in RESERVED_FIELDS:
        return (RESERVED_FIELDS[name],)
    return (TEXT,) if name in SOURCE_COLUMNS else tuple(COLUMN_TYPES.values())


def normalize_definition(
    name: str, definition: dict[str, Any], field: FieldDefinition | None
) -> dict[str, Any]:
    """Return a column's definition with its type in the notation that all targets understand.

    Raises:
        ConfigurationError: If it has a type that a catalog may not give it.
    """
    type_ = parse_type(definition)
    allowed = allowed_types(name, field)
    if type_ not in allowed:
        kinds = {key: definition[key] for key in _TYPE_KEYWORDS if key in definition}
        found = json.dumps(kinds, default=str)[:80] if kinds else "of no type"
        raise ConfigurationError(
            f"'{name:.80}' is not of type {' or '.join(each.catalog_name for each in allowed)} in "
            f"the catalog, but {found}; correct it, or re-run discovery"
        )
    kept = {key: value for key, value in definition.items() if key not in _TYPE_KEYWORDS}
    return {**type_.json_schema, **kept}


def parse_type(definition: Mapping[str, Any]) -> ColumnType | None:
    """Return the type of a column in any notation, such as `anyOf` with null; or None."""
    if definition.get("allOf"):
        return None
    for keyword in ("anyOf", "oneOf"):
        if isinstance(alternatives := definition.get(keyword), list):
            others = [each for each in alternatives if each not in _NULL]
            if len(others) != 1 or not isinstance(others[0], dict):
                return None
            definition = {**definition, keyword: None, **others[0]}
    types = definition.get("type")
    types = [types] if isinstance(types, str) else types
    if not isinstance(types, list):
        return None
    kinds = [each for each in types if each != "null"]
    notation = kinds, definition.get("format")
    return next(
        (
            type_
            for type_ in COLUMN_TYPES.values()
            if notation == (type_.json_schema["type"][:1], type_.json_schema.get("format"))
            and (not type_.is_list or definition.get("items", {"type": "string"}) in _TEXT_ITEMS)
        ),
        None,
    )


def columns_from_schema(schema: dict[str, Any], is_selected: Callable[[str], bool]) -> list[Column]:
    """Return the columns that the export fills, reserved ones first. The key is always selected.

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
            field=source_field(name, definition),
            is_custom=is_custom(name),
            type=parse_type(definition) or TEXT,
            is_selected=name == PRIMARY_KEY or is_selected(name),
            field_id=described_field(definition)[1] if is_custom(name) else "",
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


def is_custom(name: str) -> bool:
    """Return whether a column is of a custom field."""
    return name.startswith(CUSTOM_PREFIX)


def source_field(name: str, definition: Mapping[str, Any]) -> str:
    """Return the field of the export that fills a column."""
    if not is_custom(name):
        return name
    title = definition.get("title") or described_field(definition)[0]
    return str(title or name.removeprefix(CUSTOM_PREFIX))


def column_name(field: FieldDefinition) -> str:
    """Return the name of a custom field's column, as long as no other field has had it."""
    full_name = CUSTOM_PREFIX + field.name.lower()
    name = re.sub(r"[^a-z0-9_]", "_", full_name)
    return limit_length(name, field.id) if name == full_name else end_in_digest(name, field.id)


def limit_length(name: str, identity: str) -> str:
    """Return a name of a column, shortened if it is too long; see `end_in_digest`."""
    return name if len(name) <= _MAX_IDENTIFIER_BYTES else end_in_digest(name, identity)


def end_in_digest(name: str, identity: str) -> str:
    """Return a name that ends in a digest of what tells it apart from similar ones."""
    digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name[: _MAX_IDENTIFIER_BYTES - len(digest) - 1]}_{digest}"
