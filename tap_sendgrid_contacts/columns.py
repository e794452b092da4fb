"""The columns of contacts, in the order of the rows that decoders yield and outputs write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    Value = str | int | float | datetime | list[str] | None

    Row = tuple[Value, ...]
    """The values of a contact, in the order of `ColumnLayout.types`."""

PRIMARY_KEY = "contact_id"
"""Not the email: it can be null, since SendGrid also identifies contacts by phone or other ids."""

REPLICATION_KEY = "updated_at"

ColumnType = Literal["text", "number", "date", "list"]

OnInvalidValue = Literal["fail", "null"]


class Column(NamedTuple):
    """A column of the records and the field of the export that fills it.

    Attributes:
        name: Name in the record.
        field: Name in the export: the reserved name, or the custom field's own.
        is_custom: Whether it is a custom field (under `custom_fields` in JSON).
        type: Type of its values.
        is_selected: Whether records have it.
        field_id: Id of the custom field; empty if unknown.
    """

    name: str
    field: str
    is_custom: bool
    type: ColumnType
    is_selected: bool
    field_id: str = ""


class ColumnLayout:
    """Which columns contacts have, and how they are read.

    Args:
        columns: All columns of the catalog, selected or not, reserved ones first.
        on_invalid_value: Whether an invalid value is an error or null.
        stamp: Columns that are the same in all contacts, and not in the export.

    Attributes:
        on_invalid_value: As above.
        selected: The columns that contacts have of the export, in order.
        key_index: Index of the key in these.
        stamp: The values of the stamp.
        stamp_index: Where they are in a row: after the reserved columns.
        types: The type of each value of a row by its column's name, in order.
        names: The names of the columns of a row, in order.
        positions: Index of each selected column in a row.
        by_field: All columns by `is_custom` and lower-case field: fields are unique ignoring case.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        on_invalid_value: OnInvalidValue = "fail",
        stamp: Mapping[str, str | None] | None = None,
    ) -> None:
        stamp = stamp or {}
        self.on_invalid_value = on_invalid_value
        self.selected = [column for column in columns if column.is_selected]
        self.key_index = [column.name for column in self.selected].index(PRIMARY_KEY)
        self.stamp = tuple(stamp.values())
        self.stamp_index = sum(not column.is_custom for column in self.selected)
        types: list[tuple[str, ColumnType]] = [(each.name, each.type) for each in self.selected]
        types[self.stamp_index : self.stamp_index] = [(name, "text") for name in stamp]
        self.types = dict(types)
        self.positions = {
            column: i + len(stamp) * column.is_custom for i, column in enumerate(self.selected)
        }
        self.names = list(self.types)
        self.by_field = {(column.is_custom, column.field.lower()): column for column in columns}

    def add_stamp(self, values: Sequence[Value]) -> Row:
        """Return the row of a contact: the values of its selected columns, and the stamp."""
        return (*values[: self.stamp_index], *self.stamp, *values[self.stamp_index :])
