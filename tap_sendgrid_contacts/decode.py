"""A part's bytes to contacts: gunzip, then JSON lines or CSV.

A contact is a struct whose fields are the selected columns, in their order. JSON and CSV give the
same: empty and missing are `None`, dates are aware and in UTC, whole numbers are `int`.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from itertools import chain, starmap
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, NoReturn

import msgspec
from msgspec.structs import astuple
from singer_sdk.exceptions import DataError

from tap_sendgrid_contacts.schema import KEY

try:
    from isal.igzip import GzipFile
    from isal.isal_zlib import error as zlib_error
except ImportError:  # no wheel for this machine
    from gzip import GzipFile
    from zlib import error as zlib_error

__all__ = ["Contact", "Decoder", "GzipFile", "contact_type", "decoder", "parse_date"]

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tap_sendgrid_contacts.schema import Column, Kind

Value = str | int | float | datetime | list[str] | None
Contact = msgspec.Struct
Decoder = Callable[[BinaryIO, str], Iterator[list[Contact]]]
"""Takes a part's file and the part's name for errors; gives contacts, a block at a time."""

logger = logging.getLogger(__name__)

MAX_ROW_BYTES = 16 * 1024 * 1024
"""Longest contact accepted: what bounds the memory when a file is not what it should be."""

_BLOCK_BYTES = 64 * 1024
_BLOCK_ROWS = 128
_BLOCK_CHARS = 4 * 1024 * 1024
_MAX_LEARNED = 1000
_UTC = timezone.utc


def contact_type(names: Sequence[str]) -> Callable[..., Contact]:
    """Make the type of contacts.

    Args:
        names: Names of the selected columns. A contact's attributes have them too, where Python
            can.

    Returns:
        The type; it takes the values in the order of the names.
    """
    return msgspec.defstruct(
        "Contact",
        [
            (name if name.isidentifier() else f"_{i}", Any, msgspec.field(name=name))
            for i, name in enumerate(names)
        ],
        gc=False,
    )


def decoder(file_type: str, columns: Sequence[Column]) -> Decoder:
    """Choose how parts are decoded.

    Args:
        file_type: `json` or `csv`, as the export was asked for.
        columns: All columns of the catalog, selected or not.

    Returns:
        A function from a part to its contacts. It raises `DataError`, naming part, line and
        column and never a value, on whatever is not a whole and typed contact.
    """
    return _JsonLines(columns).decode if file_type == "json" else _Csv(columns).decode


# --- bytes to lines -------------------------------------------------------------------------


def _line_blocks(part: BinaryIO, where: str) -> Iterator[bytes]:
    """Read whole lines in blocks of about 64 KiB, gunzipped if need be, without a BOM."""
    # Neither the object's name nor its headers say reliably whether it is gzipped.
    gzipped = part.read(2) == b"\x1f\x8b"
    part.seek(0)
    stream = GzipFile(fileobj=part, mode="rb") if gzipped else part
    pending: list[bytes] = []
    pending_bytes = 0
    first = True
    while True:
        try:
            chunk = stream.read(_BLOCK_BYTES)
        except (EOFError, OSError, zlib_error) as error:
            what = "ends too early" if isinstance(error, EOFError) else "is damaged"
            raise DataError(
                f"{where}: its gzip stream {what}; run again, for a new download"
            ) from error
        if first and chunk:
            chunk = chunk.removeprefix(codecs.BOM_UTF8)
            first = False
        cut = chunk.rfind(b"\n") + 1
        if cut or not chunk:
            block = b"".join((*pending, chunk[:cut]))
            pending, pending_bytes = [], 0
            if block:
                yield block
        if not chunk:
            return
        pending.append(chunk[cut:])
        pending_bytes += len(chunk) - cut
        if pending_bytes > MAX_ROW_BYTES:
            raise DataError(
                f"{where}: a line is longer than {MAX_ROW_BYTES} bytes; this is no contact"
            )


# --- text to values -------------------------------------------------------------------------


def _without_surrogates(text: str) -> str:
    # Joins those that are a pair and drops the others.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")


_NUMBER = re.compile(r"[+-]?(?:([0-9]+)|(?:[0-9]+\.[0-9]*|\.?[0-9]+)(?:[eE][+-]?[0-9]+)?)")


def _parse_number(text: str) -> float:
    form = _NUMBER.fullmatch(text)
    if form is None:
        raise ValueError
    return _finite(int(text) if form[1] else float(text))


def _finite(number: float) -> float:
    if not -math.inf < number < math.inf:
        raise ValueError
    return number


_DAY = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_US_DAY = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})")


def parse_date(text: str) -> datetime:
    """Read a date in any form SendGrid may write it.

    Args:
        text: RFC 3339, `YYYY-MM-DD` or `MM/DD/YYYY`. Without an offset it is taken as UTC.

    Returns:
        The date, aware and in UTC.

    Raises:
        ValueError: If it is none of these, or outside the years 1 to 9999.
        OverflowError: If only its offset takes it outside.
    """
    if day := _DAY.fullmatch(text):
        year, month, date = map(int, day.groups())
        return datetime(year, month, date, tzinfo=_UTC)
    if day := _US_DAY.fullmatch(text):
        month, date, year = map(int, day.groups())
        return datetime(year, month, date, tzinfo=_UTC)
    moment = msgspec.convert(text, datetime)
    return moment.astimezone(_UTC) if moment.tzinfo else moment.replace(tzinfo=_UTC)


def _parse_list(text: str) -> list[str] | None:
    # How CSV writes several addresses in one cell is not documented.
    items = json.loads(text) if text.startswith("[") else re.split(r"[,;\s]+", text)
    return [clean for item in items if (clean := _clean(item))] or None


def _clean(value: object) -> str | None:
    if not isinstance(value, str):
        raise TypeError
    text = value.replace("\0", "")
    return (text if text.isascii() else _without_surrogates(text)) or None


_PARSE: dict[Kind, Callable[[str], Value]] = {
    "text": str,
    "number": _parse_number,
    "date": parse_date,
    "list": _parse_list,
}


def _value(kind: Kind, value: object) -> Value:
    """Bring a value from JSON to its column's type; raises `ValueError` or `TypeError`."""
    if kind == "number" and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value)
    if kind == "list" and isinstance(value, list):
        return [clean for item in value if (clean := _clean(item))] or None
    text = _clean(value)
    return text and _PARSE[kind](text)


