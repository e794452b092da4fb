"""Benchmark cases."""

from __future__ import annotations

import sys
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import peers, pipelines
from benchmarks.bench import STARTUP, Mode, Workload
from benchmarks.chart import Panel, cpu_bars
from benchmarks.checkout import CURRENT
from benchmarks.measure import Program
from benchmarks.report import print_results, print_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench
    from benchmarks.exports import Export

_MB = 1_000_000
_RATE_LIMIT = 20
_FEW_FIELDS, _MANY_FIELDS = 5, 500


class Case(NamedTuple):
    """A benchmark case.

    Attributes:
        run: Measures and prints the results; its docstring describes the case.
        workloads: Returns the tap's workloads by name, to compare checkouts.
    """

    run: Callable[[Bench], None]
    workloads: Callable[[Bench], dict[str, Workload]] | None = None

    @property
    def description(self) -> str:
        """What the case measures."""
        return (self.run.__doc__ or "").rstrip(".")


def _floor_workloads(bench: Bench) -> dict[str, Workload]:
    return {
        "tap, JSON": Workload(bench.export()),
        "tap, CSV": Workload(bench.export(file_type="csv")),
    }


def run_floor(bench: Bench) -> None:
    """JSON and CSV to RECORD messages, relative to the floor (gunzip, decode and encode only)."""
    json_tap, csv_tap = bench.taps(_floor_workloads(bench)).values()
    json_export, csv_export = bench.export(), bench.export(file_type="csv")
    json_results = bench.measure(
        {
            "floor, JSON": bench.validated(peers.floor_json, json_export),
            "tap, JSON": json_tap,
            "floor line by line, JSON": bench.validated(peers.floor_json_by_line, json_export),
        }
    )
    csv_results = bench.measure(
        {"floor, CSV": bench.validated(peers.floor_csv, csv_export), "tap, CSV": csv_tap}
    )
    for file_type, limit, results in (("JSON", 1.2, json_results), ("CSV", 1.3, csv_results)):
        floor, tap = results[f"floor, {file_type}"], results[f"tap, {file_type}"]
        print_results(results, f"floor, {file_type}")
        bench.report.check_at_most(
            f"{file_type}: CPU, tap / floor", median(tap.cpu_ratios(floor)), limit
        )
    results = json_results | csv_results
    names = ("floor, JSON", "tap, JSON", "floor, CSV", "tap, CSV")
    bench.report.add_panel(
        "speed",
        Panel(
            "CPU time per million contacts: tap and floor (no typing, no HTTP)",
            cpu_bars({name: results[name] for name in names}),
        ),
    )


def _startup_workloads(_: Bench) -> dict[str, Workload]:
    return {"tap until export request": STARTUP}


def run_startup(bench: Bench) -> None:
    """Start-up until the export request, relative to `--version`."""
    (name,) = _startup_workloads(bench)
    results = bench.measure(
        {
            name: bench.tap(STARTUP),
            "tap --version": Program([*CURRENT.command, "--version"], env=CURRENT.env),
            "import singer_sdk": Program([sys.executable, "-c", "import singer_sdk"]),
            "python": Program([sys.executable, "-c", "pass"]),
        },
        # Short runs need more rounds.
        bench.rounds * 3,
    )
    print_table(
        ("program", "CPU s", "min-max", "wall s"),
        [
            (name, f"{result.cpu:.2f}", result.cpu_range, f"{result.wall:.2f}")
            for name, result in results.items()
        ],
    )
    request, version = results[name], results["tap --version"]
    bench.report.check_at_most(
        "start-up: wall, export request / --version",
        median(request.ratios(version, lambda run: run.wall)),
        1.5,
    )
    bench.report.check_at_most(
        "start-up: CPU, export request / --version", median(request.cpu_ratios(version)), 1.5
    )


