"""Measures the tap against floors and peers: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import peers
from benchmarks.data import Export, export
from benchmarks.measure import Program, Runs, machine, measure, records
from benchmarks.picture import Panel, draw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).parents[1]
_MB = 1_000_000
_TAP = [sys.executable, "-m", "tap_sendgrid_contacts.tap"]
_THROTTLE = 20
# With fewer, a run is mostly start-up and chance.
_FEWEST_TO_JUDGE = 1_000_000
# These take long: they read a part of the contacts, and what they take for all of them is worked
# out from that and from what they take for a handful: their start is not to be counted ten times.
_START = ", start"
_HANDFUL = 1000
_DLT_SHARE, _AIRBYTE_SHARE = 10, 50


class Bench:
    """What the subjects work with."""

    def __init__(self, options: argparse.Namespace, url: str, work: Path) -> None:
        """Take the options, the server's URL and a folder to work in."""
        self.contacts: int = options.contacts
        self.rounds: int = options.rounds
        self.peer_rounds: int = min(options.peer_rounds, options.rounds)
        self.data: Path = options.data
        self.work = work
        self.url = url
        self.goals: list[str] = []
        self.bars: dict[str, float] = {}
        self.notes: list[str] = []
        self._files = 0

    def export(self, contacts: int | None = None, **form: Any) -> Export:
        """An export; `form` is as `data.export` takes it."""
        return export(self.data, contacts or self.contacts, **form)

    def file(self, content: object) -> Path:
        """Write JSON into a file of its own."""
        self._files += 1
        path = self.work / f"{self._files}.json"
        path.write_text(json.dumps(content))
        return path

    def folder(self) -> Path:
        """Make an empty folder."""
        return Path(tempfile.mkdtemp(dir=self.work))

    def api_url(self, of: Export, *, rate: int | None = None) -> str:
        """Where an export is served, at a rate in MB/s if one is given."""
        return f"{self.url}/{of.folder.name}{f'@{rate}' if rate else ''}"

    def tap(self, of: Export, *arguments: str, rate: int | None = None, **config: Any) -> list[str]:
        """The tap's command line."""
        file_type = of.folder.name.partition("-")[0]
        config = {
            "api_key": "none",
            "api_url": self.api_url(of, rate=rate),
            "file_type": file_type,
            **config,
        }
        return [*_TAP, "--config", str(self.file(config)), *arguments]

    def measure(self, programs: dict[str, Program], rounds: int | None = None) -> dict[str, Runs]:
        """Run programs in turn."""
        return measure(programs, rounds or self.rounds, self.work)

    def goal(self, text: str, value: float, *, at_most: float = 0, at_least: float = 0) -> None:
        """Note whether a goal is met."""
        met = value <= at_most if at_most else value >= at_least
        limit = f"at most {at_most:,}" if at_most else f"at least {at_least:,}"
        verdict = "met" if met else "MISSED"
        if self.contacts < _FEWEST_TO_JUDGE:
            verdict = "too few contacts to judge by"
        line = f"{verdict}: {text}: {value:,.2f} ({limit})"
        self.goals.append(line)
        print(line, flush=True)


# --- subjects -------------------------------------------------------------------------------


