"""One world from its seed: runs with faults and kills, then a calm, then what must hold."""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.simulation.exports import DAMAGES, LIFETIME, find_exports
from tests.simulation.invariants import INVARIANTS
from tests.simulation.pipeline import (
    SimulatedTarget,
    choose_incremental,
    draw_config,
    draw_interruption,
    merge_states,
)
from tests.simulation.process import Interruption, SimulatedRun, run_tap
from tests.simulation.server import SimulatedServer

if TYPE_CHECKING:
    from collections.abc import Callable

START = 1_790_000_000.0

# A run may take an export of two seconds ago for its own: not with other fields, or another table.
_SECONDS_APART = 3


@dataclass
class Outcome:
    """What became of a world."""

    seed: str
    story: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    runs: int = 0
    kills: int = 0
    signals: int = 0
    successes: int = 0


class Focus(NamedTuple):
    """Which worlds to simulate: what breaks in few of them needs many otherwise.

    Attributes:
        damages: What can be wrong with an export.
        deletes: Whether pipelines delete rows, by ACTIVATE_VERSION.
    """

    damages: tuple[str, ...] = DAMAGES
    deletes: bool = False


class Simulation:
    """A world."""

    def __init__(
        self, seed: str, folder: Path, mutate: Callable[[], object] | None, focus: Focus
    ) -> None:
        self.outcome = Outcome(seed)
        self._folder = folder
        self._mutate = mutate
        self._rng = rng = random.Random(seed)
        self._story = self.outcome.story
        self._catalog_mode = rng.choice(("none", "fresh", "fresh", "stale"))
        self._is_incremental = self._catalog_mode != "none" and rng.random() < 0.6
        self._field_rate = rng.choice((0.0, 0.0, 0.3))
        self._refresh_rate = rng.choice((0.0, 0.0, 0.2))
        invalid_values = rng.random() < 0.3
        self.server = SimulatedServer(seed, START, self._story, invalid_values, focus.damages)
        audiences = self.server.account.audiences
        self.config = draw_config(rng, folder, audiences)
        if focus.deletes:
            self.config.pop("batch_config", None)
            self.config["emit_activate_version_messages"] = True
        if self.server.invalid_values:
            self.config["on_invalid_value"] = "null"
        self.target = SimulatedTarget(
            rng.choice((1, 5, 1000)), rng.choice(("each", "each", "last", "first"))
        )
        self._catalog: dict[str, Any] | None = None
        self._catalog_fields: dict[str, Any] = {}
        self._state: dict[str, Any] = {}
        self._must_refresh = False
        self.fields = dict(self.server.account.fields)
        self.fields_at_start = dict(self.fields)
        # Whether the target has returned a state of the last run.
        self.has_returned = False
        self.owners: dict[str, str] = {}
        self.activated: set[int] = set()
        self.last_count: int | None = None
        # Contacts that an export lacked where that could not be known, or did not matter to the
        # user: INCREMENTAL misses them until they change.
        self.forgiven: set[tuple[str, str]] = set()
        # Whether the last error has promised that the next run starts a new export.
        self.promised = False
        self._write("config.json", self.config)
        described = {**self.config, "incremental": self._is_incremental}
        described |= {"catalog": self._catalog_mode, "target": self.target.returns}
        self._story.append(json.dumps(described))

    def sources(self) -> list[str]:
        """Return what the pipeline has exports of."""
        ids = [*self.config.get("list_ids", ()), *self.config.get("segment_ids", ())]
        if not self.config["separate_exports"]:
            return [",".join(sorted(ids))]
        audiences = self.server.account.audiences
        return ids or [key for key, each in audiences.items() if each[0] == "list"]

    def run(self) -> Outcome:
        """Let the world pass."""
        for _ in range(self._rng.randint(1, 6)):
            self._run(draw_interruption(self._rng))
            if self.outcome.violations:
                return self.outcome
        self.server.calm = True
        self._story.append("calm")
        if self._recover():
            self.server.account.change(self._rng, self.server.now + self.server.skew)
            self._recover()
        return self.outcome

    def _recover(self) -> bool:
        """Run until it succeeds: a damaged file is read twice before its export is given up."""
        for _ in range(3):
            run = self._run(None)
            if self.outcome.violations:
                return False
            if run.code == 0:
                return True
            if self.target.returns == "first":
                # It never keeps the state in which an export without records is given up.
                self.server.now += LIFETIME
        self.outcome.violations.append("progress: no success, though the faults have ended")
        return False

    def _run(self, interruption: Interruption | None) -> SimulatedRun:
        server, rng = self.server, self._rng
        # In the calm, no export is pending for longer than `poll_timeout`.
        server.now += 120 * server.calm + rng.choice((0, 1, 1, 60, 2400, 6 * 3600, 13 * 3600))
        if rng.random() < 0.5:
            server.account.change(rng, server.now + server.skew)
        if rng.random() < self._field_rate:
            server.now += _SECONDS_APART
            server.account.change_fields(rng)
        self._discover()
        is_refresh = self._must_refresh or (rng.random() < self._refresh_rate and not server.calm)
        if is_refresh:
            # Why else would one refresh?
            self._empty_table()
            server.now += _SECONDS_APART
        state = {} if is_refresh else self._state
        arguments = ["--config", str(self._folder / "config.json")]
        if state:
            arguments += ["--state", self._write("state.json", state)]
        if self._catalog:
            arguments += ["--catalog", self._write("catalog.json", self._catalog)]
        self.fields |= server.account.fields
        self.fields_at_start = dict(server.account.fields)
        settings = json.dumps([self.config, self._catalog_fields, self.fields_at_start])
        server.start_run(settings, json.dumps(state))
        self._story.append(f"run {server.run} refresh={is_refresh} {interruption} {self._state}")
        was_promised, self.promised = self.promised, False
        run = run_tap(server, arguments, interruption, self._mutate)
        if (
            was_promised
            and server.downloads_before_creation
            and not self.config["separate_exports"]
        ):
            self.outcome.violations.append("promises: no new export, though the last error said so")
        kept = find_exports(run.out.decode().rpartition('"STATE"')[2])
        for export in server.exports.values():
            if "truncated gzip" in run.log and export.id in kept:
                # It has noticed: the next run can resume it.
                export.reasons = [each for each in export.reasons if each != "cut silently"]
        self.fields |= server.account.fields
        self._load(run, is_refresh=is_refresh)
        for invariant in INVARIANTS:
            messages = [f"{invariant.__name__}: {text}" for text in invariant(self, run)]
            self.outcome.violations += messages
        self._count(run)
        return run

    def _empty_table(self) -> None:
        for each in (self.target.rows, self.owners, self.activated, self.forgiven):
            each.clear()
        self.server.finished.clear()
        self.server.unfinished_since = None
        self.last_count = None

    def _discover(self) -> None:
        """Discover the catalog, when the pipeline does so."""
        server = self.server
        is_due = not self._catalog or (
            self._catalog_mode == "fresh" and self._catalog_fields != server.account.fields
        )
        if self._catalog_mode == "none" or not is_due:
            return
        was_calm, server.calm = server.calm, True
        arguments = ["--config", str(self._folder / "config.json"), "--discover"]
        server.start_run("", "")
        run = run_tap(server, arguments)
        assert run.code == 0, run.log
        server.calm = was_calm
        self._catalog = json.loads(run.out)
        self._catalog_fields = dict(server.account.fields)
        if self._is_incremental:
            self._catalog = choose_incremental(json.loads(run.out))

    def _load(self, run: SimulatedRun, *, is_refresh: bool) -> None:
        """Have the target load what the tap has written, and keep the states it returns."""
        lines = run.out.splitlines(keepends=True)
        is_torn = bool(lines) and not lines[-1].endswith(b"\n")
        run.lines = [json.loads(line) for line in lines if line.endswith(b"\n")]
        # Targets fail on a torn line.
        dies = is_torn or run.is_closed
        states = self.target.load(run.lines, dies=dies)
        kinds = [line["type"] for line in run.lines]
        after_schema = run.lines[kinds.index("SCHEMA") :] if "SCHEMA" in kinds else []
        self.has_returned = any(line.get("value") in states for line in after_schema)
        for state in states:
            self._state = merge_states(self._state, state) if is_refresh else state
        if is_refresh:
            self._must_refresh = not states
        is_last = bool(states) and states[-1] == run.lines[-1].get("value")
        self.promised = (
            is_last and run.code == 1 and "starts a new export" in run.log.rpartition("ERROR")[2]
        )
        emitted = [line["value"] for line in run.lines if line["type"] == "STATE"]
        self._note_finished(run, has_state=states[-1:] == emitted[-1:] != [])
        if run.code == 0 and states and not dies and states[-1] == run.lines[-1].get("value"):
            self._is_saved = True
        else:
            self._is_saved = False

    def _note_finished(self, run: SimulatedRun, *, has_state: bool) -> None:
        """Note which exports an interrupted run has finished: they have left its last state."""
        server = self.server
        is_failed = server.rejected or any(each.reasons for each in server.exports.values())
        is_restarted = run.code == 1 or '"finished"' not in json.dumps(self._state)
        if is_failed and is_restarted:
            # After a failure that is not an interruption, all are read again.
            server.finished.clear()
        elif has_state and run.code != 0:
            earlier = find_exports(server.state + run.out.decode())
            gone = earlier - find_exports(json.dumps(self._state))
            left = {source for source, export in server.ready.items() if export.id in gone}
            if (left | server.finished).issuperset(self.sources()):
                # It was interrupted after its last state.
                server.finished.clear()
            else:
                server.finished |= {each for each in left if not server.ready[each].reasons}

    def _count(self, run: SimulatedRun) -> None:
        """Note what a run was, for the next ones and for the story."""
        outcome, server = self.outcome, self.server
        outcome.runs += 1
        outcome.kills += run.is_killed
        outcome.signals += run.code > 128
        outcome.successes += run.code == 0
        kinds = [line["type"] for line in run.lines]
        counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
        self._story.append(f"  exit {run.code}, {counts}, saved: {self._is_saved}")
        self._story.extend(f"  | {line}" for line in run.log.splitlines())
        for export in server.ready.values() if self._is_incremental else ():
            rows = [row["contact_id"] for part in export.rows for row in part]
            if self.config["allow_count_mismatch"] or len(rows) >= (export.count or 0):
                source = export.source if self.config["separate_exports"] else ""
                self.forgiven |= {(key, source) for key in export.truth.keys() - set(rows)}
        if self._is_saved:
            exports = [server.ready.get(each) for each in self.sources()]
            # Unknown if an earlier run has read some of them.
            self.last_count = None
            if all(exports):
                self.last_count = sum(len(export.truth) for export in exports if export)
            server.fresh.clear()
            server.finished.clear()
            server.unfinished_since = None
            self.activated |= {
                line["version"] for line in run.lines if line["type"] == "ACTIVATE_VERSION"
            }

    def _write(self, name: str, value: object) -> str:
        path = self._folder / name
        path.write_text(json.dumps(value))
        return str(path)


def simulate(
    seed: str, mutate: Callable[[], object] | None = None, focus: Focus | None = None
) -> Outcome:
    """Simulate the world of a seed."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        simulation = Simulation(seed, Path(folder), mutate, focus or Focus())
        return simulation.run()
