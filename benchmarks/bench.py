"""Environment of the benchmark cases: exports, command lines of the tap, validated runs."""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.checkout import CURRENT, Checkout
from benchmarks.exports import Export, get_export
from benchmarks.measure import Program, Result, run_interleaved, run_output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.report import Report

# Small enough for a validation run before each measurement.
SAMPLE_CONTACTS = 1000
_GZIP_MAGIC = b"\x1f\x8b"


class Mode(Enum):
    """How the tap emits contacts."""

    FULL_TABLE = "FULL_TABLE"
    INCREMENTAL = "INCREMENTAL"
    STREAM_MAP = "stream map"
    BATCH_GZIP = "BATCH, gzip"
    BATCH_NONE = "BATCH, uncompressed"
    PARQUET = "BATCH, Parquet"
    ARROW = "BATCH, Arrow"

    @property
    def batch_encoding(self) -> dict[str, str] | None:
        """Encoding of BATCH files; None if the mode emits RECORD messages."""
        return {
            Mode.BATCH_GZIP: {"format": "jsonl", "compression": "gzip"},
            Mode.BATCH_NONE: {"format": "jsonl", "compression": "none"},
            Mode.PARQUET: {"format": "parquet"},
            Mode.ARROW: {"format": "arrow"},
        }.get(self)


class Workload(NamedTuple):
    """A task for the tap.

    Attributes:
        export: The export to read. With None the server rejects the export request, which ends
            the tap: the run is start-up only.
        mode: How to emit the contacts.
        rate_limit: Download rate limit in MB/s.
    """

    export: Export | None
    mode: Mode = Mode.FULL_TABLE
    rate_limit: int | None = None


STARTUP = Workload(None)


@dataclass
class Bench:
    """Settings and helpers shared by the benchmark cases.

    Attributes:
        contacts: Number of contacts per run; some cases use a multiple or a fraction.
        rounds: Number of rounds.
        peer_rounds: Number of rounds for slow peers.
        data_dir: Directory of cached exports and environments.
        work_dir: Directory of temporary files.
        server_url: Base URL of the export server.
        report: Collects figures and threshold checks.
    """

    contacts: int
    rounds: int
    peer_rounds: int
    data_dir: Path
    work_dir: Path
    server_url: str
    report: Report
    _validated: set[tuple[Workload, Checkout]] = field(default_factory=set)

    def export(self, contacts: int | None = None, **options: Any) -> Export:
        """Return an export; the options are those of `get_export`."""
        return get_export(self.data_dir, contacts or self.contacts, **options)

    def sample(self, export: Export) -> Export:
        """Return a small export of the same shape."""
        return self.export(
            SAMPLE_CONTACTS, file_type=export.file_type, custom_fields=export.custom_fields
        )

    def make_dir(self) -> Path:
        """Create an empty directory."""
        return Path(tempfile.mkdtemp(dir=self.work_dir))

    def write_json(self, content: object) -> Path:
        """Write JSON to a new file."""
        path = self.make_dir() / "content.json"
        path.write_text(json.dumps(content))
        return path

    def api_url(self, export: Export | None, rate_limit: int | None = None) -> str:
        """Return the API URL that serves an export, or that rejects requests if it is None."""
        name = export.directory.name if export else "missing"
        return f"{self.server_url}/{name}{f'@{rate_limit}' if rate_limit else ''}"

    def measure(
        self, programs: Mapping[str, Program], rounds: int | None = None
    ) -> dict[str, Result]:
        """Run programs interleaved, in the configured number of rounds by default."""
        return run_interleaved(programs, rounds or self.rounds, self.work_dir)

    def tap(self, workload: Workload, checkout: Checkout = CURRENT) -> Program:
        """Return the program for a workload, after a sample run that must emit every contact."""
        sample = self.sample(workload.export) if workload.export else None
        self._validate_tap(Workload(sample, workload.mode), checkout)
        return self._build_tap(workload, checkout, self.make_dir())

    def taps(self, workloads: Mapping[str, Workload]) -> dict[str, Program]:
        """Return the programs for several workloads."""
        return {name: self.tap(workload) for name, workload in workloads.items()}

    def validated(self, build: Callable[[Export], Program], export: Export) -> Program:
        """Return a peer's program, after a sample run that must emit every contact."""
        self._validate_records(build(self.sample(export)))
        return build(export)

    def output_bytes(self, workload: Workload) -> float:
        """Estimate the size of a workload's output from that of a sample."""
        if not workload.export:
            return 0
        sample = self.sample(workload.export)
        output = run_output(self.tap(workload._replace(export=sample)), self.work_dir)
        return len(output) / sample.contacts * workload.export.contacts

    def _validate_tap(self, workload: Workload, checkout: Checkout) -> None:
        if (workload, checkout) in self._validated:
            return
        batch_dir = self.make_dir()
        program = self._build_tap(workload, checkout, batch_dir)
        if not workload.export:
            run_output(program, self.work_dir)
        elif encoding := workload.mode.batch_encoding:
            run_output(program, self.work_dir)
            check_count(program, self._count_batch_contacts(encoding["format"], batch_dir))
        else:
            self._validate_records(program)
        self._validated.add((workload, checkout))

    def _count_batch_contacts(self, file_format: str, batch_dir: Path) -> int:
        if file_format == "jsonl":
            return sum(map(_count_lines, batch_dir.iterdir()))
        # Not in this process: measured programs start with its peak memory.
        code = "from pyarrow.dataset import dataset; import sys; "
        code += "print(dataset(sys.argv[1], format=sys.argv[2]).count_rows())"
        count = Program([sys.executable, "-c", code, str(batch_dir), file_format])
        return int(run_output(count, self.work_dir))

    def _validate_records(self, program: Program) -> None:
        lines = run_output(program, self.work_dir).splitlines()
        check_count(program, sum(b'"RECORD"' in line for line in lines))

    def _build_tap(self, workload: Workload, checkout: Checkout, batch_dir: Path) -> Program:
        export, mode = workload.export, workload.mode
        config: dict[str, Any] = {
            "api_key": "none",
            "api_url": self.api_url(export, workload.rate_limit),
        }
        if export:
            config["file_type"] = export.file_type
        if mode is Mode.STREAM_MAP:
            config["stream_maps"] = {"contacts": {"email": "email"}}
        if mode.batch_encoding:
            config["batch_config"] = {
                "encoding": mode.batch_encoding,
                "storage": {"root": batch_dir.as_uri()},
            }
        command = [*checkout.command, "--config", str(self.write_json(config))]
        if mode is Mode.INCREMENTAL:
            discovery = Program([*command, "--discover"], env=checkout.env)
            catalog = json.loads(run_output(discovery, self.work_dir))
            command += ["--catalog", str(self.write_json(_as_incremental(catalog)))]
        if not export:
            return Program(command, env=checkout.env, exit_code=1)
        return Program(command, export.contacts, checkout.env)


def _as_incremental(catalog: dict[str, Any]) -> dict[str, Any]:
    for entry in catalog["streams"][0]["metadata"]:
        if not entry["breadcrumb"]:
            entry["metadata"]["replication-method"] = "INCREMENTAL"
    return catalog


def _count_lines(file: Path) -> int:
    content = file.read_bytes()
    if content.startswith(_GZIP_MAGIC):
        content = gzip.decompress(content)
    return content.count(b"\n")


def check_count(program: Program, found: int) -> None:
    """Require all contacts: a program that omits some would appear fast."""
    if found != program.contacts:
        raise RuntimeError(
            f"{' '.join(program.command)}: {found} contacts emitted, expected {program.contacts}"
        )
