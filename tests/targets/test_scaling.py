"""Parquet files of several attempts, and what the documented SQL makes of them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from pyarrow import parquet

from sendgrid_sandbox.account import Account
from tap_sendgrid_contacts.dates import utc_now
from tap_sendgrid_contacts.run import sync
from tests.expected import expected
from tests.harness import Tap, run_sandbox
from tests.targets.targets import ROOT, DuckDb, pipe_to, tool_venv

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness import TapRun

pytestmark = [pytest.mark.targets, pytest.mark.xdist_group("targets")]

CONTACTS = 400


def read_examples(language: str, page: str) -> list[str]:
    """Return the code blocks of a page of the documentation."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


VIEW, ONE_EXPORT, SEPARATE_EXPORTS = read_examples("sql", "scaling.md")


def make_files(folder: Path, *, separate_exports: bool) -> TapRun:
    """Write the files of a run that took three attempts."""
    tap = Tap(folder)
    config: dict[str, Any] = {
        "separate_exports": separate_exports,
        "batch_config": {
            "encoding": {"format": "parquet", "compression": "zstd"},
            "storage": {"root": folder.as_uri(), "prefix": "run=2026-11-28/"},
            "batch_size": 40,
        },
    }
    size = ("--contacts", str(CONTACTS), "--parts", "4")
    with run_sandbox(*size) as sandbox, mock.patch.object(sync, "utc_now") as clock:
        clock.return_value = utc_now() - timedelta(hours=1)
        interrupted = tap(sandbox, **config)
    with run_sandbox(*size, "--day", "2") as sandbox:
        # Its export is gone.
        replaced = tap(sandbox, state=interrupted.states[-2], **config)
        created = sandbox.exports_created
        # The kill took the last states.
        middle = len(replaced.states) // 2
        resumed = tap(sandbox, state=replaced.states[middle], **config)
        assert sandbox.exports_created == created
    assert 0 < len(resumed.of_type("BATCH")) < len(replaced.of_type("BATCH"))
    return resumed


def expected_rows(schema: dict[str, Any], *, separate_exports: bool) -> list[dict[str, Any]]:
    """Return the contacts of day 2, as Parquet has them."""
    account = Account(CONTACTS, day=2)
    if separate_exports:
        rows = [
            record | {"source_type": "list", "source_id": each.id, "source_name": each.name}
            for each in account.lists
            for record in expected(account, schema, [each.id]).values()
        ]
    else:
        rows = [*expected(account, schema).values()]
    return [
        {name: float(value) if isinstance(value, int) else value for name, value in row.items()}
        for row in rows
    ]


@pytest.mark.parametrize("separate_exports", [False, True], ids=["one export", "separate exports"])
def test_last_export_is_the_table(tmp_path: Path, *, separate_exports: bool) -> None:
    run = make_files(tmp_path, separate_exports=separate_exports)
    statements = VIEW.replace("s3://contacts", str(tmp_path)) + (
        SEPARATE_EXPORTS if separate_exports else ONE_EXPORT
    )
    script = (
        "import duckdb, sys; folder, statements = sys.argv[1:]\n"
        "db = duckdb.connect()\n"
        "db.execute(statements)\n"
        "for name in ('files', 'contacts'):\n"
        "    db.execute(f\"COPY {name} TO '{folder}/{name}.parquet'\")"
    )
    python = tool_venv(*DuckDb.requirements) / "python"
    pipe_to([python, "-c", script, tmp_path, statements], b"")

    files, table = (
        parquet.read_table(tmp_path / f"{name}.parquet") for name in ("files", "contacts")
    )
    names = [*run.schema["properties"]]
    rows = [
        {
            name: value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
            for name, value in row.items()
        }
        for row in table.select(names).to_pylist()
    ]

    def key(row: dict[str, Any]) -> tuple[str, str]:
        return row["contact_id"], row.get("source_id", "")

    wanted = expected_rows(run.schema, separate_exports=separate_exports)
    assert sorted(rows, key=key) == sorted(wanted, key=key)
    # Both the discarded export and the contacts that were written again were in the files.
    times = files["export"].to_pylist()
    assert len(set(times)) > len(set(table["export"].to_pylist()))
    assert times.count(max(times)) > len(wanted) if not separate_exports else len(times) > len(rows)


@pytest.mark.parametrize("page", ["scaling.md", "orchestration.md"])
def test_examples_in_python_are_valid(page: str) -> None:
    examples = read_examples("python", page)
    assert examples
    for example in examples:
        compile(example, page, "exec")
