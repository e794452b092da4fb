"""What a contact is, and what is wrong with one."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import msgspec
from singer_sdk.exceptions import DataError

from tap_sendgrid_contacts.schema import KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tap_sendgrid_contacts.decode.values import Value
    from tap_sendgrid_contacts.schema import Column

Contact = msgspec.Struct
"""A struct whose fields are the selected columns, in their order."""

logger = logging.getLogger(__name__)

_ATTRIBUTE = re.compile(r"[a-z][a-z0-9_]*")


def contact_type(names: Sequence[str]) -> Callable[..., Contact]:
    """Make the type of contacts.

    Args:
        names: Names of the selected columns. A contact's attributes have them too, where Python
            can.

    Returns:
        The type; it takes the values in the order of the names.
    """
    return msgspec.defstruct(
        "Contact",
        [
            (name if _ATTRIBUTE.fullmatch(name) else f"_{i}", Any, msgspec.field(name=name))
            for i, name in enumerate(names)
        ],
        gc=False,
    )


class Columns:
    """The catalog's columns as both decoders need them.

    Args:
        columns: All columns, selected or not.

    Attributes:
        selected: Those that contacts have, in order.
        key: Which of these is the key.
        by_field: All, by whether they are custom and by their field in lower case: fields are
            unique ignoring case.
        make: Makes a contact of its values.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self.selected = [column for column in columns if column.selected]
        names = [column.name for column in self.selected]
        self.key = names.index(KEY)
        self.by_field = {(column.custom, column.field.lower()): column for column in columns}
        self.make = contact_type(names)

    def contact(self, values: Sequence[Value], where: str) -> Contact:
        """Make a contact; raises `DataError` for one that has no key."""
        if values[self.key] is None:
            raise DataError(f"{where}: {KEY} is missing")
        return self.make(*values)


def warn_unknown(field: str) -> None:
    """Tell of a field that there is no column for."""
    logger.warning(
        "The export has a field %.100r that the catalog lacks: it is not loaded. If it is a "
        "custom field, discover again, with a key that may read field definitions, to get its "
        "column (Meltano: meltano run --refresh-catalog).",
        field,
    )


def twice(column: Column, where: str) -> DataError:
    """The error for two fields of one column."""
    return DataError(
        f"{where}: two fields are column {column.name} when upper and lower case are ignored"
    )


def misfit(column: Column, where: str) -> DataError:
    """The error for a value that is not of its column's type."""
    return DataError(
        f"{where}, column {column.name}: the value is not of the column's type, {column.kind}; "
        "to load all others, deselect the column"
    )
