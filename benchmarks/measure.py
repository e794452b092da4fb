"""Interleaved runs of programs, with CPU time, wall time and peak memory of each run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

_KIB = 1024
_MB = 1_000_000
_MILLION = 1_000_000
_STDERR_TAIL = 2000
# They would slow down start-up and output, and not equally in all programs.
_UNSET_VARIABLES = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")


class Program(NamedTuple):
    """A command to measure.

    Attributes:
        command: Command line.
        contacts: Number of contacts it processes.
        env: Variables to add to the environment.
        exit_code: Expected exit code.
    """

    command: Sequence[str]
    contacts: int = 0
    env: Mapping[str, str] | None = None
    exit_code: int = 0


class Cost(NamedTuple):
    """Cost of a single run.

    Attributes:
        cpu: CPU seconds, user and system.
        wall: Elapsed seconds.
        peak_mb: Peak resident memory in MB.
    """

    cpu: float
    wall: float
    peak_mb: float


class Result:
    """All runs of one program; `cpu`, `wall` and `peak_mb` are medians.

    Attributes:
        contacts: Number of contacts processed per run.
        runs: The runs, one per round.
    """

    def __init__(self, contacts: int) -> None:
        self.contacts = contacts
        self.runs: list[Cost] = []

    def add(self, name: str, run: Cost) -> None:
        """Add a run, and print it as progress."""
        self.runs.append(run)
        print(
            f"  run {len(self.runs)}: {name}: "
            f"{run.cpu:.2f} s CPU, {run.wall:.2f} s wall, {run.peak_mb:.0f} MB",
            file=sys.stderr,
            flush=True,
        )

    @property
    def cpu(self) -> float:
        """Median CPU seconds."""
        return median(run.cpu for run in self.runs)

    @property
    def wall(self) -> float:
        """Median wall seconds."""
        return median(run.wall for run in self.runs)

    @property
    def peak_mb(self) -> float:
        """Median peak memory in MB."""
        return median(run.peak_mb for run in self.runs)

    @property
    def cpu_range(self) -> str:
        """Lowest and highest CPU seconds."""
        values = [run.cpu for run in self.runs]
        return f"{min(values):.2f}-{max(values):.2f}"

    @property
    def cpu_per_million(self) -> str:
        """CPU seconds for a million contacts."""
        return f"{self.cpu * _MILLION / self.contacts:.2f}" if self.contacts else ""

    def ratios(self, baseline: Result, metric: Callable[[Cost], float]) -> list[float]:
        """Return a metric relative to a baseline measured in the same rounds, once per round."""
        pairs = zip(self.runs, baseline.runs, strict=True)
        return [metric(run) / metric(other) for run, other in pairs]

    def cpu_ratio(self, baseline: Result) -> float:
        """Return the median of the ratios of CPU time within each round."""
        return median(self.ratios(baseline, lambda run: run.cpu))

    def wall_ratio(self, baseline: Result) -> float:
        """Return the median of the ratios of wall time within each round."""
        return median(self.ratios(baseline, lambda run: run.wall))


def run_interleaved(
    programs: Mapping[str, Program], rounds: int, work_dir: Path
) -> dict[str, Result]:
    """Run each program once per round, in a working directory; return results by name."""
    results = {name: Result(program.contacts) for name, program in programs.items()}
    for name in interleave(programs, rounds):
        results[name].add(name, run_program(programs[name], work_dir))
    return results


def interleave(names: Iterable[str], rounds: int) -> Iterator[str]:
    """Repeat names once per round, so that all share the machine's slow and fast phases.

    Every other round is in reverse order, so that no name always follows the same one.
    """
    for index in range(rounds):
        yield from list(names)[:: -1 if index % 2 else 1]


def run_output(program: Program, work_dir: Path) -> bytes:
    """Return what a program writes to stdout, unmeasured; this also compiles its bytecode.

    Raises:
        RuntimeError: It ended with another exit code than expected.
    """
    done = subprocess.run(
        program.command,
        capture_output=True,
        check=False,
        cwd=work_dir,
        env=_environment(program, work_dir),
    )
    _check_exit_code(program, done.returncode, done.stderr)
    return done.stdout


def run_program(program: Program, work_dir: Path, *, pin: bool = True) -> Cost:
    """Run a program and measure it, with the processes that it waits for.

    Args:
        program: The program.
        work_dir: Its working directory.
        pin: Whether to run it always on the same core, where the platform allows it.

    Returns:
        Its cost.
    """
    prefix: list[str] = []
    if pin and shutil.which("taskset"):
        prefix = ["taskset", "-c", str((os.cpu_count() or 1) - 1)]
    stderr_file = work_dir / "stderr.log"
    with stderr_file.open("wb") as stderr:
        start = time.monotonic()
        process = subprocess.Popen(
            [*prefix, *program.command],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd=work_dir,
            env=_environment(program, work_dir),
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    _check_exit_code(program, process.returncode, stderr_file.read_bytes())
    # ru_maxrss is in KiB on Linux, in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else _KIB
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * unit / _MB)


def _environment(program: Program, work_dir: Path) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key not in _UNSET_VARIABLES}
    # All programs use cached bytecode, and no source tree is written to.
    bytecode = {"PYTHONPYCACHEPREFIX": str(work_dir / "bytecode")}
    return {**inherited, **bytecode, **(program.env or {})}


def _check_exit_code(program: Program, exit_code: int, stderr: bytes) -> None:
    if exit_code != program.exit_code:
        raise RuntimeError(
            f"{' '.join(program.command)}: exit code {exit_code}, expected {program.exit_code}\n"
            + stderr.decode(errors="replace")[-_STDERR_TAIL:]
        )


def describe_machine() -> str:
    """Return the processor, the number of cores and the Python version."""
    cpu = "unknown CPU"
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        lines = cpu_info.read_text().splitlines()
        models = (line for line in lines if line.startswith("model name"))
        cpu = next(models, "").partition(":")[2].strip() or cpu
    version = ".".join(map(str, sys.version_info[:3]))
    return f"{cpu}, {os.cpu_count()} cores, Python {version}"
