"""Comparison of the current checkout with another one."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from benchmarks.checkout import CURRENT
from benchmarks.measure import format_range
from benchmarks.report import print_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.bench import Bench, Workload
    from benchmarks.checkout import Checkout


def compare_checkouts(bench: Bench, workloads: Mapping[str, Workload], baseline: Checkout) -> None:
    """Run each workload with both checkouts, interleaved, and print the paired ratios.

    Args:
        bench: Settings and helpers.
        workloads: Workloads of the tap by name.
        baseline: The checkout that the ratios refer to.
    """
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
        cpu_ratios = current.cpu_ratios(other)
        wall_ratio = median(current.ratios(other, lambda run: run.wall))
        rows.append(
            (
                name,
                f"{other.cpu:.2f}",
                f"{current.cpu:.2f}",
                f"{median(cpu_ratios):.3f}",
                format_range(cpu_ratios),
                f"{wall_ratio:.3f}",
                f"{other.peak_mb:.0f}",
                f"{current.peak_mb:.0f}",
            )
        )
    print_table(
        (
            *("workload", "baseline CPU s", "current CPU s", "CPU ratio", "min-max", "wall ratio"),
            *("baseline peak MB", "current peak MB"),
        ),
        rows,
    )