def _fields_workloads(bench: Bench) -> dict[str, Workload]:
    return {
        _fields_label(number, file_type): Workload(
            bench.export(bench.contacts // 5, custom_fields=number, file_type=file_type)
        )
        for file_type in ("json", "csv")
        for number in (_FEW_FIELDS, _MANY_FIELDS)
    }


def _fields_label(custom_fields: int, file_type: str) -> str:
    return f"{custom_fields} custom fields, {file_type.upper()}"


def run_fields(bench: Bench) -> None:
    """Throughput with 500 custom fields, ten of them filled, relative to 5; start-up excluded."""
    workloads = _fields_workloads(bench)
    results = bench.measure({"start-up": bench.tap(STARTUP), **bench.taps(workloads)})
    startup = results.pop("start-up").cpu
    # Per workload: MB read, MB written, contacts.
    amounts = {
        name: (
            workload.export.uncompressed_bytes / _MB,
            bench.output_bytes(workload) / _MB,
            workload.export.contacts,
        )
        for name, workload in workloads.items()
        if workload.export
    }
    seconds = {name: [run.cpu - startup for run in result.runs] for name, result in results.items()}
    print_table(
        ("tap", "MB read per CPU s", "MB written per CPU s", "contacts per CPU s"),
        [
            (name, *(f"{amount / median(seconds[name]):,.0f}" for amount in amounts[name]))
            for name in results
        ],
    )
    for file_type in ("json", "csv"):
        few, many = (_fields_label(number, file_type) for number in (_FEW_FIELDS, _MANY_FIELDS))
        slowdown = median(
            slow / fast for slow, fast in zip(seconds[many], seconds[few], strict=True)
        )
        # Most of the output is nulls, because every record has every column.
        for index, direction in enumerate(("read", "written")):
            bench.report.check_at_least(
                f"custom fields: MB {direction} per CPU s, 500 / 5, {file_type.upper()}",
                amounts[many][index] / amounts[few][index] / slowdown,
                0.5,
            )


def _modes_workloads(bench: Bench) -> dict[str, Workload]:
    return {mode.value: Workload(bench.export(), mode) for mode in Mode}


def run_modes(bench: Bench) -> None:
    """INCREMENTAL, a stream map and BATCH files, relative to FULL_TABLE RECORD messages."""
    results = bench.measure(bench.taps(_modes_workloads(bench)))
    print_results(results, Mode.FULL_TABLE.value)
    bench.report.check_at_least(
        "INCREMENTAL: contacts per CPU s",
        results[Mode.INCREMENTAL.value].contacts_per_cpu_second,
        60_000,
    )


def _network_workloads(bench: Bench) -> dict[str, Workload]:
    export = bench.export(parts=8)
    return {
        "tap, unlimited": Workload(export),
        f"tap, {_RATE_LIMIT} MB/s": Workload(export, rate_limit=_RATE_LIMIT),
    }


def run_network(bench: Bench) -> None:
    """Wall time with a slow network, where download and decoding overlap."""
    workloads = _network_workloads(bench)
    results = bench.measure({"start-up": bench.tap(STARTUP), **bench.taps(workloads)})
    startup, unlimited, limited = results.values()
    download_mb = bench.export(parts=8).compressed_bytes / _MB
    download = download_mb / _RATE_LIMIT
    print_table(
        ("", "wall s"),
        [
            (
                f"computed download time of {download_mb:.0f} MB",
                f"{download:.2f}",
            ),
            *((name, f"{result.wall:.2f}") for name, result in results.items()),
        ],
    )
    ratios = (
        run.wall / max(start.wall + download, free.wall)
        for start, free, run in zip(startup.runs, unlimited.runs, limited.runs, strict=True)
    )
    bench.report.check_at_most(
        "network: wall, tap / max(start-up + download, tap without limit)", median(ratios), 1.15
    )


def _memory_workloads(bench: Bench) -> dict[str, Workload]:
    small, large, huge = bench.contacts // 10, bench.contacts * 2, bench.contacts * 3
    exports = (
        bench.export(small),
        bench.export(large, parts=8),
        bench.export(small, file_type="csv"),
        bench.export(small, custom_fields=_MANY_FIELDS),
        bench.export(small, custom_fields=_MANY_FIELDS, file_type="csv"),
        bench.export(huge),
    )
    return {_describe(export): Workload(export) for export in exports}


def _describe(export: Export) -> str:
    fields = _fields_label(export.custom_fields, export.file_type)
    size = f"{export.uncompressed_bytes / _MB:,.0f} MB in {len(export.parts)} part(s)"
    return f"{export.contacts:,} contacts, {fields}, {size}"


def run_memory(bench: Bench) -> None:
    """Peak memory by size, number of parts, format and custom fields."""
    results = bench.measure(bench.taps(_memory_workloads(bench)), min(bench.rounds, 3))
    print_table(
        ("tap", "peak MB", "CPU s"),
        [(name, f"{result.peak_mb:.1f}", f"{result.cpu:.2f}") for name, result in results.items()],
    )
    small, large, *_ = results.values()
    growth = median(large.ratios(small, lambda run: run.peak_mb))
    bench.report.check_at_most("memory: peak with 20 times the contacts", growth, 1.1)
    highest = max(result.peak_mb for result in results.values())
    bench.report.check_at_most("memory: highest peak in MB", highest, 120)


def _growth_workloads(bench: Bench) -> dict[str, Workload]:
    contacts = bench.contacts
    sizes = ((contacts // 100, 1), (contacts // 10, 1), (contacts, 1), (contacts * 2, 8))
    exports = (
        bench.export(size, custom_fields=number, parts=parts)
        for number in (_FEW_FIELDS, 50, _MANY_FIELDS)
        for size, parts in sizes
    )
    return {_describe(export): Workload(export) for export in exports}


def run_growth(bench: Bench) -> None:
    """Cost by number of contacts and custom fields; a single round."""
    workloads = _growth_workloads(bench)
    results = bench.measure(bench.taps(workloads), 1)
    print_table(
        ("contacts", "custom fields", "CPU s", "wall s", "contacts per CPU s", "peak MB"),
        [
            (
                f"{workload.export.contacts:,}",
                str(workload.export.custom_fields),
                f"{results[name].cpu:.2f}",
                f"{results[name].wall:.2f}",
                f"{results[name].contacts_per_cpu_second:,.0f}",
                f"{results[name].peak_mb:.0f}",
            )
            for name, workload in workloads.items()
            if workload.export
        ],
    )


CASES = {
    "floor": Case(run_floor, _floor_workloads),
    "peers": Case(peers.run_peers),
    "startup": Case(run_startup, _startup_workloads),
    "fields": Case(run_fields, _fields_workloads),
    "modes": Case(run_modes, _modes_workloads),
    "network": Case(run_network, _network_workloads),
    "memory": Case(run_memory, _memory_workloads),
    "growth": Case(run_growth, _growth_workloads),
    "pipelines": Case(pipelines.run_pipelines),
}
