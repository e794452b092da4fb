"""Run target-snowflake on fakesnow, which keeps the tables of Snowflake in DuckDB files.

fakesnow lacks the stage of the user, where the target puts its files, and merges only in a session
with a schema. Both are added here; the target is as it is. Runs in the target's environment.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import fakesnow
from fakesnow.cursor import FakeSnowflakeCursor
from target_snowflake.target import TargetSnowflake

FOLDER = Path(sys.argv.pop(1))

_execute = FakeSnowflakeCursor.execute


def execute(
    cursor: FakeSnowflakeCursor, sql: str, params: dict[str, str] | None = None, **options: Any
) -> FakeSnowflakeCursor:
    """Execute a statement, in which the stage of the user can be."""
    stage = re.search(r"'@~/(.*?)/?'", sql)
    if not stage:
        return _execute(cursor, sql, params, **options)
    files = FOLDER / stage[1]
    if params and sql.startswith("put"):
        files.mkdir(parents=True, exist_ok=True)
        shutil.copy(urlsplit(params["file_uri"]).path, files)
        return _execute(cursor, "SELECT 'UPLOADED'")
    if sql.startswith("remove"):
        shutil.rmtree(files)
        return _execute(cursor, "SELECT 'removed'")
    # For Snowflake, a row of a staged file is an object, $1, and a column that it lacks is null.
    rows = "SELECT to_json(r) AS object FROM read_parquet(?) AS r"
    if not any(files.glob("*.parquet")):
        rows = "SELECT json AS object FROM read_ndjson_objects(?)"
    staged = f"SELECT object, object->>'contact_id' AS contact_id FROM ({rows})"  # noqa: S608
    staged = f"CREATE OR REPLACE TEMP TABLE staged AS {staged}"
    cursor._duck_conn.execute(staged, [f"{files}/*"])  # noqa: SLF001
    sql = re.sub(r"'@~/.*?'\(file_format => .*?\)", "temp.main.staged", sql)
    sql = sql.replace("$1:", "object:").replace("SEQ8()", "rowid")
    _execute(cursor, "USE SCHEMA contacts.public")
    return _execute(cursor, sql)


if __name__ == "__main__":
    with (
        mock.patch.object(FakeSnowflakeCursor, "execute", execute),
        # It creates file formats, but cannot drop them.
        fakesnow.patch(db_path=FOLDER, nop_regexes=["drop file format"]),
    ):
        TargetSnowflake.cli()
