"""What decoders report of the data: errors and warnings, never with a value."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from singer_sdk.exceptions import DataError

from tap_sendgrid_contacts.columns import PRIMARY_KEY

if TYPE_CHECKING:
    from tap_sendgrid_contacts.columns import Column, OnInvalidValue

logger = logging.getLogger(__name__)


class InvalidValues:
    """Replaces invalid values by null, or raises an error."""

    def __init__(self, on_invalid_value: OnInvalidValue) -> None:
        self._on_invalid_value = on_invalid_value
        self._counts: Counter[Column] = Counter()

    def replace(self, column: Column, location: object) -> None:
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
        if column not in self._counts:
            logger.warning(
                "%s, column %s: invalid %s value; emitting null for such values",
                # A log handler may format it later, when the part is closed.
                str(location),
                column.name,
                column.type,
            )
        self._counts[column] += 1

    def log_counts(self) -> None:
        """Warn of the number of invalid values in each column."""
        for column, count in self._counts.items():
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


def missing_key_error(location: object) -> DataError:
    """Return the error for a contact without its key."""
    return DataError(f"{location}: {PRIMARY_KEY} is missing")
