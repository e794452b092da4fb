"""Benchmark cases."""

from __future__ import annotations

import sys
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.bench import FULL_TABLE, STARTUP, Workload
from benchmarks.checkout import CURRENT
from benchmarks.measure import Program
from benchmarks.report import print_results

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench
    from benchmarks.exports import CachedExport
    from benchmarks.measure import Result
    from benchmarks.report import Thresholds

_MB = 1_000_000
_RATE_LIMIT = 20
_FEW_FIELDS, _MANY_FIELDS = 5, 500
_PRINTED_MODES = (
    *(FULL_TABLE, "INCREMENTAL", "stream map", "BATCH, gzip", "BATCH, uncompressed"),
    *("BATCH, Parquet", "BATCH, Arrow"),
)
_HASHING_MODES = (FULL_TABLE, "hash_columns", "stream map, sha256(email)")


class Case(NamedTuple):
    """A benchmark case.

    Attributes:
        description: What it measures.
        workloads: Returns the tap's workloads by name; the first one is what ratios refer to.
        others: Returns the other programs.
        check: Prints what else there is to print, and compares figures with their limits.
        rounds_factor: Multiplies the number of rounds.
    """

    description: str
    workloads: Callable[[Bench], dict[str, Workload]]
    others: Callable[[Bench], dict[str, Program]] = lambda _: {}
    check: Callable[[Bench, dict[str, Result], Thresholds], None] = lambda *_: None
    rounds_factor: float = 1

    def run(self, bench: Bench, thresholds: Thresholds) -> None:
        """Measure, and print the results."""
        taps = {name: bench.tap(each) for name, each in self.workloads(bench).items()}
        rounds = max(1, round(bench.rounds * self.rounds_factor))
        results = bench.measure(taps | self.others(bench), rounds)
        print_results(results)
        self.check(bench, results, thresholds)


def _file_types(bench: Bench) -> dict[str, Workload]:
    return {
        "tap, JSON": Workload(bench.export()),
        "tap, CSV": Workload(bench.export(file_type="csv")),
    }


def _floors(bench: Bench) -> dict[str, Program]:
    return {"floor, JSON": bench.floor("json"), "floor, CSV": bench.floor("csv")}


def _check_floor(_: Bench, results: dict[str, Result], thresholds: Thresholds) -> None:
    for file_type, limit in (("JSON", 1.2), ("CSV", 1.3)):
        ratio = results[f"tap, {file_type}"].cpu_ratio(results[f"floor, {file_type}"])
        thresholds.at_most(f"{file_type}: CPU, tap / floor", ratio, limit)


def _startup(_: Bench) -> dict[str, Workload]:
    return {"tap until export request": STARTUP}


def _other_starts(_: Bench) -> dict[str, Program]:
    return {
        "tap --version": Program([*CURRENT.command, "--version"], env=CURRENT.env),
        "import singer_sdk": Program([sys.executable, "-c", "import singer_sdk"]),
        "python": Program([sys.executable, "-c", "pass"]),
    }


def _check_startup(_: Bench, results: dict[str, Result], thresholds: Thresholds) -> None:
    request, version, *_rest = results.values()
    label = "export request / --version"
    thresholds.at_most(f"start-up: CPU, {label}", request.cpu_ratio(version), 1.5)
    thresholds.at_most(f"start-up: wall, {label}", request.wall_ratio(version), 1.5)


