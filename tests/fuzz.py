"""Fuzz the decoders with atheris; not a test, see CONTRIBUTING."""

from __future__ import annotations

import contextlib
import csv
import logging
import sys
from typing import TYPE_CHECKING
from unittest.mock import patch

import atheris
from singer_sdk.exceptions import DataError

with atheris.instrument_imports(include=["tap_sendgrid_contacts.decode"]):
    from tap_sendgrid_contacts.decode.lines import MAX_ROW_BYTES

from tests.unit.test_decode import COLUMNS, FAST, decode, typed

if TYPE_CHECKING:
    from tap_sendgrid_contacts.columns import OnInvalidValue

HEADER = '"CONTACT_ID","EMAIL","ALTERNATE_EMAILS","Seats","Since","CREATED_AT","UPDATED_AT"'
LINE = '{"contact_id":%s,"email":%s,"alternate_emails":%s,"custom_fields":{"Seats":%s,"Since":%s}}'
VALID_VALUES = ('"a"', '"b"', "null", "5", '"2020-01-02T03:04:05Z"')
VALUES = [
    *('""', '"a"', "null", "5", '"6"', '"2020-01-02T03:04:05Z"', '["x@y","z"]', '"x@y;z"', "", "a"),
    *("-0", "0.5", "007", "1e5", "1e400", "9007199254740993", "1" * 400, "+1", " 1", "NaN", "[]"),
    *('"0000-01-01T00:00:00Z"', '"2020-01-02T03:04:60Z"', '"2020-01-02T10:00:00.5+02:00"'),
    *('"9999-12-31T23:59:59-01:00"', '"1/2/2020"', '"2020-01-02"', "1577934245", '"20210203"'),
    *('"2020-01-02 03:04:05 +0200 CEST"', '"2020-01-02 03:04"', '{"a":1}', "true", "[null]"),
    *('"\\u0000"', '"\\ud83d\\ude00"', '"\ud83d"', '"\udead"', '"\0"', '"\\n"', '"""b""\r\n"', '"'),
    *("\n", "\r", ",", '\\"', "}", '5,"x":', '5,"EMAIL":', "[" * 2000, "\ufeff", "\u2028", "\xe9"),
]


def decode_all_ways(data: bytes) -> None:
    """Decode a byte of options, then a part or bytes that choose its values.

    The fast and the slow path must read the same contacts, or raise `DataError`.
    """
    options, part = data[0] if data else 0, data[1:]
    file_type = "csv" if options & 1 else "json"
    on_invalid_value: OnInvalidValue = "null" if options & 2 else "fail"
    if options & 4:
        values = [
            VALUES[byte % len(VALUES)] if byte < 128 else VALID_VALUES[i % 5]
            for i, byte in enumerate(part)
        ]
        rows = [values[i : i + 5] for i in range(0, len(values), 5)]
        lines = [HEADER, *(",".join(row) + ",," for row in rows)]
        if file_type == "json":
            lines = [LINE % (*row, *["null"] * (5 - len(row))) for row in rows]
        part = "\n".join(lines).encode("utf-8", "surrogatepass")

    contacts = try_to_decode(file_type, part, on_invalid_value)
    with patch(FAST[file_type], lambda *_: None):
        slowly = try_to_decode(file_type, part, on_invalid_value)
    assert (contacts is None) == (slowly is None)
    assert typed(contacts or []) == typed(slowly or [])


def try_to_decode(
    file_type: str, part: bytes, on_invalid_value: OnInvalidValue
) -> list[tuple[object, ...]] | None:
    """Return the contacts, or None if there is an error in the data."""
    with contextlib.suppress(DataError):
        return decode(file_type, part, COLUMNS, on_invalid_value)
    return None


if __name__ == "__main__":
    logging.disable()
    csv.field_size_limit(MAX_ROW_BYTES)
    atheris.Setup(sys.argv, decode_all_ways)
    atheris.Fuzz()