def json_records(bench: Bench) -> None:
    """Time for JSON to RECORD lines, against floors and peers."""
    full = bench.export()
    names = {"tap": "tap", "blocks": "floor, blocks", "lines": "floor, line by line"}
    programs = {
        names["blocks"]: _of(full, peers.floor_json(full, "blocks")),
        names["tap"]: _of(full, bench.tap(full)),
        names["lines"]: _of(full, peers.floor_json(full, "lines")),
        **_peers(bench, full),
    }
    small = bench.export(1000)
    for command in (
        peers.floor_json(small, "blocks"),
        peers.floor_json(small, "lines"),
        bench.tap(small),
        peers.plain_script(bench.api_url(small), "json"),
        peers.sdk_tap(_sdk_config(bench, small)),
    ):
        _check(command, small, bench)
    runs = bench.measure(programs)
    for name in [name for name in runs if name.endswith(_START)]:
        runs[name.removesuffix(_START)].start = runs.pop(name).cpu
    _print_programs(runs, "tap")
    floor = min((names["blocks"], names["lines"]), key=lambda name: runs[name].cpu)
    tap = runs["tap"]
    bench.goal("JSON: tap / floor", median(tap.ratios(runs[floor])), at_most=1.2)
    bench.goal("JSON: plain script / tap", median(runs["plain script"].ratios(tap)), at_least=3)
    others = [runs[name] for name in runs if name.startswith(("SDK", "dlt", "Airbyte"))]
    leanest = min(others, key=lambda each: each.cpu_of_a_million)
    bench.goal("JSON: leanest peer / tap", median(leanest.ratios(tap)), at_least=8)
    bench.bars |= {f"JSON {name}": each.cpu_of_a_million for name, each in runs.items()}
    bench.notes = [
        f"{name}: from {each.contacts:,} contacts"
        for name, each in runs.items()
        if each.contacts < bench.contacts
    ]
    bench.bars["JSON floor"] = runs[floor].cpu_of_a_million


def csv_records(bench: Bench) -> None:
    """Time for CSV to RECORD lines, against the floor and the plain script."""
    full, small = bench.export(file_type="csv"), bench.export(1000, file_type="csv")
    for command in (peers.floor_csv(small), bench.tap(small)):
        _check(command, small, bench)
    runs = bench.measure(
        {
            "floor": _of(full, peers.floor_csv(full)),
            "tap": _of(full, bench.tap(full)),
            "plain script": _of(
                full, peers.plain_script(bench.api_url(full), "csv"), rounds=bench.peer_rounds
            ),
        }
    )
    _print_programs(runs, "tap")
    bench.goal("CSV: tap / floor", median(runs["tap"].ratios(runs["floor"])), at_most=1.3)
    bench.bars |= {f"CSV {name}": each.cpu_of_a_million for name, each in runs.items()}


def memory(bench: Bench) -> None:
    """Peak memory, whatever the size."""
    small, large, big = bench.contacts // 10, bench.contacts * 2, bench.contacts * 3
    exports = {
        f"{small:,} contacts": bench.export(small),
        f"{large:,} contacts in 8 parts": bench.export(large, parts=8),
        f"{small:,} contacts as CSV": bench.export(small, file_type="csv"),
        f"{small:,} contacts, 500 custom fields": bench.export(small, fields=500),
        f"{small:,} contacts, 500 custom fields, CSV": bench.export(
            small, fields=500, file_type="csv"
        ),
    }
    one = bench.export(big)
    exports[f"{big:,} contacts in one part of {one.plain_bytes / _MB:,.0f} MB"] = one
    programs = {name: _of(each, bench.tap(each)) for name, each in exports.items()}
    runs = bench.measure(programs, min(bench.rounds, 3))
    _print_table(
        ("tap", "peak MB", "s CPU"),
        [(name, f"{each.peak:.1f}", f"{each.cpu:.2f}") for name, each in runs.items()],
    )
    first, second, *_ = runs.values()
    bench.goal("memory: 20 times the contacts", second.peak / first.peak, at_most=1.1)
    bench.goal("memory: most MB", max(each.peak for each in runs.values()), at_most=120)


def startup(bench: Bench) -> None:
    """Time until the export is asked for: the server refuses, and that ends the tap."""
    python = [sys.executable, "-c"]
    runs = bench.measure(
        {
            "tap until the POST": _start(bench),
            "tap --version": Program([*_TAP, "--version"]),
            "import singer_sdk": Program([*python, "import singer_sdk"]),
            "python": Program([*python, "pass"]),
        },
        bench.rounds * 3,
    )
    _print_table(
        ("start", "s CPU", "spread", "s wall"),
        [(name, f"{each.cpu:.2f}", each.spread, f"{each.wall:.2f}") for name, each in runs.items()],
    )
    post, version = runs["tap until the POST"], runs["tap --version"]
    bench.goal(
        "start: POST / --version, wall",
        median(post.ratios(version, lambda run: run.wall)),
        at_most=1.5,
    )
    bench.goal("start: POST / --version, CPU", median(post.ratios(version)), at_most=1.5)


