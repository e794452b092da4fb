"""Standard output and error that are full, closed or gone; small containers."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import TAP

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.harness import Sandbox, Tap

CONTACTS = 300

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110


@pytest.fixture
def sandbox(start_sandbox: Callable[..., Sandbox]) -> Sandbox:
    return start_sandbox("--contacts", str(CONTACTS))


def shell(
    command: str, arguments: list[str], env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a shell command in which "$@" is the tap."""
    return subprocess.run(
        ["sh", "-c", command, "sh", *TAP, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
        timeout=60,
    )


def errors(log: str) -> list[str]:
    return [line for line in log.splitlines() if "INFO" not in line]


# --- standard output --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "unbuffered"),
    [*itertools.product(["", "--discover"], ["", "1"]), ("--about", "1"), ("--help", "")],
)
def test_full_stdout(sandbox: Sandbox, tap: Tap, argument: str, unbuffered: str) -> None:
    arguments = tap.arguments(sandbox, *filter(None, [argument]))
    done = shell('"$@" > /dev/full', arguments, {"PYTHONUNBUFFERED": unbuffered})
    assert done.returncode == 1, done.stderr
    (error,) = errors(done.stderr)
    assert "Cannot write to standard output: No space left on device" in error


@pytest.mark.parametrize("argument", ["", "--discover"])
def test_closed_stdout(sandbox: Sandbox, tap: Tap, argument: str) -> None:
    done = shell('"$@" >&-', tap.arguments(sandbox, *filter(None, [argument])))
    assert done.returncode == 1
    (error,) = errors(done.stderr)
    assert "Cannot write to standard output: it is closed" in error
    assert sandbox.exports_created == 0


# --- standard error ---------------------------------------------------------------------------


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full"])
def test_stderr_that_fails_does_not_fail_the_run(sandbox: Sandbox, tap: Tap, redirect: str) -> None:
    done = shell(f'"$@" {redirect}', tap.arguments(sandbox))
    assert done.returncode == 0
    messages = [json.loads(line) for line in done.stdout.strip("\n").split("\n")]
    assert [message["type"] for message in messages].count("RECORD") == CONTACTS
    assert messages[-1]["type"] == "STATE"


def test_broken_stderr_does_not_fail_the_run(sandbox: Sandbox, tap: Tap, tmp_path: Path) -> None:
    out, code = tmp_path / "out", tmp_path / "code"
    # `true` ends at once; what the tap logs then meets a broken pipe.
    command = f'{{ "$@" 2>&1 >{out}; echo $? >{code}; }} | true'
    shell(command, tap.arguments(sandbox))
    assert code.read_text() == "0\n"
    assert out.read_text().count('"RECORD"') == CONTACTS


# --- containers -------------------------------------------------------------------------------


def test_few_open_files_and_a_slow_target(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "1000", "--parts", "100")
    command = 'ulimit -n 64; "$@" | { sleep 1; cat; }'
    done = shell(command, tap.arguments(sandbox))
    assert errors(done.stderr) == []
    assert done.stdout.count('"RECORD"') == 1000


def test_no_temp_folder_is_found_before_the_export(
    sandbox: Sandbox, tap: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/proc/none"])
    monkeypatch.setattr("tempfile.tempdir", None)
    run = tap(sandbox, code=1)
    assert "Cannot write part to TMPDIR" in run.error
    assert sandbox.exports_created == 0


@pytest.mark.parametrize(
    ("variable", "level"),
    [
        ("LOGLEVEL", ""),
        ("LOGLEVEL", "7.5"),
        ("TAP_SENDGRID_CONTACTS_LOGLEVEL", "loud"),
    ],
)
def test_unknown_log_level_is_ignored(
    sandbox: Sandbox, tap: Tap, variable: str, level: str
) -> None:
    run = tap.run_process(sandbox, env={variable: level})
    assert len(run.records) == CONTACTS
    assert f"{variable} is not a log level" in run.log
    assert "is complete" in run.log


@pytest.mark.parametrize("expression", ["'s3cr3t' + email.lower()", "email + '@x'", "int(city)"])
@pytest.mark.parametrize("batch", [{}, {"batch_config": {"encoding": {"format": "jsonl"}}}])
def test_stream_map_that_fails_on_a_contact(
    start_sandbox: Callable[..., Sandbox], tap: Tap, expression: str, batch: dict[str, Any]
) -> None:
    maps: dict[str, Any] = {"stream_maps": {"contacts": {"made": expression}}}
    run = tap(start_sandbox("--contacts", "100"), **maps, **batch, code=1)
    assert re.fullmatch(
        r".* stream_maps cannot be applied to a contact \(\w+\): an expression may have .*",
        run.error,
    )
    assert "s3cr3t" not in run.log
