"""Whole pipelines into databases: the tap, a target and the database, and dlt."""

from __future__ import annotations

import shlex
import shutil
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import yaml

from benchmarks.bench import Mode, Workload, check_count
from benchmarks.chart import Bar, Panel
from benchmarks.checkout import CURRENT
from benchmarks.measure import Program, Result, format_range, interleave, read_cpu, run_program
from benchmarks.report import print_table
from tests.targets.targets import Database, DuckDb, Postgres, run_postgres, tool_venv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from benchmarks.bench import Bench
    from benchmarks.exports import Export
    from benchmarks.measure import Run

_SCRIPT = Path(__file__).parent / "programs" / "dlt_merge.py"
_DLT_REQUIREMENT = "dlt[duckdb,parquet,postgres]==1.31.0"
# Some pipelines take minutes for a million contacts.
_FRACTION = 20
# The second load is of the same contacts again, as a daily export mostly is.
_LOADS = ("first load", "second load")
_DEFAULTS, _RECORD, _DLT = "RECORD, target defaults", "RECORD", "dlt"


class Pipeline(NamedTuple):
    """A way to load an export.

    Attributes:
        database: Kind of the database.
        build: Returns the program that loads an export into a database.
    """

    database: type[Database]
    build: Callable[[Bench, Database, Export], Program]


class _DuckDbOfDlt(DuckDb):
    # Files of this DuckDB cannot be read by that of the target.
    requirements: ClassVar = (_DLT_REQUIREMENT,)


def _target(
    database: type[Database],
    mode: Mode = Mode.FULL_TABLE,
    *,
    shipped: bool = True,
    **settings: Any,
) -> Pipeline:
    """Return a pipeline of the tap and a Singer target.

    Args:
        database: Kind of the database.
        mode: How the tap emits contacts.
        shipped: Whether the target has the settings that meltano.yml has.
        settings: Further settings of the target.
    """

    def build(bench: Bench, database: Database, export: Export) -> Program:
        config = (_shipped_settings(database) if shipped else {}) | database.config | settings
        target = tool_venv(*database.requirements) / database.command
        tap = bench.tap(Workload(export, mode))
        commands = (tap.command, [str(target), "--config", str(bench.write_json(config))])
        pipe = " | ".join(map(shlex.join, commands))
        return tap._replace(command=["bash", "-o", "pipefail", "-c", pipe])

    return Pipeline(database, build)


def _dlt(database: type[Database], *options: str) -> Pipeline:
    """Return a pipeline of dlt that merges on the contact ID.

    Args:
        database: Kind of the database.
        options: Further arguments of its script.
    """

    def build(bench: Bench, database: Database, export: Export) -> Program:
        python = tool_venv(_DLT_REQUIREMENT) / "python"
        config = database.config
        if isinstance(database, Postgres):
            # dlt requires a password; the server ignores it.
            address = "postgres://{user}:none@{host}:{port}/{database}".format(**config)
        else:
            address = f"duckdb:///{config['filepath']}"
        arguments = (export.directory, bench.make_dir(), address, database.schema, *options)
        return Program([str(python), str(_SCRIPT), *map(str, arguments)], export.contacts)

    return Pipeline(database, build)


_PIPELINES = {
    "PostgreSQL": {
        _DEFAULTS: _target(Postgres, shipped=False),
        _RECORD: _target(Postgres),
        "RECORD, use_copy": _target(Postgres, use_copy=True),
        "BATCH": _target(Postgres, Mode.BATCH_GZIP),
        "BATCH, use_copy": _target(Postgres, Mode.BATCH_GZIP, use_copy=True),
        _DLT: _dlt(Postgres),
    },
    "DuckDB": {
        _RECORD: _target(DuckDb),
        _DLT: _dlt(_DuckDbOfDlt),
        "dlt, Parquet": _dlt(_DuckDbOfDlt, "parquet"),
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
            bench.report.add_panel(
                "pipelines",
                Panel(
                    f"{database}, {load}: seconds per million contacts",
                    [
                        Bar(name, result.wall_per_million, is_tap=not name.startswith(_DLT))
                        for name, result in results.items()
                    ],
                ),
            )
        if database == "PostgreSQL":
            _check(bench, loads)


def _load(bench: Bench, pipeline: Pipeline, export: Export) -> list[Run]:
    """Load an export twice into an empty database."""
    runs = []
    with _empty_database(bench, pipeline.database) as database:
        program = pipeline.build(bench, database, export)
        for _ in _LOADS:
            server_cpu = _read_server_cpu(database)
            run = run_program(program, bench.work_dir, pin=False)
            server_cpu = _read_server_cpu(database) - server_cpu
            runs.append(run._replace(cpu=run.cpu + server_cpu))
            check_count(program, _count(database))
    return runs


@contextmanager
def _empty_database(bench: Bench, kind: type[Database]) -> Iterator[Database]:
    folder = bench.make_dir()
    if issubclass(kind, Postgres):
        # A server for each load, so that none cleans up after another one.
        with run_postgres() as server:
            yield kind(folder, server)
    else:
        yield kind(folder)
    shutil.rmtree(folder)


def _read_server_cpu(database: Database) -> float:
    return read_cpu(database.server.pid) if isinstance(database, Postgres) else 0.0


def _shipped_settings(database: Database) -> dict[str, Any]:
    """Return the settings of a target in meltano.yml."""
    project = yaml.safe_load((CURRENT.root / "meltano.yml").read_text())
    loaders = {loader["name"]: loader for loader in project["plugins"]["loaders"]}
    settings = loaders[database.command]["settings"]
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
