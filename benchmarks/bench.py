"""Environment of the benchmark cases: exports, command lines of the tap, validated runs."""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.checkout import CURRENT, Checkout
from benchmarks.exports import CachedExport, get_export
from benchmarks.measure import Program, Result, run_interleaved, run_output

if TYPE_CHECKING:
    from collections.abc import Mapping

# Small enough for a validation run before each measurement.
_SAMPLE_CONTACTS = 1000
_GZIP_MAGIC = b"\x1f\x8b"
_HASHED = ["email", "alternate_emails", "phone_number"]
_FLOORS_DIR = Path(__file__).parent / "floors"


class Mode(NamedTuple):
    """How the tap emits contacts.

    Attributes:
        config: Settings of the tap, without the storage of BATCH files.
        is_incremental: Whether the catalog selects INCREMENTAL.
        hides: Text that the output must not contain.
    """

    config: Mapping[str, Any] = MappingProxyType({})
    is_incremental: bool = False
    hides: bytes = b""


def _map(email: str) -> dict[str, Any]:
    return {"stream_maps": {"contacts": {"email": email}}}


def _batch(**encoding: str) -> dict[str, Any]:
    return {"batch_config": {"encoding": encoding}}


FULL_TABLE = "FULL_TABLE"
MODES = {
    FULL_TABLE: Mode(),
    "INCREMENTAL": Mode(is_incremental=True),
    "stream map": Mode(_map("email")),
    "BATCH, gzip": Mode(_batch(format="jsonl", compression="gzip")),
    "BATCH, uncompressed": Mode(_batch(format="jsonl", compression="none")),
    "BATCH, Parquet": Mode(_batch(format="parquet")),
    "BATCH, Arrow": Mode(_batch(format="arrow")),
    "hash_columns": Mode({"hash_columns": _HASHED, "hash_key": "key"}, hides=b"@news."),
    "stream map, sha256(email)": Mode(_map("sha256(email)"), hides=b"@news."),
}


class Workload(NamedTuple):
    """A task for the tap.

    Attributes:
        export: The export to read. With None the server rejects the export request, which ends
            the tap: the run is start-up only.
        mode: How to emit the contacts, a name in `MODES`.
        rate_limit: Download rate limit in MB/s.
    """

    export: CachedExport | None
    mode: str = FULL_TABLE
    rate_limit: int | None = None


STARTUP = Workload(None)


@dataclass
class Bench:
    """Settings and helpers shared by the benchmark cases.

    Attributes:
        contacts: Number of contacts per run; some cases use a multiple or a fraction.
        rounds: Number of rounds.
        data_dir: Directory of cached exports and environments.
        work_dir: Directory of temporary files.
        server_url: Base URL of the export server.
    """

    contacts: int
    rounds: int
    data_dir: Path
    work_dir: Path
    server_url: str
    _validated: set[tuple[Workload, Checkout]] = field(default_factory=set)

    def export(self, contacts: int | None = None, **options: Any) -> CachedExport:
        """Return an export; the options are those of `get_export`."""
        return get_export(self.data_dir, contacts or self.contacts, **options)

    def sample(self, export: CachedExport) -> CachedExport:
        """Return a small export of the same shape."""
        return self.export(
            _SAMPLE_CONTACTS, file_type=export.file_type, custom_fields=export.custom_fields
        )

    def make_dir(self) -> Path:
        """Create an empty directory."""
        return Path(tempfile.mkdtemp(dir=self.work_dir))

    def write_json(self, content: object) -> Path:
        """Write JSON to a new file."""
        path = self.make_dir() / "content.json"
        path.write_text(json.dumps(content))
        return path

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

    def floor(self, file_type: str) -> Program:
        """Return the program that only decompresses, decodes and encodes."""
        export = self.export(file_type=file_type)
        sample, program = (
            Program(
                [sys.executable, str(_FLOORS_DIR / f"{file_type}_floor.py"), *map(str, each.parts)],
                each.contacts,
            )
            for each in (self.sample(export), export)
        )
        check_count(sample, _count_records(run_output(sample, self.work_dir)))
        return program

    def _validate_tap(self, workload: Workload, checkout: Checkout) -> None:
        if (workload, checkout) in self._validated:
            return
        batch_dir = self.make_dir()
        program = self._build_tap(workload, checkout, batch_dir)
        output = run_output(program, self.work_dir)
        mode = MODES[workload.mode]
        if workload.export and "batch_config" in mode.config:
            file_format = mode.config["batch_config"]["encoding"]["format"]
            check_count(program, self._count_in_files(file_format, batch_dir))
        elif workload.export:
            check_count(program, _count_records(output))
        if mode.hides and mode.hides in output:
            raise RuntimeError(f"{workload.mode}: {mode.hides.decode()} is in the output")
        self._validated.add((workload, checkout))

    def _count_in_files(self, file_format: str, batch_dir: Path) -> int:
        if file_format == "jsonl":
            return sum(map(_count_lines, batch_dir.iterdir()))
        # Not in this process: measured programs start with its peak memory.
        code = "from pyarrow.dataset import dataset; import sys; "
        code += "print(dataset(sys.argv[1], format=sys.argv[2]).count_rows())"
        count = Program([sys.executable, "-c", code, str(batch_dir), file_format])
        return int(run_output(count, self.work_dir))

    def _build_tap(self, workload: Workload, checkout: Checkout, batch_dir: Path) -> Program:
        export, mode = workload.export, MODES[workload.mode]
        name = export.directory.name if export else "missing"
        limit = f"@{workload.rate_limit}" if workload.rate_limit else ""
        config = {"api_key": "none", "api_url": f"{self.server_url}/{name}{limit}", **mode.config}
        if export:
            config["file_type"] = export.file_type
        if "batch_config" in config:
            storage = {"root": batch_dir.as_uri()}
            config["batch_config"] = config["batch_config"] | {"storage": storage}
        command = [*checkout.command, "--config", str(self.write_json(config))]
        if mode.is_incremental:
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


def _count_records(output: bytes) -> int:
    return sum(b'"RECORD"' in line for line in output.splitlines())


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