def _fields_export(bench: Bench, number: int, file_type: str) -> CachedExport:
    return bench.export(bench.contacts // 5, custom_fields=number, file_type=file_type)


def _fields(bench: Bench) -> dict[str, Workload]:
    exports = (
        _fields_export(bench, number, file_type)
        for file_type in ("json", "csv")
        for number in (_FEW_FIELDS, _MANY_FIELDS)
    )
    return {_describe(export): Workload(export) for export in exports}


def _check_fields(bench: Bench, results: dict[str, Result], thresholds: Thresholds) -> None:
    startup = results["start-up"].cpu
    for file_type in ("json", "csv"):
        exports = [
            _fields_export(bench, number, file_type) for number in (_FEW_FIELDS, _MANY_FIELDS)
        ]
        few, many = (
            each.uncompressed_bytes / _MB / (results[_describe(each)].cpu - startup)
            for each in exports
        )
        label = f"custom fields: MB read per CPU s, 500 / 5, {file_type.upper()}"
        # Most of a record is nulls, which are written but not read.
        thresholds.at_least(label, many / few, 0.15)


def _start(bench: Bench) -> dict[str, Program]:
    return {"start-up": bench.tap(STARTUP)}


def _modes(bench: Bench) -> dict[str, Workload]:
    return {mode: Workload(bench.export(), mode) for mode in _PRINTED_MODES}


def _check_modes(_: Bench, results: dict[str, Result], thresholds: Thresholds) -> None:
    ratio = results["INCREMENTAL"].cpu_ratio(results[FULL_TABLE])
    thresholds.at_most("CPU, INCREMENTAL / FULL_TABLE", ratio, 1.1)


def _hashing(bench: Bench) -> dict[str, Workload]:
    return {mode: Workload(bench.export(), mode) for mode in _HASHING_MODES}


def _check_hashing(_: Bench, results: dict[str, Result], thresholds: Thresholds) -> None:
    ratio = results["hash_columns"].cpu_ratio(results[FULL_TABLE])
    thresholds.at_most("CPU, hash_columns / FULL_TABLE", ratio, 1.7)


def _networks(bench: Bench) -> dict[str, Workload]:
    export = bench.export(parts=8)
    return {
        "tap, unlimited": Workload(export),
        f"tap, {_RATE_LIMIT} MB/s": Workload(export, rate_limit=_RATE_LIMIT),
    }


def _check_network(bench: Bench, results: dict[str, Result], thresholds: Thresholds) -> None:
    unlimited, limited, startup = results.values()
    download = bench.export(parts=8).compressed_bytes / _MB / _RATE_LIMIT
    print(f"computed download time: {download:.2f} s\n")
    ratios = (
        run.wall / max(start.wall + download, free.wall)
        for start, free, run in zip(startup.runs, unlimited.runs, limited.runs, strict=True)
    )
    label = "network: wall, tap / max(start-up + download, tap without limit)"
    thresholds.at_most(label, median(ratios), 1.15)


def _sizes(bench: Bench) -> dict[str, Workload]:
    contacts = bench.contacts
    exports = [
        bench.export(size, custom_fields=number, parts=parts)
        for number in (_FEW_FIELDS, 50, _MANY_FIELDS)
        for size, parts in ((contacts // 100, 1), (contacts // 10, 1), (contacts, 1))
    ]
    exports += [
        bench.export(contacts * 2, parts=8),
        bench.export(contacts * 3),
        bench.export(contacts // 10, custom_fields=_MANY_FIELDS, file_type="csv"),
    ]
    return {_describe(export): Workload(export) for export in exports}


def _describe(export: CachedExport) -> str:
    size = f"{export.uncompressed_bytes / _MB:,.0f} MB in {len(export.parts)} part(s)"
    fields = f"{export.custom_fields} custom fields, {export.file_type.upper()}"
    return f"{export.contacts:,} contacts, {fields}, {size}"


def _check_sizes(bench: Bench, results: dict[str, Result], thresholds: Thresholds) -> None:
    small, large = (
        results[_describe(export)]
        for export in (
            bench.export(bench.contacts // 10),
            bench.export(bench.contacts * 2, parts=8),
        )
    )
    growth = large.peak_mb / small.peak_mb
    thresholds.at_most("memory: peak with 20 times the contacts", growth, 1.1)
    highest = max(result.peak_mb for result in results.values())
    thresholds.at_most("memory: highest peak in MB", highest, 120)


CASES = {
    "floor": Case(
        "JSON and CSV to RECORD messages; the floor only decompresses, decodes and encodes",
        _file_types,
        _floors,
        _check_floor,
    ),
    "startup": Case(
        "Start-up until the export request", _startup, _other_starts, _check_startup, 3
    ),
    "fields": Case("500 custom fields, ten of them filled, or 5", _fields, _start, _check_fields),
    "modes": Case("INCREMENTAL, a stream map and BATCH files", _modes, check=_check_modes),
    "hashing": Case(
        "Plain texts, three columns hashed by the tap, and one hashed by a stream map",
        _hashing,
        check=_check_hashing,
    ),
    "network": Case(
        "A slow network: download and decoding overlap", _networks, _start, _check_network
    ),
    "sizes": Case(
        "CPU time and peak memory by number of contacts, parts and custom fields",
        _sizes,
        check=_check_sizes,
        rounds_factor=0.2,
    ),
}
