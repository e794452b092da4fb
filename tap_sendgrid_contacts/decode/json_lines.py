"""JSON: one object a line."""

from __future__ import annotations

import json
from datetime import datetime
from itertools import starmap
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, NoReturn

import msgspec
from msgspec.structs import astuple
from singer_sdk.exceptions import DataError

from tap_sendgrid_contacts.decode.contact import Columns, misfit, twice, warn_unknown
from tap_sendgrid_contacts.decode.lines import DAMAGED, line_blocks
from tap_sendgrid_contacts.decode.values import DATE, MISFITS, UTC, all_utc, to_kind
from tap_sendgrid_contacts.schema import KEY, NOT_IN_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tap_sendgrid_contacts.decode.contact import Contact
    from tap_sendgrid_contacts.decode.values import Value
    from tap_sendgrid_contacts.schema import Column, Kind

_MAX_LEARNED = 1000

_NOT_EMPTY = msgspec.Meta(min_length=1)
_TEXT = Annotated[str, _NOT_EMPTY]
# What needs no more than decoding, and what else a value may come as.
_STRICT: dict[Kind, Any] = {
    "text": _TEXT | None,
    "number": int | float | None,
    "date": DATE | None,
    "list": Annotated[list[_TEXT], _NOT_EMPTY] | None,
}
_LOOSE: dict[Kind, Any] = {"text": str | None, "number": Any, "date": Any, "list": Any}


