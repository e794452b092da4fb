"""Loader of columnar BATCH files: each is merged into the table `contacts` by the database.

Usage: tap-sendgrid-contacts … | load_batches.py DATABASE_URL SCHEMA

Like a Singer target, it emits a state once everything before it is loaded.
"""

import json
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pyarrow as pa
import pyarrow.parquet as pq

Load = Callable[[pa.Table, list[str]], None]


def main() -> None:
    """Load the files of all BATCH messages on stdin."""
    url, schema = sys.argv[1:]
    load = (
        connect_duckdb(url, schema) if url.startswith("duckdb:") else connect_postgres(url, schema)
    )
    key: list[str] = []
    for line in sys.stdin:
        message = json.loads(line)
        if message["type"] == "SCHEMA":
            key = message["key_properties"]
        elif message["type"] == "BATCH":
            for file in message["manifest"]:
                load(read_file(message["encoding"]["format"], file), key)
        elif message["type"] == "STATE":
            print(json.dumps(message["value"]), flush=True)


def read_file(file_format: str, url: str) -> pa.Table:
    """Read a BATCH file."""
    path = url2pathname(urlsplit(url).path)
    if file_format == "parquet":
        return pq.read_table(path)
    with pa.memory_map(path) as file:
        return pa.ipc.open_file(file).read_all()


def connect_duckdb(url: str, schema: str) -> Load:
    """Return a function that merges a table of contacts into a DuckDB file."""
    import duckdb  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    database = duckdb.connect(url.removeprefix("duckdb:///"))

    def load(batch: pa.Table, key: list[str]) -> None:
        database.register("batch", batch)
        database.execute(f"CREATE TABLE IF NOT EXISTS {schema}.contacts AS FROM batch LIMIT 0")
        # A primary key would make updates slow.
        database.execute(
            f"MERGE INTO {schema}.contacts USING batch USING ({', '.join(key)}) "
            "WHEN MATCHED THEN UPDATE BY NAME WHEN NOT MATCHED THEN INSERT BY NAME"
        )

    return load


def connect_postgres(url: str, schema: str) -> Load:
    """Return a function that merges a table of contacts into PostgreSQL, through ADBC."""
    from adbc_driver_postgresql import dbapi  # type: ignore[import-not-found] # noqa: PLC0415

    connection: Any = dbapi.connect(url)
    cursor = connection.cursor()
    cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")

    def load(batch: pa.Table, key: list[str]) -> None:
        table, keys = f"{schema}.contacts", ", ".join(key)
        columns = ", ".join(f"{name} = excluded.{name}" for name in batch.column_names)
        cursor.adbc_ingest("batch", batch, mode="create", temporary=True)
        cursor.execute(f"CREATE TABLE IF NOT EXISTS {table} (LIKE batch, PRIMARY KEY ({keys}))")
        cursor.execute(
            f"INSERT INTO {table} SELECT * FROM batch "  # noqa: S608
            f"ON CONFLICT ({keys}) DO UPDATE SET {columns}"
        )
        cursor.execute("DROP TABLE batch")
        connection.commit()

    return load


if __name__ == "__main__":
    main()
