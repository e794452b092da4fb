"""Write record batches to Parquet and Arrow files. Needs the extra `arrow`."""

from __future__ import annotations

import contextlib
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import ipc, parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Write = Callable[[pa.RecordBatch], None]

# Columns whose values hardly repeat: with dictionaries, files would be larger and take longer.
_UNIQUE_COLUMNS = {
    *("contact_id", "email", "unique_name", "phone_number", "phone_number_id", "external_id"),
    *("anonymous_id", "whatsapp", "line", "facebook"),
}

# Minimum sizes of a row group in a Parquet file and of a batch in an Arrow file: large for readers,
# small for the memory.
_ROW_GROUP_BYTES = 16 * 1024 * 1024
_BATCH_BYTES = 1024 * 1024


def open_parquet(file: IO[bytes], compression: str) -> contextlib.AbstractContextManager[Write]:
    """Open a Parquet file; see `_open`.

    Args:
        file: The file.
        compression: `zstd` or `none`.
    """

    def open_sink(schema: pa.Schema) -> parquet.ParquetWriter:
        return parquet.ParquetWriter(
            file,
            schema,
            compression=compression,
            use_dictionary=[name for name in schema.names if name not in _UNIQUE_COLUMNS],
            # Those of texts would cost a fifth of the file's time, and no reader filters by them.
            write_statistics=[field.name for field in schema if field.type != pa.string()],
        )

    return _open(open_sink, _ROW_GROUP_BYTES)


def open_arrow(file: IO[bytes]) -> contextlib.AbstractContextManager[Write]:
    """Open a file in the Arrow IPC file format; see `_open`."""
    return _open(lambda schema: ipc.new_file(file, schema), _BATCH_BYTES)


@contextlib.contextmanager
def _open(open_sink: Callable[[pa.Schema], Any], group_bytes: int) -> Iterator[Write]:
    """Open a file, which gets the schema of its first batch.

    Args:
        open_sink: Opens pyarrow's writer of the format.
        group_bytes: Minimum size of the groups that batches are written in.

    Yields:
        A function that writes a batch.
    """
    writer = _BatchWriter(open_sink, group_bytes)
    try:
        yield writer.write
        writer.flush()
    finally:
        writer.close()


class _BatchWriter:
    """Writes batches in groups of a size that suits readers."""

    def __init__(self, open_sink: Callable[[pa.Schema], Any], group_bytes: int) -> None:
        self._open_sink = open_sink
        self._group_bytes = group_bytes
        self._sink: Any = None
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)
        self._bytes += batch.get_total_buffer_size()
        if self._bytes >= self._group_bytes:
            self.flush()

    def flush(self) -> None:
        if self._batches:
            self._sink = self._sink or self._open_sink(self._batches[0].schema)
            self._sink.write_batch(_concat(self._batches))
            self._batches, self._bytes = [], 0

    def close(self) -> None:
        if self._sink:
            self._sink.close()


def _concat(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    # `concat_batches` would copy a single one too.
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