def fields(bench: Bench) -> None:
    """Speed with 500 custom fields, of which a contact has ten, against 5; start-up left out."""
    contacts = bench.contacts // 5
    programs, sizes = {"start": _start(bench)}, {}
    for file_type in ("json", "csv"):
        for number in (5, 500):
            each = bench.export(contacts, fields=number, file_type=file_type)
            small = bench.export(1000, fields=number, file_type=file_type)
            done = subprocess.run(bench.tap(small), capture_output=True, check=True)
            name = f"{number} custom fields, {file_type.upper()}"
            programs[name] = _of(each, bench.tap(each))
            written = len(done.stdout) / small.contacts * contacts
            sizes[name] = each.plain_bytes / _MB, written / _MB
    runs = bench.measure(programs)
    # In runs as short as these it would make any two alike.
    start = runs.pop("start").cpu
    times = {name: [run.cpu - start for run in each.each] for name, each in runs.items()}
    _print_table(
        ("tap", "MB/s read, of CPU", "MB/s written", "contacts/s"),
        [
            (name, *(f"{size / median(times[name]):,.0f}" for size in (*sizes[name], contacts)))
            for name in runs
        ],
    )
    for file_type in ("JSON", "CSV"):
        few, many = (f"{number} custom fields, {file_type}" for number in (5, 500))
        slower = median(more / less for more, less in zip(times[many], times[few], strict=True))
        # Of what is written most is nulls: every record has every column.
        for i, what in enumerate(("read", "written")):
            ratio = sizes[many][i] / sizes[few][i] / slower
            bench.goal(f"fields: MB/s {what}, 500 / 5, {file_type}", ratio, at_least=0.5)


def slow_path(bench: Bench) -> None:
    """Speed of INCREMENTAL, and with a stream map, when the SDK handles each record."""
    full, small = bench.export(), bench.export(1000)
    maps = {"contacts": {"email": "email"}}

    def incremental(of: Export) -> list[str]:
        return bench.tap(of, "--catalog", str(_incremental_catalog(bench, of)))

    for command in (incremental(small), bench.tap(small, stream_maps=maps)):
        _check(command, small, bench)
    runs = bench.measure(
        {
            "tap": _of(full, bench.tap(full)),
            "tap, INCREMENTAL": _of(full, incremental(full)),
            "tap, a stream map": _of(
                full, bench.tap(full, stream_maps=maps), rounds=bench.peer_rounds
            ),
        }
    )
    _print_programs(runs, "tap")
    bench.goal("INCREMENTAL: contacts/s of CPU", runs["tap, INCREMENTAL"].speed, at_least=60_000)


def network(bench: Bench) -> None:
    """Wall time behind a slow network: download and decoding at once."""
    full = bench.export(parts=8)
    runs = bench.measure(
        {
            "start": _start(bench),
            "tap": _of(full, bench.tap(full)),
            f"tap, {_THROTTLE} MB/s": _of(full, bench.tap(full, rate=_THROTTLE)),
        }
    )
    start, free, slow = runs.values()
    download = full.gzip_bytes / _MB / _THROTTLE
    _print_table(
        ("", "s wall"),
        [
            ("start alone", f"{start.wall:.2f}"),
            (f"download alone, {full.gzip_bytes / _MB:.0f} MB", f"{download:.2f}"),
            ("tap, network not limited", f"{free.wall:.2f}"),
            (f"tap, {_THROTTLE} MB/s", f"{slow.wall:.2f}"),
        ],
    )
    bench.goal(
        "network: tap / the longer of (start and download) and tap without limit",
        median(
            slowed.wall / max(began.wall + download, unlimited.wall)
            for began, unlimited, slowed in zip(start.each, free.each, slow.each, strict=True)
        ),
        at_most=1.15,
    )