# What a parser raises for a value it cannot take.
_MISFITS = (ValueError, TypeError, OverflowError, RecursionError, msgspec.ValidationError)


# --- JSON -----------------------------------------------------------------------------------

_NOT_EMPTY = msgspec.Meta(min_length=1)
_TEXT = Annotated[str, _NOT_EMPTY]
_DATE = Annotated[datetime, msgspec.Meta(tz=True)]
# What needs no more than decoding, and what else a value may come as.
_STRICT: dict[Kind, Any] = {
    "text": _TEXT | None,
    "number": int | float | None,
    "date": _DATE | None,
    "list": Annotated[list[_TEXT], _NOT_EMPTY] | None,
}
_LOOSE: dict[Kind, Any] = {"text": str | None, "number": Any, "date": Any, "list": Any}


class _JsonLines:
    """One JSON object a line.

    `_parse` says what a contact is. Blocks are first tried on a msgspec struct that has just the
    fields and types of the catalog: what it accepts, `_parse` would read the same, but slower.
    Where a file has other names or forms, the struct is made to fit them.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._selected = [column for column in columns if column.selected]
        self._contact = contact_type([column.name for column in self._selected])
        self._key = _key_of(self._selected)
        self._columns = _by_field(columns)
        # Names the struct has, as the file spells them; None where there is no column.
        self._names: dict[tuple[bool, str], Column | None] = {
            (column.custom, column.field): column for column in columns
        }
        self._learned: set[tuple[bool, str]] = set()
        # Columns whose values come in other forms than `_STRICT` takes.
        self._loose: set[Column] = set()
        self._make_struct()

    def decode(self, part: BinaryIO, where: str) -> Iterator[list[Contact]]:
        line = 1
        for block in _line_blocks(part, where):
            contacts = self._parse_block(block)
            if contacts is None:
                contacts = list(self._parse_lines(block, line, where))
            yield contacts
            # Blank lines do not count: counting line ends would take half as long as gunzip does.
            line += len(contacts)

    def _make_struct(self) -> None:
        self._decoder: msgspec.json.Decoder[Any] | None = None
        dates = (i for i, column in enumerate(self._selected) if column.kind == "date")
        self._dates = [i for i in dates if self._selected[i] not in self._loose]
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
        wanted = [column for column in self._selected if column.custom is custom]
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
        """Take a name the struct lacks into it: a column spelled otherwise, or no column."""
        # Once only, or two spellings of one column would have it made anew for every line.
        if form in self._learned or len(self._learned) >= _MAX_LEARNED:
            return
        self._learned.add(form)
        custom, name = form
        column = self._columns.get((custom, name.lower()))
        if column is None:
            _warn_unknown(name)
        else:
            self._names = {f: known for f, known in self._names.items() if known != column}
        self._names[form] = column
        self._make_struct()

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
        if not all(_all_utc(map(itemgetter(i), rows)) for i in self._dates):
            return None
        if not self._loose or not rows:
            return list(starmap(self._contact, rows))
        columns: list[Sequence[Value]] = list(zip(*rows, strict=True))
        try:
            for column in self._loose:
                i = self._selected.index(column)
                columns[i] = _values(column.kind, columns[i])
        except _MISFITS:
            return None
        return list(map(self._contact, *columns))

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
        loose: set[Column] = set()
        for custom, name, value in _fields(line, where):
            if (custom, name) not in self._names:
                self._learn((custom, name))
            column = self._columns.get((custom, name.lower()))
            if column is None or not column.selected:
                continue
            if column in values:
                raise _twice(column, where)
            try:
                values[column] = None if value is None else _value(column.kind, value)
            except _MISFITS:
                raise _misfit(column, where) from None
            if not _is_strict(column.kind, value):
                loose.add(column)
        if values.get(self._selected[self._key]) is None:
            raise _keyless(where)
        if not loose <= self._loose:
            self._loose |= loose
            self._make_struct()
        return self._contact(*(values.get(column) for column in self._selected))


def _fields(line: bytes, where: str) -> Iterator[tuple[bool, str, object]]:
    """Read the fields of a contact: whether custom, name and value."""
    try:
        # Surrogates may stand in the bytes as well; lone ones go when the text is cleaned.
        contact = json.loads(
            line.decode("utf-8", "surrogatepass"), strict=False, parse_constant=_refuse
        )
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: this is no JSON; the part is damaged") from error
    custom_fields = contact.pop("custom_fields", None) if isinstance(contact, dict) else []
    if not isinstance(custom_fields, dict | None):
        raise DataError(f"{where}: this is no contact")
    for custom, fields in ((False, contact), (True, custom_fields or {})):
        for name, value in fields.items():
            yield custom, name, value


def _values(kind: Kind, values: Sequence[Any]) -> list[Value]:
    """Bring a column of `_LOOSE` values to its type; raises what `_value` does."""
    if kind == "text":
        return [value or None for value in values]
    return [None if value is None else _value(kind, value) for value in values]


def _is_strict(kind: Kind, value: object) -> bool:
    try:
        converted = msgspec.convert(value, _STRICT[kind])
    except _MISFITS:
        return False
    return not isinstance(converted, datetime) or converted.tzinfo is _UTC


def _refuse(_constant: str) -> NoReturn:
    raise ValueError


# --- CSV ------------------------------------------------------------------------------------


class _Csv:
    """A header, then one row a contact; a row may span lines.

    `_parse` says what a contact is. Blocks of rows are first tried column by column: what that
    accepts, `_parse` would read the same, but slower.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._selected = [column for column in columns if column.selected]
        self._contact = contact_type([column.name for column in self._selected])
        self._key = _key_of(self._selected)
        self._columns = _by_field(columns)
        self._unknown: set[str] = set()
        # Characters read, and how many of them up to the last whole row.
        self._read = self._read_whole = 0
        # Python's own limit of 128 KiB is less than a text may have.
        csv.field_size_limit(MAX_ROW_BYTES)

    def decode(self, part: BinaryIO, where: str) -> Iterator[list[Contact]]:
        reader = csv.reader(chain.from_iterable(self._texts(part, where)), strict=True)
        header: list[str] | None = None
        cells: list[int] = []
        try:
            for rows in self._row_blocks(reader):
                if header is None:
                    if not rows:
                        return
                    _, header = rows.pop(0)
                    cells = self._layout(header, where)
                block = self._parse_block([row for _, row in rows], cells, len(header))
                yield block or [
                    self._parse(row, cells, len(header), f"{where}, line {line}")
                    for line, row in rows
                ]
        except csv.Error as error:
            raise DataError(
                f"{where}, line {reader.line_num}: this is no CSV ({error}); the part is damaged"
            ) from error
        except UnicodeDecodeError as error:
            line = reader.line_num + 1 + error.object.count(b"\n", 0, error.start)
            raise DataError(
                f"{where}, line {line}: this is no UTF-8; the part is damaged"
            ) from None

    def _row_blocks(self, reader: Any) -> Iterator[list[tuple[int, list[str]]]]:  # noqa: ANN401 - csv has no name for it
        rows: list[tuple[int, list[str]]] = []
        enough = _BLOCK_CHARS
        for row in reader:
            self._read_whole = self._read
            if row:
                rows.append((reader.line_num, row))
            if len(rows) == _BLOCK_ROWS or self._read > enough:
                yield rows
                rows = []
                enough = self._read + _BLOCK_CHARS
        yield rows

    def _parse_block(
        self, rows: list[list[str]], cells: list[int], width: int
    ) -> list[Contact] | None:
        if set(map(len, rows)) != {width}:
            return None
        by_cell = (*zip(*rows, strict=True), ("",) * len(rows))
        try:
            values = [
                _parse_column(column.kind, by_cell[i])
                for column, i in zip(self._selected, cells, strict=True)
            ]
        except _MISFITS:
            return None
        return list(map(self._contact, *values)) if all(values[self._key]) else None

    def _parse(self, row: list[str], cells: list[int], width: int, where: str) -> Contact:
        if len(row) != width:
            raise DataError(
                f"{where}: a row of {len(row)} cells under a header of {width}; the part is damaged"
            )
        row.append("")
        values: list[Value] = []
        for column, i in zip(self._selected, cells, strict=True):
            try:
                values.append(_PARSE[column.kind](row[i]) if row[i] else None)
            except _MISFITS:
                raise _misfit(column, where) from None
        if values[self._key] is None:
            raise _keyless(where)
        return self._contact(*values)

    def _texts(self, part: BinaryIO, where: str) -> Iterator[Iterable[str]]:
        """Read the part's lines, in blocks."""
        for block in _line_blocks(part, where):
            try:
                text = block.decode()
            except UnicodeDecodeError:
                text = _without_surrogates(block.decode("utf-8", "surrogatepass"))
            self._read += len(text)
            if self._read - self._read_whole > MAX_ROW_BYTES:
                raise DataError(f"{where}: a row is longer than {MAX_ROW_BYTES} characters")
            # Only \n ends a line here: the others may stand in a cell.
            yield io.StringIO(text.replace("\0", "") if b"\0" in block else text, newline="\n")

    def _layout(self, header: list[str], where: str) -> list[int]:
        """Find each selected column's cell; one that the file lacks gets that behind the last."""
        cells: dict[Column, int] = {}
        for i, name in enumerate(header):
            reserved, custom = (
                self._columns.get((is_custom, name.lower())) for is_custom in (False, True)
            )
            # A custom field may be named like a reserved one, which is written in upper case.
            column = (reserved or custom) if name.isupper() else (custom or reserved)
            if column is None:
                if name not in self._unknown:
                    self._unknown.add(name)
                    _warn_unknown(name)
            elif column in cells:
                raise _twice(column, where)
            else:
                cells[column] = i
        if self._selected[self._key] not in cells:
            raise DataError(f"{where}: its header has no CONTACT_ID; this is no contacts export")
        return [cells.get(column, len(header)) for column in self._selected]


