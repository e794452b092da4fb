"""BATCH files in targets and in the libraries that read them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.harness import is_complete
from tests.targets.days import CONTACTS
from tests.targets.targets import (
    LOADER,
    LOADER_REQUIREMENTS,
    Database,
    DuckDb,
    Jsonl,
    MergingDuckDb,
    MergingPostgres,
    Postgres,
    PostgresWithPyArrow,
    Snowflake,
    column_types,
    pipe_to,
    round_to_double,
    stored_rows,
    tool_venv,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Sandbox
    from tests.targets.days import Day, Days
    from tests.targets.targets import ColumnType, Row, Target

    MakeTarget = Callable[..., Any]

# One database server for all of them.
pytestmark = [pytest.mark.targets, pytest.mark.xdist_group("targets")]

JSONL = {"format": "jsonl", "compression": "gzip"}

LIBRARIES = (
    # Its targets read Arrow files with nanoarrow.
    *("singer-sdk==0.55.0b7", "nanoarrow==0.9.0"),
    *("duckdb==2.0.1", "polars==2.1.0", "pyarrow==26.0.1"),
)
LIBRARY_TYPES: dict[str, dict[ColumnType, str]] = {
    "duckdb": {
        "string": "VARCHAR",
        "number": "DOUBLE",
        "date": "TIMESTAMP WITH TIME ZONE",
        "array": "VARCHAR[]",
    },
    "polars": {
        "string": "String",
        "number": "Float64",
        "date": "Datetime(time_unit='us', time_zone='UTC')",
        "array": "List(String)",
    },
    "pyarrow": {
        "string": "string",
        "number": "double",
        "date": "timestamp[us, tz=UTC]",
        "array": "list<item: string>",
    },
    "singer-sdk": {"string": "str", "number": "float", "date": "datetime", "array": "list"},
}


def run_day(days: Days, number: int, folder: Path, encoding: dict[str, str]) -> Day:
    """Run the tap with BATCH files."""
    batch_config = {
        "encoding": encoding,
        "storage": {"root": folder.as_uri(), "prefix": f"{number}-"},
        "batch_size": 250,
    }
    # Record batches of both are made in different ways.
    file_type = "csv" if number == 1 else "json"
    day = days(number, "--parts", "2", batch_config=batch_config, file_type=file_type)
    assert len(day.run.of_type("BATCH")) > 1
    assert day.run.records == []
    return day


def files_of(day: Day) -> list[Path]:
    """Return the files that the messages announce."""
    urls = [url for message in day.run.of_type("BATCH") for url in message["manifest"]]
    return [Path(urlsplit(url).path) for url in urls]


def rows_in_files(day: Day, file_format: str) -> dict[str, Row]:
    """Return the rows as a format has them."""
    if file_format == "jsonl":
        return day.rows
    return {
        key: {name: round_to_double(value) for name, value in row.items()}
        for key, row in day.rows.items()
    }


@pytest.mark.parametrize(
    ("kind", "config", "encodings"),
    [
        (Postgres, {}, [JSONL, JSONL]),
        (PostgresWithPyArrow, {}, [{"format": "parquet"}] * 2),
        (
            PostgresWithPyArrow,
            {"use_copy": True, "validate_records": False},
            [{"format": "parquet", "compression": "none"}] * 2,
        ),
        (Snowflake, {}, [JSONL, {"format": "arrow"}]),
        (MergingPostgres, {}, [{"format": "arrow"}] * 2),
        (MergingDuckDb, {}, [{"format": "parquet"}] * 2),
    ],
    ids=[
        *("Postgres-jsonl", "Postgres-parquet", "Postgres-parquet-use_copy"),
        *("Snowflake-jsonl-arrow", "MergingPostgres-arrow", "MergingDuckDb-parquet"),
    ],
)
def test_targets_load_value_for_value(
    tmp_path: Path,
    days: Days,
    target: MakeTarget,
    kind: type[Database],
    config: dict[str, Any],
    encodings: list[dict[str, str]],
) -> None:
    loaded: Database = target(kind, **config)
    rows: dict[str, Row] = {}
    for number, encoding in enumerate(encodings, 1):
        day = run_day(days, number, tmp_path / "files", encoding)
        state = loaded.load(day.messages)
        assert is_complete(state)
        rows |= rows_in_files(day, encoding["format"])
        columns = column_types(day.schema)
        assert loaded.rows(columns) == stored_rows(loaded, rows, columns)
        assert loaded.columns() == {name: loaded.types[each] for name, each in columns.items()}
        # Targets do not fill their own columns for rows in files.
        assert {row.get("_sdc_extracted_at") for row in loaded.raw_rows()} == {None}
        # target-snowflake removes the files that it has loaded.
        assert {file.exists() for file in files_of(day)} == {kind is not Snowflake}


@pytest.mark.parametrize("kind", [MergingPostgres, MergingDuckDb])
def test_example_quotes_names(tmp_path: Path, target: MakeTarget, kind: type[Database]) -> None:
    loaded: Database = target(kind)
    names = ["contact_id", "order", 'x" text); DROP TABLE contacts; --']
    for values in (["1", "a", "b"], ["1", "c", "d"]):
        file = tmp_path / "file.parquet"
        pq.write_table(
            pa.table({name: [value] for name, value in zip(names, values, strict=True)}), file
        )
        messages = (
            {"type": "SCHEMA", "key_properties": names[:1]},
            {"type": "BATCH", "encoding": {"format": "parquet"}, "manifest": [file.as_uri()]},
            {"type": "STATE", "value": {}},
        )
        assert loaded.load("\n".join(map(json.dumps, messages)).encode()) == {}
    assert loaded.raw_rows() == [dict(zip(names, values, strict=True))]


def test_example_as_its_docstring_says(
    tmp_path: Path, start_sandbox: Callable[..., Sandbox]
) -> None:
    """A second run starts from the state of the first, though a kill has cut the last line."""
    sandbox = start_sandbox("--contacts", "100")
    text = LOADER.read_text()
    (script,) = re.findall(r"\n\n((?:    .*\n)+)", text[: text.index('"""', 4)])
    files = {"encoding": {"format": "arrow"}, "storage": {"root": tmp_path.as_uri()}}
    (tmp_path / "config.json").write_text(json.dumps({"batch_config": files}))
    (tmp_path / LOADER.name).symlink_to(LOADER)
    path = map(str, (tool_venv(*LOADER_REQUIREMENTS), Path(sys.executable).parent, os.defpath))
    env = {**sandbox.env, "PATH": os.pathsep.join(path)}
    states = tmp_path / "states.jsonl"
    for _ in range(2):
        command = ["bash", "-c", script.replace("config.json", "config.json --config=ENV")]
        subprocess.run(command, check=True, cwd=tmp_path, env=env, timeout=120)
        state = json.loads(states.read_text().splitlines()[-1])
        states.write_text(states.read_text() + '{"bookmarks": {"con')
    assert json.loads((tmp_path / "state.json").read_text())["bookmarks"]["contacts"]
    assert state["bookmarks"]["contacts"]
    database = MergingDuckDb(tmp_path)
    assert len(database.raw_rows()) == 100


