"""Decode a part to Arrow record batches, for columnar files. Needs the extra `arrow`.

The other decoders define what a contact is. CSV is first read by Arrow's own reader, a block at a
time and without a Python object per value: whatever that accepts, `CsvDecoder` would read the
same, only slower.
"""

from __future__ import annotations

import csv
import io
import logging
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv
from singer_sdk.exceptions import DataError
from typing_extensions import override

from tap_sendgrid_contacts.decode.contact import ColumnLayout
from tap_sendgrid_contacts.decode.csv import CsvDecoder, coerce_column
from tap_sendgrid_contacts.decode.jsonl import JsonlDecoder
from tap_sendgrid_contacts.decode.lines import MAX_ROW_BYTES, iter_line_blocks
from tap_sendgrid_contacts.decode.values import COERCION_ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tap_sendgrid_contacts.decode import Decoder
    from tap_sendgrid_contacts.decode.contact import OnInvalidValue, Row
    from tap_sendgrid_contacts.decode.values import Value
    from tap_sendgrid_contacts.schema import Column, ColumnType

logger = logging.getLogger(__name__)

ARROW_TYPES: dict[ColumnType, pa.DataType] = {
    "text": pa.string(),
    "number": pa.float64(),
    "date": pa.timestamp("us", "UTC"),
    "list": pa.list_(pa.string()),
}

# Enough contacts for a batch to be worth its overhead, and few enough for the CPU's cache.
_JSON_BLOCK_BYTES = 256 * 1024
_CSV_BLOCK_BYTES = 1024 * 1024

# Rows that CSV readers do not disagree about: a quote only around a cell or doubled in it, a line
# break outside of a cell only at the end of a row.
_STRICT_ROWS = r'^(?:(?:"(?:[^"\x00]|"")*"|[^",\r\n\x00]*)(?:,|\r?\n))*$'

# Texts that Arrow converts as `parse_date` and Python's `float` do. Whole numbers are limited to
# those that a double can hold.
_USUAL_TEXT: dict[ColumnType, str] = {
    "date": "^[12][0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$",
    "number": r"^-?[0-9]{1,15}(?:\.[0-9]{1,15})?$",
}


def make_arrow_decoder(
    file_type: str,
    columns: Sequence[Column],
    on_invalid_value: OnInvalidValue = "fail",
    stamp: Mapping[str, str | None] | None = None,
) -> Decoder[pa.RecordBatch]:
    """Make the decoder of a file type; see `make_decoder`."""
    layout = ColumnLayout(columns, on_invalid_value, stamp or {})
    if file_type == "json":
        return JsonlDecoder(layout, RecordBatchMaker(layout), _JSON_BLOCK_BYTES)
    return ArrowCsvDecoder(layout, RecordBatchMaker(layout))


class RecordBatchMaker:
    """Makes record batches of contacts.

    Args:
        layout: The columns.
    """

    def __init__(self, layout: ColumnLayout) -> None:
        self._types = layout.types
        self._schema = pa.schema(
            [(name, ARROW_TYPES[column_type]) for name, column_type in layout.types.items()]
        )
        self._rounded: set[str] = set()

    def __call__(self, rows: Iterable[Row]) -> pa.RecordBatch:
        """Return contacts, given as their values, as a record batch."""
        columns = list(zip(*rows, strict=True)) or [()] * len(self._types)
        return self.join(list(map(self.make_array, self._types, columns)))

    def join(self, arrays: Sequence[pa.Array]) -> pa.RecordBatch:
        """Return the columns of contacts as a record batch."""
        return pa.record_batch(arrays, schema=self._schema)

    def make_array(self, name: str, values: Sequence[Value]) -> pa.Array:
        """Return the values of a column as an array.

        Raises:
            DataError: If a number is beyond the range of doubles.
        """
        column_type = self._types[name]
        if column_type == "date":
            # Converting them as text takes half the time.
            return pa.array(msgspec.to_builtins(values), pa.string()).cast(ARROW_TYPES["date"])
        try:
            return pa.array(values, ARROW_TYPES[column_type])
        except (pa.ArrowInvalid, OverflowError):
            if column_type != "number":
                raise
        return self._round(name, values)

    def _round(self, name: str, numbers: Sequence[Any]) -> pa.Array:
        """Return numbers as doubles, although whole ones may be more exact than these."""
        try:
            doubles = [None if number is None else float(number) for number in numbers]
        except OverflowError:
            raise DataError(
                f"Column {name}: a number is beyond the range of doubles, the type of numbers in "
                "Parquet and Arrow files; deselect the column, or use the format jsonl"
            ) from None
        if name not in self._rounded and doubles != list(numbers):
            self._rounded.add(name)
            logger.warning(
                "Column %s: rounding whole numbers beyond 2^53 to doubles, the type of numbers in "
                "Parquet and Arrow files",
                name,
            )
        return pa.array(doubles, ARROW_TYPES["number"])


