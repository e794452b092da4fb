"""CSV: a header, then one row a contact."""

from __future__ import annotations

import contextlib
import csv
import io
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
from singer_sdk.exceptions import DataError

from tap_sendgrid_contacts.decode import lines
from tap_sendgrid_contacts.decode.contact import Columns, misfit, twice, warn_unknown
from tap_sendgrid_contacts.decode.values import DATE, MISFITS, PARSE, all_utc, without_surrogates

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tap_sendgrid_contacts.decode.contact import Contact
    from tap_sendgrid_contacts.decode.values import Value
    from tap_sendgrid_contacts.schema import Column, Kind

_BLOCK_ROWS = 128
_BLOCK_CHARS = 4 * 1024 * 1024


class CsvRows:
    """A header, then one row a contact; a row may span lines.

    `_parse` says what a contact is. Blocks of rows are first tried column by column: what that
    accepts, `_parse` would read the same, but slower.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = Columns(columns)
        self._unknown: set[str] = set()
        # Characters read, and how many of them up to the last whole row.
        self._read = self._read_whole = 0
        # Python's own limit of 128 KiB is less than a text may have.
        csv.field_size_limit(lines.MAX_ROW_BYTES)

    def decode(self, part: BinaryIO, where: str) -> Iterator[list[Contact]]:
        """Decode a part, as `decoder` says."""
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
                f"{where}, line {reader.line_num}: this is no CSV ({error}); {lines.DAMAGED}"
            ) from error
        except UnicodeDecodeError as error:
            line = reader.line_num + 1 + error.object.count(b"\n", 0, error.start)
            raise DataError(f"{where}, line {line}: this is no UTF-8; {lines.DAMAGED}") from None

    def _row_blocks(self, reader: Any) -> Iterator[list[tuple[int, list[str]]]]:  # noqa: ANN401 - csv has no name for it
        rows: list[tuple[int, list[str]]] = []
        enough = self._read + _BLOCK_CHARS
        line = 1
        for row in reader:
            self._read_whole = self._read
            if row:
                rows.append((line, row))
            line = reader.line_num + 1
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
                for column, i in zip(self._columns.selected, cells, strict=True)
            ]
        except MISFITS:
            return None
        keyless = not all(values[self._columns.key])
        return None if keyless else list(map(self._columns.make, *values))

    def _parse(self, row: list[str], cells: list[int], width: int, where: str) -> Contact:
        if len(row) != width:
            raise DataError(
                f"{where}: a row of {len(row)} cells under a header of {width}; {lines.DAMAGED}"
            )
        row.append("")
        values: list[Value] = []
        for column, i in zip(self._columns.selected, cells, strict=True):
            try:
                values.append(PARSE[column.kind](row[i]) if row[i] else None)
            except MISFITS:
                raise misfit(column, where) from None
        return self._columns.contact(values, where)

    def _texts(self, part: BinaryIO, where: str) -> Iterator[Iterable[str]]:
        """Read the part's lines, in blocks."""
        for block in lines.line_blocks(part, where):
            try:
                text = block.decode()
            except UnicodeDecodeError:
                text = without_surrogates(block.decode("utf-8", "surrogatepass"))
            self._read += len(text)
            if self._read - self._read_whole > lines.MAX_ROW_BYTES:
                raise DataError(f"{where}: a row is longer than {lines.MAX_ROW_BYTES} characters")
            # Only \n ends a line here: the others may stand in a cell.
            yield io.StringIO(text.replace("\0", "") if b"\0" in block else text, newline="\n")

    def _layout(self, header: list[str], where: str) -> list[int]:
        """Find each selected column's cell; one that the file lacks gets that behind the last."""
        cells: dict[Column, int] = {}
        unknown = []
        for i, name in enumerate(header):
            reserved, custom = (
                self._columns.by_field.get((is_custom, name.lower())) for is_custom in (False, True)
            )
            # A custom field may be named like a reserved one, which is written in upper case.
            column = (reserved or custom) if name.isupper() else (custom or reserved)
            if column is None:
                unknown.append(name)
            elif column in cells:
                raise twice(column, where)
            else:
                cells[column] = i
        if self._columns.selected[self._columns.key] not in cells:
            raise DataError(f"{where}: its header has no CONTACT_ID; this is no contacts export")
        # Not before: without a header, these would be the first contact's values.
        for name in unknown:
            if name not in self._unknown:
                self._unknown.add(name)
                warn_unknown(name)
        return [cells.get(column, len(header)) for column in self._columns.selected]


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
            dates = msgspec.convert(texts, list[DATE])
            if all_utc(dates):
                return dates
        # JSON passes over blanks; cells may not have them.
        if kind == "number" and (array := ",".join(texts)).isprintable() and " " not in array:
            numbers = _NUMBERS.decode(f"[{array}]")
            # A cell with a comma would be two.
            if len(numbers) == len(texts):
                return numbers
    return list(map(PARSE[kind], texts))
