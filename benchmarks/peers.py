"""Programs that the tap is compared with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.bench import SAMPLE_CONTACTS, Workload
from benchmarks.chart import Panel, cpu_bars
from benchmarks.measure import Program, run_output
from benchmarks.report import print_results

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench
    from benchmarks.exports import Export
    from benchmarks.measure import Result

_PROGRAMS_DIR = Path(__file__).parent / "programs"
_DLT = "dlt==1.31.0"
_AIRBYTE = "airbyte-source-sendgrid==1.1.5"
# These two are slow: they process a fraction of the contacts, and the rest is extrapolated.
_DLT_FRACTION, _AIRBYTE_FRACTION = 10, 50
# Suffix of runs on a sample, which measure the cost that does not depend on the contacts.
_FIXED_COST = " (fixed cost)"


def floor_json(export: Export) -> Program:
    """Return the JSON floor, which decodes and encodes in blocks."""
    return _program("floor_json.py", export, "blocks", *map(str, export.parts))


def floor_json_by_line(export: Export) -> Program:
    """Return the JSON floor, which decodes and encodes line by line."""
    return _program("floor_json.py", export, "lines", *map(str, export.parts))


def floor_csv(export: Export) -> Program:
    """Return the CSV floor."""
    return _program("floor_csv.py", export, *map(str, export.parts))


def run_peers(bench: Bench) -> None:
    """JSON and CSV with a plain script, an SDK tap, dlt and Airbyte, relative to the tap."""
    rounds = bench.peer_rounds
    results: dict[str, Result] = {}
    for file_type, build in (("JSON", _json_peers), ("CSV", _csv_peers)):
        tap = f"tap, {file_type}"
        export = bench.export(file_type=file_type.lower())
        programs = {tap: bench.tap(Workload(export)), **build(bench, export)}
        measured = bench.measure(programs, rounds)
        for name in [name for name in measured if name.endswith(_FIXED_COST)]:
            result = measured[name.removesuffix(_FIXED_COST)]
            # Noise could put it above the cost of a whole run, if that has few contacts.
            result.fixed_cpu = min(measured.pop(name).cpu, *(run.cpu for run in result.runs))
        print_results(measured, tap)
        results |= measured
    bench.report.add_panel(
        "speed",
        Panel("CPU time per million contacts: tap and peers, other scale", cpu_bars(results)),
        [
            f"{name}: extrapolated from {result.contacts:,} contacts"
            for name, result in results.items()
            if result.fixed_cpu
        ],
    )
    tap_result = results["tap, JSON"]
    bench.report.check_at_least(
        "JSON: CPU, plain script / tap",
        median(results["plain script, JSON"].cpu_ratios(tap_result)),
        3,
    )
    tools = [results[name] for name in ("SDK tap, JSON", "dlt, JSON") if name in results]
    bench.report.check_at_least(
        "JSON: CPU, fastest of SDK tap and dlt / tap",
        min(median(result.cpu_ratios(tap_result)) for result in tools),
        8,
    )


def _json_peers(bench: Bench, export: Export) -> dict[str, Program]:
    def sdk_tap(export: Export) -> Program:
        config_file = bench.write_json({"api_url": bench.api_url(export)})
        return _program("sdk_tap.py", export, "--config", str(config_file))

    programs = {
        "plain script, JSON": bench.validated(_plain_script(bench), export),
        "SDK tap, JSON": bench.validated(sdk_tap, export),
    }
    if python := _environment_python(bench.data_dir, _DLT):

        def dlt(export: Export) -> Program:
            directories = str(export.directory), str(bench.make_dir())
            return _program("dlt_pipeline.py", export, *directories, python=python)

        programs |= _extrapolated(bench, "dlt, JSON", dlt, export, _DLT_FRACTION)
    return programs


def _csv_peers(bench: Bench, export: Export) -> dict[str, Program]:
    programs = {"plain script, CSV": bench.validated(_plain_script(bench), export)}
    if python := _environment_python(bench.data_dir, _AIRBYTE):

        def airbyte(export: Export) -> Program:
            arguments = bench.api_url(export), str(bench.make_dir())
            return _program("airbyte_source.py", export, *arguments, python=python)

        name = "Airbyte source-sendgrid, CSV"
        programs |= _extrapolated(bench, name, airbyte, export, _AIRBYTE_FRACTION)
    return programs


def _plain_script(bench: Bench) -> Callable[[Export], Program]:
    return lambda export: _program(
        "plain_script.py", export, bench.api_url(export), export.file_type
    )


def _extrapolated(
    bench: Bench, name: str, build: Callable[[Export], Program], export: Export, fraction: int
) -> dict[str, Program]:
    """Return a program on a fraction of the contacts and on a sample, for its fixed cost."""
    contacts = max(2 * SAMPLE_CONTACTS, export.contacts // fraction)
    sample = build(bench.sample(export))
    run_output(sample, bench.work_dir)
    return {
        name: build(bench.export(contacts, file_type=export.file_type)),
        name + _FIXED_COST: sample,
    }


def _program(script: str, export: Export, *arguments: str, python: str = sys.executable) -> Program:
    return Program([python, str(_PROGRAMS_DIR / script), *arguments], export.contacts)


def _environment_python(data_dir: Path, requirement: str) -> str | None:
    """Install a package into a virtual environment of its own, unless that is done already.

    Args:
        data_dir: Directory of the environments.
        requirement: The package, with its version.

    Returns:
        The environment's Python, or None if the installation failed.
    """
    environment = data_dir / "environments" / requirement
    python = str(environment / "bin" / "python")
    marker = environment / "installed"
    if not marker.exists():
        print(f"Installing {requirement} ...", flush=True)
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(environment)],
            [python, "-m", "pip", "install", "--quiet", requirement],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"Skipping {requirement}, installation failed: {done.stderr[-300:]}")
                return None
        marker.touch()
    return python
