"""Decode a part's bytes to contacts: gunzip, then JSON lines or CSV.

JSON and CSV give the same contacts: empty and missing are `None`, dates are aware and in UTC,
whole numbers are `int`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tap_sendgrid_contacts.decode.csv import CsvDecoder
from tap_sendgrid_contacts.decode.decoder import Decoder
from tap_sendgrid_contacts.decode.jsonl import JsonlDecoder

if TYPE_CHECKING:
    from tap_sendgrid_contacts.columns import ColumnLayout

__all__ = ["FILE_TYPES", "Decoder", "make_decoder"]

FILE_TYPES: dict[str, type[Decoder]] = {"json": JsonlDecoder, "csv": CsvDecoder}
"""The decoders by SendGrid's `file_type`."""


def make_decoder(file_type: str, layout: ColumnLayout) -> Decoder:
    """Make the decoder of a file type: one of `FILE_TYPES`, as requested from SendGrid."""
    return FILE_TYPES[file_type](layout)
