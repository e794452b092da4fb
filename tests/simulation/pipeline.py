"""A pipeline: settings of the tap, an orchestrator that keeps its state, and a target."""

from __future__ import annotations

import copy
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tests import batch_files
from tests.simulation.process import Interruption
from tests.simulation.server import API_KEY

if TYPE_CHECKING:
    import random
    from pathlib import Path

Key = tuple[str, str]  # contact and source

_SIGNALS = (
    *((signal.SIGKILL,), (signal.SIGKILL,), (signal.SIGTERM,), (signal.SIGINT,), ()),
    *((signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGTERM)),
)


def draw_interruption(rng: random.Random) -> Interruption | None:
    if rng.random() < 0.5:
        return None
    signals = rng.choice(_SIGNALS)
    where = (
        rng.choice(("out", "out", "out", "log", "api", "storage", "sleep")) if signals else "out"
    )
    span = {"out": 80, "log": 30, "api": 20, "storage": 8, "sleep": 6}[where]
    return Interruption(where, int(rng.random() ** 2 * span), signals, torn=rng.random() < 0.5)


def draw_config(rng: random.Random, folder: Path, audiences: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "api_key": API_KEY,
        "file_type": rng.choice(("json", "csv")),
        "separate_exports": rng.random() < 0.4,
        "poll_timeout": rng.choice((20, 200, 3600)),
        "allow_count_mismatch": rng.random() < 0.15,
        "on_invalid_value": "null" if rng.random() < 0.3 else "fail",
    }
    if rng.random() < 0.5:
        for type_, setting in (("list", "list_ids"), ("segment", "segment_ids")):
            ids = sorted(key for key, each in audiences.items() if each[0] == type_)
            config[setting] = rng.sample(ids, rng.randint(0, len(ids)))
    if rng.random() < 0.3:
        config["max_file_size"] = 1
    output = rng.choice(("records", "records", "records", "mapped", "batch", "batch"))
    if output == "mapped":
        config["stream_maps"] = {"contacts": {"first_name": "first_name"}}
    elif output == "batch":
        format_ = rng.choice(("jsonl", "jsonl", "parquet"))
        encoding = {"format": format_}
        if format_ == "jsonl":
            encoding["compression"] = rng.choice(("gzip", "none"))
        config["batch_config"] = {
            "encoding": encoding,
            "storage": {"root": f"file://{folder}/batches"},
            "batch_size": rng.choice((2, 5, 1000)),
        }
    if "batch_config" not in config and rng.random() < 0.6:
        config["emit_activate_version_messages"] = True
    if rng.random() < 0.5:
        config["max_shrink_percent"] = rng.choice((0, 10, 100))
    return config


def choose_incremental(catalog: dict[str, Any]) -> dict[str, Any]:
    """Choose INCREMENTAL in a catalog's metadata, as users do."""
    catalog = copy.deepcopy(catalog)
    (stream,) = catalog["streams"]
    for entry in stream["metadata"]:
        if not entry["breadcrumb"]:
            entry["metadata"]["replication-method"] = "INCREMENTAL"
    return catalog


def merge_states(old: Any, new: Any) -> Any:  # noqa: ANN401 - any JSON
    """Merge states as Meltano does for a full refresh: deeply, but lists are replaced."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**old, **{key: merge_states(old.get(key), value) for key, value in new.items()}}


class Row(NamedTuple):
    """A row of the target: a record and its table version."""

    record: dict[str, Any]
    version: int | None


@dataclass
class SimulatedTarget:
    """A target that keeps rows, and returns states once what is before them is durable.

    Attributes:
        flush_rows: Rows after which it flushes.
        returns: Whether it returns `each` state, the `last` one at its end only, or after a load
            without records the `first` one.
        deleted: Rows that the last load deleted.
    """

    flush_rows: int
    returns: str
    rows: dict[Key, Row] = field(default_factory=dict)
    deleted: list[Key] = field(default_factory=list)

    def load(self, lines: list[dict[str, Any]], *, dies: bool) -> list[dict[str, Any]]:
        """Load messages.

        Args:
            lines: The messages.
            dies: Whether it dies after them.

        Returns:
            The states that it has returned by then.
        """
        self.deleted = []
        pending: list[tuple[Key, Row]] = []
        states: list[dict[str, Any]] = []
        returned: list[dict[str, Any]] = []
        has_rows = False
        for line in lines:
            if line["type"] == "STATE":
                states.append(line["value"])
            for record in records_of(line):
                key = (record["contact_id"], record.get("source_id") or "")
                pending.append((key, Row(record, line.get("version"))))
                has_rows = True
            if line["type"] == "ACTIVATE_VERSION":
                self._flush(pending)
                self._activate(line["version"])
            if len(pending) >= self.flush_rows:
                self._flush(pending)
            if self.returns == "each" and line["type"] == "STATE":
                self._flush(pending)
                returned.append(states[-1])
        if dies:
            return returned
        self._flush(pending)
        if self.returns == "first" and not has_rows:
            return states[:1]
        return states if self.returns == "each" else states[-1:]

    def _flush(self, pending: list[tuple[Key, Row]]) -> None:
        self.rows |= dict(pending)
        pending.clear()

    def _activate(self, version: int) -> None:
        self.deleted += [key for key, row in self.rows.items() if row.version != version]
        self.rows = {key: row for key, row in self.rows.items() if row.version == version}


def records_of(line: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records of a message."""
    if line["type"] == "RECORD":
        return [line["record"]]
    if line["type"] != "BATCH":
        return []
    return batch_files.records_of(line)