class JsonLines:
    """One JSON object a line.

    `_parse` says what a contact is. Blocks are first tried on a msgspec struct that has just the
    fields and types of the catalog: what it accepts, `_parse` would read the same, but slower,
    and only one object a line.
    Where a file has other names or forms, the struct is made to fit them.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = Columns(columns)
        # Names the struct has, as the file spells them; None where there is no column.
        self._names: dict[tuple[bool, str], Column | None] = {
            (column.custom, column.field): column for column in columns
        }
        self._learned: set[tuple[bool, str]] = set()
        # Columns whose values come in other forms than `_STRICT` takes.
        self._loose: set[Column] = set()
        self._make_struct()

    def decode(self, part: BinaryIO, where: str) -> Iterator[list[Contact]]:
        """Decode a part, as `decoder` says."""
        line = 1
        for block in line_blocks(part, where):
            contacts = self._parse_block(block)
            if contacts is None:
                contacts = list(self._parse_lines(block, line, where))
            yield contacts
            # Blank lines do not count: counting line ends would take half as long as gunzip does.
            line += len(contacts)

    def _make_struct(self) -> None:
        self._decoder: msgspec.json.Decoder[Any] | None = None
        dates = (i for i, column in enumerate(self._columns.selected) if column.kind == "date")
        self._dates = [i for i in dates if self._columns.selected[i] not in self._loose]
        try:
            custom_fields, self._custom_width = self._struct(custom=True)
            contact, self._reserved_width = self._struct(
                ("custom_fields", custom_fields | None), custom=False
            )
        except ValueError:
            # A name that no struct can have, such as one with a quote: all goes line by line.
            return
        self._no_custom_fields = custom_fields()
        self._decoder = msgspec.json.Decoder(contact)

    def _struct(self, *inner: tuple[str, Any], custom: bool) -> tuple[Any, int]:
        """A struct of the selected fields, then those to pass over; and how many the first are."""
        spelling = {column: name for (_, name), column in self._names.items()}
        wanted = [column for column in self._columns.selected if column.custom is custom]
        passed_over = [
            (name, msgspec.Raw)
            for (is_custom, name), column in self._names.items()
            if is_custom is custom and column not in wanted
        ]
        fields = [
            (
                f"_{i}",
                annotation,
                msgspec.field(name=name)
                if annotation is _TEXT
                else msgspec.field(name=name, default=None),
            )
            for i, (name, annotation) in enumerate(
                (
                    *((spelling[column], self._type(column)) for column in wanted),
                    *inner,
                    *passed_over,
                )
            )
        ]
        struct = msgspec.defstruct(
            "Contact", fields, forbid_unknown_fields=True, kw_only=True, gc=False
        )
        return struct, len(wanted)

    def _type(self, column: Column) -> Any:  # noqa: ANN401 - a type expression
        if column.name == KEY:
            return _TEXT
        return (_LOOSE if column in self._loose else _STRICT)[column.kind]

    def _learn(self, form: tuple[bool, str]) -> None:
        """Take a name for the struct that it lacks: a column spelled otherwise, or no column."""
        # Once only, or two spellings of one column would have it made anew for every line.
        if form in self._learned or len(self._learned) >= _MAX_LEARNED:
            return
        self._learned.add(form)
        custom, name = form
        column = self._columns.by_field.get((custom, name.lower()))
        if column is None:
            warn_unknown(name)
        else:
            self._names = {f: known for f, known in self._names.items() if known != column}
        if not NOT_IN_NAMES.search(name):
            self._names[form] = column

    def _parse_block(self, block: bytes) -> list[Contact] | None:
        # The first look, at one byte, is what makes this cheap.
        if self._decoder is None or (b"\\" in block and b"\\u0000" in block):
            return None
        try:
            structs = self._decoder.decode_lines(block)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        reserved, custom, none = self._reserved_width, self._custom_width, self._no_custom_fields
        rows: list[tuple[Any, ...]] = [
            (fields := astuple(struct))[:reserved] + astuple(fields[reserved] or none)[:custom]
            for struct in structs
        ]
        if not all(all_utc(map(itemgetter(i), rows)) for i in self._dates):
            return None
        if not self._loose or not rows:
            return list(starmap(self._columns.make, rows))
        columns: list[Sequence[Value]] = list(zip(*rows, strict=True))
        try:
            for column in self._loose:
                i = self._columns.selected.index(column)
                columns[i] = _values(column.kind, columns[i])
        except MISFITS:
            return None
        return list(map(self._columns.make, *columns))

    def _parse_lines(self, block: bytes, first_line: int, where: str) -> Iterator[Contact]:
        lines = filter(bytes.strip, block.split(b"\n"))
        for number, line in enumerate(lines, first_line):
            contacts = self._parse_block(line)
            if contacts is None:
                yield self._parse(line, f"{where}, line {number}")
            else:
                yield from contacts

    def _parse(self, line: bytes, where: str) -> Contact:
        values: dict[Column, Value] = {}
        known = len(self._learned) + len(self._loose)
        for custom, name, value in _fields(line, where):
            if (custom, name) not in self._names:
                self._learn((custom, name))
            column = self._columns.by_field.get((custom, name.lower()))
            if column is None or not column.selected:
                continue
            if column in values:
                raise twice(column, where)
            try:
                values[column] = None if value is None else to_kind(column.kind, value)
            except MISFITS:
                raise misfit(column, where) from None
            if not _is_strict(column.kind, value):
                self._loose.add(column)
        if len(self._learned) + len(self._loose) > known:
            self._make_struct()
        return self._columns.contact([values.get(each) for each in self._columns.selected], where)


def _fields(line: bytes, where: str) -> Iterator[tuple[bool, str, object]]:
    """Read the fields of a contact: whether custom, name and value."""
    try:
        # Surrogates may stand in the bytes as well; lone ones go when the text is cleaned.
        contact = json.loads(
            line.decode("utf-8", "surrogatepass"), strict=False, parse_constant=_refuse
        )
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: this is no JSON; {DAMAGED}") from error
    custom_fields = contact.pop("custom_fields", None) if isinstance(contact, dict) else []
    if not isinstance(custom_fields, dict | None):
        raise DataError(f"{where}: this is no contact")
    for custom, fields in ((False, contact), (True, custom_fields or {})):
        for name, value in fields.items():
            yield custom, name, value


def _values(kind: Kind, values: Sequence[Any]) -> list[Value]:
    """Bring a column of `_LOOSE` values to its type; raises what `to_kind` does."""
    if kind == "text":
        return [value or None for value in values]
    return [None if value is None else to_kind(kind, value) for value in values]


def _is_strict(kind: Kind, value: object) -> bool:
    try:
        converted = msgspec.convert(value, _STRICT[kind])
    except MISFITS:
        return False
    return not isinstance(converted, datetime) or converted.tzinfo is UTC


def _refuse(_constant: str) -> NoReturn:
    raise ValueError