def growth(bench: Bench) -> None:
    """How the tap grows with contacts and custom fields; one run each."""
    top = bench.contacts
    sizes = ((top // 100, 1), (top // 10, 1), (top, 1), (top * 2, 8))
    rows = [
        _grown(bench, contacts, number, parts)
        for number in (5, 50, 500)
        for contacts, parts in sizes
    ]
    _print_table(
        ("contacts", "custom fields", "s CPU", "s wall", "contacts/s of CPU", "peak MB"), rows
    )


def _grown(bench: Bench, contacts: int, number: int, parts: int) -> tuple[str, ...]:
    each = bench.export(contacts, fields=number, parts=parts)
    (runs,) = bench.measure({each.folder.name: _of(each, bench.tap(each))}, 1).values()
    figures = f"{runs.cpu:.2f}", f"{runs.wall:.2f}", f"{runs.speed:,.0f}", f"{runs.peak:.0f}"
    return f"{contacts:,}", str(number), *figures


def batch(bench: Bench) -> None:
    """Speed of BATCH files, gzipped and not."""
    full, small = bench.export(), bench.export(1000)
    programs = {"tap, RECORD": _of(full, bench.tap(full))}
    for compression in ("gzip", "none"):
        tried, root = bench.folder(), bench.folder()
        command = bench.tap(small, batch_config=_batch_config(tried, compression))
        subprocess.run(command, capture_output=True, check=True)
        _expect(command, _lines_in(tried), small)
        command = bench.tap(full, batch_config=_batch_config(root, compression))
        programs[f"tap, BATCH, {compression}"] = _of(full, command)
    _print_programs(bench.measure(programs), "tap, RECORD")


SUBJECTS: dict[str, Callable[[Bench], None]] = {
    "json": json_records,
    "csv": csv_records,
    "memory": memory,
    "startup": startup,
    "fields": fields,
    "slow": slow_path,
    "network": network,
    "growth": growth,
    "batch": batch,
}


# --- what subjects share --------------------------------------------------------------------


def _of(export_: Export, command: Sequence[str], rounds: int | None = None) -> Program:
    return Program(command, export_.contacts, rounds)


def _check(command: Sequence[str], of: Export, bench: Bench) -> None:
    _expect(command, records(command, bench.work), of)


def _expect(command: Sequence[str], found: int, of: Export) -> None:
    """A program that leaves contacts out would be fast."""
    if found != of.contacts:
        raise RuntimeError(f"{' '.join(command)} gave {found} records of {of.contacts}")


def _start(bench: Bench) -> Program:
    """The tap until the POST: the server refuses, and that ends it."""
    nothing = {"api_key": "none", "api_url": f"{bench.url}/nothing"}
    return Program([*_TAP, "--config", str(bench.file(nothing))], code=1)


def _incremental_catalog(bench: Bench, of: Export) -> Path:
    done = subprocess.run(bench.tap(of, "--discover"), capture_output=True, check=True)
    catalog = json.loads(done.stdout)
    for entry in catalog["streams"][0]["metadata"]:
        if not entry["breadcrumb"]:
            entry["metadata"]["replication-method"] = "INCREMENTAL"
    return bench.file(catalog)


def _batch_config(root: Path, compression: str) -> dict[str, Any]:
    return {
        "encoding": {"format": "jsonl", "compression": compression},
        "storage": {"root": root.as_uri()},
    }


def _lines_in(folder: Path) -> int:
    files = (path.read_bytes() for path in folder.iterdir())
    plain = (gzip.decompress(file) if file[:2] == b"\x1f\x8b" else file for file in files)
    return sum(text.count(b"\n") for text in plain)


def _sdk_config(bench: Bench, of: Export) -> Path:
    return bench.file({"api_url": bench.api_url(of)})


def _peers(bench: Bench, full: Export) -> dict[str, Program]:
    """What others do, in fewer rounds; what does not install is left out."""
    programs = {
        "plain script": _of(
            full, peers.plain_script(bench.api_url(full), "json"), rounds=bench.peer_rounds
        ),
        "SDK tap, defaults": _of(
            full, peers.sdk_tap(_sdk_config(bench, full)), rounds=bench.peer_rounds
        ),
    }
    if python := peers.environment(bench.data, peers.DLT):
        some = bench.export(max(2 * _HANDFUL, full.contacts // _DLT_SHARE))
        few = bench.export(_HANDFUL)
        for name, each in (("dlt", some), ("dlt" + _START, few)):
            command = peers.dlt(python, each, bench.folder())
            programs[name] = _of(each, command, rounds=bench.peer_rounds)
    if python := peers.environment(bench.data, peers.AIRBYTE):
        some = bench.export(max(2 * _HANDFUL, full.contacts // _AIRBYTE_SHARE), file_type="csv")
        few = bench.export(_HANDFUL, file_type="csv")
        airbyte = "Airbyte source-sendgrid, CSV"
        for name, each in ((airbyte, some), (airbyte + _START, few)):
            command = peers.airbyte(python, bench.api_url(each), bench.folder())
            programs[name] = _of(each, command, rounds=1)
    return programs


def _print_programs(runs: dict[str, Runs], base: str) -> None:
    _print_table(
        (
            *("", "contacts", "s CPU", "spread", "s CPU of a million", "contacts/s of CPU"),
            *(f"x {base}", "peak MB"),
        ),
        [
            (
                name,
                f"{each.contacts:,}",
                f"{each.cpu:.2f}",
                each.spread,
                f"{each.cpu_of_a_million:.2f}",
                f"{each.speed:,.0f}",
                f"{median(each.ratios(runs[base])):.2f}",
                f"{each.peak:.0f}",
            )
            for name, each in runs.items()
        ],
    )


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        [cell.ljust(widths[0]) if i == 0 else cell.rjust(widths[i]) for i, cell in enumerate(row)]
        for row in (head, *rows)
    ]
    ruler = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    for cells in (lines[0], ruler, *lines[1:]):
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def _picture(bench: Bench) -> str:
    bars = bench.bars
    floors = [
        (label, bars[key])
        for key, label in (
            ("JSON floor", "floor, JSON: no types, no HTTP"),
            ("JSON tap", "tap, JSON"),
            ("CSV floor", "floor, CSV: no types, no HTTP"),
            ("CSV tap", "tap, CSV"),
        )
        if key in bars
    ]
    peers_ = [
        (key.removeprefix("JSON "), value)
        for key, value in bars.items()
        if key.startswith("JSON ") and "floor" not in key
    ]
    unit = "s"
    return draw(
        "CPU time for a million contacts",
        [
            Panel("CPU for 1,000,000 contacts: tap and floor", floors, unit),
            Panel(
                "CPU for 1,000,000 JSON contacts, on another scale: tap and others", peers_, unit
            ),
        ],
        [f"{machine()}, {datetime.now(timezone.utc):%Y-%m-%d}", "; ".join(bench.notes)],
    )


# --- command line ---------------------------------------------------------------------------


def main() -> None:
    """Measure what the command line asks for."""
    options = _options()
    options.data.mkdir(parents=True, exist_ok=True)
    print(f"{machine()}, {platform.system()}, {datetime.now(timezone.utc):%Y-%m-%d}")
    with (
        _serving(options.data) as url,
        tempfile.TemporaryDirectory(prefix="work-", dir=options.data) as work,
    ):
        bench = Bench(options, url, Path(work))
        for name in options.only:
            subject = SUBJECTS[name]
            print(f"\n## {name}: {subject.__doc__}\n", flush=True)
            subject(bench)
    print("\n## goals\n", *bench.goals, sep="\n")
    if options.picture:
        options.picture.parent.mkdir(exist_ok=True)
        options.picture.write_text(_picture(bench))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--contacts", type=int, default=1_000_000, help="how many are read")
    parser.add_argument("--rounds", type=int, default=5, help="how often each program runs")
    parser.add_argument("--peer-rounds", type=int, default=2, help="how often slow ones do")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(tempfile.gettempdir()) / "tap-sendgrid-contacts-benchmarks",
        help="where exports and environments are kept",
    )
    parser.add_argument("--picture", type=Path, help="where to write the SVG; needs json and csv")
    return parser.parse_args()


@contextmanager
def _serving(data: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.server", str(data)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        if server.stdout is None:
            raise RuntimeError("the export server has no stdout")
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
