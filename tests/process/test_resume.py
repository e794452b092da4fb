"""Killed, stopped, resumed: one export, no contact lost, few repeated."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest

from tap_sendgrid_contacts.sandbox.account import Account
from tests.conftest import Run, Sandbox, Tap, position

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

both_types = pytest.mark.parametrize("file_type", ["json", "csv"])

CONTACTS = 40_000
STATE_INTERVAL = 10_000
# A block of contacts may straddle the interval.
BLOCK = 300


def start(
    tap: Tap, there: Sandbox, env: dict[str, str] | None = None, **settings: Any
) -> subprocess.Popen[bytes]:
    # A file for the log: nobody reads it while the test reads the messages.
    with tap.log_file.open("wb") as log:
        return subprocess.Popen(
            tap.command(there, **settings),
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **(env or {})},
        )


def read_until(tap: Tap, process: subprocess.Popen[bytes], lines: int, stop: signal.Signals) -> Run:
    """Read so many lines, send the signal, and read what is left in the pipe."""
    out = process.stdout
    assert out is not None
    read = list(islice(out, lines))
    process.send_signal(stop)
    return finish(tap, process, b"".join(read), torn=stop == signal.SIGKILL)


def finish(tap: Tap, process: subprocess.Popen[bytes], read: bytes, *, torn: bool = False) -> Run:
    assert process.stdout is not None
    with process.stdout:
        out = read + process.stdout.read()
    if torn:
        # What SIGKILL tears, no target takes.
        out = out[: out.rfind(b"\n") + 1]
    return Run(process.wait(timeout=60), out, tap.log_file.read_text())


def drill(tap: Tap, there: Sandbox, file_type: str, kills: list[int]) -> Counter[str]:
    """Run, killed after so many lines each time, until a run comes to its end."""
    state: dict[str, Any] | None = None
    sent: Counter[str] = Counter()
    settings: dict[str, Any] = {"file_type": file_type, "emit_activate_version_messages": True}
    versions = set()
    before = there.exports_asked_for
    for lines in [*kills, sys.maxsize]:
        process = start(tap, there, state=state, **settings)
        run = read_until(tap, process, lines, signal.SIGKILL)
        sent.update(record["contact_id"] for record in run.records)
        versions |= {message.get("version") for message in run.of("RECORD")}
        if run.of("STATE"):
            state = run.state
            if run.export_state is None:
                break
    else:
        pytest.fail(run.log)
    assert run.export_state is None
    assert len(run.of("ACTIVATE_VERSION")) == 1
    assert versions | {run.of("ACTIVATE_VERSION")[0]["version"]} == {
        run.of("ACTIVATE_VERSION")[0]["version"]
    }
    assert there.exports_asked_for - before == 1
    return sent


@both_types
def test_killed_at_any_moment_the_next_run_goes_on(
    sandbox: Callable[..., Sandbox], tap: Tap, file_type: str
) -> None:
    there = sandbox("--contacts", str(CONTACTS), "--no-edge-cases", "--parts", "3")
    everyone = {contact.values["contact_id"] for contact in Account(CONTACTS, edge_cases=False)}
    chance = random.Random(file_type)
    kills = [2, 3, 4, *(chance.randrange(5, CONTACTS // 2) for _ in range(3)), CONTACTS // 3 + 6]
    sent = drill(tap, there, file_type, kills)
    assert sent.keys() == everyone
    repeats = sum(sent.values()) - len(everyone)
    assert repeats <= len(kills) * (STATE_INTERVAL + BLOCK)


@both_types
def test_killed_behind_the_last_record_nothing_is_sent_again(
    sandbox: Callable[..., Sandbox], tap: Tap, file_type: str
) -> None:
    there = sandbox("--contacts", "3000", "--no-edge-cases", "--parts", "3")
    whole = tap(there, file_type=file_type)
    last = next(
        message["value"] for message in reversed(whole.of("STATE")) if position(message["value"])
    )
    assert last["bookmarks"]["contacts"]["exports"][0]["part"] == 3
    run = tap(there, file_type=file_type, state=last)
    assert run.code == 0
    assert run.records == []
    assert run.export_state is None
    assert there.exports_asked_for == 1


def test_a_part_that_is_another_file_now_is_read_anew(
    sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    there = sandbox("--contacts", "25000", "--no-edge-cases", "--parts", "1")
    whole = tap(there)
    middle = whole.of("STATE")[2]["value"]
    at = middle["bookmarks"]["contacts"]["exports"][0]
    assert 0 < at["records"] < 25000
    assert len(tap(there, state=middle).records) == 25000 - at["records"]
    at["file"] = "another"
    run = tap(there, state=middle)
    assert run.code == 0
    assert len(run.records) == 25000
    assert "another file now" in run.log
    assert there.exports_asked_for == 1


class TestANewExport:
    """Where the state's export cannot be had, or another is asked for."""

    @pytest.fixture
    def there(self, sandbox: Callable[..., Sandbox]) -> Sandbox:
        return sandbox("--contacts", "50", "--no-edge-cases")

    @pytest.fixture
    def in_flight(self, there: Sandbox, tap: Tap) -> dict[str, Any]:
        state: dict[str, Any] = tap(there).of("STATE")[1]["value"]
        assert state["bookmarks"]["contacts"]["exports"][0]["id"]
        return state

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("list_ids", [Account(50).lists[0].id]),
            ("segment_ids", [Account(50).segments[0].id]),
            ("file_type", "csv"),
            ("on_behalf_of", "subuser"),
        ],
    )
    def test_another_request(
        self, there: Sandbox, tap: Tap, in_flight: dict[str, Any], setting: str, value: object
    ) -> None:
        config: dict[str, Any] = {setting: value}
        run = tap(there, state=in_flight, **config)
        assert run.code == 0
        assert f"{setting} changed" in run.log
        assert there.exports_asked_for == 2

    def test_gone(
        self, sandbox: Callable[..., Sandbox], tap: Tap, in_flight: dict[str, Any]
    ) -> None:
        other = sandbox("--contacts", "50", "--no-edge-cases")
        in_flight["bookmarks"]["contacts"]["exports"][0]["request"]["api_url"] = other.url
        run = tap(other, state=in_flight)
        assert run.code == 0
        assert "is gone" in run.log
        assert len(run.records) == 50

    @pytest.mark.parametrize("fault", ["failure", "expired"])
    def test_failed_or_expired(self, sandbox: Callable[..., Sandbox], tap: Tap, fault: str) -> None:
        there = sandbox("--contacts", "50", "--no-edge-cases", "--fault", fault)
        first = tap(there)
        assert first.code == 1
        assert first.error.endswith("; the next run asks for a new one")
        assert first.export_state is not None
        second = tap(there, state=first.state)
        assert second.code == 0
        assert "asking for a new export" in second.log
        assert len(second.records) == 50
        assert there.exports_asked_for == 2

    @both_types
    def test_read_to_its_end_and_lacking_contacts(
        self, sandbox: Callable[..., Sandbox], tap: Tap, file_type: str
    ) -> None:
        there = sandbox("--contacts", "50", "--parts", "2", "--fault", "count-high:1")
        first = tap(there, file_type=file_type)
        assert first.code == 1
        assert "The next run asks for a new export" in first.error
        finished = tap(there, file_type=file_type, state=first.state, allow_count_mismatch=True)
        assert (finished.code, finished.records) == (0, [])
        assert there.exports_asked_for == 1
        second = tap(there, file_type=file_type, state=first.state)
        assert second.code == 0
        assert "lacks contacts: asking for a new export" in second.log
        assert len(second.records) == 50
        assert there.exports_asked_for == 2

    def test_in_another_number_of_parts(self, sandbox: Callable[..., Sandbox], tap: Tap) -> None:
        # Nothing else would tell that some are missing.
        there = sandbox("--contacts", "60", "--parts", "2", "--fault", "count-missing")
        state = tap(there).of("STATE")[2]["value"]
        at = position(state)
        assert at
        assert (at["parts"], at["part"]) == (2, 1)
        at["parts"] = 3
        run = tap(there, state=state)
        assert run.code == 0
        assert "was in 3 part(s) and is in 2: asking for a new export" in run.log
        assert len(run.records) == 60

    def test_a_state_that_cannot_be_read(
        self, there: Sandbox, tap: Tap, in_flight: dict[str, Any]
    ) -> None:
        in_flight["bookmarks"]["contacts"]["exports"][0]["part"] = "one"
        run = tap(there, state=in_flight)
        assert run.code == 0
        assert "cannot be read" in run.log
        assert len(run.records) == 50


