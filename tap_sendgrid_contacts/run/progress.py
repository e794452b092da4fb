"""Progress reporting: a live status line on a TTY, periodic log lines otherwise."""

from __future__ import annotations

import enum
import logging
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, cast

from singer_sdk import metrics

from tap_sendgrid_contacts import stopping
from tap_sendgrid_contacts.columns import STREAM

if TYPE_CHECKING:
    from tap_sendgrid_contacts.api.export import ExportJob

logger = logging.getLogger(__name__)

_LOG_INTERVAL = 30.0
_TTY_INTERVAL = 0.2


class _Metric(str, enum.Enum):
    CONTACTS_EXPORT = "contacts_export"


class ProgressReporter:
    """Reports the progress of one export.

    Attributes:
        bytes_downloaded: Bytes of the parts downloaded by this run.
        wait_seconds: Seconds until the export was ready.
    """

    def __init__(self) -> None:
        self.bytes_downloaded = 0
        self._is_tty = sys.stderr is not None and sys.stderr.isatty()
        self._interval = _TTY_INTERVAL if self._is_tty else _LOG_INTERVAL
        self._started = self._last_report = time.monotonic()
        self._resumed_contacts = 0
        self.wait_seconds = 0.0

    def wait(self, seconds: float, reason: str) -> None:
        """Sleep, and report why."""
        end = time.monotonic() + seconds
        while (remaining := end - time.monotonic()) > 0:
            self._emit(f"{reason} ({self._elapsed()} elapsed); next poll in {remaining:.0f} s")
            stopping.sleep(min(remaining, 1.0) if self._is_tty else remaining)

    def start_reading(self, resumed_contacts: int) -> None:
        """Start the clock of the transfer.

        Args:
            resumed_contacts: Contacts that an earlier run has read.
        """
        now = time.monotonic()
        self.wait_seconds = now - self._started
        self._started = self._last_report = now
        self._resumed_contacts = resumed_contacts

    def report_contacts(self, label: str, contacts: int, expected: int | None) -> None:
        """Report how many contacts were read, if a report is due."""
        if self._is_due():
            total = "" if expected is None else f" of {expected:,}"
            rate = f"{self._rate(contacts):,.0f}/s"
            self._emit(f"{label}: {contacts:,}{total} contacts, {rate} ({self._elapsed()} elapsed)")

    def report(self, text: str) -> None:
        """Report some text, if a report is due."""
        if self._is_due():
            self._emit(f"{text} ({self._elapsed()} elapsed)")

    def log_end(
        self,
        job: ExportJob,
        *,
        export: str,
        contacts_read: int,
        contacts_emitted: int,
        resumed: bool,
        complete: bool,
    ) -> None:
        """Log what this run did with an export: a metric, for monitors, and a summary.

        Args:
            job: The export.
            export: What it is of.
            contacts_read: Contacts read, earlier runs included.
            contacts_emitted: Records emitted by this run.
            resumed: Whether an earlier run requested it.
            complete: Whether it was read to its end, and verified.
        """
        tags = {
            metrics.Tag.STREAM: STREAM,
            "export": export,
            "contacts_read": contacts_read,
            "contacts_emitted": contacts_emitted,
            "contact_count": job.contact_count,
            "parts": len(job.part_names),
            "bytes": self.bytes_downloaded,
            "seconds_waited": round(self.wait_seconds, 1),
            "resumed": resumed,
            "complete": complete,
        }
        # The SDK has no name for it, and takes any enumeration.
        name = cast("metrics.Metric", _Metric.CONTACTS_EXPORT)
        point = metrics.Point("counter", name, contacts_read, tags)
        metrics.log(metrics.get_metrics_logger(), point)
        if complete:
            logger.info(
                "%s is complete: %s contacts in %d part(s), %s emitted by this run, %s MB "
                "downloaded; waited %s s, read for %s s, %s contacts/s",
                job,
                f"{contacts_read:,}",
                len(job.part_names),
                f"{contacts_emitted:,}",
                f"{self.bytes_downloaded / 1e6:,.1f}",
                f"{self.wait_seconds:,.1f}",
                f"{time.monotonic() - self._started:,.1f}",
                f"{self._rate(contacts_read):,.0f}",
            )

    def _is_due(self) -> bool:
        now = time.monotonic()
        is_due = now - self._last_report >= self._interval
        if is_due:
            self._last_report = now
        return is_due

    def _rate(self, contacts: int) -> float:
        return (contacts - self._resumed_contacts) / max(time.monotonic() - self._started, 1e-3)

    def _elapsed(self) -> timedelta:
        return timedelta(seconds=round(time.monotonic() - self._started))

    def _emit(self, text: str) -> None:
        if self._is_tty:
            # Back to the start of the line: the next report, or a log line, overwrites it.
            sys.stderr.write(f"{text}\x1b[K\r")
            sys.stderr.flush()
        else:
            logger.info(text)
