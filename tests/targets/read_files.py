"""Read the BATCH files that messages announce; runs in an environment that has the libraries.

Prints, by library, the type of each column as the library names it, and the rows.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from datetime import datetime
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
from pyarrow import ipc, parquet
from singer_sdk import Target
from singer_sdk.sinks import BatchSink
from typing_extensions import override

Result = tuple[dict[str, str], list[dict[str, Any]]]

MESSAGES = sys.stdin.read()
BATCHES = [
    message for message in map(json.loads, MESSAGES.splitlines()) if message["type"] == "BATCH"
]
IS_PARQUET = BATCHES[0]["encoding"]["format"] == "parquet"
FILES = [url.removeprefix("file://") for message in BATCHES for url in message["manifest"]]


def read_with_duckdb() -> Result:
    """Read Parquet, or what PyArrow maps into memory: DuckDB does not read Arrow files itself."""
    relation = duckdb.read_parquet(FILES) if IS_PARQUET else duckdb.from_arrow(_open_arrow_files())
    types = dict(zip(relation.columns, map(str, relation.types), strict=True))
    return types, relation.to_arrow_table().to_pylist()


def read_with_polars() -> Result:
    """Read either format."""
    frame = (pl.scan_parquet if IS_PARQUET else pl.scan_ipc)(FILES).collect()
    return {name: str(dtype) for name, dtype in frame.schema.items()}, frame.to_dicts()


def read_with_pyarrow() -> Result:
    """Read either format."""
    table = parquet.read_table(FILES) if IS_PARQUET else _open_arrow_files()
    types = {
        # In Parquet, items of lists are called elements.
        field.name: str(field.type).replace("element", "item")
        for field in table.schema
    }
    return types, table.to_pylist()


def _open_arrow_files() -> pa.Table:
    return pa.concat_tables(ipc.open_file(pa.memory_map(file)).read_all() for file in FILES)


def read_with_singer_sdk() -> Result:
    """Read the messages with a target that only has what the SDK gives it."""
    rows: list[dict[str, Any]] = []

    class Sink(BatchSink):
        @override
        def process_batch(self, context: dict[str, Any]) -> None:
            rows.extend(context["records"])

    class ListTarget(Target):
        name = "target-list"
        default_sink_class = Sink

    with contextlib.redirect_stdout(sys.stderr):
        ListTarget(config={}).listen(io.StringIO(MESSAGES))
    types = {
        name: "/".join({type(row[name]).__name__ for row in rows} - {"NoneType"})
        for name in rows[0]
    }
    return types, rows


def _to_text(value: object) -> str:
    assert isinstance(value, datetime), value
    return value.isoformat().replace("+00:00", "Z")


if __name__ == "__main__":
    results = {
        "duckdb": read_with_duckdb(),
        "polars": read_with_polars(),
        "pyarrow": read_with_pyarrow(),
        "singer-sdk": read_with_singer_sdk(),
    }
    json.dump(results, sys.stdout, default=_to_text)
