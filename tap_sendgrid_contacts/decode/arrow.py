"""Decode a part to Arrow record batches, for columnar files. Needs the extra `arrow`.

The other decoders define what a contact is. JSON is decoded by `JsonlDecoder`, but for its dates.
CSV goes to Arrow's reader, a block at a time, without a Python object per value: whatever that
accepts, `CsvDecoder` would read the same, only slower.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import logging
import sys
from functools import reduce
from itertools import chain, starmap
from operator import iconcat
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import (
    ConvertOptions,
    ParseOptions,
    ReadOptions,
    WriteOptions,
    read_csv,
    write_csv,
)
from singer_sdk.exceptions import DataError

from tap_sendgrid_contacts.decode.contact import ColumnLayout
from tap_sendgrid_contacts.decode.csv import CsvDecoder, coerce_column
from tap_sendgrid_contacts.decode.jsonl import JsonlDecoder
from tap_sendgrid_contacts.decode.lines import MAX_ROW_BYTES, iter_line_blocks
from tap_sendgrid_contacts.decode.values import COERCION_ERRORS, PARSERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tap_sendgrid_contacts.decode import Decoder
    from tap_sendgrid_contacts.decode.contact import OnInvalidValue, Row
    from tap_sendgrid_contacts.decode.values import Value
    from tap_sendgrid_contacts.schema import Column, ColumnType

logger = logging.getLogger(__name__)

# Arrow's default pool returns memory to the system after every block, and has to ask for it again.
# glibc does the same until a program has freed a block of this size. The block itself takes no
# memory, because nothing is written to it.
if "jemalloc" in pa.supported_memory_backends():
    pa.set_memory_pool(pa.jemalloc_memory_pool())
bytes(31 * 1024 * 1024)

ARROW_TYPES: dict[ColumnType, pa.DataType] = {
    "text": pa.string(),
    "number": pa.float64(),
    "date": pa.timestamp("us", "UTC"),
    "list": pa.list_(pa.string()),
}

# Sizes of the blocks of text that become batches. Those of CSV are large, because each call of
# Arrow's reader has a fixed cost; those of JSON are small, so that the decoded objects stay in the
# processor's cache.
_CSV_BLOCK_BYTES = 2 * 1024 * 1024
_JSON_BLOCK_BYTES = 256 * 1024

# How SendGrid writes CSV: every cell in quotes, except empty ones.
_SENDGRID_FORM = WriteOptions(include_header=False, batch_size=8192, quoting_style="all_valid")

# Rows that CSV readers do not disagree about: a quote only around a cell or doubled in it, a line
# break outside of a cell only at the end of a row.
_UNAMBIGUOUS_ROWS = r'^(?:(?:"(?:[^"]|"")*"|[^",\r\n]*)(?:,|\r?\n))*$'


def make_arrow_decoder(
    file_type: str,
    columns: Sequence[Column],
    on_invalid_value: OnInvalidValue = "fail",
    stamp: Mapping[str, str | None] | None = None,
) -> Decoder[pa.RecordBatch]:
    """Make the decoder of a file type; see `make_decoder`."""
    layout = ColumnLayout(columns, on_invalid_value, stamp or {})
    if file_type == "csv":
        return ArrowCsvDecoder(layout)
    return JsonlDecoder(
        layout,
        RecordBatchBuilder(layout).build_rows,
        dates_as_text=True,
        block_bytes=_JSON_BLOCK_BYTES,
    )


class RecordBatchBuilder:
    """Builds record batches of contacts.

    Args:
        layout: The columns.
    """

    def __init__(self, layout: ColumnLayout) -> None:
        self._types = layout.types
        self._schema = pa.schema(
            [(name, ARROW_TYPES[column_type]) for name, column_type in self._types.items()]
        )
        self._names_by_type: dict[ColumnType, list[str]] = {}
        for name, column_type in layout.types.items():
            self._names_by_type.setdefault(column_type, []).append(name)
        self._rounded: set[str] = set()

    def build(self, arrays: Sequence[pa.Array]) -> pa.RecordBatch:
        """Return the columns of contacts as a record batch."""
        return pa.record_batch(arrays, schema=self._schema)

    def build_rows(self, rows: Iterable[Row]) -> pa.RecordBatch:
        """Return rows as a record batch; a date may be text.

        Raises:
            Exception: One of `COERCION_ERRORS`, if such a date is invalid.
            DataError: If a number is beyond the range of doubles.
        """
        values = list(zip(*rows, strict=True)) or [()] * len(self._types)
        columns = dict(zip(self._types, values, strict=True))
        count = len(values[0])
        arrays: dict[str, pa.Array] = {}
        for names in self._names_by_type.values():
            joined = self._join_columns({name: columns[name] for name in names})
            for i, name in enumerate(names):
                arrays[name] = joined.slice(i * count, count)
        return self.build([arrays[name] for name in self._types])

    def _join_columns(self, columns: dict[str, Sequence[Value]]) -> pa.Array:
        """Return columns of one type in one array: each call of `pa.array` has a fixed cost."""
        name = next(iter(columns))
        column_type = self._types[name]
        values: list[Value] = reduce(iconcat, columns.values(), [])
        if column_type == "date":
            with contextlib.suppress(TypeError):
                return self.parse(name, pa.array(values, pa.string()))
            parse = PARSERS["date"]
            values = [parse(value) if isinstance(value, str) else value for value in values]
        if column_type == "number":
            # Arrow rejects whole numbers beyond 2^53.
            with contextlib.suppress(pa.ArrowInvalid):
                return pa.array(values, pa.float64())
            values = list(chain.from_iterable(starmap(self._round, columns.items())))
        return pa.array(values, ARROW_TYPES[column_type])

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
        if column_type == "date" and (dates := _parse_usual_dates(texts)):
            return dates
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


class ArrowCsvDecoder:
    """Decodes CSV with Arrow's reader where that reads the same as `CsvDecoder`.

    Args:
        layout: The columns.
    """

    def __init__(self, layout: ColumnLayout) -> None:
        self._layout = layout
        self._builder = RecordBatchBuilder(layout)
        self._decoder = CsvDecoder[pa.RecordBatch](layout, self._builder.build_rows)

    def decode(self, part: BinaryIO, label: str) -> Iterator[pa.RecordBatch]:
        """Decode a part; see `Decoder`."""
        blocks = iter_line_blocks(part, label, _CSV_BLOCK_BYTES)
        first = next(blocks, b"")
        rows = first.replace(b"\0", b"")
        header, start = _read_header(rows)
        if header is None:
            # Raises the error, if there is no header at all.
            yield from self._decoder.decode_lines(chain([first], blocks), label)
            return
        cell_indexes = self._decoder.map_header(header, label)
        lines_before = rows.count(b"\n", 0, start)
        # The beginning of a row that goes on after its block: inside of a quoted cell.
        pending = b""
        for block in chain([rows[start:]], blocks):
            rows = block.replace(b"\0", b"")
            cells, is_unambiguous = (None, False) if pending else _read_cells(rows, len(header))
            if not is_unambiguous:
                rows, pending = _split_rows(pending, rows)
                cells, is_unambiguous = _read_cells(rows, len(header))
            if not is_unambiguous or len(pending) > MAX_ROW_BYTES:
                # Where its rows end is uncertain, so all that follows is read row by row.
                rest = chain(io.BytesIO(rows + pending), blocks)
                yield from self._decoder.decode_lines(rest, label, header, lines_before)
                return
            batch = self._parse_cells(cells, cell_indexes) if cells else None
            if batch is not None:
                yield batch
            elif rows:
                yield from self._decoder.decode_lines([rows], label, header, lines_before)
            lines_before += rows.count(b"\n")
        if pending:
            yield from self._decoder.decode_lines([pending], label, header, lines_before)

    def log_invalid_values(self) -> None:
        """Warn of the number of invalid values in each column."""
        self._decoder.log_invalid_values()

    def _parse_cells(self, cells: pa.Table, indexes: list[int]) -> pa.RecordBatch | None:
        """Return the selected columns, or None if a value is invalid or a key missing."""
        # One more column, for columns that the part does not have.
        texts = [*(column.chunk(0) for column in cells.columns), pa.nulls(len(cells), pa.string())]
        layout = self._layout
        try:
            arrays = [
                self._builder.parse(column.name, texts[i])
                for column, i in zip(layout.selected, indexes, strict=True)
            ]
        except COERCION_ERRORS:
            return None
        if arrays[layout.key_index].null_count:
            return None
        at = layout.stamp_index
        arrays[at:at] = [
            pa.repeat(pa.scalar(value, pa.string()), len(cells)) for value in layout.stamp
        ]
        return self._builder.build(arrays)


def _read_cells(rows: bytes, width: int) -> tuple[pa.Table | None, bool]:
    """Read rows of text.

    Args:
        rows: The rows.
        width: Number of cells in each.

    Returns:
        The cells, or None if Arrow's reader rejects the rows or changes them; and whether all
        readers agree on what the cells are.
    """
    names = [str(i) for i in range(width)]
    cells = None
    # Arrow drops a byte order mark, as at the beginning of a file.
    if not rows.startswith(codecs.BOM_UTF8):
        with contextlib.suppress(pa.ArrowInvalid):
            cells = read_csv(
                pa.BufferReader(rows),
                # A block of all rows, so that each column is one chunk.
                ReadOptions(use_threads=False, block_size=len(rows) + 1, column_names=names),
                ParseOptions(newlines_in_values=True),
                ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=True,
                ),
            )
    return cells, bool(cells and _is_written_as(rows, cells)) or _is_unambiguous(rows)


def _is_written_as(rows: bytes, cells: pa.Table) -> bool:
    """Return whether these rows are what SendGrid would write for the cells.

    This takes a third of the time of `_is_unambiguous`.
    """
    text = pa.BufferOutputStream()
    write_csv(cells, text, _SENDGRID_FORM)
    is_equal: bool = text.getvalue().equals(pa.py_buffer(rows))
    return is_equal


def _parse_usual_dates(texts: pa.StringArray) -> pa.TimestampArray | None:
    """Parse dates, unless one is not like `2020-01-02T03:04:05Z`.

    A text that Arrow accepts has a Z at its end or none. So if there is one after every 20
    characters, each text has 20, and Arrow accepts no other form of this length with a Z. No
    regular expression is as fast.
    """
    try:
        dates = texts.cast(ARROW_TYPES["date"])
    except pa.ArrowInvalid:
        return None
    size = len("2020-01-02T03:04:05Z")
    count = len(texts) - texts.null_count
    joined = texts.buffers()[2].to_pybytes()[: count * size]
    # Python has no year 0.
    is_usual = joined[size - 1 :: size] == b"Z" * count and b"0" not in joined[::size]
    return dates if is_usual else None


def _parse_usual_numbers(texts: pa.StringArray) -> pa.DoubleArray | None:
    """Parse numbers, unless doubles may be less exact, or Python would parse one differently."""
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


def _split_rows(pending: bytes, lines: bytes) -> tuple[bytes, bytes]:
    """Return the rows that end in these lines, and the beginning of one that does not.

    Args:
        pending: The beginning of a row, up to inside of quotes; or empty.
        lines: Complete lines, which follow it.
    """
    end = lines.rfind(b"\n") + 1
    quotes = lines.count(b'"', 0, end) + bool(pending)
    while end and quotes % 2:
        last_end, last_quote = end, lines.rfind(b'"', 0, end)
        end = lines.rfind(b"\n", 0, max(last_quote, 0)) + 1
        quotes -= lines.count(b'"', end, last_end)
    return (pending + lines[:end], lines[end:]) if end else (b"", pending + lines)


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
