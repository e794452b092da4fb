"""Faults in the contents of exported files."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sendgrid_sandbox.contacts import GeneratedContact
    from sendgrid_sandbox.encoders import CsvEncoder, JsonlEncoder
    from sendgrid_sandbox.fields import Field


def corrupt_lines(
    contacts: Iterator[GeneratedContact],
    middle: int,
    encoder: JsonlEncoder | CsvEncoder,
    fields: list[Field],
    faults: frozenset[str],
) -> Iterator[bytes]:
    """Encode contacts with faults.

    Args:
        contacts: Contacts to encode.
        middle: Index of the contact that gets the faults of a single line.
        encoder: Encoder of the file type.
        fields: Custom fields of the account.
        faults: Names of the active faults.

    Yields:
        The lines.
    """
    first_of_type = {field.type: field.name for field in reversed(fields)}
    for index, contact in enumerate(contacts):
        if "no-contact-id" in faults:
            contact.values.pop("contact_id", None)
        if index != middle:
            yield encoder.encode(contact)
            continue
        if "bad-number" in faults and "Number" in first_of_type:
            contact.custom[first_of_type["Number"]] = "twelve"
        if "bad-date" in faults and "Date" in first_of_type:
            contact.custom[first_of_type["Date"]] = "some day"
        yield _corrupt_line(encoder.encode(contact), faults)


def _corrupt_line(line: bytes, faults: frozenset[str]) -> bytes:
    if "bad-line" in faults:
        line = b'"broken"line",' + line
    if "bad-width" in faults:
        line = line[:-1] + b',"one too many"\n'
    if "invalid-utf8" in faults:
        head, quote, tail = line.rpartition(b'"')
        line = head + "é".encode("latin-1") + quote + tail
    return line


def corrupt_gzip(path: Path, faults: frozenset[str]) -> None:
    """Corrupt the gzip stream of a file in place."""
    data = bytearray(path.read_bytes())
    if "truncated-gzip" in faults:
        del data[len(data) * 2 // 3 :]
    if "bad-crc" in faults:
        data[-8] ^= 1
    path.write_bytes(data)
