"""CSV: a header, then one row per contact."""

from __future__ import annotations

import csv
import io
import logging
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, BinaryIO

from singer_sdk.exceptions import DataError
from typing_extensions import override

from tap_sendgrid_contacts.column_types import COERCION_ERRORS, repair_surrogates
from tap_sendgrid_contacts.decode.decoder import Decoder
from tap_sendgrid_contacts.decode.lines import DAMAGED_PART_HINT, MAX_ROW_BYTES, iter_line_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tap_sendgrid_contacts.column_types import Value
    from tap_sendgrid_contacts.columns import Column, ColumnLayout, Row

logger = logging.getLogger(__name__)

_BLOCK_ROWS = 128
_BLOCK_CHARS = 4 * 1024 * 1024

_REQUIRED_NAMES = {"contact_id", "email", "created_at", "updated_at"}

_MAX_CELLS = 2000
"""Columns of a file: an account has 500 custom fields at most. Each takes memory in every row."""


class CsvDecoder(Decoder):
    """Decodes a header, then one row per contact; a row may span lines.

    `_decode_row` defines what a contact is. Blocks of rows are first decoded column by column:
    whatever that accepts, `_decode_row` would read the same, only slower.

    Python's own limit of 128 KiB per cell applies unless `csv.field_size_limit` is raised.
    """

    def __init__(self, layout: ColumnLayout) -> None:
        super().__init__(layout)
        self._has_warned_missing = False
        # Characters read from the part, and how many of them up to the last complete row.
        self._chars_read = self._chars_at_row_end = 0

    @override
    def _iter_blocks(self, part: BinaryIO, label: str) -> Iterator[list[Row]]:
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
                column.type.parse_cells(by_cell[i])
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
                values.append(column.type.parse(row[i]) if row[i] else None)
            except COERCION_ERRORS:
                self._count_invalid(column, location)
                values.append(None)
        return self._make_row(values, location)

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
        if len(header) > _MAX_CELLS:
            raise DataError(
                f"{label}: {len(header)} columns, more than {_MAX_CELLS}; not a contacts export"
            )
        header = [name.strip() for name in header]
        # Before anything is logged: the first line may be a contact.
        if absent := _REQUIRED_NAMES.difference(map(str.lower, header)):
            raise DataError(
                f"{label}: CSV header without {', '.join(sorted(absent)).upper()}; not a contacts "
                "export"
            )
        cells: dict[Column, int] = {}
        for i, name in enumerate(header):
            column = self._find_column(name, header, label)
            if column is None:
                self._warn_unmapped_field(name)
            elif column in cells:
                raise _ambiguous_header_error(column, label)
            else:
                cells[column] = i
        missing = [each.name for each in self._layout.selected if each not in cells]
        # Once: all parts of an export have the same.
        if missing and not self._has_warned_missing:
            self._has_warned_missing = True
            logger.warning(
                "Columns that the CSV file does not have are null in every contact: %s. If their "
                "fields were deleted, re-run discovery (Meltano: meltano run --refresh-catalog)",
                ", ".join(missing),
            )
        return [cells.get(column, len(header)) for column in self._layout.selected]

    def _find_column(self, name: str, header: list[str], label: str) -> Column | None:
        """Return the column of a field, if it has one.

        SendGrid writes reserved names in upper case. Only that tells such a field from a custom
        one of the same name, which must be in another case then.
        """
        reserved, custom = (
            self._layout.by_field.get((is_custom, name.lower())) for is_custom in (False, True)
        )
        if not (reserved and custom) or name.isupper():
            return reserved or custom
        if name.upper() not in header:
            raise _ambiguous_header_error(custom, label)
        return custom


def _ambiguous_header_error(column: Column, label: str) -> DataError:
    return DataError(
        f"{label}: which field of the CSV file is that of column {column.name} is uncertain: names "
        "differ only in case. Set file_type to json, or rename the custom field"
    )
