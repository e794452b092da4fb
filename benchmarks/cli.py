"""Command line of the benchmarks."""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.bench import Bench
from benchmarks.cases import CASES
from benchmarks.checkout import CURRENT, Checkout, find_checkout
from benchmarks.measure import describe_machine
from benchmarks.pipelines import DESCRIPTION, run_pipelines
from benchmarks.report import Thresholds, print_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.bench import Workload

_MIN_CONTACTS = 1000
_PIPELINES = "pipelines"
_DESCRIPTION = """\
Measure CPU time, wall time and peak memory of the tap.

Exports are generated once and served by a local server. The programs of a case run interleaved,
once per round. Figures are medians; ratios are medians of the ratios within each round."""
_EXAMPLES = """\
examples:
  python -m benchmarks --contacts 20000 --rounds 1 --only floor
      smoke test, takes a few seconds
  python -m benchmarks --compare main --only floor modes
      measure the effect of a change: CPU ratio below 1 means faster than main"""


def main() -> None:
    """Run the benchmark cases selected on the command line."""
    options = _parse_options()
    try:
        _run(options)
    except RuntimeError as error:
        sys.exit(f"error: {error}")


def _run(options: argparse.Namespace) -> None:
    options.data.mkdir(parents=True, exist_ok=True)
    print(f"{describe_machine()}, {platform.system()}, {datetime.now(timezone.utc):%Y-%m-%d}")
    baseline = find_checkout(options.compare, options.data) if options.compare else None
    for label, checkout in (("current", CURRENT), ("baseline", baseline)) if baseline else ():
        if checkout:
            checkout.check_import()
            print(f"{label}: {checkout.root}")
    thresholds = Thresholds(options.contacts)
    with (
        _export_server(options.data) as server_url,
        tempfile.TemporaryDirectory(prefix="work-", dir=options.data) as work_dir,
    ):
        bench = Bench(options.contacts, options.rounds, options.data, Path(work_dir), server_url)
        for name in options.only:
            if name == _PIPELINES:
                print(f"\n## {name}: {DESCRIPTION}\n", flush=True)
                run_pipelines(bench)
            elif baseline:
                print(f"\n## {name}: current / baseline\n", flush=True)
                _compare(bench, CASES[name].workloads(bench), baseline)
            else:
                print(f"\n## {name}: {CASES[name].description}\n", flush=True)
                CASES[name].run(bench, thresholds)
    thresholds.print_summary()


def _compare(bench: Bench, workloads: Mapping[str, Workload], baseline: Checkout) -> None:
    """Run each workload with both checkouts, interleaved, and print the paired ratios."""
    rows: list[tuple[str, ...]] = []
    for name, workload in workloads.items():
        program = bench.tap(workload, CURRENT)
        try:
            baseline_program = bench.tap(workload, baseline)
        except RuntimeError:
            rows.append((name, "fails", *("",) * 6))
            continue
        results = bench.measure(
            {f"{name} (current)": program, f"{name} (baseline)": baseline_program}
        )
        current, other = results.values()
        ratios = current.ratios(other, lambda run: run.cpu)
        rows.append(
            (
                *(name, f"{other.cpu:.2f}", f"{current.cpu:.2f}", f"{median(ratios):.3f}"),
                *(f"{min(ratios):.2f}-{max(ratios):.2f}", f"{current.wall_ratio(other):.3f}"),
                *(f"{other.peak_mb:.0f}", f"{current.peak_mb:.0f}"),
            )
        )
    print_table(
        (
            *("workload", "baseline CPU s", "current CPU s", "CPU ratio", "min-max", "wall ratio"),
            *("baseline peak MB", "current peak MB"),
        ),
        rows,
    )


def _parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    descriptions = {name: case.description for name, case in CASES.items()}
    descriptions[_PIPELINES] = DESCRIPTION
    cases = "\n".join(f"  {name:<10}{text}" for name, text in descriptions.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=_DESCRIPTION,
        epilog=f"cases:\n{cases}\n\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="CASE",
        choices=descriptions,
        help="cases to run (default: all but pipelines; with --compare: floor)",
    )
    parser.add_argument(
        "--contacts",
        type=_int_from(_MIN_CONTACTS),
        metavar="N",
        default=1_000_000,
        help="contacts per run; some cases use a multiple or a fraction (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds",
        type=_int_from(1),
        metavar="N",
        default=5,
        help="runs of each program (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        default=Path(tempfile.gettempdir()) / "tap-sendgrid-contacts" / "benchmarks",
        help="cache of exports and virtual environments (default: %(default)s)",
    )
    parser.add_argument(
        "--compare",
        metavar="COMMIT|PATH",
        help="run only the tap, from this source tree and from another one, interleaved and "
        "with the same interpreter and packages; print the ratios of this tree to that one",
    )
    options = parser.parse_args(arguments)
    options.only = options.only or (["floor"] if options.compare else list(CASES))
    if options.compare and _PIPELINES in options.only:
        parser.error("--compare runs only the tap, and no pipelines")
    # The data directory is passed to programs with another working directory.
    options.data = options.data.resolve()
    return options


def _int_from(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}")
        return value

    return parse


@contextmanager
def _export_server(data_dir: Path) -> Iterator[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server", str(data_dir)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=CURRENT.root,
    )
    try:
        # It prints its URL once it listens.
        server_url = server.stdout.readline().strip() if server.stdout else ""
        if not server_url:
            raise RuntimeError("the export server did not start")
        yield server_url
    finally:
        server.terminate()
        server.wait()
