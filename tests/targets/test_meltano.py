"""The project in this repository, run by Meltano."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from sendgrid_sandbox.account import Account
from tests.harness import Tap, is_complete, run_sandbox
from tests.targets.meltano import NAME, Meltano
from tests.targets.targets import (
    CUSTOM_FIELDS,
    ROOT,
    Csv,
    Database,
    DuckDb,
    Jsonl,
    Postgres,
    Row,
    Target,
    column_types,
    expected_rows,
    stored_rows,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# One Meltano project for all of them.
pytestmark = [pytest.mark.targets, pytest.mark.xdist_group("meltano")]

CONTACTS = 150
SIZE = ("--contacts", str(CONTACTS), "--custom-fields", str(CUSTOM_FIELDS))
# As many as it takes for every edge case of the sandbox.
ALL_EDGE_CASES = 500


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A copy of the project with the tap as a package: Meltano treats `-e .` differently."""
    folder = tmp_path_factory.mktemp("project")
    text = (ROOT / "meltano.yml").read_text()
    (folder / "meltano.yml").write_text(text.replace("pip_url: -e .", f"pip_url: {wheel}"))
    return folder


def test_every_value_is_loaded_on_two_days(
    tmp_path: Path, project: Path, target: Callable[..., Any]
) -> None:
    before = (project / "meltano.yml").read_text()
    csv, postgres = target(Csv), target(Postgres)
    # These two load into the places that meltano.yml names.
    jsonl, duckdb = Jsonl(project / "output"), DuckDb(project)
    databases: list[Target] = [postgres, duckdb]
    environment = csv.env | postgres.env
    yesterday: dict[str, Row] = {}
    port = 0
    for day, file_type, targets in ((1, "csv", [jsonl, csv, *databases]), (2, "json", databases)):
        size = ("--contacts", str(ALL_EDGE_CASES), "--custom-fields", str(CUSTOM_FIELDS))
        # A catalog of the day before could only be used where the settings are the same.
        with run_sandbox(*size, "--day", str(day), "--port", str(port)) as sandbox:
            port = urlsplit(sandbox.url).port or 0
            schema = Tap(tmp_path).discover(sandbox)["streams"][0]["schema"]
            pairs = [(NAME, each.command) for each in targets if each is not duckdb]
            # A job, for DuckDB.
            blocks = [name for pair in pairs for name in pair] + ["load-contacts"]
            Meltano(project, sandbox)(
                *("run", "--state-id-suffix=days", *blocks),
                env=environment | {"TAP_SENDGRID_CONTACTS_FILE_TYPE": file_type},
            )
            assert sandbox.exports_created == len(targets)
        rows = expected_rows(Account(ALL_EDGE_CASES, CUSTOM_FIELDS, day=day), schema)
        if yesterday:
            assert_every_kind_of_change(yesterday, rows)
        columns = column_types(schema)
        for loaded in targets:
            assert loaded.rows(columns) == stored_rows(loaded, yesterday | rows, columns)
            if isinstance(loaded, Database):
                types = {name: loaded.types[each] for name, each in columns.items()}
                assert loaded.columns() == types
            state_id = f"dev:{NAME}-to-{loaded.command}:days"
            # No export is in progress any more.
            state = Meltano(project, sandbox).state(state_id)
            assert is_complete({"bookmarks": {"contacts": state}})
        yesterday = rows
    assert (project / "meltano.yml").read_text() == before


def assert_every_kind_of_change(before: dict[str, Row], after: dict[str, Row]) -> None:
    """Assert that contacts were added, removed, changed and cleared, and a new column filled."""
    kept = [(before[key], after[key]) for key in before.keys() & after.keys()]
    assert before.keys() - after.keys()
    assert after.keys() - before.keys()
    assert any(old["city"] is not None and new["city"] is None for old, new in kept)
    assert any(old["city"] != new["city"] is not None for old, new in kept)
    assert any(new[name] is not None for old, new in kept for name in new.keys() - old.keys())


def kill_tap(group: int) -> None:
    """Kill the tap in a process group, as a machine does that is out of memory."""
    processes = subprocess.check_output(["ps", "-A", "-ww", "-o", "pid=,pgid=,args="], text=True)
    (tap,) = re.findall(rf"^ *(\d+) +{group} .*/bin/{NAME} ", processes, re.MULTILINE)
    os.kill(int(tap), signal.SIGKILL)


