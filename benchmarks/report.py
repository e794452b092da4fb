"""Printed tables, threshold checks and charts of the results."""

from __future__ import annotations

from datetime import datetime, timezone
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.chart import render_chart
from benchmarks.measure import describe_machine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.chart import Panel
    from benchmarks.measure import Result

# With fewer contacts a run is mostly start-up and noise.
_MIN_CONTACTS_FOR_THRESHOLDS = 1_000_000


class Report:
    """Panels of the charts and threshold checks for the summary."""

    def __init__(self, contacts: int) -> None:
        """Start an empty report.

        Args:
            contacts: Number of contacts per run; thresholds apply from a million on.
        """
        self.checks: list[str] = []
        self._panels: dict[str, list[Panel]] = {}
        self._notes: dict[str, list[str]] = {}
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

    def add_panel(self, chart: str, panel: Panel, notes: Sequence[str] = ()) -> None:
        """Add a panel, and notes below all panels, to a chart."""
        self._panels.setdefault(chart, []).append(panel)
        self._notes.setdefault(chart, []).extend(notes)

    def render_charts(self) -> dict[str, str]:
        """Draw the charts of the cases that ran, as SVG."""
        machine = f"{describe_machine()}, {datetime.now(timezone.utc):%Y-%m-%d}"
        return {
            chart: render_chart(
                "; ".join(panel.title for panel in panels), panels, [machine, *self._notes[chart]]
            )
            for chart, panels in self._panels.items()
        }


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
