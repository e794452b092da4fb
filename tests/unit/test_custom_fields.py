"""Custom fields that are not those of the catalog any more, or that the catalog types otherwise."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from singer_sdk.exceptions import ConfigurationError

from tap_sendgrid_contacts.api.client import FieldDefinition
from tap_sendgrid_contacts.catalog.fields import ColumnPlan, plan_columns
from tap_sendgrid_contacts.column_types import INTEGER, TEXT, ColumnType
from tap_sendgrid_contacts.schema import build_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

PLAN = FieldDefinition("e1_T", "Plan", "Text")
SEATS = FieldDefinition("e2_N", "seats", "Number")
SINCE = FieldDefinition("e3_D", "since", "Date")
FIELDS = [PLAN, SEATS, SINCE]
COLUMNS = ["custom_plan", "custom_seats", "custom_since"]
CATALOG = build_schema(FIELDS, separate_exports=False)
Definition = dict[str, Any]


def edited(**definitions: Definition | None) -> dict[str, Any]:
    """Return the catalog's schema with other definitions, as Meltano's `schema` extra makes it."""
    schema: dict[str, Any] = copy.deepcopy(CATALOG)
    schema["properties"] |= definitions
    schema["properties"] = {
        name: each for name, each in schema["properties"].items() if each is not None
    }
    return schema


def undescribed(title: str | None = None) -> dict[str, Any]:
    schema = copy.deepcopy(CATALOG)
    for name, definition in schema["properties"].items():
        definition.pop("description", None)
        definition.pop("title", None)
        if title and name == "custom_seats":
            definition["title"] = title
    return schema


def custom_columns(plan: ColumnPlan) -> dict[str, Any]:
    return {
        name: definition
        for name, definition in plan.schema["properties"].items()
        if name.startswith("custom_")
    }


def select_all(_name: str) -> bool:
    return True


def plan_for(
    schema: dict[str, Any],
    fields: Sequence[FieldDefinition] | None,
    is_selected: Callable[[str], bool] = select_all,
    saved: object = None,
    pinned: Collection[str] = (),
) -> ColumnPlan:
    return plan_columns(schema, fields, is_selected, saved, pinned)


def test_catalog_that_is_a_fact_is_kept() -> None:
    plan = plan_for(CATALOG, FIELDS)
    assert plan.schema == CATALOG
    assert plan.ignored == []
    assert plan.warnings == []


CHANGES: dict[str, list[FieldDefinition]] = {
    "deleted": [],
    "renamed": [FieldDefinition("e2_N", "places", "Number")],
    "created again": [FieldDefinition("e9_N", "seats", "Number")],
    "created again with another type": [FieldDefinition("e9_T", "seats", "Text")],
    "renamed, and its name given to another": [
        FieldDefinition("e2_N", "places", "Number"),
        FieldDefinition("e9_N", "Seats", "Number"),
    ],
}


@pytest.mark.parametrize("change", CHANGES)
def test_column_without_its_field_is_left_out(change: str) -> None:
    others = CHANGES[change]
    plan = plan_for(CATALOG, [PLAN, SINCE, *others])
    assert list(custom_columns(plan)) == ["custom_plan", "custom_since"]
    assert "custom_seats" not in str(plan.loaded)
    (warning,) = (each for each in plan.warnings if each.startswith("Not emitting"))
    assert "columns 'custom_seats' of the catalog" in warning
    assert "--refresh-catalog" in warning
    # The fields that are new are in the files: the decoder must know them.
    assert [(each.field, each.is_selected) for each in plan.ignored] == [
        (each.name, False) for each in others
    ]
    new = [each for each in plan.warnings if "(not in catalog)" in each]
    assert len(new) == bool(others)
    assert len(plan.warnings) == 1 + len(new)


def test_all_that_is_not_emitted_is_in_two_warnings() -> None:
    others = [FieldDefinition(f"e{n}_T", f"new_{n}", "Text") for n in range(10, 13)]
    gone, new = plan_for(CATALOG, others).warnings
    assert "'custom_plan', 'custom_seats', 'custom_since'" in gone
    assert "'new_10', 'new_11', 'new_12'" in new


def test_names_in_warnings_have_no_addresses_and_keys() -> None:
    others = [FieldDefinition(f"e{n}_T", n, "Text") for n in ("x@private.com", "SG.private.key")]
    (warning,) = plan_for(CATALOG, [*FIELDS, *others]).warnings
    assert "Ignoring custom fields '***', '***'" in warning


def test_deselected_column_needs_no_warning() -> None:
    def is_selected(name: str) -> bool:
        return name != "custom_seats"

    plan = plan_for(CATALOG, [PLAN, SINCE], is_selected)
    assert plan.warnings == []
    plan = plan_for(CATALOG, FIELDS, is_selected)
    assert plan.warnings == []
    assert list(custom_columns(plan)) == ["custom_plan", "custom_since"]
    assert [(each.field, each.is_selected) for each in plan.ignored] == [("seats", False)]


@pytest.mark.parametrize("schema", [undescribed(), undescribed("SEATS")])
def test_catalog_without_descriptions_goes_by_name(schema: dict[str, Any]) -> None:
    plan = plan_for(schema, FIELDS)
    assert plan.schema == CATALOG
    assert plan.warnings == []
    plan = plan_for(schema, [PLAN, SINCE])
    assert list(custom_columns(plan)) == ["custom_plan", "custom_since"]


def test_names_that_do_not_fit_are_found_without_descriptions() -> None:
    field = FieldDefinition("e1_T", "caf\u00e9 " + "x" * 80, "Text")
    schema = build_schema([field], separate_exports=False)
    (name,) = (each for each in schema["properties"] if each.startswith("custom_"))
    schema["properties"][name] = {"type": "string"}
    plan = plan_for(schema, [field])
    assert plan.schema == build_schema([field], separate_exports=False)


def test_title_in_the_users_words_is_no_other_field() -> None:
    definition = CATALOG["properties"]["custom_seats"] | {"title": "Number of seats"}
    plan = plan_for(edited(custom_seats=definition), FIELDS)
    assert plan.schema == CATALOG


def test_column_of_a_custom_field_needs_the_name_of_one() -> None:
    # Else it would be null in every record.
    schema = edited(plan=CATALOG["properties"]["custom_plan"], custom_plan=None)
    for fields in (FIELDS, None):
        with pytest.raises(ConfigurationError, match=r"'plan' in the .*begins with custom_"):
            plan_for(schema, fields)
    # Any other name will do.
    schema = edited(custom_tier=CATALOG["properties"]["custom_plan"], custom_plan=None)
    plan = plan_for(schema, FIELDS)
    assert set(custom_columns(plan)) == {"custom_tier", "custom_seats", "custom_since"}
    assert {each["name"]: each["id"] for each in plan.loaded}["custom_tier"] == "e1_T"
    assert plan.warnings == []


# --- types ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "definition", "type_"),
    [
        ("custom_seats", {"type": ["string", "null"]}, TEXT),
        ("custom_seats", {"type": "integer"}, INTEGER),
        ("custom_since", {"type": "string"}, TEXT),
        ("custom_plan", {"anyOf": [{"type": "null"}, {"type": "string"}]}, TEXT),
    ],
)
def test_type_of_the_catalog_counts(name: str, definition: Definition, type_: ColumnType) -> None:
    plan = plan_for(edited(**{name: definition}), FIELDS)
    assert custom_columns(plan)[name]["type"] == type_.json_schema["type"]
    assert {each["name"]: each["type"] for each in plan.loaded}[name] == type_.name
    assert plan.warnings == []


@pytest.mark.parametrize(
    ("name", "definition"),
    [
        ("custom_plan", {"type": ["number", "null"]}),
        ("custom_plan", {"type": "string", "format": "date-time"}),
        ("custom_seats", {"type": "string", "format": "date-time"}),
        ("custom_since", {"type": "number"}),
    ],
)
def test_type_that_the_field_cannot_have_is_an_error(name: str, definition: Definition) -> None:
    with pytest.raises(ConfigurationError, match=f"'{name}' is not of type .* in the catalog"):
        plan_for(edited(**{name: definition}), FIELDS)


def test_other_type_in_the_catalog_is_another_column() -> None:
    first = plan_for(CATALOG, FIELDS)
    schema = edited(custom_seats={"type": "string"})
    second = plan_for(schema, FIELDS, select_all, first.loaded)
    assert list(custom_columns(second)) == ["custom_plan", "custom_seats_text", "custom_since"]
    third = plan_for(CATALOG, FIELDS, select_all, second.loaded)
    assert list(custom_columns(third)) == COLUMNS
    assert third.warnings == []
    assert third.loaded == second.loaded


# --- names that settings mention ------------------------------------------------------------


@pytest.mark.parametrize(
    "saved",
    [
        {"custom_seats": "text"},
        [{"name": "custom_seats", "type": "text", "id": "e8"}],
        [{"name": "custom_seats", "type": "number", "id": "e8"}],
    ],
)
def test_column_that_settings_mention_keeps_its_name(saved: object) -> None:
    plan = plan_for(CATALOG, FIELDS, select_all, saved, {"custom_seats"})
    assert list(custom_columns(plan)) == COLUMNS
    (entry,) = (each for each in plan.loaded if each["name"] == "custom_seats")
    assert entry.get("id") != "e2_N"
    assert plan.warnings == []


def test_no_other_field_gets_the_name_of_a_column_that_settings_mention() -> None:
    number = FieldDefinition("e2_N", "plan_number", "Number")
    plan = FieldDefinition("e4_N", "plan", "Number")
    saved = [
        {"name": "custom_plan", "type": "text", "id": "e1_T"},
        {"name": "custom_plan_number", "type": "number", "id": "e4_N"},
    ]
    schema = build_schema([plan, number], separate_exports=False)
    planned = plan_for(schema, [plan, number], select_all, saved, {"custom_plan_number"})
    names = {each["title"]: name for name, each in custom_columns(planned).items()}
    assert names["plan_number"] == "custom_plan_number"
    assert names["plan"].startswith("custom_plan_number_")


# --- without permission to read the definitions -------------------------------------------


@pytest.mark.parametrize("make", [lambda: copy.deepcopy(CATALOG), undescribed])
def test_unknown_fields_are_taken_from_the_catalog(make: Callable[[], dict[str, Any]]) -> None:
    schema = make()
    plan = plan_for(schema, None, lambda name: name != "custom_since")
    assert list(custom_columns(plan)) == ["custom_plan", "custom_seats"]
    assert [each.field for each in plan.ignored] == ["since"]
    assert plan.warnings == []
    # What was loaded still counts, also where the catalog has no ids.
    saved = [
        {"name": "custom_plan", "type": "text", "id": "e1_T"},
        {"name": "custom_seats", "type": "date", "id": "e8_D"},
        {"name": "custom_gone", "type": "date", "id": "e9_D", "retired": True},
    ]
    again = plan_for(schema, None, select_all, saved)
    assert list(custom_columns(again)) == ["custom_plan", "custom_seats_number", "custom_since"]
    assert again.loaded[:3] == saved
    assert len(again.warnings) == 1
