"""What all decoders do: hash, count invalid values, and report them without a value."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from typing import TYPE_CHECKING, BinaryIO

from singer_sdk.exceptions import DataError

from tap_sendgrid_contacts.columns import PRIMARY_KEY
from tap_sendgrid_contacts.redaction import sanitize

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tap_sendgrid_contacts.column_types import Value
    from tap_sendgrid_contacts.columns import Column, ColumnLayout, Row

logger = logging.getLogger(__name__)


class Decoder(ABC):
    """Decodes the parts of one export."""

    def __init__(self, layout: ColumnLayout) -> None:
        self._layout = layout
        self._invalid_values: Counter[Column] = Counter()
        self._unmapped_fields: set[str] = set()

    def decode(self, part: BinaryIO, label: str) -> Iterator[list[Row]]:
        """Yield the rows of contacts, a block at a time; `label` names the part in errors.

        Raises:
            DataError: On a contact that is not complete and typed; the message contains part,
                line and column, never a value.
        """
        return map(self._layout.hash_rows, self._iter_blocks(part, label))

    @abstractmethod
    def _iter_blocks(self, part: BinaryIO, label: str) -> Iterator[list[Row]]:
        """Yield the rows of contacts in plain text."""

    def _count_invalid(self, column: Column, location: str) -> None:
        """Count an invalid value, which becomes null.

        Raises:
            DataError: If invalid values are errors.
        """
        if self._layout.on_invalid_value == "fail":
            hint = ". To emit null instead, set on_invalid_value to null; or deselect the column"
            if column.name == PRIMARY_KEY:
                hint = ""
            # Not chained: the original may contain the value.
            raise DataError(
                f"{location}, column {column.name}: invalid {column.type} value{hint}"
            ) from None
        if column not in self._invalid_values:
            logger.warning(
                "%s, column %s: invalid %s value; emitting null for such values",
                location,
                column.name,
                column.type,
            )
        self._invalid_values[column] += 1

    def _make_row(self, values: Sequence[Value], location: str) -> Row:
        """Return the row of a contact: the values of its selected columns, and the stamp.

        Raises:
            DataError: If it has no key.
        """
        layout = self._layout
        if values[layout.key_index] is None:
            raise DataError(f"{location}: {PRIMARY_KEY} is missing")
        return (*values[: layout.stamp_index], *layout.stamp, *values[layout.stamp_index :])

    def _warn_unmapped_field(self, field: str) -> None:
        """Warn once of a field of the export that has no column."""
        if field in self._unmapped_fields:
            return
        self._unmapped_fields.add(field)
        logger.warning(
            "Ignoring unknown field %a (not in catalog). If it is a custom field, re-run "
            "discovery to get its column (Meltano: meltano run --refresh-catalog)",
            # An address, if the file is no export.
            sanitize(field)[:100],
        )

    def log_invalid_values(self) -> None:
        """Warn of the number of invalid values in each column."""
        for column, count in self._invalid_values.items():
            logger.warning(
                "Column %s: %d invalid %s value(s) emitted as null", column.name, count, column.type
            )