def test_a_run_that_waited_too_long_leaves_the_export_to_the_next(
    sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    there = sandbox("--contacts", "50", "--pending-polls", "3")
    first = tap(there, poll_timeout=1)
    assert first.code == 1
    assert "`poll_timeout`" in first.error
    second = tap(there, state=first.state)
    assert second.code == 0
    assert len(second.records) == 50
    assert there.exports_asked_for == 1


def test_killed_between_request_and_answer_the_next_run_finds_the_export(
    sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    there = sandbox("--contacts", "50", "--fault", "post-accepted-hang")
    process = start(tap, there)
    # SCHEMA, and the STATE before the request.
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    while process.poll() is None and "fault post-accepted-hang" not in there.log:
        time.sleep(0.05)
    process.kill()
    finish(tap, process, b"", torn=True)
    second = tap(there, state=json.loads(lines[1])["value"])
    assert second.code == 0, second.log
    assert "had taken the request" in second.log
    assert len(second.records) == 50
    assert there.exports_asked_for == 0  # its 202 was never sent


def test_a_request_without_answer_is_not_looked_for_for_ever(
    sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    there = sandbox("--contacts", "50")
    state: dict[str, Any] = tap(there).of("STATE")[0]["value"]
    asked = state["bookmarks"]["contacts"]["exports"][0]
    assert tap(there, state=state).code == 0
    assert there.exports_asked_for == 1
    asked["asked_at"] = "2026-01-01T00:00:00Z"
    run = tap(there, state=state)
    assert run.code == 0
    assert "too long ago" in run.log
    assert there.exports_asked_for == 2


class TestSignals:
    """Stopped runs end between two lines, with a STATE, and not as a success."""

    @both_types
    @pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("slow_path", ["", "slow path"])
    def test_whole_lines_and_a_last_state(
        self,
        sandbox: Callable[..., Sandbox],
        tap: Tap,
        file_type: str,
        stop: signal.Signals,
        slow_path: str,
    ) -> None:
        there = sandbox("--contacts", "20000", "--no-edge-cases", "--parts", "2")
        settings: dict[str, Any] = {"file_type": file_type}
        if slow_path:
            settings["stream_maps"] = {"contacts": {"email": "email"}}
        run = read_until(tap, start(tap, there, **settings), 5000, stop)
        assert run.code == 128 + stop
        assert run.out.endswith(b"\n")
        assert run.messages[-1]["type"] == "STATE"
        assert "Traceback" not in run.log
        at = run.export_state
        assert at is not None
        read = at.get("contacts", 0) + at.get("records", 0)
        assert read <= len(run.records) <= read + BLOCK
        rest = tap(there, state=run.state, **settings)
        assert rest.code == 0
        ids = {record["contact_id"] for record in (*run.records, *rest.records)}
        assert len(ids) == 20000

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    def test_blocked_by_a_slow_target(
        self, sandbox: Callable[..., Sandbox], tap: Tap, unbuffered: str
    ) -> None:
        there = sandbox("--contacts", "5000", "--no-edge-cases")
        process = start(tap, there, {"PYTHONUNBUFFERED": unbuffered})
        assert process.stdout is not None
        first = b"".join(islice(process.stdout, 10))
        time.sleep(1)  # the pipe is full now, and the tap within a write
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        run = finish(tap, process, first)
        assert run.code == 143, run.log
        assert run.messages[-1]["type"] == "STATE"
        assert 0 < len(run.records) < 5000

    def test_while_waiting(self, sandbox: Callable[..., Sandbox], tap: Tap) -> None:
        there = sandbox("--contacts", "5", "--fault", "never-ready")
        process = start(tap, there, poll_interval=60)
        began = time.monotonic()
        run = read_until(tap, process, 3, signal.SIGTERM)
        assert run.code == 143
        assert time.monotonic() - began < 30
        assert run.export_state is not None

    def test_a_target_that_dies_ends_the_run_quietly(
        self, sandbox: Callable[..., Sandbox], tap: Tap
    ) -> None:
        there = sandbox("--contacts", "5000", "--no-edge-cases")
        process = start(tap, there)
        assert process.stdout is not None
        process.stdout.read(1000)
        process.stdout.close()
        assert process.wait(timeout=60) == 1
        log = tap.log_file.read_text()
        assert "Traceback" not in log
        assert "ERROR" not in log
        assert "Exception ignored" not in log


def test_a_slow_target_meets_no_expired_link_and_no_open_connection(
    sandbox: Callable[..., Sandbox], tap: Tap
) -> None:
    # Links live for three seconds; reading all the parts takes five.
    size = ("--contacts", "6000", "--no-edge-cases", "--parts", "6")
    there = sandbox(*size, "--url-ttl", "3", "--pending-polls", "0")
    process = start(tap, there)
    assert process.stdout is not None
    lines = 0
    for _ in process.stdout:
        lines += 1
        if lines % 1000 == 0:
            time.sleep(0.8)
    assert finish(tap, process, b"").code == 0, tap.log_file.read_text()
    assert lines > 6000
    downloads = [line for line in there.log if re.match(r"GET /exports/\S+ ", line)]
    assert len(downloads) == 6
    assert all(" 200 " in line for line in downloads)


def test_nothing_is_left_on_disk_while_and_after(
    sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path
) -> None:
    there = sandbox("--contacts", "20000", "--no-edge-cases", "--parts", "2")
    spool = tmp_path / "spool"
    spool.mkdir()
    process = start(tap, there, {"TMPDIR": str(spool)})
    assert process.stdout is not None
    for _ in range(1000):
        process.stdout.readline()
    assert list(spool.iterdir()) == []
    process.kill()
    finish(tap, process, b"", torn=True)
    assert list(spool.iterdir()) == []


class TestStates:
    """What comes back as state is not always what was sent."""

    def test_a_state_merged_as_meltano_does_holds_on_to_nothing(
        self, sandbox: Callable[..., Sandbox], tap: Tap
    ) -> None:
        there = sandbox("--contacts", "60", "--parts", "3")
        whole = tap(there)

        def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
            # Objects key by key, all else replaced.
            return {
                key: merged(old[key], value)
                if isinstance(value, dict) and isinstance(old.get(key), dict)
                else value
                for key, value in {**old, **new}.items()
            }

        in_flight = whole.of("STATE")[-2]["value"]
        assert position(in_flight)
        assert position(merged(in_flight, whole.state)) is None
        asked_again = tap(there, list_ids=[Account(60).lists[0].id]).of("STATE")[1]["value"]
        assert position(merged(in_flight, asked_again)) == position(asked_again)

    def test_one_without_an_export_is_not_sent_back(
        self, sandbox: Callable[..., Sandbox], tap: Tap
    ) -> None:
        there = sandbox("--contacts", "60", "--fault", "never-ready")
        done: dict[str, Any] = {"bookmarks": {"contacts": {"exports": []}}}
        first = tap(there, state=done, poll_timeout=1)
        assert first.code == 1
        # Some targets keep the first one of a load without records.
        second = tap(there, state=first.of("STATE")[0]["value"], poll_timeout=1)
        assert position(second.state) == position(first.state)
        assert there.exports_asked_for == 1

    def test_stopped_before_the_state_is_read_none_is_sent(
        self, sandbox: Callable[..., Sandbox], tap: Tap
    ) -> None:
        there = sandbox("--fault", "hang")
        process = start(tap, there, state={"bookmarks": {"contacts": {"source": {}}}})
        while process.poll() is None and "fault hang" not in there.log:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        run = finish(tap, process, b"")
        assert run.code == 143
        assert run.of("STATE") == []

    @pytest.mark.parametrize(
        ("setting", "value"),
        [("emit_activate_version_messages", True), ("start_date", "2020-01-01T00:00:00Z")],
    )
    def test_what_changes_which_records_are_sent_asks_anew(
        self, sandbox: Callable[..., Sandbox], tap: Tap, setting: str, value: object
    ) -> None:
        there = sandbox("--contacts", "60", "--parts", "3")
        in_flight = tap(there).of("STATE")[-3]["value"]
        config: dict[str, Any] = {setting: value}
        run = tap(there, state=in_flight, **config)
        assert len(run.records) == 60
        assert there.exports_asked_for == 2
