"""Decode a part's bytes to contacts: gunzip, then JSON lines or CSV.

JSON and CSV give the same contacts: empty and missing are `None`, dates are aware and in UTC,
whole numbers are `int`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeVar

from tap_sendgrid_contacts.decode.contact import ColumnLayout, ContactBlock
from tap_sendgrid_contacts.decode.csv import CsvDecoder
from tap_sendgrid_contacts.decode.jsonl import JsonlDecoder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tap_sendgrid_contacts.decode.contact import Contact, OnInvalidValue
    from tap_sendgrid_contacts.schema import Column

ContactsT_co = TypeVar("ContactsT_co", bound=ContactBlock, covariant=True)


class Decoder(Protocol[ContactsT_co]):
    """Decodes the parts of one export."""

    def decode(self, part: BinaryIO, label: str) -> Iterator[ContactsT_co]:
        """Decode a part.

        Args:
            part: The file.
            label: Name of the part for errors.

        Yields:
            Contacts, a block at a time.

        Raises:
            DataError: On a contact that is not complete and typed; the message contains part,
                line and column, never a value.
        """

    def log_invalid_values(self) -> None:
        """Warn of the number of invalid values in each column."""


def make_decoder(
    file_type: str,
    columns: Sequence[Column],
    on_invalid_value: OnInvalidValue = "fail",
    stamp: Mapping[str, str | None] | None = None,
) -> Decoder[list[Contact]]:
    """Make the decoder of a file type.

    Args:
        file_type: `json` or `csv`, as requested from SendGrid.
        columns: All columns of the catalog, selected or not.
        on_invalid_value: `fail`, or `null` to replace invalid values.
        stamp: Columns to add to every contact, after the reserved ones, and their values.
    """
    layout = ColumnLayout(columns, on_invalid_value, stamp or {})
    if file_type == "json":
        return JsonlDecoder(layout, layout.make_contacts)
    return CsvDecoder(layout, layout.make_contacts)
