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
    contacts: int = 1
    env: Mapping[str, str] | None = None
    exit_code: int = 0


class Run(NamedTuple):
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
        fixed_cpu: CPU seconds that do not depend on the number of contacts. Set for programs that
            process fewer contacts than the others, to extrapolate from them.
    """

    def __init__(self, contacts: int) -> None:
        self.contacts = contacts
        self.runs: list[Run] = []
        self.fixed_cpu = 0.0

    def add(self, name: str, run: Run) -> None:
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
        return format_range([run.cpu for run in self.runs])

    @property
    def cpu_per_million(self) -> float:
        """CPU seconds per million contacts."""
        return self._extrapolate(self.cpu, _MILLION)

    @property
    def wall_per_million(self) -> float:
        """Wall seconds per million contacts."""
        return self.wall * _MILLION / self.contacts

    @property
    def contacts_per_cpu_second(self) -> float:
        """Throughput: contacts per CPU second."""
        return self.contacts / self.cpu

    def cpu_ratios(self, baseline: Result) -> list[float]:
        """Return the CPU time relative to a baseline, for equal numbers of contacts.

        Args:
            baseline: Result measured in the same rounds.

        Returns:
            One ratio per round.
        """
        return [
            self._extrapolate(run.cpu, baseline.contacts) / other.cpu
            for run, other in zip(self.runs, baseline.runs, strict=True)
        ]

    def ratios(self, baseline: Result, metric: Callable[[Run], float]) -> list[float]:
        """Return another metric relative to a baseline.

        Args:
            baseline: Result measured in the same rounds.
            metric: Selects the figure of a run.

        Returns:
            One ratio per round.
        """
        pairs = zip(self.runs, baseline.runs, strict=True)
        return [metric(run) / metric(other) for run, other in pairs]

    def _extrapolate(self, cpu: float, contacts: int) -> float:
        return self.fixed_cpu + (cpu - self.fixed_cpu) * contacts / self.contacts


def run_interleaved(
    programs: Mapping[str, Program], rounds: int, work_dir: Path
) -> dict[str, Result]:
    """Run each program once per round.

    Args:
        programs: Programs by name.
        rounds: Number of rounds.
        work_dir: Working directory of the programs.

    Returns:
        Results by name.
    """
    results = {name: Result(program.contacts) for name, program in programs.items()}
    for name in interleave(programs, rounds):
        results[name].add(name, run_program(programs[name], work_dir))
    return results


def interleave(names: Iterable[str], rounds: int) -> Iterator[str]:
    """Repeat names once per round, so that all share the machine's slow and fast phases.

    Every other round is in reverse order, so that no name always follows the same one.

    Args:
        names: The names.
        rounds: Number of rounds.

    Yields:
        The names.
    """
    for index in range(rounds):
        yield from list(names)[:: -1 if index % 2 else 1]


def run_output(program: Program, work_dir: Path) -> bytes:
    """Run a program without measuring it, which also compiles its bytecode.

    Args:
        program: The program.
        work_dir: Its working directory.

    Returns:
        What it wrote to stdout.

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


def run_program(program: Program, work_dir: Path, *, pin: bool = True) -> Run:
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
    return Run(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * unit / _MB)


def read_cpu(server: int) -> float:
    """Return the CPU seconds so far of a server process and its children, running or ended.

    They are not part of a client's CPU time. Linux only.

    Args:
        server: ID of the process.

    Returns:
        CPU seconds, user and system.
    """
    tasks = Path(f"/proc/{server}/task/{server}")
    while True:
        children = (tasks / "children").read_text().split()
        try:
            # User, system, and the same of ended children.
            ticks = sum(_read_ticks(server, 4)) + sum(
                sum(_read_ticks(child, 2)) for child in children
            )
        except FileNotFoundError:
            continue
        # A child that ended meanwhile would be missing or counted twice.
        if (tasks / "children").read_text().split() == children:
            return ticks / os.sysconf("SC_CLK_TCK")


def _read_ticks(process: int | str, fields: int) -> list[int]:
    # The name in parentheses may contain spaces.
    stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return [int(ticks) for ticks in stat[11 : 11 + fields]]


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


def format_range(values: Sequence[float]) -> str:
    """Format the lowest and the highest value.

    Args:
        values: The values.

    Returns:
        Such as `4.81-5.02`.
    """
    return f"{min(values):.2f}-{max(values):.2f}"


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
