"""Read BATCH files, each format as its own library does."""

from __future__ import annotations

import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tap_sendgrid_contacts.output.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable

    Records = list[dict[str, Any]]

every_format = pytest.mark.parametrize(
    ("file_format", "compression"),
    [(name, compression) for name, each in FORMATS.items() for compression in each.suffixes],
)
each_format_once = pytest.mark.parametrize(
    ("file_format", "compression"),
    [(name, each.default_compression) for name, each in FORMATS.items()],
)
columnar_formats = pytest.mark.parametrize(
    "file_format", [name for name, each in FORMATS.items() if each.is_columnar]
)


def paths_of(message: dict[str, Any]) -> list[Path]:
    """Return the files of a BATCH message."""
    return [Path(url.removeprefix("file://")) for url in message["manifest"]]


def records_of(message: dict[str, Any]) -> Records:
    """Return what is in the files of a BATCH message, in the notation of records."""
    read = READERS[message["encoding"]["format"]]
    return [
        {
            name: value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
            for name, value in row.items()
        }
        for path in paths_of(message)
        for row in read(path)
    ]


def stored(records: Records, file_format: str) -> Records:
    """Return what a format stores for records: in a columnar one, numbers are doubles."""
    if not FORMATS[file_format].is_columnar:
        return records
    return [
        {name: float(v) if isinstance(v, int) else v for name, v in record.items()}
        for record in records
    ]


def _read_jsonl(path: Path) -> Records:
    content = path.read_bytes()
    lines = gzip.decompress(content) if path.suffix == ".gz" else content
    return [json.loads(line) for line in lines.splitlines()]


def _read_parquet(path: Path) -> Records:
    from pyarrow import parquet  # noqa: PLC0415 - slow

    rows: Records = parquet.read_table(path).to_pylist()
    return rows


def _read_arrow(path: Path) -> Records:
    from pyarrow import ipc  # noqa: PLC0415 - slow

    rows: Records = ipc.open_file(path).read_all().to_pylist()
    return rows


READERS: dict[str, Callable[[Path], Records]] = {
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "arrow": _read_arrow,
}
