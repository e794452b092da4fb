"""How an export comes along: a line that lives on a terminal, log lines now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOG_LINES = 30.0
_SECONDS_BETWEEN_FRAMES = 0.2


class Progress:
    """Tells of one export."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._interval = _SECONDS_BETWEEN_FRAMES if self._live else _SECONDS_BETWEEN_LOG_LINES
        self._started = self._shown = time.monotonic()
        self._before = 0
        self.waited = 0.0

    def pause(self, seconds: float, why: str) -> None:
        """Wait, and say why."""
        if not self._live:
            logger.info("%s; looking again in %.0f s", why, seconds)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._live:
                self._draw(f"{why}; looking again in {left:.0f} s")
            time.sleep(min(left, 1.0) if self._live else left)

    def loading(self, contacts: int) -> None:
        """Begin to load, with so many contacts loaded by an earlier run."""
        now = time.monotonic()
        self.waited, self._started, self._shown = now - self._started, now, now
        self._before = contacts

    def show(self, where: str, contacts: int, promised: int | None) -> None:
        """Say how far it is, if it is time to."""
        now = time.monotonic()
        if now - self._shown < self._interval:
            return
        self._shown = now
        total = "" if promised is None else f" of {promised:,}"
        text = f"{where}: {contacts:,}{total} contacts, {self._rate(contacts, now):,.0f}/s"
        if self._live:
            self._draw(text)
        else:
            logger.info(text)

    def summary(self, contacts: int, parts: int, size: int) -> str:
        """Sum up a complete load: contacts, parts and bytes, times and rate."""
        now = time.monotonic()
        return (
            f"{contacts:,} contacts in {parts} part(s), {size / 1e6:,.1f} MB downloaded; waited "
            f"{self.waited:,.1f} s, loaded for {now - self._started:,.1f} s, "
            f"{self._rate(contacts, now):,.0f} contacts/s"
        )

    def _rate(self, contacts: int, now: float) -> float:
        return (contacts - self._before) / max(now - self._started, 1e-3)

    def _draw(self, text: str) -> None:
        # Back to the start of the line: the next frame, or a log line, writes over it.
        sys.stderr.write(f"{text}\x1b[K\r")
        sys.stderr.flush()
