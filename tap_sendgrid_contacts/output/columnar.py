"""Write contacts to Parquet and Arrow files. Needs the extra `arrow`."""

from __future__ import annotations

import contextlib
import logging
from functools import reduce
from itertools import chain, starmap
from operator import iconcat
from typing import IO, TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
from pyarrow import ipc, parquet
from singer_sdk.exceptions import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tap_sendgrid_contacts.column_types import ColumnType, Value
    from tap_sendgrid_contacts.columns import Row

    Write = Callable[[Sequence[Row]], None]

logger = logging.getLogger(__name__)

# Columns whose values hardly repeat: with dictionaries, files would be larger and take longer.
_UNIQUE_COLUMNS = {
    *("contact_id", "email", "unique_name", "phone_number", "phone_number_id", "external_id"),
    *("anonymous_id", "whatsapp", "line", "facebook"),
}

# Rows that become Arrow arrays at once: each call of PyArrow has a fixed cost, and Python objects
# that do not fit into the processor's cache cost more.
_ROWS_AT_ONCE = 250

# Minimum sizes of a row group in a Parquet file and of a batch in an Arrow file: large for readers,
# small for the memory.
_ROW_GROUP_BYTES = 16 * 1024 * 1024
_BATCH_BYTES = 1024 * 1024


def open_parquet(
    builder: RecordBatchBuilder, compression: str, file: IO[bytes]
) -> contextlib.AbstractContextManager[Write]:
    """Open a Parquet file, compressed with `zstd` or `none`."""
    schema = builder.schema
    sink = parquet.ParquetWriter(
        file,
        schema,
        compression=compression,
        use_dictionary=[name for name in schema.names if name not in _UNIQUE_COLUMNS],
        # Those of texts would cost a fifth of the file's time, and no reader filters by them.
        write_statistics=[field.name for field in schema if field.type != pa.string()],
    )
    return _write_groups(builder, sink, _ROW_GROUP_BYTES)


def open_arrow(
    builder: RecordBatchBuilder, file: IO[bytes]
) -> contextlib.AbstractContextManager[Write]:
    """Open a file in the Arrow IPC file format."""
    return _write_groups(builder, ipc.new_file(file, builder.schema), _BATCH_BYTES)


@contextlib.contextmanager
def _write_groups(builder: RecordBatchBuilder, sink: Any, group_bytes: int) -> Iterator[Write]:  # noqa: ANN401 - PyArrow is not typed
    with sink:
        writer = _GroupWriter(builder, sink, group_bytes)
        yield writer.write
        writer.flush()


class _GroupWriter:
    """Writes rows in groups of a size that suits readers."""

    def __init__(self, builder: RecordBatchBuilder, sink: Any, group_bytes: int) -> None:  # noqa: ANN401 - PyArrow is not typed
        self._builder = builder
        self._sink = sink
        self._group_bytes = group_bytes
        self._rows: list[Row] = []
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0

    def write(self, rows: Sequence[Row]) -> None:
        self._rows += rows
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._build()
            if self._bytes >= self._group_bytes:
                self.flush()

    def flush(self) -> None:
        if self._rows:
            self._build()
        if self._batches:
            self._sink.write_batch(pa.concat_batches(self._batches))
            self._batches, self._bytes = [], 0

    def _build(self) -> None:
        batch = self._builder.build(self._rows)
        self._rows = []
        self._batches.append(batch)
        self._bytes += batch.get_total_buffer_size()


class RecordBatchBuilder:
    """Builds record batches of contacts."""

    def __init__(self, types: Mapping[str, ColumnType]) -> None:
        self.schema = pa.schema([(name, each.arrow(pa)) for name, each in types.items()])
        self._names_by_type: dict[pa.DataType, list[str]] = {}
        for field in self.schema:
            self._names_by_type.setdefault(field.type, []).append(field.name)
        self._rounded: set[str] = set()

    def build(self, rows: Sequence[Row]) -> pa.RecordBatch:
        """Return rows, at least one, as a record batch.

        Raises:
            DataError: If a number is beyond the range of its column.
        """
        columns = dict(zip(self.schema.names, zip(*rows, strict=True), strict=True))
        arrays: dict[str, pa.Array] = {}
        for arrow_type, names in self._names_by_type.items():
            joined = self._join(arrow_type, {name: columns[name] for name in names})
            for i, name in enumerate(names):
                arrays[name] = joined.slice(i * len(rows), len(rows))
        return pa.record_batch([arrays[name] for name in self.schema.names], schema=self.schema)

    def _join(self, arrow_type: pa.DataType, columns: dict[str, Sequence[Value]]) -> pa.Array:
        """Return columns of one type in one array: each call of `pa.array` has a fixed cost."""
        values: list[Value] = reduce(iconcat, columns.values(), [])
        if pa.types.is_timestamp(arrow_type):
            # Text takes half the time of PyArrow's own conversion of dates.
            return pa.array(msgspec.to_builtins(values), pa.string()).cast(arrow_type)
        try:
            return pa.array(values, arrow_type)
        except (pa.ArrowInvalid, OverflowError):
            if not pa.types.is_floating(arrow_type):
                raise _range_error(arrow_type, columns) from None
        # Arrow rejects whole numbers beyond 2^53.
        rounded = chain.from_iterable(starmap(self._round, columns.items()))
        return pa.array(list(rounded), arrow_type)

    def _round(self, name: str, numbers: Sequence[Any]) -> list[float | None]:
        """Return numbers as doubles, although whole ones may be more exact than these."""
        try:
            doubles = [None if number is None else float(number) for number in numbers]
        except OverflowError:
            raise _range_error(pa.float64(), {name: numbers}) from None
        if name not in self._rounded and doubles != list(numbers):
            self._rounded.add(name)
            logger.warning(
                "Column %s: rounding whole numbers beyond 2^53 to doubles, the type of numbers in "
                "Parquet and Arrow files",
                name,
            )
        return doubles


def _range_error(arrow_type: pa.DataType, columns: Mapping[str, Sequence[Any]]) -> DataError:
    """Return the error for the first column with a number that its type does not have."""

    def is_in_range(numbers: Sequence[Any]) -> bool:
        try:
            list(map(float, filter(None, numbers)))
            pa.array(numbers, arrow_type)
        except (pa.ArrowInvalid, OverflowError):
            return False
        return True

    name = next(name for name, numbers in columns.items() if not is_in_range(numbers))
    return DataError(
        f"Column {name}: a number is beyond the range of {arrow_type}, the type of the column in "
        "Parquet and Arrow files; type it string in the catalog, deselect it, or use the format "
        "jsonl"
    )