def test_scheduled_run_resumes_the_export_of_a_killed_run(tmp_path: Path, project: Path) -> None:
    database = DuckDb(tmp_path)
    file = tmp_path / "contacts.duckdb"
    settings = {"TARGET_DUCKDB_FILEPATH": str(file)}
    suffix = "--state-id-suffix=nightly"
    state_id = f"dev:{NAME}-to-target-duckdb:nightly"
    # Slow: the tap must be killed before the last part.
    with run_sandbox(*SIZE, "--parts", "10", "--throttle", "0.01") as sandbox:
        schema = Tap(tmp_path).discover(sandbox)["streams"][0]["schema"]
        rows = expected_rows(Account(CONTACTS, CUSTOM_FIELDS), schema)
        columns = column_types(schema)
        meltano = Meltano(project, sandbox)
        with meltano.start("run", suffix, "load-contacts", env=settings) as killed:
            while killed.poll() is None and sandbox.count("GET /exports/") < 2:
                time.sleep(0.05)
            kill_tap(killed.pid)
            meltano.wait(killed, code=1)
        assert 0 < len(database.rows(columns)) < len(rows)
        saved = meltano.saved_state(state_id)

        meltano("schedule", "run", "daily", suffix, env=settings)
        assert sandbox.exports_created == 1
        assert database.rows(columns) == stored_rows(database, rows, columns)
        assert is_complete({"bookmarks": {"contacts": meltano.state(state_id)}})

        # A full refresh keeps nothing of the same state, although Meltano merges states.
        meltano.restore_state(state_id, saved)
        file.unlink()
        meltano("run", "--full-refresh", suffix, "load-contacts", env=settings)
        assert sandbox.exports_created == 2
        assert database.rows(columns) == stored_rows(database, rows, columns)
        assert is_complete({"bookmarks": {"contacts": meltano.state(state_id)}})


def test_interrupted_full_refresh_is_not_filtered_by_the_old_bookmark(
    tmp_path: Path, project: Path
) -> None:
    database = DuckDb(tmp_path)
    file = tmp_path / "contacts.duckdb"
    env = {
        "TARGET_DUCKDB_FILEPATH": str(file),
        "TAP_SENDGRID_CONTACTS__METADATA": '{"contacts": {"replication-method": "INCREMENTAL"}}',
    }
    run = ("run", "--state-id-suffix=refresh", "load-contacts")
    with run_sandbox(*SIZE) as sandbox:
        port = urlsplit(sandbox.url).port or 0
        schema = Tap(tmp_path).discover(sandbox)["streams"][0]["schema"]
        Meltano(project, sandbox)(*run, env=env)
    file.unlink()
    slow = ("--port", str(port), "--parts", "10", "--throttle", "0.01")
    with run_sandbox(*SIZE, *slow) as sandbox:
        meltano = Meltano(project, sandbox)
        with meltano.start("run", "--full-refresh", *run[1:], env=env) as killed:
            while killed.poll() is None and sandbox.count("GET /exports/") < 2:
                time.sleep(0.05)
            kill_tap(killed.pid)
            meltano.wait(killed, code=1)
        merged = meltano.state(f"dev:{NAME}-to-target-duckdb:refresh")
        assert merged["replication_key_value"]
        assert "bookmark" not in merged["run"][0]
        meltano(*run, env=env)
        assert sandbox.exports_created == 1
    rows = expected_rows(Account(CONTACTS, CUSTOM_FIELDS), schema)
    columns = column_types(schema)
    assert database.rows(columns) == stored_rows(database, rows, columns)


def test_cached_catalog_overwrites_nothing(tmp_path: Path, project: Path) -> None:
    database = DuckDb(tmp_path)
    env = {
        "TARGET_DUCKDB_FILEPATH": str(tmp_path / "contacts.duckdb"),
        "TAP_SENDGRID_CONTACTS__USE_CACHED_CATALOG": "true",
        # Meltano keeps nothing else of the column's definition.
        "TAP_SENDGRID_CONTACTS__SCHEMA": '{"contacts": {"custom_dob": {"type": ["string"]}}}',
    }
    rows: dict[str, Row] = {}
    port = 0
    for custom_fields in (CUSTOM_FIELDS, 3):
        options = ("--contacts", str(CONTACTS), "--custom-fields", str(custom_fields))
        with run_sandbox(*options, "--port", str(port)) as sandbox:
            port = urlsplit(sandbox.url).port or 0
            meltano = Meltano(project, sandbox)
            log = meltano("run", "--state-id-suffix=cached", "load-contacts", env=env)
            requests = sandbox.count("GET /v3/marketing/field_definitions")
            schema = Tap(tmp_path).discover(sandbox)["streams"][0]["schema"]
        del schema["properties"]["custom_dob"]["format"]
        new = expected_rows(Account(CONTACTS, custom_fields), schema)
        rows = {key: {**rows.get(key, {}), **row} for key, row in new.items()}
        if custom_fields == CUSTOM_FIELDS:
            columns = column_types(schema)
            assert requests == 2
        else:
            # Only by the run: the catalog is Meltano's.
            assert requests == 1
            assert "'custom_plan'" in re.findall("Not emitting columns .*", log)[0]
        assert database.rows(columns) == stored_rows(database, rows, columns)
