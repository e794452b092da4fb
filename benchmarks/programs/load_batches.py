"""Loader of BATCH files in the formats parquet and arrow: the database merges each of them.

Like a Singer target, it adds columns that the table lacks, and emits a state once everything
before it is loaded. It deletes no rows.

Usage: tap-sendgrid-contacts ... | load_batches.py DATABASE_URL TABLE
"""

import json
import re
import sys
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pyarrow as pa
import pyarrow.parquet as pq

# By Arrow type, without its parameters.
COLUMN_TYPES = {
    "double": "double precision",
    "list": "text[]",
    "string": "text",
    "timestamp": "timestamp with time zone",
}


def main() -> None:
    """Load the files of all BATCH messages on stdin."""
    url, table = sys.argv[1:]
    database = DuckDb(url) if url.startswith("duckdb:") else Postgres(url)
    key: list[str] = []
    schema = None
    for line in sys.stdin:
        message = json.loads(line)
        if message["type"] == "SCHEMA":
            key = message["key_properties"]
        elif message["type"] == "BATCH":
            for file in message["manifest"]:
                contacts = read_file(message["encoding"]["format"], file)
                if contacts.schema != schema:
                    schema = contacts.schema
                    database.create_table(table, key)
                    for field in schema:
                        column = f"{field.name} {column_type(field)}"
                        database.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column}")
                database.merge(table, key, contacts)
        elif message["type"] == "STATE":
            print(json.dumps(message["value"]), flush=True)


def read_file(file_format: str, url: str) -> pa.Table:
    """Return the contacts of a BATCH file as an Arrow table."""
    path = url2pathname(urlsplit(url).path)
    if file_format == "parquet":
        return pq.read_table(path)
    return pa.ipc.open_file(pa.memory_map(path)).read_all()


def column_type(field: pa.Field) -> str:
    """Return the SQL type of a column."""
    return COLUMN_TYPES[re.split(r"\W", str(field.type))[0]]


class DuckDb:
    """A DuckDB file."""

    def __init__(self, url: str) -> None:
        import duckdb  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

        self._connection = duckdb.connect(url.removeprefix("duckdb:///"))
        self.execute = self._connection.execute

    def create_table(self, table: str, key: list[str]) -> None:
        """Create the table if it does not exist."""
        # No primary key: it would make updates slow.
        self.execute(f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(typed(key))})")

    def merge(self, table: str, key: list[str], contacts: pa.Table) -> None:
        """Insert or update contacts, and commit."""
        self._connection.register("batch", contacts)
        self.execute(
            f"MERGE INTO {table} USING batch USING ({', '.join(key)}) "
            "WHEN MATCHED THEN UPDATE BY NAME WHEN NOT MATCHED THEN INSERT BY NAME"
        )


class Postgres:
    """A PostgreSQL database, through ADBC."""

    def __init__(self, url: str) -> None:
        from adbc_driver_postgresql import dbapi  # type: ignore[import-not-found] # noqa: PLC0415

        self._connection = dbapi.connect(url)
        self._cursor = self._connection.cursor()
        self.execute = self._cursor.execute

    def create_table(self, table: str, key: list[str]) -> None:
        """Create the table and its schema if they do not exist."""
        self.execute(f"CREATE SCHEMA IF NOT EXISTS {table.partition('.')[0]}")
        columns = ", ".join([*typed(key), f"PRIMARY KEY ({', '.join(key)})"])
        self.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")

    def merge(self, table: str, key: list[str], contacts: pa.Table) -> None:
        """Insert or update contacts, and commit."""
        names = contacts.column_names
        columns = ", ".join(names)
        updates = ", ".join(f"{name} = excluded.{name}" for name in names)
        self._cursor.adbc_ingest("batch", contacts, mode="create", temporary=True)
        self.execute(
            f"INSERT INTO {table} ({columns}) SELECT {columns} FROM batch "  # noqa: S608
            f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {updates}"
        )
        self.execute("DROP TABLE batch")
        self._connection.commit()


def typed(key: list[str]) -> list[str]:
    """Return the definitions of the key's columns."""
    return [f"{name} {COLUMN_TYPES['string']}" for name in key]


if __name__ == "__main__":
    main()
