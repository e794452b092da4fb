"""A part's bytes to contacts: gunzip, then JSON lines or CSV.

JSON and CSV give the same contacts: empty and missing are `None`, dates are aware and in UTC,
whole numbers are `int`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from tap_sendgrid_contacts.decode.contact import Contact
from tap_sendgrid_contacts.decode.csv_rows import CsvRows
from tap_sendgrid_contacts.decode.json_lines import JsonLines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tap_sendgrid_contacts.schema import Column

Decoder = Callable[[BinaryIO, str], Iterator[list[Contact]]]
"""Takes a part's file and the part's name for errors; gives contacts, a block at a time."""


def decoder(file_type: str, columns: Sequence[Column]) -> Decoder:
    """Choose how parts are decoded.

    Args:
        file_type: `json` or `csv`, as the export was asked for.
        columns: All columns of the catalog, selected or not.

    Returns:
        A function from a part to its contacts. It raises `DataError`, naming part, line and
        column and never a value, on whatever is not a whole and typed contact.
    """
    return JsonLines(columns).decode if file_type == "json" else CsvRows(columns).decode
