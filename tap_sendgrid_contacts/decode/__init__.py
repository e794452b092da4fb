"""Decode a part's bytes to contacts: gunzip, then JSON lines or CSV.

JSON and CSV give the same contacts: empty and missing are `None`, dates are aware and in UTC,
whole numbers are `int`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol

from tap_sendgrid_contacts.decode.csv import CsvDecoder
from tap_sendgrid_contacts.decode.jsonl import JsonlDecoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tap_sendgrid_contacts.columns import ColumnLayout, Row


class Decoder(Protocol):
    """Decodes the parts of one export."""

    def decode(self, part: BinaryIO, label: str) -> Iterator[list[Row]]:
        """Yield the rows of contacts, a block at a time; `label` names the part in errors.

        Raises:
            DataError: On a contact that is not complete and typed; the message contains part,
                line and column, never a value.
        """

    def log_invalid_values(self) -> None:
        """Warn of the number of invalid values in each column."""


FILE_TYPES: dict[str, Callable[[ColumnLayout], Decoder]] = {
    "json": JsonlDecoder,
    "csv": CsvDecoder,
}
"""The decoders by SendGrid's `file_type`."""


def make_decoder(file_type: str, layout: ColumnLayout) -> Decoder:
    """Make the decoder of a file type: one of `FILE_TYPES`, as requested from SendGrid."""
    return FILE_TYPES[file_type](layout)
