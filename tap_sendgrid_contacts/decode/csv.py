"""CSV: a header, then one row per contact."""

from __future__ import annotations

import contextlib
import csv
import io
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
from singer_sdk.exceptions import DataError

from tap_sendgrid_contacts.decode.errors import (
    InvalidValues,
    duplicate_field_error,
    missing_key_error,
    warn_unmapped_field,
)
from tap_sendgrid_contacts.decode.lines import DAMAGED_PART_HINT, MAX_ROW_BYTES, iter_line_blocks
from tap_sendgrid_contacts.decode.values import (
    COERCION_ERRORS,
    PARSERS,
    AwareDatetime,
    Texts,
    are_utc,
    repair_surrogates,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from tap_sendgrid_contacts.columns import Column, ColumnLayout, ColumnType, Row, Value

_BLOCK_ROWS = 128
_BLOCK_CHARS = 4 * 1024 * 1024
_KEY_HEADER = "contact_id"


class CsvDecoder:
    """Decodes a header, then one row per contact; a row may span lines.

    `_decode_row` defines what a contact is. Blocks of rows are first decoded column by column:
    whatever that accepts, `_decode_row` would read the same, only slower.

    Python's own limit of 128 KiB per cell applies unless `csv.field_size_limit` is raised.

    Args:
        layout: The columns.
    """

    def __init__(self, layout: ColumnLayout) -> None:
        self._layout = layout
        self._invalid_values = InvalidValues(layout.on_invalid_value)
        self._warned_fields: set[str] = set()
        # Characters read from the part, and how many of them up to the last complete row.
        self._chars_read = self._chars_at_row_end = 0

    def decode(self, part: BinaryIO, label: str) -> Iterator[list[Row]]:
        """Decode a part; see `Decoder`."""
        self._chars_read = self._chars_at_row_end = 0
        blocks = iter_line_blocks(part, label)
        reader = csv.reader(chain.from_iterable(self._iter_text(blocks, label)), strict=True)
        header: list[str] | None = None
        cell_indexes: list[int] = []
        try:
            for rows in self._iter_row_blocks(reader):
                if rows and header is None:
                    _, header = rows.pop(0)
                    cell_indexes = self._map_header(header, label)
                if not rows or header is None:
                    continue
                block = self._decode_block([row for _, row in rows], cell_indexes, len(header))
                yield block or [
                    self._decode_row(row, cell_indexes, len(header), f"{label}, line {line}")
                    for line, row in rows
                ]
        except csv.Error as error:
            raise DataError(
                f"{label}, line {reader.line_num}: malformed CSV: {error}. {DAMAGED_PART_HINT}"
            ) from error
        except UnicodeDecodeError as error:
            line = reader.line_num + 1 + error.object.count(b"\n", 0, error.start)
            raise DataError(f"{label}, line {line}: invalid UTF-8. {DAMAGED_PART_HINT}") from None
        if header is None and self._chars_read:
            raise DataError(f"{label}: no CSV header. {DAMAGED_PART_HINT}")

    def log_invalid_values(self) -> None:
        """Warn of the number of invalid values in each column."""
        self._invalid_values.log_counts()

    def _iter_row_blocks(self, reader: Any) -> Iterator[list[tuple[int, list[str]]]]:  # noqa: ANN401 - csv has no public type
        rows: list[tuple[int, list[str]]] = []
        char_limit = self._chars_read + _BLOCK_CHARS
        line = 1
        for row in reader:
            self._chars_at_row_end = self._chars_read
            if row:
                rows.append((line, row))
            line = reader.line_num + 1
            if len(rows) == _BLOCK_ROWS or self._chars_read > char_limit:
                yield rows
                rows = []
                char_limit = self._chars_read + _BLOCK_CHARS
        yield rows

    def _decode_block(
        self, rows: list[list[str]], cell_indexes: list[int], width: int
    ) -> list[Row] | None:
        if set(map(len, rows)) != {width}:
            return None
        by_cell = (*zip(*rows, strict=True), ("",) * len(rows))
        try:
            values: list[Iterable[Value]] = [
                _coerce_column(column.type, by_cell[i])
                for column, i in zip(self._layout.selected, cell_indexes, strict=True)
            ]
        except COERCION_ERRORS:
            return None
        if not all(values[self._layout.key_index]):
            return None
        at = self._layout.stamp_index
        values[at:at] = map(repeat, self._layout.stamp)
        return list(zip(*values, strict=False))

    def _decode_row(
        self, row: list[str], cell_indexes: list[int], width: int, location: str
    ) -> Row:
        if len(row) != width:
            raise DataError(
                f"{location}: row has {len(row)} cells, expected {width}. {DAMAGED_PART_HINT}"
            )
        row.append("")
        values: list[Value] = []
        for column, i in zip(self._layout.selected, cell_indexes, strict=True):
            try:
                values.append(PARSERS[column.type](row[i]) if row[i] else None)
            except COERCION_ERRORS:
                self._invalid_values.replace(column, location)
                values.append(None)
        if values[self._layout.key_index] is None:
            raise missing_key_error(location)
        return self._layout.add_stamp(values)

    def _iter_text(self, blocks: Iterable[bytes], label: str) -> Iterator[Iterable[str]]:
        """Yield the lines of blocks, as text."""
        for block in blocks:
            try:
                text = block.decode()
            except UnicodeDecodeError:
                text = repair_surrogates(block.decode("utf-8", "surrogatepass"))
            self._chars_read += len(text)
            if self._chars_read - self._chars_at_row_end > MAX_ROW_BYTES:
                raise DataError(f"{label}: row longer than {MAX_ROW_BYTES} characters")
            # Only \n ends a line: other line separators can be part of a cell.
            yield io.StringIO(text.replace("\0", "") if b"\0" in block else text, newline="\n")

    def _map_header(self, header: list[str], label: str) -> list[int]:
        """Return the cell of each selected column, or one after the last if there is none."""
        cells_by_name: dict[str, list[int]] = {}
        for i, name in enumerate(header):
            cells_by_name.setdefault(name.lower(), []).append(i)
        if _KEY_HEADER not in cells_by_name:
            raise DataError(f"{label}: missing CONTACT_ID column; not a contacts export")
        key_cell = cells_by_name[_KEY_HEADER][0]
        cells: dict[Column, int] = {}
        for name, indexes in cells_by_name.items():
            columns = [
                column
                for is_custom in (False, True)
                if (column := self._layout.by_field.get((is_custom, name)))
            ]
            if not columns:
                self._warn_unmapped(header[indexes[0]])
                continue
            if len(indexes) > len(columns):
                raise duplicate_field_error(columns[0], label)
            if len(columns) > len(indexes):
                # A custom field with the name of a reserved one, and only one of them here.
                columns = columns[:1] if header[indexes[0]].isupper() else columns[1:]
            elif len(columns) > 1 and _is_custom_first(header, indexes, key_cell):
                columns.reverse()
            cells.update(zip(columns, indexes, strict=True))
        return [cells.get(column, len(header)) for column in self._layout.selected]

    def _warn_unmapped(self, name: str) -> None:
        if name not in self._warned_fields:
            self._warned_fields.add(name)
            warn_unmapped_field(name)


def _is_custom_first(header: Sequence[str], indexes: Sequence[int], key_cell: int) -> bool:
    """Return which of two cells of one name, reserved or custom, comes first.

    Reserved names are in upper case. If both are: reserved fields were seen before CONTACT_ID
    and, the newer identifiers, after the custom fields.
    """
    first, second = indexes
    if header[first].isupper() != header[second].isupper():
        return header[second].isupper()
    return first > key_cell


def _coerce_column(column_type: ColumnType, cells: Sequence[str]) -> Sequence[Value]:
    """Coerce a column of cells, empty or not; raises one of `COERCION_ERRORS`."""
    if column_type == "text":
        return cells if all(cells) else [cell or None for cell in cells]
    texts = list(filter(None, cells))
    parsed = _parse_values(column_type, texts) if texts else texts
    if len(parsed) == len(cells):
        return parsed
    values = iter(parsed)
    return [next(values) if cell else None for cell in cells]


_NUMBERS = msgspec.json.Decoder(list[int | float])
_LISTS = msgspec.json.Decoder(Texts)


def _parse_values(column_type: ColumnType, texts: list[str]) -> Sequence[Value]:
    """Parse texts at once if they are in the usual form, else one by one."""
    values: Sequence[Value] | None = None
    with contextlib.suppress(msgspec.DecodeError):
        if column_type == "date":
            values = _parse_usual_dates(texts)
        elif column_type == "number":
            values = _parse_usual_numbers(texts)
        elif column_type == "list":
            values = _parse_usual_lists(texts)
    return values or list(map(PARSERS[column_type], texts))


def _parse_usual_dates(texts: list[str]) -> list[datetime] | None:
    dates = msgspec.convert(texts, list[AwareDatetime])
    return dates if are_utc(dates) else None


def _parse_usual_numbers(texts: list[str]) -> list[int | float] | None:
    array = ",".join(texts)
    # JSON allows blanks around numbers, cells do not.
    if " " in array or not array.isprintable():
        return None
    numbers = _NUMBERS.decode(f"[{array}]")
    # A cell with a comma would be two numbers.
    return numbers if len(numbers) == len(texts) else None


def _parse_usual_lists(texts: list[str]) -> list[list[str]] | None:
    lines = "\n".join(texts)
    # A text that does not start with a bracket is not parsed as JSON; NUL is to be dropped.
    if not all(text.startswith("[") for text in texts) or "\\u0000" in lines:
        return None
    lists = _LISTS.decode_lines(lines)
    # A cell with a line break could be two lists.
    return lists if len(lists) == len(texts) else None