@pytest.mark.parametrize(
    ("kind", "file_format", "reason"),
    [
        (Postgres, "parquet", "Unsupported batch encoding format: parquet"),
        (PostgresWithPyArrow, "arrow", "Unsupported batch encoding format: arrow"),
        (Snowflake, "parquet", "Unsupported batch file encoding: parquet"),
        (DuckDb, "jsonl", "Unknown message type BATCH"),
        # It has no message of its own for it.
        (Jsonl, "jsonl", "'NoneType' object has no attribute 'asdict'"),
    ],
    ids=["Postgres-parquet", "Postgres-arrow", "Snowflake-parquet", "DuckDb", "Jsonl"],
)
def test_other_files_fail_the_load(
    tmp_path: Path,
    days: Days,
    target: MakeTarget,
    kind: type[Target],
    file_format: str,
    reason: str,
) -> None:
    day = run_day(days, 1, tmp_path / "files", {"format": file_format})
    with pytest.raises(AssertionError, match=reason):
        target(kind).load(day.messages)
    assert all(file.exists() for file in files_of(day))


@pytest.mark.parametrize("file_format", ["parquet", "arrow"])
def test_libraries_read_value_for_value(tmp_path: Path, days: Days, file_format: str) -> None:
    day = run_day(days, 1, tmp_path, {"format": file_format})
    script = Path(__file__).parent / "read_files.py"
    out = pipe_to([tool_venv(*LIBRARIES) / "python", script], day.messages)
    results = json.loads(out, parse_int=Decimal, parse_float=Decimal)
    assert results.keys() == LIBRARY_TYPES.keys()
    for library, (types, rows) in results.items():
        assert len(rows) == CONTACTS
        assert {row["contact_id"]: row for row in rows} == rows_in_files(day, file_format)
        expected = LIBRARY_TYPES[library]
        assert list(types.items()) == [
            (name, expected[column_type]) for name, column_type in column_types(day.schema).items()
        ]
