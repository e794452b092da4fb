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
from typing import TYPE_CHECKING

from benchmarks.bench import Bench
from benchmarks.cases import CASES
from benchmarks.checkout import CURRENT, PACKAGE, Checkout
from benchmarks.compare import compare_checkouts
from benchmarks.measure import describe_machine
from benchmarks.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_MIN_CONTACTS = 1000
_COMPARABLE_CASES = [name for name, case in CASES.items() if case.workloads]
_DESCRIPTION = """\
Measure CPU time, wall time and peak memory of the tap.

Exports are generated once and served by a local server. The programs of a case run interleaved,
once per round. Figures are medians; ratios are medians of the ratios within each round."""
_EXAMPLES = """\
examples:
  python -m benchmarks --contacts 20000 --rounds 1 --only floor
      smoke test, takes a few seconds
  python -m benchmarks --only floor peers --charts docs
      measure the tap, its floor and its peers, and draw docs/speed.svg
  python -m benchmarks --only pipelines --peer-rounds 3 --charts docs
      measure the tap with targets and databases, and draw docs/pipelines.svg
  git worktree add ../baseline main
  python -m benchmarks --compare ../baseline --only floor modes
      measure the effect of a change: CPU ratio below 1 means faster than main"""


def main() -> None:
    """Run the benchmark cases selected on the command line."""
    options = _parse_options()
    options.data.mkdir(parents=True, exist_ok=True)
    print(f"{describe_machine()}, {platform.system()}, {datetime.now(timezone.utc):%Y-%m-%d}")
    if options.compare:
        for label, checkout in (("current", CURRENT), ("baseline", options.compare)):
            checkout.check_import()
            print(f"{label}: {checkout.root}")
    report = Report(options.contacts)
    with (
        _export_server(options.data) as server_url,
        tempfile.TemporaryDirectory(prefix="work-", dir=options.data) as work_dir,
    ):
        bench = Bench(
            contacts=options.contacts,
            rounds=options.rounds,
            peer_rounds=min(options.peer_rounds, options.rounds),
            data_dir=options.data,
            work_dir=Path(work_dir),
            server_url=server_url,
            report=report,
        )
        for name in options.only:
            case = CASES[name]
            if options.compare and case.workloads:
                print(f"\n## {name}: current / baseline\n", flush=True)
                compare_checkouts(bench, case.workloads(bench), options.compare)
            else:
                print(f"\n## {name}: {case.description}\n", flush=True)
                case.run(bench)
    report.print_summary()
    if options.charts:
        options.charts.mkdir(parents=True, exist_ok=True)
        for name, chart in report.render_charts().items():
            (options.charts / f"{name}.svg").write_text(chart)


def _parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    cases = "\n".join(f"  {name:<10}{case.description}" for name, case in CASES.items())
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
        choices=CASES,
        help="cases to run (default: all; with --compare: floor)",
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
        "--peer-rounds",
        type=_int_from(1),
        metavar="N",
        default=2,
        help="the same for peers and pipelines, which are slow (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        default=Path(tempfile.gettempdir()) / "tap-sendgrid-contacts" / "benchmarks",
        help="cache of exports and virtual environments (default: %(default)s)",
    )
    parser.add_argument(
        "--charts",
        type=Path,
        metavar="DIR",
        help="write SVG charts: speed.svg of the cases floor and peers, pipelines.svg",
    )
    parser.add_argument(
        "--compare",
        type=_checkout,
        metavar="PATH",
        help="run only the tap, from this source tree and from the one at PATH, interleaved and "
        "with the same interpreter and packages; print the ratios of this tree to that one",
    )
    options = parser.parse_args(arguments)
    options.only = options.only or (["floor"] if options.compare else list(CASES))
    if options.compare and not set(options.only).issubset(_COMPARABLE_CASES):
        parser.error(f"--compare is limited to the cases {', '.join(_COMPARABLE_CASES)}")
    if options.compare and options.charts:
        parser.error("--charts cannot be combined with --compare")
    # The data directory is passed to programs with another working directory.
    options.data = options.data.resolve()
    return options


def _checkout(text: str) -> Checkout:
    root = Path(text).resolve()
    if not (root / PACKAGE).is_dir():
        raise argparse.ArgumentTypeError(f"{root} does not contain {PACKAGE}")
    return Checkout(root)


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
