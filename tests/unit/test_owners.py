"""A column belongs to a field for good, whatever the fields are called on later days."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tap_sendgrid_contacts.api.client import FieldDefinition
from tap_sendgrid_contacts.catalog.fields import plan_columns
from tap_sendgrid_contacts.catalog.owners import read_loaded_columns
from tap_sendgrid_contacts.schema import build_schema, field_column_type

if TYPE_CHECKING:
    from collections.abc import Sequence

PLAN = FieldDefinition("e1_T", "plan", "Text")
SEATS = FieldDefinition("e2_N", "seats", "Number")
# Text, deleted and created again.
NEW_PLAN = FieldDefinition("e3_T", "Plan", "Text")
NUMERIC_PLAN = FieldDefinition("e4_N", "plan", "Number")
PLAN_NUMBER = FieldDefinition("e5_N", "plan_number", "Number")


def renamed(field: FieldDefinition, name: str) -> FieldDefinition:
    return FieldDefinition(field.id, name, field.field_type)


class AccountRuns:
    """Runs without a catalog, one after another, with the state of the one before."""

    def __init__(self) -> None:
        self.state: Any = None
        self.warnings: list[str] = []

    def run(self, *fields: FieldDefinition) -> list[str]:
        """Return the column of each field."""
        schema = build_schema(fields, separate_exports=False)
        plan = plan_columns(schema, fields, lambda _: True, self.state, pinned=())
        self.state, self.warnings = plan.loaded, plan.warnings
        names = {
            definition["description"]: name
            for name, definition in plan.schema["properties"].items()
            if "description" in definition
        }
        return [
            names[f"Custom field {each.name} ({each.id}, {each.field_type})"] for each in fields
        ]


@pytest.fixture
def account() -> AccountRuns:
    return AccountRuns()


def test_names_without_state_are_those_of_the_fields(account: AccountRuns) -> None:
    assert account.run(PLAN, SEATS) == ["custom_plan", "custom_seats"]
    assert account.state == [
        {"name": "custom_plan", "type": "text", "id": "e1_T"},
        {"name": "custom_seats", "type": "number", "id": "e2_N"},
    ]
    assert account.run(SEATS, PLAN) == ["custom_seats", "custom_plan"]
    assert account.warnings == []


@pytest.mark.parametrize("field_type", ["Text", "Number", "Date"])
@pytest.mark.parametrize("loaded_type", ["Text", "Number", "Date"])
def test_field_of_another_type_has_a_column_of_its_own(
    account: AccountRuns, field_type: str, loaded_type: str
) -> None:
    account.run(FieldDefinition("e1", "x", loaded_type))
    (name,) = account.run(FieldDefinition("e2", "x", field_type))
    (warning,) = account.warnings
    assert f"'x' is loaded into column {name} from now on, and custom_x keeps" in warning
    if field_type == loaded_type:
        assert re.fullmatch("custom_x_[0-9a-f]{8}", name)
        assert "Column custom_x belongs to another custom field" in warning
    else:
        assert name == f"custom_x_{field_type.lower()}"
        assert "column custom_x has another type than before" in warning


def test_no_field_takes_a_column_over(account: AccountRuns) -> None:
    account.run(PLAN)
    assert account.run(NUMERIC_PLAN) == ["custom_plan_number"]
    other, same = account.run(PLAN_NUMBER, NUMERIC_PLAN)
    assert same == "custom_plan_number"
    assert re.fullmatch("custom_plan_number_[0-9a-f]{8}", other)
    assert account.run(NUMERIC_PLAN, PLAN_NUMBER) == [same, other]
    assert account.warnings == []


def test_name_of_a_new_field_is_not_taken(account: AccountRuns) -> None:
    account.run(PLAN)
    own, other = account.run(NUMERIC_PLAN, PLAN_NUMBER)
    assert other == "custom_plan_number"
    assert re.fullmatch("custom_plan_number_[0-9a-f]{8}", own)
    # Its column stays, also when the better name is free.
    assert account.run(NUMERIC_PLAN) == [own]


def test_swapped_names_exchange_no_values(account: AccountRuns) -> None:
    other = FieldDefinition("e9_T", "tier", "Text")
    first = account.run(PLAN, other)
    swapped = [renamed(PLAN, "tier"), renamed(other, "plan")]
    second = account.run(*swapped)
    assert len({*first, *second}) == 4
    assert second == [*reversed(account.run(*reversed(swapped)))]
    assert account.run(PLAN, other) == first


def test_renamed_field_has_a_new_column_until_it_has_its_name_again(account: AccountRuns) -> None:
    account.run(PLAN)
    assert account.run(renamed(PLAN, "tier")) == ["custom_tier"]
    assert account.warnings == []
    (other,) = account.run(NEW_PLAN)
    assert re.fullmatch("custom_plan_[0-9a-f]{8}", other)
    assert account.run(PLAN) == ["custom_plan"]
    assert account.run(NEW_PLAN) == [other]
    # Case is no other name.
    assert account.run(renamed(PLAN, "PLAN")) == ["custom_plan"]


def test_deleted_field_is_reported_once(account: AccountRuns) -> None:
    account.run(PLAN, SEATS)
    account.run(PLAN)
    (warning,) = account.warnings
    assert "'custom_seats' are no longer in the account" in warning
    account.run(PLAN)
    assert account.warnings == []
    assert [each["name"] for each in account.state] == ["custom_plan", "custom_seats"]
    account.run(PLAN, SEATS)
    account.run(PLAN)
    assert len(account.warnings) == 1


def test_long_names_stay_valid_and_distinct(account: AccountRuns) -> None:
    def fields(letter: str) -> list[FieldDefinition]:
        return [
            FieldDefinition(f"{letter}{n}", "a" * 50 + f"{n:06}", kind)
            for n in range(30)
            for kind in [{"n": "Number"}.get(letter, "Text")]
        ]

    names = [*account.run(*fields("e")), *account.run(*fields("n")), *account.run(*fields("f"))]
    assert len(set(names)) == 90
    assert {len(name) for name in names} == {63}


# --- states ---------------------------------------------------------------------------------


def test_columns_of_an_older_state_go_to_the_first_field_of_their_name(
    account: AccountRuns,
) -> None:
    account.state = {"custom_plan": "text", "custom_plan_number": "number", "custom_seats": "text"}
    assert account.run(NUMERIC_PLAN, SEATS) == ["custom_plan_number", "custom_seats_number"]
    assert [each["id"] for each in account.state if "id" in each] == ["e4_N", "e2_N"]
    assert len(account.warnings) == 1
    # Their owners are known from now on.
    (other,) = account.run(PLAN_NUMBER)
    assert other.startswith("custom_plan_number_")


def test_deleted_field_of_an_older_state_is_reported(account: AccountRuns) -> None:
    account.state = {"custom_plan": "text", "custom_plan_number": "number", "custom_gone": "text"}
    account.run(PLAN)
    (warning,) = account.warnings
    assert "'custom_gone' are no longer in the account" in warning


@pytest.mark.parametrize(
    ("saved", "names"),
    [
        ([], []),
        (None, []),
        ({}, []),
        ([{"name": "custom_a", "type": "date", "id": "e1", "note": 1}], ["custom_a"]),
    ],
)
def test_loaded_columns_are_read(saved: object, names: list[str]) -> None:
    loaded, is_intact = read_loaded_columns(saved)
    assert list(loaded) == names
    assert is_intact


@pytest.mark.parametrize(
    "saved",
    [
        *(7, "text", True, [None], [7], [[]], {"custom_a": "blob"}, {"custom_a": None}),
        *([{"name": "custom_a"}], [{"name": 5, "type": "text"}], [{"name": "a", "type": []}]),
        [{"name": "custom_a", "type": "text", "id": None}],
    ],
    ids=str,
)
def test_damaged_columns_are_ignored_with_a_warning(account: AccountRuns, saved: object) -> None:
    account.state = saved
    assert account.run(PLAN) == ["custom_plan"]
    (warning,) = account.warnings
    assert warning.startswith("Ignoring damaged entries of columns")
    assert account.state == [{"name": "custom_plan", "type": "text", "id": "e1_T"}]


def test_what_is_intact_of_damaged_columns_counts() -> None:
    saved = [None, {"name": "a", "type": "text"}, {"name": "a", "type": "date"}]
    loaded, is_intact = read_loaded_columns(saved)
    assert [each.type for each in loaded.values()] == ["text"]
    assert not is_intact


# --- any history ----------------------------------------------------------------------------

NAMES = ["plan", "Plan", "plan_number", "plan_text", "tier", "a b", "x" * 70]
TYPES = ["Text", "Number", "Date"]


@st.composite
def days(draw: st.DrawFn) -> Sequence[list[FieldDefinition]]:
    """Days of an account whose fields are renamed, deleted and created."""
    ids = st.integers(1, 6)
    kinds = draw(st.lists(st.sampled_from(TYPES), min_size=6, max_size=6))
    names = st.lists(
        st.tuples(ids, st.sampled_from(NAMES)),
        unique_by=(lambda each: each[0], lambda each: each[1].lower()),
        max_size=5,
    )
    return [
        [FieldDefinition(f"e{id_}", name, kinds[id_ - 1]) for id_, name in day]
        for day in draw(st.lists(names, max_size=6))
    ]


@given(days())
def test_each_column_is_of_one_field_and_type(history: Sequence[list[FieldDefinition]]) -> None:
    account = AccountRuns()
    owners: dict[str, tuple[str, str]] = {}
    columns: dict[tuple[str, str], str] = {}
    for fields in history:
        names = account.run(*fields)
        assert len(set(names)) == len(names)
        for name, field in zip(names, fields, strict=True):
            assert re.fullmatch(r"custom_[a-z0-9_]{1,56}", name)
            owner = (field.id, field_column_type(field).name)
            assert owners.setdefault(name, owner) == owner
            # Stable: the same field with the same name has the same column.
            assert columns.setdefault((field.id, field.name.lower()), name) == name
        assert account.run(*reversed(fields)) == names[::-1]
