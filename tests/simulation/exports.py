"""An export: what it should contain, what its files contain, and what is wrong with it."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

    from tests.simulation.account import SimulatedAccount, Version

LIFETIME = 12 * 3600

DAMAGES = (
    *("failed", "gone", "expired", "short", "surplus", "hidden", "high", "low", "uncounted"),
    *("repeated", "repeated url", "truncated", "rewritten", "vanished"),
)

_CSV_HEADER = ("EMAIL", "FIRST_NAME", "CREATED_AT", "UPDATED_AT", "CONTACT_ID")


def source_key(body: dict[str, Any]) -> str:
    return ",".join(sorted([*body.get("list_ids", ()), *body.get("segment_ids", ())]))


@dataclass
class SimulatedExport:
    """An export.

    Attributes:
        truth: What it should contain, once it is ready.
        rows: What each of its parts contains.
        damage: What is wrong with it for good; one of `DAMAGES`.
        reasons: Why a new export in its place is no waste.
        listed: Whether the tap has seen it in the list of exports.
        delivered: Whether the tap has been told its id.
    """

    id: str
    body: dict[str, Any]
    config: str
    created: float
    ready_at: float
    visible_at: float
    damage: str
    truth: dict[str, Version] = field(default_factory=dict)
    rows: list[list[Version]] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    count: int | None = None
    is_built: bool = False
    reasons: list[str] = field(default_factory=list)
    listed: bool = False
    delivered: bool = False

    @property
    def source(self) -> str:
        """Which lists and segments it is of."""
        return source_key(self.body)

    def build(self, rng: random.Random, account: SimulatedAccount) -> None:
        """Fix what is in it: changes since it was created are in it or not."""
        self.is_built = True
        before, now = self.truth, account.members(self.body)
        for id_ in sorted({*before, *now}):
            version = rng.choice((before.get(id_), now.get(id_)))
            self.truth.pop(id_, None)
            if version:
                self.truth[id_] = version
        self._divide(rng)
        self.parts = [self.encode(part, account.fields) for part in self.rows]
        if self.damage == "truncated" and self.parts:
            self.parts[0] = self.parts[0][: -rng.randint(1, 12)]
            self.reasons.append(self.damage)
        filled = [part for part, rows in zip(self.parts, self.rows, strict=True) if rows]
        is_repeated = self.damage.startswith("repeated") or len({*filled}) < len(filled)
        is_unknown = self.count is None and not self.parts
        if sum(map(len, self.rows)) < (self.count or 0) or is_repeated or is_unknown:
            self.reasons.append("incomplete")

    def _divide(self, rng: random.Random) -> None:
        """Divide the contacts among parts, with what is wrong with them."""
        damage = self.damage
        rows = list(self.truth.values())
        rng.shuffle(rows)
        lost = rng.randint(1, max(1, len(rows) // 3))
        if damage in {"short", "hidden"}:
            rows = rows[lost:]
        self.count = len(self.truth)
        if damage in {"surplus", "hidden"} and rows:
            rows += rng.choices(rows, k=lost + rng.randint(1, 3))
        if damage == "high":
            self.count += rng.randint(1, 3)
        if damage == "low":
            self.count = rng.randint(0, self.count)
        number_of_parts = min(rng.randint(1, 5), max(len(rows), rng.randint(0, 1)))
        self.rows = [rows[number::number_of_parts] for number in range(number_of_parts)]
        if damage in {"repeated", "repeated url"} and number_of_parts > 1:
            self.rows[-1] = self.rows[0]
        if damage in {"uncounted", "repeated", "repeated url"} and rng.random() < 0.6:
            self.count = None

    def encode(self, rows: list[Version], fields: dict[str, tuple[str, str]]) -> bytes:
        """Return a file with some contacts."""
        if self.body["file_type"] == "json":
            lines = [json.dumps(_json_row(row, fields), ensure_ascii=False) for row in rows]
        else:
            header = [*_CSV_HEADER, *(name for name, _ in fields.values())]
            lines = [",".join(map(_cell, header))]
            lines += [",".join(map(_cell, _csv_row(row, fields))) for row in rows]
        content = "".join(f"{line}\n" for line in lines).encode()
        return gzip.compress(content, 1, mtime=0)


def find_exports(text: str) -> set[str]:
    """Return the ids of the exports in flight, of states as text."""
    return set(re.findall(r'"export_id": ?"([^"]+)"', text))


def _json_row(row: Version, fields: dict[str, tuple[str, str]]) -> dict[str, Any]:
    custom = {name: row["custom"].get(key) for key, (name, _) in fields.items()}
    record = {**row, "custom_fields": {k: v for k, v in custom.items() if v not in {None, ""}}}
    return {k: v for k, v in record.items() if k != "custom" and v not in (None, "", {})}


def _csv_row(row: Version, fields: dict[str, tuple[str, str]]) -> list[Any]:
    return [*(row[key.lower()] for key in _CSV_HEADER), *map(row["custom"].get, fields)]


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if text else ""
