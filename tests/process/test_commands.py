"""The command line as users run it, with the tap as a process: one run of each kind."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sendgrid_sandbox.account import Account
from tests import snapshot
from tests.expected import expected
from tests.harness import TAP, both_file_types, is_complete, run_in_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Sandbox, Tap

SETTINGS = Path(__file__).parents[2] / "docs" / "settings.md"
# As Meltano sets it: what a run leaves open must not end in a warning after its error.
MELTANO = {"PYTHONWARNINGS": "once"}


@both_file_types
def test_sync(start_sandbox: Callable[..., Sandbox], tap: Tap, file_type: str) -> None:
    sandbox = start_sandbox("--contacts", "700", "--parts", "2")
    run = tap.run_process(
        sandbox,
        env=MELTANO,
        file_type=file_type,
        catalog=tap.discover(sandbox),
        state={"bookmarks": {}},
        emit_activate_version_messages=True,
    )
    records = {record["contact_id"]: record for record in run.records}
    assert len(records) == len(run.records)
    assert records == expected(Account(700), run.schema)
    assert len(run.of_type("ACTIVATE_VERSION")) == 1
    assert is_complete(run.state, run.schema)
    assert run.errors == []
    assert not [line for line in run.lines("Warning") if "end of life" not in line]


def test_error(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox("--contacts", "20", "--fault", "bad-line")
    catalog = tap.discover(sandbox)
    run = tap.run_process(sandbox, env=MELTANO, catalog=catalog, state={}, code=1)
    assert ", line " in run.error
    # One error, at the end, and no warning of files that are still open.
    assert run.log.splitlines()[-1] == run.error
    assert "ResourceWarning" not in run.log


def test_discover(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox(*snapshot.OPTIONS)
    command = [*TAP, *tap.arguments(sandbox, "--discover")]
    done = subprocess.run(command, capture_output=True, check=True)
    assert json.loads(done.stdout) == tap.discover(sandbox)
    # If the catalog was meant to change: python -m tests.snapshot
    assert snapshot.render(tap.discover(sandbox)) == snapshot.FILE.read_text(encoding="utf-8")
    assert sandbox.exports_created == 0


def test_test(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox()
    run = tap.run_process(sandbox, "--test")
    assert (run.code, run.out) == (0, b""), run.log
    assert sandbox.exports_created == 0
    # The documentation shows an excerpt, without the log before it.
    (shown,) = re.findall(r"--test`\):\n\n```text\n(.*?)```", SETTINGS.read_text(), re.DOTALL)
    first, *others = (line for line in shown.splitlines() if line.strip() != "…")
    lines = run.log.splitlines()
    report = lines[lines.index(first) :]
    assert not any("| INFO" in line for line in report)
    rest = iter(report)
    assert all(line in rest for line in others)


@pytest.mark.parametrize(
    "arguments", [("--about", "--format=json"), ("--version",)], ids=lambda each: each[0]
)
def test_no_config_and_no_network(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [*TAP, *arguments], capture_output=True, check=True, env={"PATH": os.environ["PATH"]}
    )
    assert b"tap-sendgrid-contacts" in done.stdout


def test_about_shows_descriptions_and_defaults() -> None:
    run = run_in_process(["--about"], {}, parse=False)
    assert run.code == 0, run.log
    text = run.out.decode()
    assert text.count("    Description: ") == text.count("    Type: ") == text.count("  - Name: ")
    assert (
        "  - Name: poll_timeout\n"
        "    Description: Maximum seconds to wait for SendGrid in one run, everything included."
    ) in text
    assert "    Default: 3600\n" in text
    assert "    Environment Variable: TAP_SENDGRID_CONTACTS_POLL_TIMEOUT\n" in text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"a: [", "while parsing"),
        (b"", "'NoneType'"),
        (b"[]", "dictionary"),
        (b"\xff\xfe", "can't decode"),
        (b"version: 2", "Unsupported version: 2"),
        (b"version: SG.very-secret.key", "Unsupported version: ***"),
        (b"{version: 1, handlers: {x: {class: a.B}}, root: {handlers: [x]}}", "handler 'x'"),
        (b"{version: 1, formatters: {x: 5}}", "formatter 'x'"),
    ],
    ids=str,
)
def test_broken_logging_configuration(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "logging.yaml"
    if content is not None:
        path.write_bytes(content)
    run = run_in_process([], {"SINGER_SDK_LOG_CONFIG": str(path)})
    assert run.code == 1
    (line,) = run.log.splitlines()
    assert f"SINGER_SDK_LOG_CONFIG {path}: " in line
    assert reason in line
    assert "very-secret" not in line


@pytest.mark.parametrize("text_format", ["json", "markdown"])
def test_about(text_format: str) -> None:
    run = run_in_process(["--about", f"--format={text_format}"], {}, parse=False)
    assert run.code == 0, run.log
    for setting in ("api_key", "max_shrink_percent", "on_invalid_value", "batch_config"):
        assert setting.encode() in run.out


def test_memory_does_not_grow(
    start_sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path
) -> None:
    peaks = []
    for contacts in (2_000, 40_000):
        sandbox = start_sandbox("--contacts", str(contacts), "--no-edge-cases")
        command = [*TAP, *tap.arguments(sandbox)]
        with (tmp_path / "out").open("wb") as out, (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=out, stderr=log)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks.append(usage.ru_maxrss)
    # Twenty times the contacts, some 27 MB of records.
    assert peaks[1] < peaks[0] * 1.15
