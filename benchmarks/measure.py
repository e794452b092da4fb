"""Runs programs in turn and takes their CPU time, wall time and peak memory."""

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
    from collections.abc import Callable, Mapping, Sequence

_KIB = 1024
_MB = 1_000_000


class Program(NamedTuple):
    """Something to measure.

    Attributes:
        command: Its command line.
        contacts: How many contacts it reads: what its figures are divided by.
        rounds: In how many of the rounds it takes part; None is all of them.
        code: The exit code it is to end with.
    """

    command: Sequence[str]
    contacts: int = 1
    rounds: int | None = None
    code: int = 0


class Run(NamedTuple):
    """What a run took: seconds, and MB of memory at the peak."""

    cpu: float
    wall: float
    peak: float


class Runs:
    """The runs of a program.

    Attributes:
        contacts: How many contacts each of them read.
        each: Run by run.
        start: Seconds of CPU that do not grow with the contacts; known where it matters, for
            programs that read fewer than the others.
    """

    def __init__(self, contacts: int) -> None:
        """Begin with none."""
        self.contacts = contacts
        self.each: list[Run] = []
        self.start = 0.0

    @property
    def cpu(self) -> float:
        """Seconds of CPU, user and system, of the whole process."""
        return median(run.cpu for run in self.each)

    @property
    def wall(self) -> float:
        """Seconds from start to end."""
        return median(run.wall for run in self.each)

    @property
    def peak(self) -> float:
        """MB of memory at the peak."""
        return median(run.peak for run in self.each)

    @property
    def spread(self) -> str:
        """The least and the most CPU."""
        each = [run.cpu for run in self.each]
        return f"{min(each):.2f} to {max(each):.2f}"

    @property
    def cpu_of_a_million(self) -> float:
        """Seconds of CPU for a million contacts."""
        return self._for(_MB, self.cpu)

    @property
    def speed(self) -> float:
        """Contacts for a second of CPU."""
        return self.contacts / self.cpu

    def ratios(
        self, other: Runs, what: Callable[[Run], float] = lambda run: run.cpu
    ) -> list[float]:
        """This program's figure over the other's for as many contacts, round by round."""
        pairs = zip(self.each, other.each, strict=False)
        return [self._for(other.contacts, what(one)) / what(two) for one, two in pairs]

    def _for(self, contacts: int, figure: float) -> float:
        return self.start + (figure - self.start) * contacts / self.contacts


def measure(programs: Mapping[str, Program], rounds: int, folder: Path) -> dict[str, Runs]:
    """Run programs in turn: A B C, A B C, and so on.

    Args:
        programs: What to run, by name.
        rounds: How often.
        folder: Where they run.

    Returns:
        The runs of each.
    """
    runs = {name: Runs(program.contacts) for name, program in programs.items()}
    for number in range(rounds):
        for name, program in programs.items():
            if number < (rounds if program.rounds is None else program.rounds):
                run = _run(program, folder)
                runs[name].each.append(run)
                print(
                    f"  round {number + 1}: {name}: {run.cpu:.2f} s CPU, {run.wall:.2f} s, "
                    f"{run.peak:.0f} MB",
                    file=sys.stderr,
                    flush=True,
                )
    return runs


def _run(program: Program, folder: Path) -> Run:
    pin = ["taskset", "-c", str((os.cpu_count() or 1) - 1)] if shutil.which("taskset") else []
    log = folder / "stderr.log"
    with log.open("wb") as errors:
        start = time.monotonic()
        process = subprocess.Popen(
            [*pin, *program.command], stdout=subprocess.DEVNULL, stderr=errors, cwd=folder
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != program.code:
        raise RuntimeError(
            f"{' '.join(program.command)} ended with {process.returncode}:\n"
            + log.read_text(errors="replace")[-2000:]
        )
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else _KIB
    return Run(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * unit / _MB)


def records(command: Sequence[str], folder: Path) -> int:
    """Count the records that a program writes."""
    done = subprocess.run(command, capture_output=True, check=True, cwd=folder)
    return sum(b'"RECORD"' in line for line in done.stdout.splitlines())


def machine() -> str:
    """Name the processor and the Python."""
    cpu = "unknown CPU"
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = (line for line in info.read_text().splitlines() if line.startswith("model name"))
        cpu = next(models, cpu).partition(":")[2].strip() or cpu
    version = ".".join(map(str, sys.version_info[:3]))
    return f"{cpu}, {os.cpu_count()} cores, Python {version}"
