"""Columns: their names and types, and what a catalog may do to them."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from singer_sdk.exceptions import ConfigurationError
from singer_sdk.singerlib import Schema

from tap_sendgrid_contacts.api.client import FieldDefinition
from tap_sendgrid_contacts.column_types import COLUMN_TYPES
from tap_sendgrid_contacts.columns import Column
from tap_sendgrid_contacts.schema import (
    allowed_types,
    build_schema,
    columns_from_schema,
    normalize_definition,
)

if TYPE_CHECKING:
    from collections.abc import Callable

RESERVED = [
    "contact_id",
    "email",
    "first_name",
    "last_name",
    "unique_name",
    "phone_number",
    "phone_number_id",
    "external_id",
    "anonymous_id",
    "alternate_emails",
    "address_line_1",
    "address_line_2",
    "city",
    "state_province_region",
    "postal_code",
    "country",
    "whatsapp",
    "line",
    "facebook",
    "created_at",
    "updated_at",
]

FIELDS = [
    FieldDefinition("e1_T", "Plan", "Text"),
    FieldDefinition("e2_N", "seats", "Number"),
    FieldDefinition("e3_D", "SINCE", "Date"),
    FieldDefinition("e4_T", "a" * 80 + "_One", "Text"),
    FieldDefinition("e5_T", "a" * 80 + "_Two", "Text"),
]


def custom_columns(*fields: FieldDefinition) -> list[str]:
    return list(build_schema(fields, separate_exports=False)["properties"])[len(RESERVED) :]


def select_all(_name: str) -> bool:
    return True


def test_reserved_columns_are_in_the_documented_order() -> None:
    assert list(build_schema([], separate_exports=False)["properties"]) == RESERVED


def test_reserved_columns_are_strings_dates_and_one_list() -> None:
    properties = build_schema([], separate_exports=False)["properties"]
    text = {"type": ["string", "null"]}
    date = {"type": ["string", "null"], "format": "date-time"}
    emails = {"type": ["array", "null"], "items": {"type": "string"}}
    others = {"alternate_emails": emails, "created_at": date, "updated_at": date}
    assert properties == {name: others.get(name, text) for name in RESERVED}


@pytest.mark.parametrize(
    ("field_type", "expected"),
    [
        ("Text", {"type": ["string", "null"]}),
        ("Number", {"type": ["number", "null"]}),
        ("Date", {"type": ["string", "null"], "format": "date-time"}),
        ("Something new", {"type": ["string", "null"]}),
    ],
)
def test_custom_field_is_typed_and_described(field_type: str, expected: dict[str, Any]) -> None:
    column = build_schema(
        [FieldDefinition("e7_X", "My_Field", field_type)], separate_exports=False
    )["properties"]["custom_my_field"]
    assert column.pop("title") == "My_Field"
    description = column.pop("description")
    assert all(each in description for each in ("My_Field", "e7_X", field_type))
    assert column == expected


@pytest.mark.parametrize("length", [1, 56])
def test_short_name_is_kept(length: int) -> None:
    assert custom_columns(FieldDefinition("e1_T", "A" * length, "Text")) == [
        "custom_" + "a" * length
    ]


@pytest.mark.parametrize("name", ["a" * 57, "a" * 100, "caf\u00e9", "with blank", "\u0130x"])
def test_name_that_targets_would_change_ends_in_a_digest_of_the_id(name: str) -> None:
    [one] = custom_columns(FieldDefinition("e1_T", name, "Text"))
    [again] = custom_columns(FieldDefinition("e1_T", name, "Number"))
    [other] = custom_columns(FieldDefinition("e2_T", name, "Text"))
    assert re.fullmatch(r"custom_[a-z0-9_]+_[0-9a-f]{8}", one)
    assert one == again != other


def test_names_with_a_long_common_prefix_are_distinct() -> None:
    names = custom_columns(*FIELDS[3:])
    assert len(set(names)) == 2
    assert {len(name) for name in names} == {63}


@given(
    st.lists(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=100),
        unique_by=str.lower,
        max_size=5,
    )
)
def test_names_are_valid_in_every_target(names: list[str]) -> None:
    columns = custom_columns(
        *(FieldDefinition(f"e{i}_T", name, "Text") for i, name in enumerate(names))
    )
    assert len(columns) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]{0,62}", column) for column in columns)


@pytest.mark.parametrize(
    "transfer",
    [
        pytest.param(lambda schema: schema, id="as it is"),
        pytest.param(lambda schema: json.loads(json.dumps(schema)), id="through a file"),
        pytest.param(lambda schema: Schema.from_dict(schema).to_dict(), id="through the SDK"),
    ],
)
def test_columns_are_read_back_from_the_schema(
    transfer: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    columns = columns_from_schema(
        transfer(build_schema(FIELDS, separate_exports=False)), select_all
    )
    assert [column.name for column in columns[: len(RESERVED)]] == RESERVED
    assert [column.field for column in columns[: len(RESERVED)]] == RESERVED
    assert {column.name: column.type.name for column in columns if not column.is_custom} == {
        **dict.fromkeys(RESERVED, "text"),
        "alternate_emails": "list",
        "created_at": "date",
        "updated_at": "date",
    }
    assert [(c.field, c.type.name, c.is_custom) for c in columns[len(RESERVED) :]] == [
        (field.name, column_type, True)
        for field, column_type in zip(
            FIELDS, ["text", "number", "date", "text", "text"], strict=True
        )
    ]


def test_catalog_without_titles_still_finds_the_fields() -> None:
    schema = build_schema(FIELDS, separate_exports=False)
    for definition in schema["properties"].values():
        definition.pop("title", None)
        definition.pop("description", None)
    fields = [
        column.field for column in columns_from_schema(schema, select_all) if column.is_custom
    ]
    assert fields[:3] == ["plan", "seats", "since"]


TEXT, NULL, DATE = {"type": "string"}, {"type": "null"}, {"type": "string", "format": "date-time"}
NUMBERS: list[dict[str, Any]] = [
    {"type": "number"},
    {"type": ["null", "number"]},
    {"anyOf": [NULL, {"type": ["number"]}]},
]
TEXTS = [
    TEXT,
    {"type": ["null", "string"]},
    {"anyOf": [TEXT, NULL]},
    {"oneOf": [{"type": ["null"]}, TEXT]},
    {"anyOf": [{"type": ["string", "null"]}], "x": 1},
    {"type": ["string", "null"], "format": None, "properties": []},
]
DATES = [DATE, {"anyOf": [DATE, NULL]}, {"type": ["null", "string"], "format": "date-time"}]
LISTS = [{"type": "array"}, {"type": ["null", "array"], "items": {"type": ["string", "null"]}}]
OTHERS: list[dict[str, Any]] = [
    *({}, {"type": None}, {"type": []}, {"type": Decimal(5)}, {"type": [5]}, {"type": {}}, NULL),
    *({"type": "boolean"}, {"type": "object"}, {"type": ["string", "number"]}, {"type": "text"}),
    *({"type": "string", "format": "date"}, {"type": "string", "format": ["date-time"]}),
    *({"type": "array", "items": []}, {"type": "array", "items": {"type": "number"}}),
    *({"anyOf": [TEXT, DATE]}, {"anyOf": []}, {"anyOf": [NULL]}, {"anyOf": ["string"]}),
    *({"anyOf": [{"anyOf": [TEXT]}]}, {"allOf": [TEXT]}, {"type": "number", "format": "double"}),
]


@pytest.mark.parametrize(
    ("definitions", "name"),
    [(TEXTS, "email"), (DATES, "created_at"), (LISTS, "alternate_emails"), (NUMBERS, "custom_x")],
)
def test_types_in_any_notation_are_normalized(definitions: list[dict[str, Any]], name: str) -> None:
    properties = build_schema([FieldDefinition("e1_N", "x", "Number")], separate_exports=False)[
        "properties"
    ]
    for definition in definitions:
        normalized = normalize_definition(name, {**definition, "maxLength": 5}, field=None)
        expected = {key: properties[name].get(key) for key in ("type", "format", "items")}
        assert {key: normalized.get(key) for key in expected} == expected
        assert normalized["maxLength"] == 5
        assert not normalized.keys() & {"anyOf", "oneOf", "properties"}


@pytest.mark.parametrize("definition", OTHERS, ids=str)
@pytest.mark.parametrize("name", ["email", "custom_x", "email_domains", "source_id"])
def test_types_that_records_cannot_have_are_errors(name: str, definition: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"^'{name}' is not of type .*string.* catalog"):
        normalize_definition(name, definition, field=None)


@pytest.mark.parametrize(
    ("name", "definitions"),
    [
        ("contact_id", [*NUMBERS, *DATES]),
        ("updated_at", TEXTS),
        ("alternate_emails", TEXTS),
        ("source_name", DATES),
        ("custom_x", LISTS),
    ],
)
def test_columns_keep_their_type(name: str, definitions: list[dict[str, Any]]) -> None:
    for definition in definitions:
        with pytest.raises(ConfigurationError, match=f"^'{name}' is not of type "):
            normalize_definition(name, definition, field=None)


@pytest.mark.parametrize(
    ("field_type", "allowed"),
    [
        ("Text", {"text"}),
        ("Number", {"number", "integer", "text"}),
        ("Date", {"date", "text"}),
        ("Something new", {"text"}),
    ],
)
def test_any_custom_field_can_be_text(field_type: str, allowed: set[str]) -> None:
    field = FieldDefinition("e1_X", "x", field_type)
    assert {each.name for each in allowed_types("custom_x", field)} == allowed


def test_reserved_columns_are_first_whatever_the_order_of_the_catalog() -> None:
    schema = build_schema(FIELDS[:2], separate_exports=False)
    turned = {"properties": dict(reversed(schema["properties"].items()))}
    names = [column.name for column in columns_from_schema(turned, select_all)]
    assert names == [*reversed(RESERVED), "custom_seats", "custom_plan"]


def test_key_is_always_selected() -> None:
    columns = columns_from_schema(
        build_schema(FIELDS[:1], separate_exports=False), {"email", "custom_plan"}.__contains__
    )
    assert [column.name for column in columns if column.is_selected] == [
        "contact_id",
        "email",
        "custom_plan",
    ]
    assert len(columns) == len(RESERVED) + 1


@pytest.mark.parametrize("title", ["seats", "SEATS"])
def test_two_columns_of_one_field_are_an_error(title: str) -> None:
    schema = build_schema(FIELDS, separate_exports=False)
    schema["properties"]["custom_plan"]["title"] = title
    with pytest.raises(
        ConfigurationError, match="custom_plan and custom_seats map to the same field"
    ):
        columns_from_schema(schema, select_all)


@pytest.mark.parametrize("name", ['custom_q"x', "custom_\\", "custom_\n", "custom_\ud800"])
def test_invalid_column_name_is_an_error(name: str) -> None:
    schema = build_schema(FIELDS, separate_exports=False)
    schema["properties"][name] = {"type": "string"}
    with pytest.raises(ConfigurationError, match="Invalid column name"):
        columns_from_schema(schema, select_all)


def test_catalog_without_the_key_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"contact_id missing.*re-run discovery"):
        columns_from_schema({"type": "object"}, select_all)


def test_column_removed_from_the_catalog_is_no_column() -> None:
    schema = build_schema(FIELDS[:1], separate_exports=False)
    del schema["properties"]["city"]
    columns = columns_from_schema(schema, select_all)
    assert "city" not in {column.name for column in columns}
    assert columns[-1] == Column(
        "custom_plan",
        "Plan",
        is_custom=True,
        type=COLUMN_TYPES["text"],
        is_selected=True,
        field_id="e1_T",
    )
