"""What a run reports while it works: progress, a summary, metrics; never on standard output."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.harness import TAP, Tap, TapRun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from tests.harness import Sandbox

CONTACTS = 3000
SIZE = ("--contacts", str(CONTACTS), "--no-edge-cases", "--parts", "3")
# A frame of the live line; the next one is written over it.
FRAME = re.compile("([^\r\n]*)\x1b\\[K\r(?!\n)")


def on_terminal(command: list[str]) -> TapRun:
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
    return TapRun(process.returncode, out, shown.decode())


def test_terminal_has_one_live_line(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox(*SIZE, "--pending-polls", "1")
    run = on_terminal([*TAP, *tap.arguments(sandbox)])
    assert run.code == 0, run.log
    assert len(run.records) == CONTACTS
    # A busy machine is slow enough for others, too.
    frames = [frame for frame in FRAME.findall(run.log) if "Part" not in frame]
    shape = r"Export \S+: pending \(0:00:\d\d elapsed\); next poll in 1 s"
    assert frames
    assert all(re.fullmatch(shape, frame) for frame in frames), frames
    # Log lines are complete, and none of them repeats a frame.
    lines = FRAME.sub("", run.log).splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d |$", line) for line in lines), lines
    assert not any("next poll" in line or "/s (" in line for line in lines)


def test_parts_are_reported(
    start_sandbox: Callable[..., Sandbox], tap: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tap_sendgrid_contacts.run.progress._LOG_INTERVAL", 0)
    # Between the chunks of the part, the sandbox waits longer than it takes to be reported.
    size = ("--contacts", "4000", "--no-edge-cases", "--throttle", "0.4")
    run = tap(start_sandbox(*size))
    assert re.search(r"Downloading Part 1 of 1: 0\.\d( of 0\.\d)? MB \(", run.log)
    assert re.search(r"Part 1 of 1: 4,000 of 4,000 contacts, [\d,]+/s \(", run.log)


def metrics(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in re.findall(r"METRIC: ({.*})", log)]


def test_log_has_a_summary_and_metrics(start_sandbox: Callable[..., Sandbox], tap: Tap) -> None:
    sandbox = start_sandbox(*SIZE, "--pending-polls", "1")
    # As a process: the metrics are of real time.
    run = tap.run_process(sandbox)
    assert len(run.records) == CONTACTS
    assert "\r" not in run.log

    sandbox.wait_for("GET /exports/", times=3)
    parts = re.findall(r"GET /exports/\S+ 200 (\d+)", "\n".join(sandbox.log))
    megabytes = sum(map(int, parts)) / 1e6
    assert re.search(
        r"Export \S+ is complete: 3,000 contacts in 3 part\(s\), 3,000 emitted by this run, "
        rf"{megabytes:.1f} MB downloaded; waited [1-9]\.\d s, read for \d+\.\d s, "
        r"[1-9][\d,]* contacts/s$",
        run.log,
        re.MULTILINE,
    )

    points: dict[str, list[dict[str, Any]]] = {}
    for point in metrics(run.log):
        points.setdefault(point["metric"], []).append(point)
    (export,) = points["contacts_export"]
    # As long as it was pending.
    assert 1 <= export["tags"].pop("seconds_waited") < 60
    assert export["value"] == CONTACTS
    assert export["tags"] == {
        "stream": "contacts",
        "export": "all",
        "contacts_read": CONTACTS,
        "contacts_emitted": CONTACTS,
        "contact_count": CONTACTS,
        "parts": 3,
        "bytes": sum(map(int, parts)),
        "resumed": False,
        "complete": True,
    }
    assert sum(point["value"] for point in points["record_count"]) == CONTACTS

    requests = points["http_request_duration"]
    assert all(0 < point["value"] < 10 for point in requests)
    assert Counter(
        (point["tags"]["endpoint"], point["tags"]["http_status_code"]) for point in requests
    ) == {
        ("/v3/marketing/field_definitions", 200): sandbox.count("GET /v3/marketing/field"),
        ("/v3/marketing/contacts/exports", 202): 1,
        ("/v3/marketing/contacts/exports/{id}", 200): sandbox.count("GET /v3/marketing/contacts"),
    }


def test_every_line_of_a_structured_log_is_json(
    start_sandbox: Callable[..., Sandbox], tap: Tap, tmp_path: Path
) -> None:
    # As Meltano configures it.
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

    def log(run: TapRun) -> list[dict[str, Any]]:
        return [json.loads(line) for line in run.log.splitlines()]

    sandbox = start_sandbox(*SIZE, "--fault", "count-high")
    run = tap(sandbox, env=env, allow_count_mismatch=True)
    assert len(run.records) == CONTACTS
    lines = log(run)
    assert any("is complete: 3,000 contacts" in line["message"] for line in lines)
    assert [line["level"] for line in lines if "(contact_count)" in line["message"]] == ["warning"]
    counts = [line["metric_info"] for line in lines if line.get("metric_info")]
    assert CONTACTS in [count["value"] for count in counts if count["metric"] == "record_count"]

    run = tap(sandbox, env=env, code=1)
    (error,) = [line for line in log(run) if line["level"] in {"error", "critical"}]
    assert "(contact_count)" in error["message"]
    assert "exception" not in error
