"""What must hold after every run, against what the exports held."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from tests.simulation.account import MAIL_DOMAIN
from tests.simulation.pipeline import Row, records_of
from tests.simulation.server import API_KEY, SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.simulation.account import Version
    from tests.simulation.exports import SimulatedExport
    from tests.simulation.process import SimulatedRun
    from tests.simulation.simulate import Simulation

_NUMBER_TYPES = {"number", "integer"}


def whole_lines(_: Simulation, run: SimulatedRun) -> Iterator[str]:
    """No line is torn, but by SIGKILL or a closed pipe."""
    if run.out and not run.out.endswith(b"\n") and not run.is_killed and not run.is_closed:
        yield f"torn line {run.out.splitlines()[-1][:60]!r}"


def exit_codes(_: Simulation, run: SimulatedRun) -> Iterator[str]:
    """Exit codes say what happened."""
    if run.is_hanging:
        yield "the run does not end"
        return
    allowed = {0, 1}
    if run.is_interrupted and run.interruption and run.interruption.signals:
        first = run.interruption.signals[0]
        allowed = {-first} if first == 9 else {128 + first}
        is_last = run.lines and run.lines[-1]["type"] == "STATE" and run.interruption.where == "out"
        if is_last and run.interruption.number >= len(run.lines) - 1:
            allowed.add(0)
        if not run.out:
            # Before the handlers are installed.
            allowed.add(-first)
    elif run.is_closed:
        allowed = {1}
    if run.code not in allowed:
        yield f"exit code {run.code}, expected one of {sorted(allowed)}"


def errors(_: Simulation, run: SimulatedRun) -> Iterator[str]:
    """Errors are one line, and there is one if the run failed."""
    if match := re.search("Traceback|Unexpected error|reentrant|Exception in", run.log):
        yield f"{match[0]!r} in the log"
    if match := re.search(r"(The next run [^.]*)\.? .*\1", run.log):
        yield f"{match[1]!r} twice in a line"
    if run.code == 1 and not run.is_closed and not re.search(r"ERROR|CRITICAL", run.log):
        yield "no error in the log"


def secrets(_: Simulation, run: SimulatedRun) -> Iterator[str]:
    """Nothing secret is in the log."""
    for secret in (API_KEY, SIGNATURE, MAIL_DOMAIN):
        if secret in run.log:
            line = next(each for each in run.log.splitlines() if secret in each)
            yield f"{secret!r} in {line!r}"


def final_state(simulation: Simulation, run: SimulatedRun) -> Iterator[str]:
    """STATE is last; with exit code 0, no export is in progress in it."""
    kinds = [line["type"] for line in run.lines]
    # A run that has failed by itself had nothing new to say when the signal came.
    is_stopped = run.code > 128 and "SCHEMA" in kinds and "| ERROR" not in run.log
    if run.code != 0 and not is_stopped:
        return
    if not run.lines or run.lines[-1]["type"] != "STATE":
        yield f"the last line is {run.lines[-1]['type'] if run.lines else 'missing'}"
    elif run.code == 0:
        text = json.dumps(run.lines[-1])
        yield from (f"{each} is in it" for each in simulation.server.exports if f'"{each}"' in text)


def values(simulation: Simulation, run: SimulatedRun) -> Iterator[str]:
    """Records have the columns of the schema, and values that an export had."""
    schema: dict[str, Any] = {}
    for line in run.lines:
        if line["type"] == "SCHEMA":
            schema = line["schema"]["properties"]
        for record in records_of(line):
            if record.keys() != schema.keys():
                yield f"columns {sorted(record.keys() ^ schema.keys())} are not those of the schema"
                return
            key = record["contact_id"], record["updated_at"]
            version = simulation.server.account.versions.get(key)
            wrong = version is None or [
                name for name in schema if not _is_right(simulation, name, schema, record, version)
            ]
            if wrong:
                shown = {key: value for key, value in record.items() if value is not None}
                yield f"no export had {wrong} of {shown}; of that time is {version}"
                return


def _is_right(
    simulation: Simulation,
    name: str,
    schema: dict[str, Any],
    record: dict[str, Any],
    version: Version,
) -> bool:
    value: object = record[name]
    account = simulation.server.account
    if name.startswith("source_"):
        type_, source_name, _ = account.audiences[record["source_id"]]
        allowed: dict[str, set[object]] = {
            "source_type": {type_},
            "source_name": {source_name, None},
        }
        return value in allowed.get(name, {value})
    if not name.startswith("custom_"):
        return bool(value == (version.get(name) or None))
    description = schema[name]["description"]
    field = next(key for key in simulation.fields if f"({key}," in description)
    expected = version["custom"].get(field)
    if value is None and (field not in account.fields or field.startswith("f")):
        # An export that is older than the field lacks it.
        return True
    if "number" not in schema[name]["type"]:
        return bool(value == (expected or None))
    # Columnar files have doubles.
    return value is None if expected in {None, "n/a"} else value in {expected, float(expected)}


def completeness(simulation: Simulation, run: SimulatedRun) -> Iterator[str]:
    """With exit code 0, every contact of the last export is in the target, as it was or newer."""
    if run.code != 0 or run.is_closed:
        return
    for source in simulation.sources():
        ready = simulation.server.ready.get(source)
        fresh = [ready] if ready else list(simulation.server.fresh.get(source, {}).values())
        missing = [_missing(simulation, export) for export in fresh]
        if not missing:
            yield f"no export of {source!r} was read"
        elif all(missing):
            yield f"of {fresh[-1].id} ({source}), {missing[-1]} are missing or outdated"
        is_short = ready and len(_rows(ready)) < (ready.count or 0)
        if is_short and not simulation.config["allow_count_mismatch"]:
            yield f"{ready and ready.id} is incomplete"


def _rows(export: SimulatedExport) -> list[Version]:
    if export.damage.startswith("repeated"):
        # That can be known from the files.
        return list(export.truth.values())
    return [row for part in export.rows for row in part]


def _missing(simulation: Simulation, export: SimulatedExport) -> list[str]:
    source = export.source if simulation.config["separate_exports"] else ""
    rows = simulation.target.rows
    nothing = Row({"updated_at": ""}, None)
    return [
        row["contact_id"]
        for row in _rows(export)
        if rows.get((row["contact_id"], source), nothing).record["updated_at"] < row["updated_at"]
        and (row["contact_id"], source) not in simulation.forgiven
    ]


def deletes(simulation: Simulation, _: SimulatedRun) -> Iterator[str]:
    """Only contacts that are gone from the account's exports are deleted."""
    server = simulation.server
    for contact_id, source_id in simulation.target.deleted:
        sources = [source_id] if source_id else simulation.sources()
        for source in sources:
            if source_id and source not in simulation.sources():
                continue
            exports = list(server.fresh.get(source, {}).values())
            export = server.ready.get(source) or (exports[-1] if exports else None)
            if export is None or contact_id in export.truth:
                yield f"{contact_id} of {source!r} is deleted, but is in {export and export.id}"
            elif export.count is None:
                yield f"{contact_id} is deleted without contact_count of {export.id}"