class ArrowCsvDecoder(CsvDecoder[pa.RecordBatch]):
    """Decodes CSV with Arrow's reader where that reads the same as `CsvDecoder`."""

    _make_block: RecordBatchMaker

    @override
    def decode(self, part: BinaryIO, label: str) -> Iterator[pa.RecordBatch]:
        """Decode a part; see `Decoder`."""
        blocks = iter_line_blocks(part, label, _CSV_BLOCK_BYTES)
        header: list[str] | None = None
        cell_indexes: list[int] = []
        lines_before = 0
        pending = b""
        for block in blocks:
            lines = pending + block
            end = _last_row_end(lines)
            rows, pending = lines[:end].replace(b"\0", b""), lines[end:]
            if len(pending) > MAX_ROW_BYTES:
                raise DataError(f"{label}: row longer than {MAX_ROW_BYTES} bytes")
            if header is None and rows:
                header, start = _read_header(rows)
                lines_before = rows.count(b"\n", 0, start)
                rows = rows[start:]
                cell_indexes = self._map_header(header, label) if header else []
            if not rows:
                continue
            if header is None or not _is_strict(rows):
                # Where its rows end is uncertain, so all that follows is read row by row.
                rest = chain([rows + pending], blocks)
                yield from self._decode_lines(rest, label, header, lines_before)
                return
            batch = self._read_rows(rows, cell_indexes, len(header))
            if batch is None:
                yield from self._decode_lines([rows], label, header, lines_before)
            else:
                yield batch
            lines_before += rows.count(b"\n")
        if pending:
            yield from self._decode_lines([pending], label, header, lines_before)

    def _read_rows(self, rows: bytes, cell_indexes: list[int], width: int) -> pa.RecordBatch | None:
        names = [str(i) for i in range(width)]
        read_names = [names[i] for i in cell_indexes if i < width]
        try:
            if len(read_names) < width:
                # Arrow validates the UTF-8 only of what it reads.
                rows.decode()
            cells = read_csv(
                pa.BufferReader(rows),
                ReadOptions(use_threads=False, block_size=len(rows) + 1, column_names=names),
                ParseOptions(newlines_in_values=True),
                ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    include_columns=read_names,
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
            arrays = [
                self._parse_column(column, cells[names[i]].combine_chunks())
                if i < width
                else pa.nulls(len(cells), ARROW_TYPES[column.type])
                for column, i in zip(self._layout.selected, cell_indexes, strict=True)
            ]
        except COERCION_ERRORS:
            return None
        if arrays[self._layout.key_index].null_count:
            return None
        at = self._layout.stamp_index
        arrays[at:at] = [
            pa.repeat(pa.scalar(value, pa.string()), len(cells)) for value in self._layout.stamp
        ]
        return self._make_block.join(arrays)

    def _parse_column(self, column: Column, texts: pa.StringArray) -> pa.Array:
        """Parse a column of cells; raises one of `COERCION_ERRORS`."""
        if column.type == "text":
            return texts
        usual = _USUAL_TEXT.get(column.type)
        if usual and pc.all(pc.match_substring_regex(texts, usual), min_count=0).as_py():
            return texts.cast(ARROW_TYPES[column.type])
        values = coerce_column(column.type, [text or "" for text in texts.to_pylist()])
        return self._make_block.make_array(column.name, values)


def _last_row_end(lines: bytes) -> int:
    """Return the end of the last line before which quotes are balanced."""
    end = lines.rfind(b"\n") + 1
    quotes = lines.count(b'"', 0, end)
    while quotes % 2:
        last_end, end = end, lines.rfind(b"\n", 0, end - 1) + 1
        quotes -= lines.count(b'"', end, last_end)
    return end


def _read_header(rows: bytes) -> tuple[list[str] | None, int]:
    """Return the header, if it can be read, and where it ends."""
    lines = io.BytesIO(rows)
    try:
        header = next(filter(None, csv.reader(map(bytes.decode, lines), strict=True)))
    except (StopIteration, csv.Error, UnicodeDecodeError):
        return None, 0
    return header, lines.tell()


def _is_strict(rows: bytes) -> bool:
    text = pa.scalar(rows, pa.large_binary())
    matches: bool = pc.match_substring_regex(text, _STRICT_ROWS).as_py()
    return matches
