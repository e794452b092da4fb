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


def by_field(columns: Sequence[Column]) -> dict[tuple[bool, str], Column]:
    """Columns by whether they are custom and by their field: names are unique ignoring case."""
    return {(column.custom, column.field.lower()): column for column in columns}


def warn_unknown(field: str) -> None:
    """Tell of a field that there is no column for."""
    logger.warning(
        "The export has a field %.100r that the catalog lacks: it is not loaded. If it is a "
        "custom field, discover again to get its column (Meltano: meltano run --refresh-catalog).",
        field,
    )


def key_of(columns: Sequence[Column]) -> int:
    """Tell which of the columns is the key."""
    return [column.name for column in columns].index(KEY)


def keyless(where: str) -> DataError:
    """The error for a contact that has no key."""
    return DataError(f"{where}: {KEY} is missing")


def twice(column: Column, where: str) -> DataError:
    """The error for two fields of one column."""
    return DataError(
        f"{where}: two fields are column {column.name} when upper and lower case are ignored"
    )


def misfit(column: Column, where: str) -> DataError:
    """The error for a value that is not of its column's type."""
    return DataError(
        f"{where}, column {column.name}: the value is not of the column's type, {column.kind}"
    )
