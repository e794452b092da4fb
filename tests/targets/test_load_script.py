"""The script of the container: what it keeps when it is stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sendgrid_sandbox.account import Account
from tests.harness import Tap, run_sandbox, wait_until
from tests.targets.targets import (
    ROOT,
    Postgres,
    column_types,
    expected_rows,
    skip_or_fail,
    tool_venv,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.targets, pytest.mark.xdist_group("targets")]

CONTACTS = 150


def test_sigterm_keeps_what_was_read(tmp_path: Path, target: Callable[..., Any]) -> None:
    if not shutil.which("jq"):
        skip_or_fail("jq is not installed")
    postgres: Postgres = target(Postgres)
    programs = [tool_venv(*postgres.requirements), Path(sys.executable).parent]
    # Slow: it must be stopped before the last part.
    options = ("--contacts", str(CONTACTS), "--custom-fields", "0", "--parts", "10")
    with run_sandbox(*options, "--throttle", "0.01") as sandbox:
        schema = Tap(tmp_path).discover(sandbox)["streams"][0]["schema"]
        path = os.pathsep.join(map(str, [*programs, os.environ["PATH"]]))
        env = os.environ | sandbox.env | postgres.env | {"PATH": path}

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(["bash", ROOT / "examples" / "load.sh"], cwd=tmp_path, env=env)

        with start() as stopped:
            wait_until(lambda: sandbox.count("GET /exports/") >= 2)
            stopped.send_signal(signal.SIGTERM)
        assert stopped.returncode == 128 + signal.SIGTERM
        columns = column_types(schema)
        rows = expected_rows(Account(CONTACTS, 0), schema)
        assert 0 < len(postgres.rows(columns)) < len(rows)

        with start() as resumed:
            pass
        assert resumed.returncode == 0
        assert sandbox.exports_created == 1
        assert postgres.rows(columns) == rows
