"""Columns: their names and types, and what a catalog may do to them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from singer_sdk.exceptions import ConfigurationError
from singer_sdk.singerlib import Schema

from tap_sendgrid_contacts.api.client import FieldDefinition
from tap_sendgrid_contacts.columns import Column
from tap_sendgrid_contacts.schema import (
    build_schema,
    columns_from_schema,
    find_retyped_columns,
    rename_columns,
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
    return list(build_schema(fields)["properties"])[len(RESERVED) :]


def select_all(_name: str) -> bool:
    return True


def test_reserved_columns_are_in_the_documented_order() -> None:
    assert list(build_schema([])["properties"]) == RESERVED


def test_reserved_columns_are_strings_dates_and_one_list() -> None:
    properties = build_schema([])["properties"]
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
    column = build_schema([FieldDefinition("e7_X", "My_Field", field_type)])["properties"][
        "custom_my_field"
    ]
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
    columns = columns_from_schema(transfer(build_schema(FIELDS)), select_all)
    assert [column.name for column in columns[: len(RESERVED)]] == RESERVED
    assert [column.field for column in columns[: len(RESERVED)]] == RESERVED
    assert {column.name: column.type for column in columns if not column.is_custom} == {
        **dict.fromkeys(RESERVED, "text"),
        "alternate_emails": "list",
        "created_at": "date",
        "updated_at": "date",
    }
    assert [(c.field, c.type, c.is_custom) for c in columns[len(RESERVED) :]] == [
        (field.name, column_type, True)
        for field, column_type in zip(
            FIELDS, ["text", "number", "date", "text", "text"], strict=True
        )
    ]


def test_catalog_without_titles_still_finds_the_fields() -> None:
    schema = build_schema(FIELDS)
    for definition in schema["properties"].values():
        definition.pop("title", None)
        definition.pop("description", None)
    fields = [
        column.field for column in columns_from_schema(schema, select_all) if column.is_custom
    ]
    assert fields[:3] == ["plan", "seats", "since"]


@pytest.mark.parametrize(
    ("definition", "column_type"),
    [
        ({"type": "string"}, "text"),
        ({"type": "integer"}, "number"),
        ({"type": ["null", "integer"]}, "number"),
        ({"type": ["null", "string"], "format": "date-time"}, "date"),
        ({"type": ["null", "array"]}, "list"),
        ({}, "text"),
    ],
)
def test_edited_types_are_understood(definition: dict[str, Any], column_type: str) -> None:
    schema = {"properties": {"contact_id": {"type": "string"}, "custom_x": definition}}
    assert columns_from_schema(schema, select_all)[1].type == column_type


def test_reserved_columns_are_first_whatever_the_order_of_the_catalog() -> None:
    schema = build_schema(FIELDS[:2])
    turned = {"properties": dict(reversed(schema["properties"].items()))}
    names = [column.name for column in columns_from_schema(turned, select_all)]
    assert names == [*reversed(RESERVED), "custom_seats", "custom_plan"]


def test_key_is_always_selected() -> None:
    columns = columns_from_schema(build_schema(FIELDS[:1]), {"email", "custom_plan"}.__contains__)
    assert [column.name for column in columns if column.is_selected] == [
        "contact_id",
        "email",
        "custom_plan",
    ]
    assert len(columns) == len(RESERVED) + 1


@pytest.mark.parametrize("title", ["seats", "SEATS"])
def test_two_columns_of_one_field_are_an_error(title: str) -> None:
    schema = build_schema(FIELDS)
    schema["properties"]["custom_plan"]["title"] = title
    with pytest.raises(
        ConfigurationError, match="custom_plan and custom_seats map to the same field"
    ):
        columns_from_schema(schema, select_all)


@pytest.mark.parametrize("name", ['custom_q"x', "custom_\\", "custom_\n", "custom_\ud800"])
def test_invalid_column_name_is_an_error(name: str) -> None:
    schema = build_schema(FIELDS)
    schema["properties"][name] = {"type": "string"}
    with pytest.raises(ConfigurationError, match="Invalid column name"):
        columns_from_schema(schema, select_all)


def test_key_is_text_whatever_the_catalog_says() -> None:
    schema = build_schema(FIELDS)
    schema["properties"]["contact_id"] = {"type": "integer"}
    assert columns_from_schema(schema, select_all)[0].type == "text"


def test_catalog_without_the_key_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"contact_id missing.*re-run discovery"):
        columns_from_schema({"type": "object"}, select_all)


def test_column_removed_from_the_catalog_is_no_column() -> None:
    schema = build_schema(FIELDS[:1])
    del schema["properties"]["city"]
    columns = columns_from_schema(schema, select_all)
    assert "city" not in {column.name for column in columns}
    assert columns[-1] == Column(
        "custom_plan", "Plan", is_custom=True, type="text", is_selected=True
    )


# --- fields that were created again with another type -----------------------------------------


def renamed(loaded_types: Any, *fields: FieldDefinition) -> dict[str, str]:  # noqa: ANN401 - literals
    return find_retyped_columns(columns_from_schema(build_schema(fields), select_all), loaded_types)


@pytest.mark.parametrize("field_type", ["Text", "Number", "Date"])
@pytest.mark.parametrize("loaded_type", ["text", "number", "date"])
def test_other_type_has_a_column_of_its_own(field_type: str, loaded_type: str) -> None:
    column_type = field_type.lower()
    names = {} if column_type == loaded_type else {"custom_x": f"custom_x_{column_type}"}
    assert renamed({"custom_x": loaded_type}, FieldDefinition("e1_T", "x", field_type)) == names


def test_unknown_reserved_and_deselected_columns_keep_their_names() -> None:
    columns = columns_from_schema(build_schema(FIELDS), lambda name: name != "custom_seats")
    types: dict[str, Any] = {"custom_seats": "text", "email": "number", "custom_gone": "date"}
    assert find_retyped_columns(columns, types) == {}


def test_renamed_columns_are_of_the_same_fields() -> None:
    schema = build_schema(FIELDS)
    del schema["properties"]["custom_seats"]["title"]
    new_names = {"custom_plan": "custom_plan_text", "custom_seats": "custom_seats_number"}
    schema["required"] = ["contact_id"]
    changed = rename_columns(schema, new_names)
    before, after = (columns_from_schema(each, select_all) for each in (schema, changed))
    assert after == [
        column._replace(name=new_names.get(column.name, column.name)) for column in before
    ]
    assert changed.keys() == schema.keys()
    assert rename_columns(schema, {}) == schema


@pytest.mark.parametrize(
    ("others", "loaded_types"),
    [
        ([FieldDefinition("e2_N", "X_number", "Number")], {}),
        ([FieldDefinition("e2_N", "X_number", "Text")], {}),
        ([], {"custom_x_number": "text"}),
    ],
    ids=["another field", "another field of another type", "another field before"],
)
def test_name_that_is_taken_ends_in_a_digest(
    others: list[FieldDefinition], loaded_types: dict[str, str]
) -> None:
    types = {"custom_x": "text", **loaded_types}
    names = renamed(types, FieldDefinition("e1_N", "x", "Number"), *others)
    assert list(names) == ["custom_x"]
    assert re.fullmatch(r"custom_x_number_[0-9a-f]{8}", names["custom_x"])
    # The name stays once it is loaded.
    types |= {names["custom_x"]: "number"}
    assert renamed(types, FieldDefinition("e1_N", "x", "Number"), *others) == names


def test_long_names_stay_valid_and_distinct() -> None:
    fields = [FieldDefinition(f"e{n}_N", "a" * 50 + f"{n:06}", "Number") for n in range(100)]
    types = dict.fromkeys(custom_columns(*fields), "text")
    assert {len(name) for name in types} == {63}
    names = renamed(types, *fields)
    assert names.keys() == types.keys()
    assert len({*names.values()} - types.keys()) == 100
    assert {len(name) for name in names.values()} == {63}
