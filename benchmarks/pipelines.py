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
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.bench import Bench
    from benchmarks.exports import Export
    from benchmarks.measure import Run

_PROGRAMS_DIR = Path(__file__).parent / "programs"
_DLT_REQUIREMENT = "dlt[duckdb,parquet,postgres]==1.31.0"
_PYARROW = "pyarrow==26.0.1"
# Some pipelines take minutes for a million contacts.
_FRACTION = 20
# The second load is of the same contacts again, as a daily export mostly is.
_LOADS = ("first load", "second load")
_RECORD, _DLT = "RECORD, shipped settings", "dlt"


class Pipeline(NamedTuple):
    """A way to load an export.

    Attributes:
        database: Kind of the database.
        build: Returns the program that loads an export into a database.
    """

    database: type[Database]
    build: Callable[[Bench, Database, Export], Program]


class _PostgresByParquet(Postgres):
    requirements: ClassVar = (*Postgres.requirements, _PYARROW)


class _PostgresByAdbc(Postgres):
    requirements: ClassVar = ("adbc-driver-postgresql==1.13.0", _PYARROW)


# Not the DuckDB of the target, which cannot read the files of later ones.
class _NewDuckDb(DuckDb):
    requirements: ClassVar = ("duckdb==2.0.1", _PYARROW)


class _DuckDbByDlt(DuckDb):
    requirements: ClassVar = (_DLT_REQUIREMENT,)


class _PostgresByDlt(Postgres):
    requirements: ClassVar = (_DLT_REQUIREMENT,)


def _target(
    kind: type[Database],
    mode: Mode = Mode.FULL_TABLE,
    *,
    shipped: bool = True,
    **settings: Any,
) -> Pipeline:
    """Return a pipeline of the tap and a Singer target.

    Args:
        kind: Kind of the database.
        mode: How the tap emits contacts.
        shipped: Whether the target has the settings that meltano.yml has.
        settings: Further settings of the target.
    """

    def build(bench: Bench, database: Database, export: Export) -> Program:
        config = (_shipped_settings(database) if shipped else {}) | database.config | settings
        command = _program(database, database.command, "--config", bench.write_json(config))
        return _pipe(bench.tap(Workload(export, mode)), command)

    return Pipeline(kind, build)


def _loader(kind: type[Database], mode: Mode) -> Pipeline:
    """Return a pipeline of the tap and a script that has the database read BATCH files.

    Args:
        kind: Kind of the database.
        mode: How the tap emits contacts.
    """

    def build(bench: Bench, database: Database, export: Export) -> Program:
        script = _PROGRAMS_DIR / "load_batches.py"
        command = _program(database, "python", script, _url(database), database.schema)
        return _pipe(bench.tap(Workload(export, mode)), command)

    return Pipeline(kind, build)


def _dlt(kind: type[Database], *options: str) -> Pipeline:
    """Return a pipeline of dlt that merges on the contact ID.

    Args:
        kind: Kind of the database.
        options: Further arguments of its script.
    """

    def build(bench: Bench, database: Database, export: Export) -> Program:
        script = _PROGRAMS_DIR / "dlt_merge.py"
        command = _program(
            *(database, "python", script, export.directory, bench.make_dir()),
            *(_url(database), database.schema, *options),
        )
        return Program(command, export.contacts)

    return Pipeline(kind, build)


def _program(database: Database, name: str, *arguments: str | Path) -> list[str]:
    """Return the command line of a program in the environment of a database's target."""
    return list(map(str, (tool_venv(*database.requirements) / name, *arguments)))


def _pipe(tap: Program, command: Sequence[str]) -> Program:
    pipe = f"{shlex.join(tap.command)} | {shlex.join(command)}"
    return tap._replace(command=["bash", "-o", "pipefail", "-c", pipe])


def _url(database: Database) -> str:
    if isinstance(database, Postgres):
        # dlt requires a password; the server ignores it.
        return "postgres://{user}:none@{host}:{port}/{database}".format(**database.config)
    return f"duckdb:///{database.config['filepath']}"


_PIPELINES = {
    "PostgreSQL": {
        "RECORD, target defaults": _target(Postgres, shipped=False),
        _RECORD: _target(Postgres),
        "RECORD, use_copy": _target(Postgres, use_copy=True),
        "BATCH jsonl": _target(Postgres, Mode.BATCH_GZIP),
        "BATCH jsonl, use_copy": _target(Postgres, Mode.BATCH_GZIP, use_copy=True),
        "BATCH parquet, use_copy": _target(_PostgresByParquet, Mode.PARQUET, use_copy=True),
        "BATCH arrow, ADBC": _loader(_PostgresByAdbc, Mode.ARROW),
        _DLT: _dlt(_PostgresByDlt),
    },
    "DuckDB": {
        _RECORD: _target(DuckDb),
        "BATCH parquet, MERGE": _loader(_NewDuckDb, Mode.PARQUET),
        "BATCH arrow, MERGE": _loader(_NewDuckDb, Mode.ARROW),
        _DLT: _dlt(_DuckDbByDlt),
        "dlt, Parquet": _dlt(_DuckDbByDlt, "parquet"),
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
