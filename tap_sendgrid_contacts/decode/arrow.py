"""Decode a part to Arrow record batches, for columnar files. Needs the extra `arrow`.

The other decoders define what a contact is. Columns are made of text by Arrow's CSV reader, since
`pyarrow.array` takes twice the time for Python's objects:

- CSV goes to it as it is, a block at a time: whatever it accepts, `CsvDecoder` would read the
  same, only slower.
- The contacts of `JsonlDecoder` are written as rows of text first.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import re
import sys
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv
from singer_sdk.exceptions import DataError

from tap_sendgrid_contacts.decode.contact import ColumnLayout
from tap_sendgrid_contacts.decode.csv import CsvDecoder, coerce_column
from tap_sendgrid_contacts.decode.jsonl import JsonlDecoder
from tap_sendgrid_contacts.decode.lines import MAX_ROW_BYTES, iter_line_blocks
from tap_sendgrid_contacts.decode.values import COERCION_ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tap_sendgrid_contacts.decode import Decoder
    from tap_sendgrid_contacts.decode.contact import OnInvalidValue, Row
    from tap_sendgrid_contacts.schema import Column, ColumnType

logger = logging.getLogger(__name__)

# Arrow's own returns memory to the system after every block, and has to ask for it again.
pa.set_memory_pool(pa.system_memory_pool())

ARROW_TYPES: dict[ColumnType, pa.DataType] = {
    "text": pa.string(),
    "number": pa.float64(),
    "date": pa.timestamp("us", "UTC"),
    "list": pa.list_(pa.string()),
}

_BATCH_BYTES = 1024 * 1024
"""Text that becomes a batch."""

# Rows that CSV readers do not disagree about: a quote only around a cell or doubled in it, a line
# break outside of a cell only at the end of a row.
_UNAMBIGUOUS_ROWS = r'^(?:(?:"(?:[^"]|"")*"|[^",\r\n]*)(?:,|\r?\n))*$'


class _Dialect(NamedTuple):
    """A form of rows of text.

    Attributes:
        parse_options: How quotes are written in a cell.
        null: What an empty cell contains.
        quoted_null: Whether it is empty in quotes too.
    """

    parse_options: ParseOptions
    null: str
    quoted_null: bool


_CSV = _Dialect(ParseOptions(newlines_in_values=True), null="", quoted_null=True)
_JSON_ROWS = _Dialect(
    ParseOptions(newlines_in_values=True, double_quote=False, escape_char="\\"),
    null="null",
    quoted_null=False,
)

_ENCODER = msgspec.json.Encoder()
# All but that of a quote, which is the same in CSV.
_JSON_ESCAPE = re.compile(rb"\\(?:u[0-9a-f]{4}|[^\"])")


def make_arrow_decoder(
    file_type: str,
    columns: Sequence[Column],
    on_invalid_value: OnInvalidValue = "fail",
    stamp: Mapping[str, str | None] | None = None,
) -> Decoder[pa.RecordBatch]:
    """Make the decoder of a file type; see `make_decoder`."""
    layout = ColumnLayout(columns, on_invalid_value, stamp or {})
    if file_type == "json":
        return ArrowJsonlDecoder(layout)
    return ArrowCsvDecoder(layout)


class RecordBatchBuilder:
    """Builds record batches of contacts.

    Args:
        layout: The columns.
    """

    def __init__(self, layout: ColumnLayout) -> None:
        self._types = layout.types
        self._lists = [i for i, each in enumerate(self._types.values(), 1) if each == "list"]
        self._schema = pa.schema(
            [(name, ARROW_TYPES[column_type]) for name, column_type in self._types.items()]
        )
        self._rounded: set[str] = set()

    def build(self, arrays: Sequence[pa.Array]) -> pa.RecordBatch:
        """Return the columns of contacts as a record batch."""
        return pa.record_batch(arrays, schema=self._schema)

    def write_rows(self, rows: Iterable[Row]) -> bytes:
        """Return contacts as text that `read_rows` reads: arrays in JSON, which are nearly CSV."""
        # The brackets become part of cells that are not read.
        padded = [(None, *row, None) for row in rows]
        for i in self._lists:
            padded = [
                (*row[:i], _ENCODER.encode(row[i]).decode(), *row[i + 1 :]) if row[i] else row
                for row in padded
            ]
        text = _ENCODER.encode_lines(padded)
        return _JSON_ESCAPE.sub(_unescape, text) if b"\\" in text else text

    def read_rows(self, text: bytes) -> pa.RecordBatch:
        """Return contacts in the form of `write_rows` as a record batch."""
        width = len(self._types) + 2
        cells, _ = _read_cells(text, width, range(1, width - 1), _JSON_ROWS)
        return self.build(list(map(self.parse, self._types, cells.values())))

    def read_blocks(self, texts: Iterable[bytes]) -> Iterator[pa.RecordBatch]:
        """Yield record batches of several blocks of `write_rows` each."""
        pending: list[bytes] = []
        size = 0
        for text in texts:
            pending.append(text)
            size += len(text)
            if size >= _BATCH_BYTES:
                yield self.read_rows(b"".join(pending))
                pending, size = [], 0
        if pending:
            yield self.read_rows(b"".join(pending))

    def parse(self, name: str, texts: pa.StringArray) -> pa.Array:
        """Parse the cells of a column; raises one of `COERCION_ERRORS`.

        Raises:
            DataError: If a number is beyond the range of doubles.
        """
        column_type = self._types[name]
        arrow_type = ARROW_TYPES[column_type]
        if texts.null_count == len(texts):
            return pa.nulls(len(texts), arrow_type)
        if column_type == "text":
            return texts
        if column_type == "date" and _are_usual_dates(texts):
            return texts.cast(arrow_type)
        if column_type == "number" and (numbers := _parse_usual_numbers(texts)):
            return numbers
        values = coerce_column(column_type, [text or "" for text in texts.to_pylist()])
        if column_type == "number":
            values = self._round(name, values)
        return pa.array(values, arrow_type)

    def _round(self, name: str, numbers: Sequence[Any]) -> list[float | None]:
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
        return doubles


class ArrowJsonlDecoder:
    """Decodes JSON with `JsonlDecoder`, and makes columns of larger blocks than that.

    Args:
        layout: The columns.
    """

    def __init__(self, layout: ColumnLayout) -> None:
        self._builder = RecordBatchBuilder(layout)
        self._decoder = JsonlDecoder(layout, self._builder.write_rows)

    def decode(self, part: BinaryIO, label: str) -> Iterator[pa.RecordBatch]:
        """Decode a part; see `Decoder`."""
        return self._builder.read_blocks(self._decoder.decode(part, label))

    def log_invalid_values(self) -> None:
        """Warn of the number of invalid values in each column."""
        self._decoder.log_invalid_values()


class ArrowCsvDecoder:
    """Decodes CSV with Arrow's reader where that reads the same as `CsvDecoder`.

    Args:
        layout: The columns.
    """

    def __init__(self, layout: ColumnLayout) -> None:
        self._layout = layout
        self._builder = RecordBatchBuilder(layout)
        self._decoder = CsvDecoder(layout, self._builder.write_rows)

    def decode(self, part: BinaryIO, label: str) -> Iterator[pa.RecordBatch]:
        """Decode a part; see `Decoder`."""
        blocks = iter_line_blocks(part, label, _BATCH_BYTES)
        header: list[str] | None = None
        cell_indexes: list[int] = []
        lines_before = 0
        block = b""
        # The beginning of a row that goes on after its block: inside of a quoted cell.
        pending = b""
        for block in blocks:
            lines = block.replace(b"\0", b"")
            is_unambiguous = not pending and _is_unambiguous(lines)
            end = len(lines)
            if not is_unambiguous:
                end = _last_row_end(lines, is_quoted=bool(pending))
            rows = pending + lines[:end] if end else b""
            pending = lines[end:] if end else pending + lines
            if len(pending) > MAX_ROW_BYTES:
                raise DataError(f"{label}: row longer than {MAX_ROW_BYTES} bytes")
            if header is None and rows:
                header, start = _read_header(rows)
                lines_before = rows.count(b"\n", 0, start)
                rows = rows[start:]
                cell_indexes = self._decoder.map_header(header, label) if header else []
            if not rows:
                continue
            if header is None or not (is_unambiguous or _is_unambiguous(rows)):
                # Where its rows end is uncertain, so all that follows is read row by row.
                rest = chain([rows + pending], blocks)
                yield from self._decode_by_rows(rest, label, header, lines_before)
                return
            batch = self._read_rows(rows, cell_indexes, len(header))
            if batch is None:
                yield from self._decode_by_rows([rows], label, header, lines_before)
            else:
                yield batch
            lines_before += rows.count(b"\n")
        if pending or (header is None and block):
            # Without a header, this raises that error.
            yield from self._decode_by_rows([pending or b"\n"], label, header, lines_before)

    def log_invalid_values(self) -> None:
        """Warn of the number of invalid values in each column."""
        self._decoder.log_invalid_values()

    def _decode_by_rows(
        self, blocks: Iterable[bytes], label: str, header: list[str] | None, lines_before: int
    ) -> Iterator[pa.RecordBatch]:
        texts = self._decoder.decode_lines(blocks, label, header, lines_before)
        return self._builder.read_blocks(texts)

    def _read_rows(self, rows: bytes, cell_indexes: list[int], width: int) -> pa.RecordBatch | None:
        layout = self._layout
        try:
            if rows.startswith(codecs.BOM_UTF8):
                # Arrow would drop it, as at the beginning of a file.
                return None
            if len({*cell_indexes, width}) <= width:
                # Arrow validates the UTF-8 only of what it reads.
                rows.decode()
            cells, count = _read_cells(rows, width, cell_indexes, _CSV)
            arrays = [
                self._builder.parse(column.name, cells.get(i, pa.nulls(count, pa.string())))
                for column, i in zip(layout.selected, cell_indexes, strict=True)
            ]
        except COERCION_ERRORS:
            return None
        if arrays[layout.key_index].null_count:
            return None
        at = layout.stamp_index
        arrays[at:at] = [pa.repeat(pa.scalar(value, pa.string()), count) for value in layout.stamp]
        return self._builder.build(arrays)


def _read_cells(
    text: bytes, width: int, indexes: Iterable[int], dialect: _Dialect
) -> tuple[dict[int, pa.StringArray], int]:
    """Read rows of text.

    Args:
        text: The rows.
        width: Number of cells in each.
        indexes: The cells to return; ignored from `width` on.
        dialect: Form of the rows.

    Returns:
        The cells, by index, and the number of rows.

    Raises:
        ValueError: If a row has not that width, or the text is not UTF-8.
    """
    names = [str(i) for i in range(width)]
    used = [i for i in indexes if i < width]
    if not text:
        return {i: pa.array([], pa.string()) for i in used}, 0
    table = read_csv(
        pa.BufferReader(text),
        ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=names),
        dialect.parse_options,
        ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=[names[i] for i in used],
            null_values=[dialect.null],
            strings_can_be_null=True,
            quoted_strings_can_be_null=dialect.quoted_null,
        ),
    )
    columns = (column.combine_chunks() for column in table.itercolumns())
    return dict(zip(used, columns, strict=True)), len(table)


def _unescape(escape: re.Match[bytes]) -> bytes:
    """Return what an escape of JSON is in CSV, where only quotes and backslashes have one."""
    character: str = json.loads(b'"%b"' % escape[0])
    return escape[0] if character == "\\" else character.encode()


def _are_usual_dates(texts: pa.StringArray) -> bool:
    """Return whether texts, or null, are all like `2020-01-02T03:04:05Z`.

    Arrow's own parser checks the digits, and accepts no other form of this length that has these
    characters in these places. No regular expression is as fast.
    """
    lengths = pc.min_max(pc.binary_length(texts))
    size = len("2020-01-02T03:04:05Z")
    if lengths["min"].as_py() != size or lengths["max"].as_py() != size:
        return False
    count = len(texts) - texts.null_count
    joined = texts.buffers()[2].to_pybytes()[: count * size]
    return (
        joined[13::size] == b":" * count
        and joined[19::size] == b"Z" * count
        # Python has no year 0.
        and b"0" not in joined[::size]
    )


def _parse_usual_numbers(texts: pa.StringArray) -> pa.DoubleArray | None:
    """Parse numbers, unless doubles may be less exact than these, or Python's are others."""
    try:
        numbers = texts.cast(pa.float64())
    except pa.ArrowInvalid:
        return None
    extremes = pc.min_max(numbers).as_py()
    # The first test is false if one is not a number. -0 is 0, but -0.0 is not.
    is_usual = (
        pc.all(pc.is_finite(numbers)).as_py()
        and max(abs(extremes["min"]), extremes["max"]) < 2**sys.float_info.mant_dig
        and not pc.any(pc.starts_with(texts, "-0")).as_py()
    )
    return numbers if is_usual else None


def _last_row_end(lines: bytes, *, is_quoted: bool) -> int:
    """Return the end of the last line outside of quotes; 0 if there is none.

    Args:
        lines: Complete lines.
        is_quoted: Whether they begin inside of quotes.
    """
    end = lines.rfind(b"\n") + 1
    quotes = lines.count(b'"', 0, end) + is_quoted
    while end and quotes % 2:
        last_end, last_quote = end, lines.rfind(b'"', 0, end)
        end = lines.rfind(b"\n", 0, max(last_quote, 0)) + 1
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


def _is_unambiguous(rows: bytes) -> bool:
    """Return whether all readers agree on these rows."""
    text = pa.scalar(rows, pa.large_binary())
    matches: bool = pc.match_substring_regex(text, _UNAMBIGUOUS_ROWS).as_py()
    return matches
