"""Signals, broken pipes and slow targets, with the tap as a process."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tap_sendgrid_contacts import stopping
from tap_sendgrid_contacts.output.messages import MessageWriter
from tests.harness import both_file_types, contacts_read, run_sandbox

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.harness import Sandbox, Tap, TapRun

CONTACTS = 3000
SIZE = ("--contacts", str(CONTACTS), "--no-edge-cases", "--parts", "2")

# Contacts in a block of the decoder.
BLOCK = 1000

SLOW_PATH = {"stream_maps": {"contacts": {"email": "email"}}}


def assert_resumable(tap: Tap, sandbox: Sandbox, run: TapRun, config: dict[str, Any]) -> None:
    """Check what a stopped run has emitted, and that the next one emits the rest."""
    assert run.out.endswith(b"\n")
    assert run.messages[-1]["type"] == "STATE"
    assert "Traceback" not in run.log
    assert run.errors == []
    read = contacts_read(run.state)
    assert read <= len(run.records) <= read + BLOCK
    rest = tap(sandbox, state=run.state, **config)
    assert len(run.contact_ids | rest.contact_ids) == CONTACTS
    assert sandbox.exports_created == 1


# Two as a process; the next test has the others in this process.
@pytest.mark.parametrize(
    ("file_type", "stop", "maps"),
    [("json", signal.SIGTERM, {}), ("csv", signal.SIGINT, SLOW_PATH)],
    ids=["json-SIGTERM", "slow path-csv-SIGINT"],
)
def test_stop(
    start_sandbox: Callable[..., Sandbox],
    tap: Tap,
    file_type: str,
    stop: signal.Signals,
    maps: dict[str, Any],
) -> None:
    sandbox = start_sandbox(*SIZE)
    config: dict[str, Any] = {"file_type": file_type, **maps}
    process = tap.start(sandbox, **config)
    process.read_lines(1000)
    process.send_signal(stop)
    run = process.finish()
    assert run.code == 128 + stop
    assert f"Stopped by {stop.name}" in run.log
    assert_resumable(tap, sandbox, run, config)


@both_file_types
@pytest.mark.parametrize(
    ("stop", "maps"),
    [(signal.SIGTERM, {}), (signal.SIGINT, SLOW_PATH)],
    ids=["fast path", "slow path"],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_stop_between_writes(
    monkeypatch: pytest.MonkeyPatch,
    start_sandbox: Callable[..., Sandbox],
    tap: Tap,
    file_type: str,
    stop: signal.Signals,
    maps: dict[str, Any],
    when: str,
) -> None:
    sandbox = start_sandbox(*SIZE)
    config: dict[str, Any] = {"file_type": file_type, **maps}
    write_lines = MessageWriter.write_lines

    def stop_in_second_part(writer: MessageWriter, lines: bytes, records: int = 0) -> None:
        is_due = writer.records_emitted > CONTACTS // 2 and records
        if is_due and when == "before":
            signal.raise_signal(stop)
        write_lines(writer, lines, records)
        if is_due:
            signal.raise_signal(stop)

    with monkeypatch.context() as patch:
        patch.setattr(MessageWriter, "write_lines", stop_in_second_part)
        run = tap(sandbox, **config, code=128 + stop)
    assert_resumable(tap, sandbox, run, config)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_stop_while_target_blocks(
    start_sandbox: Callable[..., Sandbox], tap: Tap, unbuffered: str
) -> None:
    sandbox = start_sandbox("--contacts", "2000", "--no-edge-cases")
    process = tap.start(sandbox, {"PYTHONUNBUFFERED": unbuffered})
    process.wait_until_blocked()
    process.send_signal(signal.SIGTERM)
    run = process.finish()
    assert run.code == 143, run.log
    # The line that was being written, and no other record.
    assert run.messages[-1]["type"] == "STATE"
    assert 0 < len(run.records) < 2000


def test_further_signals_change_nothing(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    process = tap.start(start_sandbox("--contacts", "2000", "--no-edge-cases"))
    process.wait_until_blocked()
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
        process.send_signal(stop)
        time.sleep(0.05)
    run = process.finish()
    assert run.code == 128 + signal.SIGINT
    assert len(run.lines("Stopped by")) == 1
    # No line is torn.
    assert run.messages[-1]["type"] == "STATE"


def test_stop_while_polling(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    process = tap.start(start_sandbox("--fault", "never-ready"), poll_interval=3000)
    process.read_lines(3)
    process.send_signal(signal.SIGINT)
    while process.is_running():
        # Further ones change nothing, also while Python exits.
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    run = process.finish()
    assert run.code == 130
    assert run.checkpoint is not None
    assert run.records == []


def test_stop_while_discovering(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    state: dict[str, Any] = {"bookmarks": {"contacts": {"scope": {}}}}
    sandbox = start_sandbox("--fault", "hang")
    process = tap.start(sandbox, state=state)
    sandbox.wait_for("fault hang")
    process.send_signal(signal.SIGTERM)
    run = process.finish()
    assert run.code == 143
    # Nothing was emitted: the state that was given is still the one.
    assert run.messages == []
    assert run.errors == []
    assert "Traceback" not in run.log


def test_stop_before_the_run(
    start_sandbox: Callable[..., Sandbox], tap: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise stopping.Stopped(signal.SIGTERM)

    monkeypatch.setattr("tap_sendgrid_contacts.run.run.find_sources", stop)
    run = tap(start_sandbox(), separate_exports=True, code=143)
    assert [message["type"] for message in run.messages] == ["SCHEMA", "STATE"]
    # After `--full-refresh`, Meltano merges it onto the one of the last complete run: it replaces
    # the run, which has no bookmark.
    (state,) = run.state["bookmarks"]["contacts"]["run"]
    assert state.keys() == {"started_at", "fingerprint", "exports"}


def test_broken_pipe(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    process = tap.start(start_sandbox("--contacts", "2000", "--no-edge-cases"))
    process.read_lines(10)
    run = process.close_pipe()
    assert run.code == 1
    assert run.errors == []
    assert "Traceback" not in run.log
    assert "Exception ignored" not in run.log


def test_slow_target_needs_no_connection(tap: Tap) -> None:
    # While the target reads nothing, all parts are downloaded: neither an expired URL nor the end
    # of SendGrid itself matters to a target however slow.
    with run_sandbox("--contacts", "3000", "--no-edge-cases", "--parts", "6") as sandbox:
        process = tap.start(sandbox)
        process.wait_until_blocked()
        sandbox.wait_for("GET /exports/", times=6)
        downloads = [line for line in sandbox.log if line.startswith("GET /exports/")]
    assert len(downloads) == 6
    assert all(" 200 " in line for line in downloads)
    run = process.finish()
    assert run.code == 0, run.log
    assert len(run.contact_ids) == 3000


def test_temp_files_are_unlinked(
    start_sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    sandbox = start_sandbox("--contacts", "2000", "--no-edge-cases", "--parts", "2")
    process = tap.start(sandbox, {"TMPDIR": str(folder)})
    process.wait_until_blocked()
    assert list(folder.iterdir()) == []
    process.send_signal(signal.SIGKILL)
    assert process.finish(torn=True).code == -signal.SIGKILL
    assert list(folder.iterdir()) == []
