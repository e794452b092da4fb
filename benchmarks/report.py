"""Printed tables, threshold checks and the chart of the results."""

from __future__ import annotations

from datetime import datetime, timezone
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.chart import Bar, Panel, render_chart
from benchmarks.measure import describe_machine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.measure import Result

# With fewer contacts a run is mostly start-up and noise.
_MIN_CONTACTS_FOR_THRESHOLDS = 1_000_000


class Report:
    """Results for the chart and threshold checks for the summary."""

    def __init__(self, contacts: int) -> None:
        """Start an empty report.

        Args:
            contacts: Number of contacts per run; thresholds apply from a million on.
        """
        self.checks: list[str] = []
        # Results by case and program, for the chart.
        self.results: dict[str, dict[str, Result]] = {}
        self._is_significant = contacts >= _MIN_CONTACTS_FOR_THRESHOLDS

    def check_at_most(self, label: str, value: float, limit: float) -> None:
        """Compare a figure with its upper limit."""
        self._add_check(label, value, f"at most {limit:,}", is_met=value <= limit)

    def check_at_least(self, label: str, value: float, limit: float) -> None:
        """Compare a figure with its lower limit."""
        self._add_check(label, value, f"at least {limit:,}", is_met=value >= limit)

    def _add_check(self, label: str, value: float, limit: str, *, is_met: bool) -> None:
        verdict = ("PASS" if is_met else "FAIL") if self._is_significant else "not evaluated"
        self.checks.append(f"{verdict}: {label}: {value:,.2f} ({limit})")

    def print_summary(self) -> None:
        """Print all threshold checks."""
        if self.checks:
            print("\n## Thresholds\n", *self.checks, sep="\n")
        if self.checks and not self._is_significant:
            print(f"\nThresholds apply from {_MIN_CONTACTS_FOR_THRESHOLDS:,} contacts on.")

    def render_chart(self) -> str:
        """Draw the results of the cases `floor` and `peers` as SVG."""
        floor, peers = self.results["floor"], self.results["peers"]
        names = ("floor, JSON", "tap, JSON", "floor, CSV", "tap, CSV")
        extrapolated = [
            f"{name}: extrapolated from {result.contacts:,} contacts"
            for name, result in peers.items()
            if result.fixed_cpu
        ]
        return render_chart(
            "CPU time per million contacts",
            [
                Panel(
                    "CPU time per million contacts: tap and floor (no typing, no HTTP)",
                    _bars({name: floor[name] for name in names}),
                ),
                Panel("CPU time per million contacts: tap and peers, other scale", _bars(peers)),
            ],
            [
                f"{describe_machine()}, {datetime.now(timezone.utc):%Y-%m-%d}",
                "; ".join(extrapolated),
            ],
        )


def _bars(results: Mapping[str, Result]) -> list[Bar]:
    return [
        Bar(name, result.cpu_per_million, is_tap=name.startswith("tap"))
        for name, result in results.items()
    ]


def print_results(results: Mapping[str, Result], baseline: str) -> None:
    """Print a table of programs.

    Args:
        results: Results by program, measured in the same rounds.
        baseline: Name of the program that the ratios refer to.
    """
    print_table(
        (
            *("program", "contacts", "CPU s", "min-max", "CPU s per million", "contacts per CPU s"),
            *("CPU ratio", "peak MB"),
        ),
        [
            (
                name,
                f"{result.contacts:,}",
                f"{result.cpu:.2f}",
                result.cpu_range,
                f"{result.cpu_per_million:.2f}",
                f"{result.contacts_per_cpu_second:,.0f}",
                f"{median(result.cpu_ratios(results[baseline])):.2f}",
                f"{result.peak_mb:.0f}",
            )
            for name, result in results.items()
        ],
    )


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table; all columns but the first are right-aligned."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        [cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(cells)]
        for cells in (zip(row, widths, strict=True) for row in (head, *rows))
    ]
    ruler = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    for row in (lines[0], ruler, *lines[1:]):
        print(f"| {' | '.join(row)} |")
    print(flush=True)
