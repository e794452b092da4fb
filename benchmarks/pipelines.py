"""Whole pipelines into databases: the tap, a target and the database, and dlt."""

from __future__ import annotations

import json
import shlex
import shutil
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.bench import Mode, Workload, check_count
from benchmarks.chart import Bar, Panel
from benchmarks.measure import Program, Result, format_range, interleave, read_cpu, run_program
from benchmarks.report import print_table
from tests.targets.meltano import read_loaders
from tests.targets.targets import (
    Database,
    DuckDb,
    MergingDuckDb,
    MergingPostgres,
    Postgres,
    PostgresWithPyArrow,
    run_postgres,
    tool_venv,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.bench import Bench
    from benchmarks.exports import Export
    from benchmarks.measure import Run

_DLT_SCRIPT = Path(__file__).parent / "programs" / "dlt_merge.py"
_DLT_REQUIREMENTS = ("dlt[duckdb,parquet,postgres]==1.31.0",)
# Some pipelines take minutes for a million contacts.
_FRACTION = 20
# The second load is of the same contacts again, as a daily export mostly is.
_LOADS = ("first load", "second load")
_RECORD, _DLT = "RECORD, shipped settings", "dlt"
# In a column, as the tap has them. By default, dlt makes a table of them.
_LISTS_AS_JSON = {"columns": {"alternate_emails": {"data_type": "json"}}}


class _DltPostgres(Postgres):
    requirements = _DLT_REQUIREMENTS


class _DltDuckDb(DuckDb):
    requirements = _DLT_REQUIREMENTS


class Pipeline(NamedTuple):
    """A way to load an export.

    Attributes:
        database: The database, and the target that loads into it.
        mode: How the tap emits contacts; None for dlt, which reads the export itself.
        settings: Settings of the target, or options of dlt.
        is_shipped: Whether the target also has the settings that meltano.yml has.
    """

    database: type[Database]
    mode: Mode | None = Mode.FULL_TABLE
    settings: Mapping[str, Any] = MappingProxyType({})
    is_shipped: bool = True


_PIPELINES = {
    "PostgreSQL": {
        "RECORD, target defaults": Pipeline(Postgres, is_shipped=False),
        _RECORD: Pipeline(Postgres),
        "RECORD, use_copy": Pipeline(Postgres, settings={"use_copy": True}),
        "BATCH jsonl": Pipeline(Postgres, Mode.BATCH_GZIP),
        "BATCH jsonl, use_copy": Pipeline(Postgres, Mode.BATCH_GZIP, {"use_copy": True}),
        "BATCH parquet, use_copy": Pipeline(PostgresWithPyArrow, Mode.PARQUET, {"use_copy": True}),
        "BATCH arrow, load_batches.py": Pipeline(MergingPostgres, Mode.ARROW),
        _DLT: Pipeline(_DltPostgres, None),
        "dlt, lists as JSON": Pipeline(_DltPostgres, None, _LISTS_AS_JSON),
    },
    "DuckDB": {
        _RECORD: Pipeline(DuckDb),
        "BATCH parquet, load_batches.py": Pipeline(MergingDuckDb, Mode.PARQUET),
        "BATCH arrow, load_batches.py": Pipeline(MergingDuckDb, Mode.ARROW),
        _DLT: Pipeline(_DltDuckDb, None),
        "dlt, lists as JSON, Parquet": Pipeline(
            _DltDuckDb, None, _LISTS_AS_JSON | {"loader_file_format": "parquet"}
        ),
    },
}


def run_pipelines(bench: Bench) -> None:
    """Tap, target and database, relative to dlt; a twentieth of the contacts."""
    export = bench.export(bench.contacts // _FRACTION)
    for database, pipelines in _PIPELINES.items():
        for pipeline in pipelines.values():
            _load(bench, pipeline, bench.sample(export))
        loads = {load: {name: Result(export.contacts) for name in pipelines} for load in _LOADS}
        for name in interleave(pipelines, bench.peer_rounds):
            for load, run in zip(_LOADS, _load(bench, pipelines[name], export), strict=True):
                loads[load][name].add(f"{database}, {name}, {load}", run)
        for load, results in loads.items():
            _print(f"{database}, {load}", results)
        bars = [
            Bar(name, result.wall_per_million, is_tap=not name.startswith(_DLT))
            for name, result in loads[_LOADS[1]].items()
        ]
        title = f"{database}, {_LOADS[1]} of {export.contacts:,} contacts: wall time per million"
        bench.report.add_panel("pipelines", Panel(title, bars))
        if database == "PostgreSQL":
            _check(bench, loads)


def _load(bench: Bench, pipeline: Pipeline, export: Export) -> list[Run]:
    """Load an export twice into an empty database."""
    runs = []
    with _empty_database(bench, pipeline) as database:
        program = _build(bench, pipeline, database, export)
        for _ in _LOADS:
            server_cpu = _read_server_cpu(database)
            run = run_program(program, bench.work_dir, pin=False)
            server_cpu = _read_server_cpu(database) - server_cpu
            runs.append(run._replace(cpu=run.cpu + server_cpu))
            check_count(program, _count(database))
    return runs


@contextmanager
def _empty_database(bench: Bench, pipeline: Pipeline) -> Iterator[Database]:
    # The tests name the schema after the folder.
    kind, folder = pipeline.database, bench.make_dir() / "contacts"
    folder.mkdir()
    settings = _shipped_settings(kind) if pipeline.is_shipped else {}
    settings |= pipeline.settings
    if issubclass(kind, Postgres):
        # A server for each load, so that none cleans up after another one.
        with run_postgres() as server:
            yield kind(folder, server, **settings)
    else:
        yield kind(folder, **settings)
    shutil.rmtree(folder)


def _build(bench: Bench, pipeline: Pipeline, database: Database, export: Export) -> Program:
    """Return the program that loads an export once."""
    if pipeline.mode:
        tap = bench.tap(Workload(export, pipeline.mode))
        commands = (tap.command, map(str, database.command_line()))
        pipe = " | ".join(map(shlex.join, commands))
        return tap._replace(command=["bash", "-o", "pipefail", "-c", pipe])
    options = json.dumps(dict(pipeline.settings))
    command = (
        *(tool_venv(*_DLT_REQUIREMENTS) / "python", _DLT_SCRIPT, export.directory),
        *(bench.make_dir(), database.url, database.schema, options),
    )
    return Program(list(map(str, command)), export.contacts)


def _read_server_cpu(database: Database) -> float:
    return read_cpu(database.server.pid) if isinstance(database, Postgres) else 0.0


def _shipped_settings(target: type[Database]) -> dict[str, Any]:
    """Return the settings of a target in meltano.yml."""
    settings = read_loaders()[target.command]["settings"]
    return {each["name"]: each["value"] for each in settings if "value" in each}


def _count(database: Database) -> int:
    (count,) = database.query(f"SELECT to_json(count(*)) FROM {database.schema}.contacts")  # noqa: S608
    return int(count)


def _check(bench: Bench, loads: Mapping[str, Mapping[str, Result]]) -> None:
    for load, results in loads.items():
        speedups = {name: _speedup(results, name) for name in results}
        batch = max(speedup for name, speedup in speedups.items() if name.startswith("BATCH"))
        label = f"PostgreSQL, {load}: wall, dlt /"
        bench.report.check_at_least(f"{label} {_RECORD}", speedups[_RECORD], 1.5)
        bench.report.check_at_least(f"{label} fastest BATCH", batch, 2)


def _speedup(results: Mapping[str, Result], name: str) -> float:
    return median(results[_DLT].ratios(results[name], lambda run: run.wall))


def _print(title: str, results: Mapping[str, Result]) -> None:
    print(f"{title}: {results[_DLT].contacts:,} contacts; CPU with that of the database server\n")
    print_table(
        (
            *("pipeline", "wall", "min-max", "CPU", "min-max", "wall per million"),
            *("CPU per million", "wall, dlt / it", "peak MB"),
        ),
        [
            (
                name,
                f"{result.wall:.1f}",
                format_range([run.wall for run in result.runs]),
                f"{result.cpu:.1f}",
                result.cpu_range,
                f"{result.wall_per_million:.0f}",
                f"{result.cpu_per_million:.0f}",
                f"{_speedup(results, name):.2f}",
                f"{result.peak_mb:.0f}",
            )
            for name, result in results.items()
        ],
    )
