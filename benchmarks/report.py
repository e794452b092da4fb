"""Printed tables and threshold checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.measure import Result

# With fewer contacts a run is mostly start-up and noise.
_MIN_CONTACTS_FOR_THRESHOLDS = 1_000_000


class Thresholds:
    """Compares figures with their limits."""

    def __init__(self, contacts: int) -> None:
        """Start without figures.

        Args:
            contacts: Number of contacts per run; thresholds apply from a million on.
        """
        self._lines: list[str] = []
        self._is_significant = contacts >= _MIN_CONTACTS_FOR_THRESHOLDS

    def at_most(self, label: str, value: float, limit: float) -> None:
        """Compare a figure with its upper limit."""
        self._add(label, value, f"at most {limit:,}", is_met=value <= limit)

    def at_least(self, label: str, value: float, limit: float) -> None:
        """Compare a figure with its lower limit."""
        self._add(label, value, f"at least {limit:,}", is_met=value >= limit)

    def _add(self, label: str, value: float, limit: str, *, is_met: bool) -> None:
        verdict = ("PASS" if is_met else "FAIL") if self._is_significant else "not evaluated"
        self._lines.append(f"{verdict}: {label}: {value:,.2f} ({limit})")

    def print_summary(self) -> None:
        """Print all comparisons."""
        if self._lines:
            print("\n## Thresholds\n", *self._lines, sep="\n")
        if self._lines and not self._is_significant:
            print(f"\nThresholds apply from {_MIN_CONTACTS_FOR_THRESHOLDS:,} contacts on.")


def print_results(results: Mapping[str, Result]) -> None:
    """Print a table of programs; ratios refer to the first one."""
    baseline = next(iter(results.values()))
    print_table(
        (
            *("program", "contacts", "CPU s", "min-max", "CPU s per million", "CPU ratio"),
            *("wall s", "wall ratio", "peak MB"),
        ),
        [
            (
                name,
                f"{result.contacts:,}",
                f"{result.cpu:.2f}",
                result.cpu_range,
                result.cpu_per_million,
                f"{result.cpu_ratio(baseline):.2f}",
                f"{result.wall:.2f}",
                f"{result.wall_ratio(baseline):.2f}",
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
