"""Whole pipelines into databases: the tap, a target with settings of meltano.yml, the database."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from benchmarks.bench import FULL_TABLE, Workload, check_count
from benchmarks.checkout import CURRENT
from benchmarks.measure import Program, Result, interleave, run_output, run_program
from benchmarks.report import print_results

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.bench import Bench
    from benchmarks.measure import Cost

DESCRIPTION = "Tap, target and database; a twentieth of the contacts, twice"
# Some pipelines take minutes for a million contacts.
_FRACTION = 20
# The second load is of the same contacts again, as a daily export mostly is.
_COUNT = "SELECT count(*) FROM contacts.contacts"
_LOADS = ("first load", "second load")
_USE_COPY: Mapping[str, Any] = MappingProxyType({"use_copy": True})


class EmptyDatabase(NamedTuple):
    """A database that is up, and empty.

    Attributes:
        config: Settings of its target.
        count_command: Command that prints the number of contacts.
    """

    config: Mapping[str, Any]
    count_command: Sequence[str]


class MeasuredPipeline(NamedTuple):
    """A way to load an export.

    Attributes:
        target: Name of a loader in meltano.yml.
        mode: How the tap emits contacts.
        settings: Settings of the target besides those of meltano.yml; None for its own defaults.
    """

    target: str
    mode: str = FULL_TABLE
    settings: Mapping[str, Any] | None = MappingProxyType({})


_PIPELINES = {
    "RECORD, meltano.yml": MeasuredPipeline("target-postgres"),
    "RECORD, target defaults": MeasuredPipeline("target-postgres", settings=None),
    "RECORD, use_copy": MeasuredPipeline("target-postgres", settings=_USE_COPY),
    "BATCH jsonl": MeasuredPipeline("target-postgres", "BATCH, gzip"),
    "BATCH jsonl, use_copy": MeasuredPipeline("target-postgres", "BATCH, gzip", _USE_COPY),
    "DuckDB: RECORD, meltano.yml": MeasuredPipeline("target-duckdb"),
}


def run_pipelines(bench: Bench) -> None:
    """Measure all pipelines, and print their results."""
    export = bench.export(bench.contacts // _FRACTION)
    loads = {load: {name: Result(export.contacts) for name in _PIPELINES} for load in _LOADS}
    for name in interleave(_PIPELINES, bench.rounds):
        pipeline = _PIPELINES[name]
        tap = bench.tap(Workload(export, pipeline.mode))
        with _DATABASES[pipeline.target](bench) as database:
            for load in _LOADS:
                loads[load][name].add(f"{name}, {load}", _load(bench, pipeline, tap, database))
    for load, results in loads.items():
        print(f"{load}; CPU without that of a database server\n")
        print_results(results)


def _load(bench: Bench, pipeline: MeasuredPipeline, tap: Program, database: EmptyDatabase) -> Cost:
    """Load an export once."""
    loader = _read_loader(pipeline.target)
    shipped = {each["name"]: each["value"] for each in loader["settings"] if "value" in each}
    settings = {} if pipeline.settings is None else {**shipped, **pipeline.settings}
    config = bench.write_json({**settings, **database.config, "default_target_schema": "contacts"})
    target = (str(_install(bench, loader) / loader["executable"]), "--config", str(config))
    command = " | ".join(map(shlex.join, (tap.command, target)))
    program = tap._replace(command=["bash", "-o", "pipefail", "-c", command])
    run = run_program(program, bench.work_dir, pin=False)
    check_count(program, int(run_output(Program(database.count_command), bench.work_dir)))
    return run


def _read_loader(name: str) -> dict[str, Any]:
    definition = yaml.safe_load((CURRENT.root / "meltano.yml").read_text())
    return next(each for each in definition["plugins"]["loaders"] if each["name"] == name)


def _install(bench: Bench, loader: dict[str, Any]) -> Path:
    """Return the programs of a target's virtual environment, which is made only once."""
    environment: Path = bench.data_dir / "environments" / loader["pip_url"].replace(" ", "_")
    if not (environment / "complete").exists():
        print(f"Installing {loader['pip_url']} ...", flush=True)
        python = str(environment / "bin" / "python")
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(environment)],
            [python, "-m", "pip", "install", "--quiet", *loader["pip_url"].split()],
        ):
            run_output(Program(command), bench.work_dir)
        (environment / "complete").touch()
    return environment / "bin"


@contextmanager
def _run_duckdb(bench: Bench) -> Iterator[EmptyDatabase]:
    file = bench.make_dir() / "warehouse.duckdb"
    code = "import duckdb, sys; db = duckdb.connect(sys.argv[1], read_only=True)\n"
    code += f"print(db.execute({_COUNT!r}).fetchone()[0])"
    python = _install(bench, _read_loader("target-duckdb")) / "python"
    yield EmptyDatabase({"filepath": str(file)}, (str(python), "-c", code, str(file)))


@contextmanager
def _run_postgres(_: Bench) -> Iterator[EmptyDatabase]:
    """Run a server on the loopback interface, with a temporary data directory."""
    # Debian does not put them on the PATH.
    debian = max(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None)
    initdb = shutil.which("initdb") or debian
    if not initdb:
        raise RuntimeError("the server programs of PostgreSQL are not installed")
    programs = Path(initdb).resolve().parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {"host": "127.0.0.1", "port": port, "user": "postgres", "database": "postgres"}
    with tempfile.TemporaryDirectory() as folder:
        # The server refuses to run as root.
        user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        as_user: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid}
        shutil.chown(folder, user.pw_uid, user.pw_gid)
        log = Path(folder, "log")

        def control(program: str, *arguments: str) -> None:
            command = [str(programs / program), f"--pgdata={folder}/data", *arguments]
            with log.open("ab") as out:
                done = subprocess.run(
                    command, check=False, cwd=folder, stdout=out, stderr=out, **as_user
                )
            if done.returncode:
                raise RuntimeError(log.read_text())

        control("initdb", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync")
        options = f"-p {port} -F -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        control("pg_ctl", "--wait", "--options", options, "start")
        address = "host={host} port={port} user={user} dbname={database}".format(**config)
        psql = (str(programs / "psql"), "--no-psqlrc", "--tuples-only", "--command", _COUNT)
        try:
            yield EmptyDatabase({**config, "password": ""}, (*psql, address))
        finally:
            control("pg_ctl", "--wait", "--mode=immediate", "stop")


_DATABASES = {"target-postgres": _run_postgres, "target-duckdb": _run_duckdb}
