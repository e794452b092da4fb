"""JSON: one object per line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import msgspec
from msgspec.structs import astuple
from singer_sdk.exceptions import DataError
from typing_extensions import override

from tap_sendgrid_contacts.columns import PRIMARY_KEY
from tap_sendgrid_contacts.dates import UTC
from tap_sendgrid_contacts.decode.errors import (
    InvalidValues,
    duplicate_field_error,
    missing_key_error,
    warn_unmapped_field,
)
from tap_sendgrid_contacts.decode.lines import DAMAGED_PART_HINT, iter_line_blocks
from tap_sendgrid_contacts.decode.values import (
    COERCION_ERRORS,
    AwareDatetime,
    Text,
    Texts,
    are_utc,
    coerce,
)
from tap_sendgrid_contacts.schema import FORBIDDEN_NAME_CHARS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tap_sendgrid_contacts.columns import Column, ColumnLayout, ColumnType, Row, Value

_MAX_OBSERVED_NAMES = 1000

# The types whose values need no more than decoding, and the types that accept any form.
_STRICT_TYPES: dict[ColumnType, Any] = {
    "text": Text | None,
    "number": int | float | None,
    "date": AwareDatetime | None,
    "list": Texts | None,
}
_LENIENT_TYPES: dict[ColumnType, Any] = {
    "text": str | None,
    "number": Any,
    "date": Any,
    "list": Any,
}

# (is_custom, name as in the file)
_FieldName = tuple[bool, str]


@dataclass(frozen=True)
class _Location:
    """A contact's place in a part; its line is counted only if it is shown."""

    part: BinaryIO
    label: str
    record: int

    @override
    def __str__(self) -> str:
        position = self.part.tell()
        line = record = 0
        for block in iter_line_blocks(self._rewound(), self.label):
            for text in block.removesuffix(b"\n").split(b"\n"):
                line += 1
                record += bool(text.strip())
                if record == self.record:
                    self.part.seek(position)
                    return f"{self.label}, line {line}"
        # There are lines of several objects, or objects of several lines.
        self.part.seek(position)
        return self.label

    def _rewound(self) -> BinaryIO:
        self.part.seek(0)
        return self.part