def activation(simulation: Simulation, run: SimulatedRun) -> Iterator[str]:
    """ACTIVATE_VERSION comes once, before the last STATE, and not if too few are left."""
    activated = [line for line in run.lines if line["type"] == "ACTIVATE_VERSION"]
    if not activated:
        return
    if len(activated) > 1:
        yield "more than one ACTIVATE_VERSION"
    if run.code != 0:
        return
    if run.lines[-2:-1] != activated:
        yield "ACTIVATE_VERSION is not between the last record and the last STATE"
    yield from _find_stale(simulation)
    ready = simulation.server.ready
    limit = simulation.config.get("max_shrink_percent", 50)
    before, count = simulation.last_count, sum(len(each.truth) for each in ready.values())
    is_whole = before is not None and ready.keys() == set(simulation.sources())
    if is_whole and limit < 100 and count < (before or 0) * (100 - limit) / 100:
        yield f"deletes from {before} to {count}, more than {limit} %"


def _find_stale(simulation: Simulation) -> Iterator[str]:
    """After ACTIVATE_VERSION, the target has the contacts of the exports, and no others."""
    server = simulation.server
    for contact_id, source_id in simulation.target.rows:
        for source in [source_id] if source_id else simulation.sources():
            export = server.ready.get(source)
            if export and contact_id not in export.truth:
                yield f"{contact_id} of {source!r} is still there, but is not in {export.id}"


def versions(simulation: Simulation, run: SimulatedRun) -> Iterator[str]:
    """No version of a complete run is used again."""
    used = {line["version"] for line in run.lines if line.get("version")}
    if reused := used & simulation.activated:
        yield f"versions {reused} were activated by an earlier run"


def columns(simulation: Simulation, run: SimulatedRun) -> Iterator[str]:
    """A column belongs to one field for good; a field that is gone has no column.

    For good is since the target has returned a state.
    """
    for line in run.lines:
        if line["type"] != "SCHEMA":
            continue
        for name, column in line["schema"]["properties"].items():
            if not name.startswith("custom_"):
                continue
            field = next(key for key in simulation.fields if f"({key}," in column["description"])
            owner = simulation.owners.get(name, field)
            if simulation.has_returned:
                simulation.owners[name] = owner
            if owner != field:
                yield f"{name} was of field {owner}, and is now of {field}"
            if field not in simulation.fields_at_start:
                yield f"{name} is of {field}, which is deleted"


def server_rules(simulation: Simulation, _: SimulatedRun) -> Iterator[str]:
    """The API is used as it must be: no needless export, no livelock, no leaked key."""
    yield from simulation.server.violations
    simulation.server.violations.clear()


INVARIANTS: tuple[Callable[[Simulation, SimulatedRun], Iterator[str]], ...] = (
    whole_lines,
    exit_codes,
    errors,
    secrets,
    final_state,
    values,
    completeness,
    deletes,
    activation,
    versions,
    columns,
    server_rules,
)
