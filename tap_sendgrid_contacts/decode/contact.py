"""Contacts, their columns, and data errors."""

from __future__ import annotations

import logging
import re
from collections import Counter
from itertools import starmap
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import msgspec
from singer_sdk.exceptions import DataError

from tap_sendgrid_contacts.schema import PRIMARY_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from typing_extensions import Self

    from tap_sendgrid_contacts.decode.values import Value
    from tap_sendgrid_contacts.schema import Column, ColumnType

    Row = tuple[Value, ...]
    """The values of a contact, in the order of `ColumnLayout.types`."""

Contact = msgspec.Struct
"""A struct whose fields are the selected columns, in their order."""


class ContactBlock(Protocol):
    """Some contacts: a list of structs or, for columnar files, a record batch."""

    def __len__(self) -> int:
        """Return the number of contacts."""

    def __getitem__(self, index: slice, /) -> Self:
        """Return some of the contacts."""


ContactsT = TypeVar("ContactsT", bound=ContactBlock)

OnInvalidValue = Literal["fail", "null"]

logger = logging.getLogger(__name__)

_ATTRIBUTE = re.compile(r"[a-z][a-z0-9_]*")


def make_contact_class(names: Sequence[str]) -> Callable[..., Contact]:
    """Make the struct class of contacts.

    Args:
        names: Names of the selected columns. They are also the names of the attributes, where
            Python allows that.

    Returns:
        The class; it takes the values in the order of the names.
    """
    return msgspec.defstruct(
        "Contact",
        [
            (name if _ATTRIBUTE.fullmatch(name) else f"_{i}", Any, msgspec.field(name=name))
            for i, name in enumerate(names)
        ],
        gc=False,
    )


class ColumnLayout:
    """The catalog's columns as both decoders need them.

    Args:
        columns: All columns, selected or not.
        on_invalid_value: Whether an invalid value is an error or null.
        stamp: Columns that are the same in all contacts, and not in the export.

    Attributes:
        selected: The columns that contacts have of the export, in order.
        key_index: Index of the key in these.
        stamp: The values of the stamp.
        stamp_index: Where they are in a contact: after the reserved columns.
        types: The type of each column of a contact by its name, in order.
        positions: Index of each selected column in a contact.
        by_field: All columns by `is_custom` and lower-case field: fields are unique ignoring case.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        on_invalid_value: OnInvalidValue,
        stamp: Mapping[str, str | None],
    ) -> None:
        self.selected = [column for column in columns if column.is_selected]
        stamp_types: list[tuple[str, ColumnType]] = [(name, "text") for name in stamp]
        types = [(column.name, column.type) for column in self.selected]
        self.key_index = types.index((PRIMARY_KEY, "text"))
        self.stamp = tuple(stamp.values())
        self.stamp_index = sum(not column.is_custom for column in self.selected)
        self.positions = {
            column: i + len(stamp) * column.is_custom for i, column in enumerate(self.selected)
        }
        types[self.stamp_index : self.stamp_index] = stamp_types
        self.types = dict(types)
        self.by_field = {(column.is_custom, column.field.lower()): column for column in columns}
        self._contact_class = make_contact_class(list(self.types))
        self._on_invalid_value = on_invalid_value
        self._invalid_values: Counter[Column] = Counter()

    def make_row(self, values: Sequence[Value], location: object) -> Row:
        """Return the values of a contact with the stamp; raises `DataError` if it has no key."""
        if values[self.key_index] is None:
            raise DataError(f"{location}: {PRIMARY_KEY} is missing")
        return (*values[: self.stamp_index], *self.stamp, *values[self.stamp_index :])

    def make_contacts(self, rows: Iterable[Row]) -> list[Contact]:
        """Return contacts as structs."""
        return list(starmap(self._contact_class, rows))

    def replace_invalid(self, column: Column, location: object) -> None:
        """Count an invalid value, which becomes null.

        Raises:
            DataError: If invalid values are errors.
        """
        if self._on_invalid_value == "fail":
            # Not chained: the original may contain the value.
            raise DataError(
                f"{location}, column {column.name}: invalid {column.type} value. To emit null "
                "instead, set on_invalid_value to null; or deselect the column"
            ) from None
        if column not in self._invalid_values:
            logger.warning(
                "%s, column %s: invalid %s value; emitting null for such values",
                # A log handler may format it later, when the part is closed.
                str(location),
                column.name,
                column.type,
            )
        self._invalid_values[column] += 1

    def log_invalid_values(self) -> None:
        """Warn of the number of invalid values in each column."""
        for column, count in self._invalid_values.items():
            logger.warning(
                "Column %s: %d invalid %s value(s) emitted as null", column.name, count, column.type
            )


def warn_unmapped_field(field: str) -> None:
    """Warn of a field of the export that has no column."""
    logger.warning(
        "Ignoring unknown field %.100a (not in catalog). If it is a custom field, re-run "
        "discovery to get its column (Meltano: meltano run --refresh-catalog)",
        field,
    )


def duplicate_field_error(column: Column, location: object) -> DataError:
    """Return the error for two fields of one column."""
    return DataError(
        f"{location}: duplicate field for column {column.name} (names differ only in case)"
    )
