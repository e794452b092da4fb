r"""An example, not a supported program: load BATCH files with the database's own merge.

It reads the formats parquet and arrow, and knows nothing of SendGrid. Like a Singer target, it adds
columns that the table lacks, and emits a state once everything before it is loaded. It deletes no
rows, and has no `_sdc_` columns; numbers are double precision; the files are yours to remove.

With `{"batch_config": {"encoding": {"format": "arrow"}}}` in config.json, a script for each run:

    set -euo pipefail
    echo >> states.jsonl  # a kill may have left a line without its end
    jq --compact-output --raw-input 'fromjson?' states.jsonl | tail -n 1 > state.json
    tap-sendgrid-contacts --config config.json --state state.json \
      | python load_batches.py duckdb:///contacts.duckdb main.contacts >> states.jsonl

It needs pyarrow, and duckdb (1.4 or newer) or adbc-driver-postgresql with a URL such as
postgresql://user@localhost/warehouse.
"""

import json
import re
import sys

import pyarrow as pa
import pyarrow.parquet as pq

# By Arrow type, without its parameters.
COLUMN_TYPES = {
    "double": "double precision",
    "int64": "bigint",
    "list": "text[]",
    "string": "text",
    "timestamp": "timestamp with time zone",
}


def main() -> None:
    """Load the files of all BATCH messages on stdin."""
    url, name = sys.argv[1:]
    table = quoted(*name.split("."))
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
                        column = f"{quoted(field.name)} {column_type(field)}"
                        database.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column}")
                database.merge(table, key, contacts)
        elif message["type"] == "STATE":
            print(json.dumps(message["value"]), flush=True)


def read_file(file_format: str, url: str) -> pa.Table:
    """Return the contacts of a BATCH file as an Arrow table."""
    path = url.removeprefix("file://")
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
            f"MERGE INTO {table} USING batch USING ({joined(key)}) "
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
        schema, dot, _ = table.rpartition(".")
        if dot:
            self.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        columns = ", ".join([*typed(key), f"PRIMARY KEY ({joined(key)})"])
        self.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")

    def merge(self, table: str, key: list[str], contacts: pa.Table) -> None:
        """Insert or update contacts, and commit."""
        names = contacts.column_names
        columns = joined(names)
        updates = ", ".join(f"{each} = excluded.{each}" for each in map(quoted, names))
        self._cursor.adbc_ingest("batch", contacts, mode="create", temporary=True)
        self.execute(
            f"INSERT INTO {table} ({columns}) SELECT {columns} FROM batch "  # noqa: S608
            f"ON CONFLICT ({joined(key)}) DO UPDATE SET {updates}"
        )
        self.execute("DROP TABLE batch")
        self._connection.commit()


def quoted(*names: str) -> str:
    """Return a name in SQL, with its parts; it comes from a catalog, which can be edited."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def joined(names: list[str]) -> str:
    """Return a list of columns in SQL."""
    return ", ".join(map(quoted, names))


def typed(key: list[str]) -> list[str]:
    """Return the definitions of the key's columns."""
    return [f"{quoted(name)} {COLUMN_TYPES['string']}" for name in key]


if __name__ == "__main__":
    main()
