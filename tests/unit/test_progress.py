"""Progress: a live line on a terminal, log lines now and then elsewhere, and a summary."""

from __future__ import annotations

import contextlib
import io
import json
import re
from typing import TYPE_CHECKING

from typing_extensions import override

from tap_sendgrid_contacts.api.export import ExportJob
from tap_sendgrid_contacts.run.progress import ProgressReporter
from tests.unit.conftest import make_client

if TYPE_CHECKING:
    import pytest

    from tests.unit.conftest import Clock


class Terminal(io.StringIO):
    @override
    def isatty(self) -> bool:
        return True


def log_end(progress: ProgressReporter, read: int, emitted: int) -> None:
    job = ExportJob(make_client(), "1", label="", is_new=False)
    job.part_names, job.contact_count = ("a", "b", "c"), 3000
    progress.log_end(
        job,
        export="all",
        contacts_read=read,
        contacts_emitted=emitted,
        resumed=False,
        complete=True,
    )


def test_log_lines_and_summary_without_a_terminal(
    clock: Clock, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO")
    progress = ProgressReporter()
    progress.wait(4, "Export 1 is pending")
    # 1000 of them are from the run before.
    progress.start_reading(1000)
    for contacts in range(1000, 3001, 20):
        progress.report_contacts("Part 2 of 3", contacts, 3000 if contacts < 2500 else None)
        clock.sleep(1)
    assert caplog.messages == [
        "Export 1 is pending (0:00:00 elapsed); next poll in 4 s",
        "Part 2 of 3: 1,600 of 3,000 contacts, 20/s (0:00:30 elapsed)",
        "Part 2 of 3: 2,200 of 3,000 contacts, 20/s (0:01:00 elapsed)",
        "Part 2 of 3: 2,800 contacts, 20/s (0:01:30 elapsed)",
    ]
    progress.bytes_downloaded = 1_234_567_890
    log_end(progress, 3000, 1500)
    metric, summary = caplog.messages[-2:]
    assert summary == (
        "Export 1 is complete: 3,000 contacts in 3 part(s), 1,500 emitted by this run, "
        "1,234.6 MB downloaded; waited 4.0 s, read for 101.0 s, 20 contacts/s"
    )
    assert json.loads(metric.removeprefix("METRIC: ")) == {
        "type": "counter",
        "metric": "contacts_export",
        "value": 3000,
        "tags": {
            "stream": "contacts",
            "export": "all",
            "contacts_read": 3000,
            "contacts_emitted": 1500,
            "contact_count": 3000,
            "parts": 3,
            "bytes": 1_234_567_890,
            "seconds_waited": 4.0,
            "resumed": False,
            "complete": True,
        },
    }
    assert capfd.readouterr() == ("", "")


def test_wait_without_a_terminal_sleeps_once(clock: Clock) -> None:
    ProgressReporter().wait(30, "pending")
    assert clock.sleeps == [30]


def test_any_report_waits_for_its_turn(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    progress = ProgressReporter()
    progress.report("too early")
    clock.sleep(30)
    progress.report("Downloading")
    progress.report("too early")
    assert caplog.messages == ["Downloading (0:00:30 elapsed)"]


def test_terminal_has_one_line_that_is_written_over(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    # Within the test, since pytest sets its own before each.
    with contextlib.redirect_stderr(Terminal()) as terminal:
        progress = ProgressReporter()
        progress.wait(2.5, "Export 1 is pending")
        assert clock.sleeps == [1, 1, 0.5]
        progress.start_reading(0)
        for _ in range(2):
            clock.sleep(0.25)
            progress.report_contacts("Part 1 of 1", 10, 20)
            progress.report_contacts("Part 1 of 1", 11, 20)
    assert re.findall("([^\r\n]*)\x1b\\[K\r", terminal.getvalue()) == [
        "Export 1 is pending (0:00:00 elapsed); next poll in 2 s",
        "Export 1 is pending (0:00:01 elapsed); next poll in 2 s",
        "Export 1 is pending (0:00:02 elapsed); next poll in 0 s",
        "Part 1 of 1: 10 of 20 contacts, 40/s (0:00:00 elapsed)",
        "Part 1 of 1: 10 of 20 contacts, 20/s (0:00:00 elapsed)",
    ]
    assert "\n" not in terminal.getvalue()
    assert caplog.messages == []


def test_process_without_stderr_has_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", None)
        progress = ProgressReporter()
    progress.start_reading(0)
    log_end(progress, 0, 0)