class JsonlDecoder:
    """Decodes one JSON object per line.

    `_decode_line` defines what a contact is. Blocks are first decoded as msgspec structs that
    have exactly the fields and types of the catalog: whatever these accept, `_decode_line` would
    read the same, only slower, and only one object per line. Where a file has other names or
    forms, the struct is adapted to them.

    Args:
        layout: The columns.
    """

    def __init__(self, layout: ColumnLayout) -> None:
        self._layout = layout
        self._invalid_values = InvalidValues(layout.on_invalid_value)
        # Fields of the struct, by their name in the file; None where there is no column.
        self._names: dict[_FieldName, Column | None] = {
            (column.is_custom, column.field): column for column in layout.by_field.values()
        }
        self._observed_names: set[_FieldName] = set()
        # Columns with values that `_STRICT_TYPES` rejects.
        self._lenient_columns: set[Column] = set()
        self._build_decoder()

    def decode(self, part: BinaryIO, label: str) -> Iterator[list[Row]]:
        """Decode a part; see `Decoder`."""
        record = 0
        for block in iter_line_blocks(part, label):
            rows = self._decode_block(block)
            if rows is None:
                rows = list(self._decode_lines(block, part, label, record))
            yield rows
            record += len(rows)

    def log_invalid_values(self) -> None:
        """Warn of the number of invalid values in each column."""
        self._invalid_values.log_counts()

    def _build_decoder(self) -> None:
        self._decoder: msgspec.json.Decoder[Any] | None = None
        selected = self._layout.selected
        self._date_indexes = [
            self._layout.positions[column]
            for column in selected
            if column.type == "date" and column not in self._lenient_columns
        ]
        try:
            custom_struct, self._custom_width = self._build_struct(is_custom=True)
            contact_struct, self._reserved_width = self._build_struct(
                ("custom_fields", custom_struct | None), is_custom=False
            )
        except ValueError:
            # A name that no struct can have, such as one with a quote: decode line by line.
            return
        self._empty_custom_fields = custom_struct()
        self._decoder = msgspec.json.Decoder(contact_struct)

    def _build_struct(self, *nested: tuple[str, Any], is_custom: bool) -> tuple[Any, int]:
        """Return a struct of the selected and the ignored fields, and the number of the first."""
        field_names = {column: name for (_, name), column in self._names.items()}
        selected = [column for column in self._layout.selected if column.is_custom is is_custom]
        ignored = [
            (name, msgspec.Raw)
            for (custom, name), column in self._names.items()
            if custom is is_custom and column not in selected
        ]
        typed = [(field_names[column], self._annotation(column)) for column in selected]
        fields = [
            (
                f"_{i}",
                annotation,
                msgspec.field(name=name)
                if annotation is Text
                else msgspec.field(name=name, default=None),
            )
            for i, (name, annotation) in enumerate((*typed, *nested, *ignored))
        ]
        struct = msgspec.defstruct(
            "Contact", fields, forbid_unknown_fields=True, kw_only=True, gc=False
        )
        return struct, len(selected)

    def _annotation(self, column: Column) -> Any:  # noqa: ANN401 - a type expression
        if column.name == PRIMARY_KEY:
            return Text
        if column in self._lenient_columns:
            return _LENIENT_TYPES[column.type]
        return _STRICT_TYPES[column.type]

    def _add_field_name(self, field_name: _FieldName) -> None:
        """Add a name to the struct: a column's in another case, or one without column."""
        # Only once: two spellings of one column would otherwise rebuild it for every line.
        if field_name in self._observed_names or len(self._observed_names) >= _MAX_OBSERVED_NAMES:
            return
        self._observed_names.add(field_name)
        is_custom, name = field_name
        column = self._layout.by_field.get((is_custom, name.lower()))
        if column is None:
            warn_unmapped_field(name)
        else:
            self._names = {key: known for key, known in self._names.items() if known != column}
        if not FORBIDDEN_NAME_CHARS.search(name):
            self._names[field_name] = column

    def _decode_block(self, block: bytes) -> list[Row] | None:
        # The test for one byte makes the other one rare.
        if self._decoder is None or (b"\\" in block and b"\\u0000" in block):
            return None
        try:
            structs = self._decoder.decode_lines(block)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        reserved, custom = self._reserved_width, self._custom_width
        stamp, empty = self._layout.stamp, self._empty_custom_fields
        rows: list[Row] = [
            (fields := astuple(struct))[:reserved]
            + stamp
            + astuple(fields[reserved] or empty)[:custom]
            for struct in structs
        ]
        if not all(are_utc(map(itemgetter(i), rows)) for i in self._date_indexes):
            return None
        if not self._lenient_columns or not rows:
            return rows
        columns: list[Sequence[Value]] = list(zip(*rows, strict=True))
        try:
            for column in self._lenient_columns:
                i = self._layout.positions[column]
                columns[i] = _coerce_column(column.type, columns[i])
        except COERCION_ERRORS:
            return None
        return list(zip(*columns, strict=True))

    def _decode_lines(self, block: bytes, part: BinaryIO, label: str, record: int) -> Iterator[Row]:
        for line in filter(bytes.strip, block.split(b"\n")):
            rows = self._decode_block(line)
            record += 1
            if rows is None:
                yield self._decode_line(line, _Location(part, label, record))
            else:
                yield from rows

    def _decode_line(self, line: bytes, location: _Location) -> Row:
        values: dict[Column, Value] = {}
        adapted = len(self._observed_names) + len(self._lenient_columns)
        for is_custom, name, value in _iter_fields(line, location):
            if (is_custom, name) not in self._names:
                self._add_field_name((is_custom, name))
            column = self._layout.by_field.get((is_custom, name.lower()))
            if column is None or not column.is_selected:
                continue
            if column in values:
                raise duplicate_field_error(column, location)
            try:
                values[column] = None if value is None else coerce(column.type, value)
            except COERCION_ERRORS:
                self._invalid_values.replace(column, location)
                values[column] = None
                continue
            if not _is_of_type(_STRICT_TYPES[column.type], value):
                self._lenient_columns.add(column)
        if len(self._observed_names) + len(self._lenient_columns) > adapted:
            self._build_decoder()
        row = [values.get(column) for column in self._layout.selected]
        if row[self._layout.key_index] is None:
            raise missing_key_error(location)
        return self._layout.add_stamp(row)


def _iter_fields(line: bytes, location: _Location) -> Iterator[tuple[bool, str, object]]:
    """Yield for each field of a contact whether it is custom, its name and its value."""
    try:
        # The bytes may contain surrogates too; lone ones are dropped with the text's others.
        contact = json.loads(
            line.decode("utf-8", "surrogatepass"), strict=False, parse_constant=_reject_constant
        )
    except (ValueError, RecursionError) as error:
        raise DataError(f"{location}: invalid JSON. {DAMAGED_PART_HINT}") from error
    custom_fields = contact.pop("custom_fields", None) if isinstance(contact, dict) else []
    if not isinstance(custom_fields, dict | None):
        raise DataError(f"{location}: not a contact object")
    for is_custom, fields in ((False, contact), (True, custom_fields or {})):
        for name, value in fields.items():
            yield is_custom, name, value


def _coerce_column(column_type: ColumnType, values: Sequence[Any]) -> list[Value]:
    """Coerce the values of a lenient column; raises what `coerce` does."""
    if column_type == "text":
        return [value or None for value in values]
    return [None if value is None else coerce(column_type, value) for value in values]


def _is_of_type(strict_type: Any, value: object) -> bool:  # noqa: ANN401 - a type expression
    try:
        converted = msgspec.convert(value, strict_type)
    except COERCION_ERRORS:
        return False
    return not isinstance(converted, datetime) or converted.tzinfo is UTC


def _reject_constant(_constant: str) -> NoReturn:
    raise ValueError
