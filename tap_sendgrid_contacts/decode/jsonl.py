"""JSON: one object per line."""

from __future__ import annotations

import json
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, NoReturn

import msgspec
from msgspec.structs import astuple
from singer_sdk.exceptions import DataError
from typing_extensions import override

from tap_sendgrid_contacts.column_types import COERCION_ERRORS
from tap_sendgrid_contacts.columns import FORBIDDEN_NAME_CHARS, PRIMARY_KEY
from tap_sendgrid_contacts.decode.decoder import Decoder
from tap_sendgrid_contacts.decode.lines import DAMAGED_PART_HINT, iter_line_blocks
from tap_sendgrid_contacts.decode.values import (
    JsonNumber,
    coerce,
    coerce_raw,
    needs_no_coercion,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tap_sendgrid_contacts.column_types import Value
    from tap_sendgrid_contacts.columns import Column, ColumnLayout, Row

_MAX_OBSERVED_NAMES = 1000
"""Names of fields in a file that are not the catalog's own: an account has 500 custom fields at
most. The struct is built again for each, so a file with more would take minutes."""

# A contact has its key: no field of this type has a default.
_Key = Annotated[str, msgspec.Meta(min_length=1)]

# (is_custom, name as in the file)
_FieldName = tuple[bool, str]


class JsonlDecoder(Decoder):
    """Decodes one JSON object per line.

    `_decode_line` defines what a contact is. Blocks are first decoded as msgspec structs that
    have exactly the fields and types of the catalog: whatever these accept, `_decode_line` would
    read the same, only slower, and only one object per line. Where a file has other names or
    forms, the struct is adapted to them: it leaves columns with values in other forms undecoded,
    and these are parsed as cells of CSV are.
    """

    def __init__(self, layout: ColumnLayout) -> None:
        super().__init__(layout)
        # Fields of the struct, by their name in the file; None where there is no column.
        self._names: dict[_FieldName, Column | None] = {
            (column.is_custom, column.field): column for column in layout.by_field.values()
        }
        self._observed_names: set[_FieldName] = set()
        # Columns with values that their type's `strict` rejects.
        self._lenient_columns: set[Column] = set()
        self._build_decoder()

    @override
    def _iter_blocks(self, part: BinaryIO, label: str) -> Iterator[list[Row]]:
        line = 1
        for block in iter_line_blocks(part, label):
            rows = self._decode_block(block)
            if rows is None:
                rows = list(self._decode_lines(block, label, line))
            # Blank lines are not counted: an export has none, and it would take 6% of the time.
            line += len(rows)
            yield rows

    def _build_decoder(self) -> None:
        self._decoder: msgspec.json.Decoder[Any] | None = None
        selected = self._layout.selected
        self._checks = [
            (self._layout.positions[column], column.type.are_strict)
            for column in selected
            if column.type.are_strict and column not in self._lenient_columns
        ]
        try:
            custom_struct = self._build_struct(is_custom=True)
            contact_struct = self._build_struct(
                ("custom_fields", custom_struct | None), is_custom=False
            )
        except ValueError:
            # A name that no struct can have, such as one with a quote: decode line by line.
            return
        self._empty_custom_fields = custom_struct()
        self._decoder = msgspec.json.Decoder(contact_struct)

    def _build_struct(self, *nested: tuple[str, Any], is_custom: bool) -> Any:  # noqa: ANN401 - a class
        """Return a struct of the selected fields, what is nested, and the ignored fields."""
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
                if annotation is _Key
                else msgspec.field(name=name, default=None),
            )
            for i, (name, annotation) in enumerate((*typed, *nested, *ignored))
        ]
        return msgspec.defstruct(
            "Contact", fields, forbid_unknown_fields=True, kw_only=True, gc=False
        )

    def _annotation(self, column: Column) -> Any:  # noqa: ANN401 - a type expression
        if column in self._lenient_columns:
            return msgspec.Raw
        return _Key if column.name == PRIMARY_KEY else column.type.strict

    def _add_field_name(self, field_name: _FieldName, location: str) -> None:
        """Add a name to the struct: a column's in another case, or one without column."""
        # Only once: two spellings of one column would otherwise rebuild it for every line.
        if field_name in self._observed_names:
            return
        if len(self._observed_names) >= _MAX_OBSERVED_NAMES:
            raise DataError(
                f"{location}: more than {_MAX_OBSERVED_NAMES} fields that are not in the catalog; "
                "not a contacts export"
            )
        self._observed_names.add(field_name)
        is_custom, name = field_name
        column = self._layout.by_field.get((is_custom, name.lower()))
        if column is None:
            self._warn_unmapped_field(name)
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
        reserved = self._layout.stamp_index
        custom = len(self._layout.selected) - reserved
        stamp, empty = self._layout.stamp, self._empty_custom_fields
        rows: list[Row] = [
            (fields := astuple(struct))[:reserved]
            + stamp
            + astuple(fields[reserved] or empty)[:custom]
            for struct in structs
        ]
        if not all(are_strict(map(itemgetter(i), rows)) for i, are_strict in self._checks):
            return None
        return self._coerce_lenient(rows) if self._lenient_columns and rows else rows

    def _coerce_lenient(self, rows: list[Row]) -> list[Row] | None:
        columns: list[Sequence[Value]] = list(zip(*rows, strict=True))
        try:
            for column in self._lenient_columns:
                i = self._layout.positions[column]
                columns[i] = coerce_raw(column.type, columns[i])
        except COERCION_ERRORS:
            return None
        if None in columns[self._layout.key_index]:
            return None
        return list(zip(*columns, strict=True))

    def _decode_lines(self, block: bytes, label: str, first_line: int) -> Iterator[Row]:
        lines = filter(bytes.strip, block.split(b"\n"))
        for number, line in enumerate(lines, first_line):
            rows = self._decode_block(line)
            yield from rows or [self._decode_line(line, f"{label}, line {number}")]

    def _decode_line(self, line: bytes, location: str) -> Row:
        values: dict[Column, Value] = {}
        adapted = len(self._observed_names) + len(self._lenient_columns)
        for is_custom, name, value in _iter_fields(line, location):
            if (is_custom, name) not in self._names:
                self._add_field_name((is_custom, name), location)
            column = self._layout.by_field.get((is_custom, name.lower()))
            if column is None or not column.is_selected:
                continue
            if column in values:
                raise DataError(
                    f"{location}: duplicate field for column {column.name} (names differ only in "
                    "case)"
                )
            try:
                values[column] = None if value is None else coerce(column.type, value)
            except COERCION_ERRORS:
                self._count_invalid(column, location)
                values[column] = None
                continue
            if column not in self._lenient_columns and not needs_no_coercion(column.type, value):
                self._lenient_columns.add(column)
        if len(self._observed_names) + len(self._lenient_columns) > adapted:
            self._build_decoder()
        return self._make_row([values.get(each) for each in self._layout.selected], location)


def _iter_fields(line: bytes, location: str) -> Iterator[tuple[bool, str, object]]:
    """Yield for each field of a contact whether it is custom, its name and its value."""
    try:
        contact = json.loads(
            # The bytes may contain surrogates too; lone ones are dropped with the text's others.
            line.decode("utf-8", "surrogatepass"),
            strict=False,
            parse_int=JsonNumber,
            parse_float=JsonNumber,
            parse_constant=_reject_constant,
        )
    except (ValueError, RecursionError) as error:
        raise DataError(f"{location}: invalid JSON. {DAMAGED_PART_HINT}") from error
    custom_fields = contact.pop("custom_fields", None) if isinstance(contact, dict) else []
    if not isinstance(custom_fields, dict | None):
        raise DataError(f"{location}: not a contact object")
    for is_custom, fields in ((False, contact), (True, custom_fields or {})):
        for name, value in fields.items():
            yield is_custom, name, value


def _reject_constant(_constant: str) -> NoReturn:
    raise ValueError
