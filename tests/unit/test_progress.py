"""What the tap tells while it works: progress, a summary, metrics; never on standard output."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tap_sendgrid_contacts import progress
from tap_sendgrid_contacts.progress import Progress
from tests.conftest import Run, Sandbox, Tap

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTACTS = 3000
SIZE = ("--contacts", str(CONTACTS), "--no-edge-cases", "--parts", "3")
# A frame of the line that lives; the next one is written over it.
FRAME = re.compile("([^\r\n]*)\x1b\\[K\r(?!\n)")


def on_terminal(command: list[str]) -> Run:
    """Run the tap with its log on a terminal."""
    ours, theirs = os.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while text := os.read(ours, 4096):
                shown.extend(text)
        except OSError:
            pass  # how a terminal ends on Linux

    reader = threading.Thread(target=read)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        reader.start()
        out, _ = process.communicate(timeout=60)
    reader.join()
    os.close(ours)
    return Run(process.returncode, out, shown.decode())


def test_on_a_terminal_one_line_lives(sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    # A part takes a second and a half.
    there = sandbox(*SIZE, "--throttle", "0.07")
    run = on_terminal(tap.command(there))
    assert run.code == 0, run.log
    assert len(run.records) == CONTACTS

    shapes = {
        "wait": r"Export \S+ is pending after 0:00:0\d; looking again in 1 s",
        "download": r"Downloading part [123] of 3: 0\.\d( of 0\.\d)? MB, after 0:00:\d\d",
        "load": r"Part [123] of 3: ([\d,]+) of 3,000 contacts, [\d,]+/s, after 0:00:\d\d",
    }
    seen: dict[str, list[re.Match[str]]] = {name: [] for name in shapes}
    for frame in FRAME.findall(run.log):
        matches = {name: re.fullmatch(shape, frame) for name, shape in shapes.items()}
        ((name, match),) = [each for each in matches.items() if each[1]] or [(frame, None)]
        assert match, frame
        seen[name].append(match)
    assert all(seen.values()), seen
    counts = [int(match[1].replace(",", "")) for match in seen["load"]]
    assert counts == sorted(set(counts))
    # Log lines stay whole, and none of them tells the same.
    lines = FRAME.sub("", run.log).splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d |$", line) for line in lines), lines
    assert not any("looking again" in line or "/s, after" in line for line in lines)


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_in_a_pipe_there_are_log_lines_now_and_then(
    clock: Clock, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    there = Progress()
    there.pause(4, "Export 1 is pending")
    # 1000 of them are from the run before.
    there.loading(1000)
    for contacts in range(1000, 3001, 20):
        there.show("Part 2 of 3", contacts, 3000 if contacts < 2500 else None)
        clock.sleep(1)
    assert caplog.messages == [
        "Export 1 is pending after 0:00:00; looking again in 4 s",
        "Part 2 of 3: 1,600 of 3,000 contacts, 20/s, after 0:00:30",
        "Part 2 of 3: 2,200 of 3,000 contacts, 20/s, after 0:01:00",
        "Part 2 of 3: 2,800 contacts, 20/s, after 0:01:30",
    ]
    there.bytes, there.sent = 1_234_567_890, 2000
    assert there.summary(3000, 3) == (
        "3,000 contacts in 3 part(s), 2,000 sent by this run, 1,234.6 MB downloaded; "
        "waited 4.0 s, loaded for 101.0 s, 20 contacts/s"
    )
    assert capfd.readouterr() == ("", "")


# --- as a process ---------------------------------------------------------------------------


def metrics(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in re.findall(r"METRIC: ({.*})", log)]


def test_the_log_has_a_summary_and_metrics(sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    there = sandbox(*SIZE)
    run = tap(there)
    assert run.code == 0, run.log
    assert len(run.records) == CONTACTS
    assert "\r" not in run.log

    parts = re.findall(r"GET /exports/\S+ 200 (\d+)", "\n".join(there.log))
    megabytes = sum(map(int, parts)) / 1e6
    assert re.search(
        r"Export \S+ is complete: 3,000 contacts in 3 part\(s\), 3,000 sent by this run, "
        rf"{megabytes:.1f} MB downloaded; waited [1-9]\.\d s, loaded for \d+\.\d s, "
        r"[1-9][\d,]* contacts/s$",
        run.log,
        re.MULTILINE,
    )

    points: dict[str, list[dict[str, Any]]] = {}
    for point in metrics(run.log):
        points.setdefault(point["metric"], []).append(point)
    (job,) = points["job_duration"]
    # As long as it was pending.
    assert job["value"] >= 1
    assert job["tags"]["job_type"] == "contacts_export"
    assert job["tags"]["status"] == "succeeded"
    assert sum(point["value"] for point in points["record_count"]) == CONTACTS

    requests = points["http_request_duration"]
    assert all(0 < point["value"] < 10 for point in requests)
    assert Counter(
        (point["tags"]["endpoint"], point["tags"]["http_status_code"]) for point in requests
    ) == {
        ("/v3/marketing/field_definitions", 200): there.count("GET /v3/marketing/field"),
        ("/v3/marketing/contacts/exports", 202): 1,
        ("/v3/marketing/contacts/exports/{id}", 200): there.count("GET /v3/marketing/contacts"),
    }


def test_every_line_of_a_structured_log_is_json(
    sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path
) -> None:
    # As Meltano asks for it.
    config = tmp_path / "logging.json"
    config.write_text(
        json.dumps(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "formatters": {"structured": {"()": "singer_sdk.logging.StructuredFormatter"}},
                "handlers": {
                    "default": {
                        "class": "logging.StreamHandler",
                        "formatter": "structured",
                        "stream": "ext://sys.stderr",
                    }
                },
                "root": {"level": "INFO", "handlers": ["default"]},
            }
        )
    )
    env = {"SINGER_SDK_LOG_CONFIG": str(config)}

    def log(run: Run) -> list[dict[str, Any]]:
        return [json.loads(line) for line in run.log.splitlines()]

    there = sandbox(*SIZE, "--fault", "count-high")
    run = tap(there, env=env, allow_count_mismatch=True)
    assert run.code == 0
    assert len(run.records) == CONTACTS
    lines = log(run)
    assert any("is complete: 3,000 contacts" in line["message"] for line in lines)
    assert [line["level"] for line in lines if "SendGrid promised" in line["message"]] == [
        "warning"
    ]
    counts = [line["metric_info"] for line in lines if line.get("metric_info")]
    assert CONTACTS in [count["value"] for count in counts if count["metric"] == "record_count"]

    run = tap(there, env=env)
    assert run.code == 1
    (error,) = [line for line in log(run) if line["level"] in {"error", "critical"}]
    assert "SendGrid promised" in error["message"]
    assert "exception" not in error
