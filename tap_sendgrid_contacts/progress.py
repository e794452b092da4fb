"""How an export comes along: a line that lives on a terminal, log lines now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from datetime import timedelta

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOG_LINES = 30.0
_SECONDS_BETWEEN_FRAMES = 0.2


class Progress:
    """Tells of one export.

    Attributes:
        bytes: Bytes downloaded so far.
        sent: Contacts sent so far by this run.
    """

    def __init__(self) -> None:
        self.bytes = self.sent = 0
        self._live = sys.stderr.isatty()
        self._interval = _SECONDS_BETWEEN_FRAMES if self._live else _SECONDS_BETWEEN_LOG_LINES
        self._started = self._shown = time.monotonic()
        self._before = 0
        self._waited = 0.0

    def pause(self, seconds: float, why: str) -> None:
        """Wait, and say why."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._say(f"{why} after {self._elapsed()}; looking again in {left:.0f} s")
            time.sleep(min(left, 1.0) if self._live else left)

    def loading(self, contacts: int) -> None:
        """Begin to load, with so many contacts loaded by an earlier run."""
        now = time.monotonic()
        self._waited, self._started, self._shown = now - self._started, now, now
        self._before = contacts

    def show(self, where: str, contacts: int, promised: int | None) -> None:
        """Say how many contacts are loaded, if it is time to."""
        total = "" if promised is None else f" of {promised:,}"
        self.tell(f"{where}: {contacts:,}{total} contacts, {self._rate(contacts):,.0f}/s")

    def tell(self, text: str) -> None:
        """Say how far it is, if it is time to."""
        now = time.monotonic()
        if now - self._shown >= self._interval:
            self._shown = now
            self._say(f"{text}, after {self._elapsed()}")

    def summary(self, contacts: int, parts: int) -> str:
        """Sum up a complete load: contacts, parts and bytes, times and rate."""
        return (
            f"{contacts:,} contacts in {parts} part(s), {self.sent:,} sent by this run, "
            f"{self.bytes / 1e6:,.1f} MB downloaded; waited {self._waited:,.1f} s, "
            f"loaded for {time.monotonic() - self._started:,.1f} s, "
            f"{self._rate(contacts):,.0f} contacts/s"
        )

    def _rate(self, contacts: int) -> float:
        return (contacts - self._before) / max(time.monotonic() - self._started, 1e-3)

    def _elapsed(self) -> timedelta:
        return timedelta(seconds=round(time.monotonic() - self._started))

    def _say(self, text: str) -> None:
        if self._live:
            # Back to the start of the line: the next frame, or a log line, writes over it.
            sys.stderr.write(f"{text}\x1b[K\r")
            sys.stderr.flush()
        else:
            logger.info(text)