def _parse_column(kind: Kind, cells: Sequence[str]) -> Sequence[Value]:
    """Bring a column of cells to its type; raises what the parsers raise."""
    if kind == "text":
        return cells if all(cells) else [cell or None for cell in cells]
    texts = list(filter(None, cells))
    parsed = _parse_texts(kind, texts) if texts else texts
    if len(parsed) == len(cells):
        return parsed
    values = iter(parsed)
    return [next(values) if cell else None for cell in cells]


_NUMBERS = msgspec.json.Decoder(list[int | float])


def _parse_texts(kind: Kind, texts: list[str]) -> Sequence[Value]:
    """Parse texts at once, if they are in the usual form, or else one by one."""
    with contextlib.suppress(msgspec.DecodeError):
        if kind == "date":
            dates = msgspec.convert(texts, list[_DATE])
            if _all_utc(dates):
                return dates
        # JSON passes over blanks; cells may not have them.
        if kind == "number" and (array := ",".join(texts)).isprintable() and " " not in array:
            numbers = _NUMBERS.decode(f"[{array}]")
            # A cell with a comma would be two.
            if len(numbers) == len(texts):
                return numbers
    return list(map(_PARSE[kind], texts))


# --- both -----------------------------------------------------------------------------------


def _by_field(columns: Sequence[Column]) -> dict[tuple[bool, str], Column]:
    """Columns by whether they are custom and by their field: names are unique ignoring case."""
    return {(column.custom, column.field.lower()): column for column in columns}


def _warn_unknown(field: str) -> None:
    logger.warning(
        "The export has a field %.100r that the catalog lacks: it is not loaded. If it is a "
        "custom field, discover again to get its column (Meltano: meltano run --refresh-catalog).",
        field,
    )


def _key_of(columns: Sequence[Column]) -> int:
    return [column.name for column in columns].index(KEY)


def _keyless(where: str) -> DataError:
    return DataError(f"{where}: {KEY} is missing")


def _all_utc(dates: Iterable[Any]) -> bool:
    return {date.tzinfo for date in dates if date} <= {_UTC}


def _twice(column: Column, where: str) -> DataError:
    return DataError(
        f"{where}: two fields are column {column.name} when upper and lower case are ignored"
    )


def _misfit(column: Column, where: str) -> DataError:
    return DataError(
        f"{where}, column {column.name}: the value is not of the column's type, {column.kind}"
    )
