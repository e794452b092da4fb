"""Formats of BATCH files, each in one place."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Any

import msgspec

from tap_sendgrid_contacts.decode.lines import GzipFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tap_sendgrid_contacts.column_types import ColumnType

    Write = Callable[[Sequence[Any]], object]
    """Writes records; rows, if the format is columnar."""

    OpenWriter = Callable[[IO[bytes]], contextlib.AbstractContextManager[Write]]

# Fast: a higher level would cost more time than the smaller files save.
_GZIP_LEVEL = 1


@dataclass(frozen=True)
class Format:
    """A format of BATCH files.

    Attributes:
        suffixes: Suffix of the file names by compression; the first compression is the default.
        is_columnar: Whether rows are written, and not records that stream maps have changed.
        is_local: Whether files must be in a local folder.
        package: A package of an extra that it needs; None if it needs none.
        make_opener: Returns a function that opens the writer of a file, given the compression and
            the type of each value of a row by its column's name.
    """

    suffixes: Mapping[str, str]
    is_columnar: bool
    is_local: bool
    package: str | None
    make_opener: Callable[[str, Mapping[str, ColumnType]], OpenWriter]

    @property
    def default_compression(self) -> str:
        """The compression if none is configured."""
        return next(iter(self.suffixes))


def _make_jsonl_opener(compression: str, types: Mapping[str, ColumnType]) -> OpenWriter:
    del types  # Records name their columns.
    encoder = msgspec.json.Encoder(decimal_format="number")

    @contextlib.contextmanager
    def open_jsonl(file: IO[bytes]) -> Iterator[Write]:
        with contextlib.ExitStack() as stack:
            if compression == "gzip":
                gzip = GzipFile(filename="", fileobj=file, mode="wb", compresslevel=_GZIP_LEVEL)
                file = stack.enter_context(gzip)
            yield lambda records: file.write(encoder.encode_lines(records))

    return open_jsonl


def _make_parquet_opener(compression: str, types: Mapping[str, ColumnType]) -> OpenWriter:
    from tap_sendgrid_contacts.output import columnar  # noqa: PLC0415 - an extra

    return partial(columnar.open_parquet, columnar.RecordBatchBuilder(types), compression)


def _make_arrow_opener(compression: str, types: Mapping[str, ColumnType]) -> OpenWriter:
    from tap_sendgrid_contacts.output import columnar  # noqa: PLC0415 - an extra

    del compression  # Readers of Arrow files map them into memory.
    return partial(columnar.open_arrow, columnar.RecordBatchBuilder(types))


FORMATS = {
    "jsonl": Format(
        suffixes={"none": "jsonl", "gzip": "jsonl.gz"},
        is_columnar=False,
        is_local=False,
        package=None,
        make_opener=_make_jsonl_opener,
    ),
    "parquet": Format(
        suffixes={"zstd": "parquet", "none": "parquet"},
        is_columnar=True,
        is_local=False,
        package="pyarrow",
        make_opener=_make_parquet_opener,
    ),
    "arrow": Format(
        suffixes={"none": "arrow"},
        is_columnar=True,
        is_local=True,
        package="pyarrow",
        make_opener=_make_arrow_opener,
    ),
}
"""The formats by their names in `batch_config.encoding.format`."""

COMPRESSIONS = sorted({name for each in FORMATS.values() for name in each.suffixes})
"""All values of `batch_config.encoding.compression`."""
