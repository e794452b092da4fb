r"""Encoders of exported contacts: newline-delimited JSON and CSV as SendGrid writes them.

SEEN: the CSV header and its order, non-empty cells quoted and empty ones bare, `\n` line ends,
no BOM; newline-delimited JSON with sorted lower-case keys and empty fields left out.
GUESS: how numbers, dates and several alternate emails are written, and what an export without
contacts contains; these are options here or vary from contact to contact.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

from sendgrid_sandbox.formats import format_date, format_number, format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sendgrid_sandbox.contacts import GeneratedContact
    from sendgrid_sandbox.fields import Field
    from sendgrid_sandbox.settings import FileFormat

_CSV_HEAD = (
    *("EMAIL", "FIRST_NAME", "LAST_NAME", "ADDRESS_LINE_1", "ADDRESS_LINE_2", "CITY"),
    *("STATE_PROVINCE_REGION", "POSTAL_CODE", "COUNTRY", "ALTERNATE_EMAILS", "PHONE_NUMBER"),
    *("WHATSAPP", "LINE", "FACEBOOK", "UNIQUE_NAME", "CREATED_AT", "UPDATED_AT", "CONTACT_ID"),
)
_CSV_TAIL = ("PHONE_NUMBER_ID", "EXTERNAL_ID", "ANONYMOUS_ID")
_CHARACTERS_ESCAPED_BY_GO = "<>&\u2028\u2029"


class JsonlEncoder:
    """Encodes contacts as newline-delimited JSON."""

    header = b""

    def __init__(
        self, file_format: FileFormat, _fields: list[Field], _faults: frozenset[str]
    ) -> None:
        self._format = file_format
        self._encode = _json_encoder(ensure_ascii=False)
        self._encode_ascii = _json_encoder(ensure_ascii=True)

    def encode(self, contact: GeneratedContact) -> bytes:
        """Return the line of a contact, including its line end."""
        document: dict[str, object] = {
            column: format_time(value, self._format.date_format)
            if isinstance(value, datetime)
            else value
            for column, value in contact.values.items()
        }
        if contact.custom:
            document["custom_fields"] = {
                name: value if isinstance(value, str) else self._custom_value(value)
                for name, value in contact.custom.items()
            }
        if contact.edge_case is None:
            return self._encode(document).encode() + b"\n"
        return self._encode_variant(document, contact.edge_case)

    def _encode_variant(self, document: dict[str, object], case: int) -> bytes:
        """Encode the same contact in another way that JSON and SendGrid allow."""
        for column, empty in (
            ("custom_fields", ({}, None)),
            ("alternate_emails", ([], None)),
            ("line", ("", None)),
        ):
            if case % 3:
                document.setdefault(column, empty[case % 3 - 1])
        line = (self._encode if case % 4 else self._encode_ascii)(document)
        line = line.replace(":100000.0", ":1e5")
        if case % 4 == 1:
            for character in _CHARACTERS_ESCAPED_BY_GO:
                line = line.replace(character, f"\\u{ord(character):04x}")
        # The escape of a lone surrogate happens to be the same in Python and in JSON.
        return line.encode(errors="backslashreplace") + b"\n"

    def _custom_value(self, value: float | datetime) -> str | float:
        if isinstance(value, datetime):
            return format_date(value, self._format.date_format)
        return format_number(value) if self._format.number_format == "text" else value


class CsvEncoder:
    """Encodes contacts as CSV rows with quoted cells and bare empty cells."""

    def __init__(
        self, file_format: FileFormat, fields: list[Field], faults: frozenset[str]
    ) -> None:
        self._format = file_format
        head, tail = list(_CSV_HEAD), list(_CSV_TAIL)
        custom = [field.name for field in fields]
        if "no-contact-id" in faults:
            head.remove("CONTACT_ID")
        if "duplicate-header" in faults:
            tail.append("Email")
        self._reserved_indexes = {
            name.lower(): index
            for index, name in enumerate(head + [""] * len(custom) + list(_CSV_TAIL))
        }
        self._custom_indexes = {name: index for index, name in enumerate(custom, len(head))}
        if file_format.header_case == "upper":
            custom = [name.upper() for name in custom]
        self._empty_row = [""] * len(head + custom + tail)
        self.header = (",".join(map(_quote, head + custom + tail)) + "\n").encode()

    def encode(self, contact: GeneratedContact) -> bytes:
        """Return the row of a contact, including its line end."""
        cells = self._empty_row.copy()
        for column, value in contact.values.items():
            cells[self._reserved_indexes[column]] = _quote(
                value if isinstance(value, str) else self._reserved_text(value)
            )
        for column, custom in contact.custom.items():
            cells[self._custom_indexes[column]] = _quote(
                custom if isinstance(custom, str) else self._custom_text(custom)
            )
        return (",".join(cells) + "\n").encode(errors="ignore")

    def _reserved_text(self, value: list[str] | datetime) -> str:
        if isinstance(value, datetime):
            return str(format_time(value, self._format.date_format))
        if self._format.alternate_emails == "json":
            return json.dumps(value, separators=(",", ":"))
        return ",".join(value)

    def _custom_text(self, value: float | datetime) -> str:
        if isinstance(value, datetime):
            return str(format_date(value, self._format.date_format))
        return format_number(value)


ENCODERS: Mapping[str, type[JsonlEncoder | CsvEncoder]] = {"json": JsonlEncoder, "csv": CsvEncoder}


def _json_encoder(*, ensure_ascii: bool) -> Callable[[object], str]:
    return json.JSONEncoder(ensure_ascii=ensure_ascii, sort_keys=True, separators=(",", ":")).encode


def _quote(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
