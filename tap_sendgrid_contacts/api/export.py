"""Export jobs: create or find one, poll it until it is ready, get signed URLs of its parts.

The API is SendGrid's v3 (https://www.twilio.com/docs/sendgrid/api-reference/contacts). Observed,
but not documented: a signed URL is valid for five minutes, each status has new ones, and the
files exist for twelve hours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from singer_sdk.exceptions import FatalAPIError, FatalSyncError
from typing_extensions import override

from tap_sendgrid_contacts.api.http import (
    NotFoundError,
    TransientError,
)
from tap_sendgrid_contacts.api.urls import is_safe_url, urls_by_part_name
from tap_sendgrid_contacts.dates import parse_timestamp, utc_now
from tap_sendgrid_contacts.redaction import sanitize

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from datetime import datetime

    from tap_sendgrid_contacts.api.client import ExportStatus, SendGridClient
    from tap_sendgrid_contacts.api.http import RetryPolicy

logger = logging.getLogger(__name__)

_MAX_POLL_INTERVAL = 30.0
_POLL_BACKOFF = 1.5

# A URL is used for the start of a download only, and is valid for five minutes. One that is not is
# rejected, and the download retried with a fresh one.
_MAX_URL_AGE = 60.0

# Parts have 1 MB at least. Each URL takes memory and time.
_MAX_PARTS = 100_000

# SendGrid does not promise that the status of an export can be read right after its creation.
# Observed: it can. A store that is replicated with delays lags by seconds, not by minutes.
NOT_FOUND_TOLERANCE = timedelta(seconds=30)


class ExportUnavailableError(FatalAPIError):
    """The export failed, expired or no longer exists; a new one is required."""


class PollTimeoutError(FatalSyncError):
    """`poll_timeout` passed. Nothing is wrong with the exports: the next run resumes them."""


class PollBudget:
    """How long a run may wait for SendGrid, all exports and requests together: `poll_timeout`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._spent = 0.0
        self._started: float | None = None

    @property
    def remaining(self) -> float:
        """The seconds that are left; less than 0 if it is overspent."""
        running = 0.0 if self._started is None else time.monotonic() - self._started
        return self._seconds - self._spent - running

    @contextlib.contextmanager
    def spend(self) -> Generator[None, None, None]:
        """Deduct the time that the block takes."""
        self._started = time.monotonic()
        try:
            yield
        finally:
            self._spent += time.monotonic() - self._started
            self._started = None

    def limit(self, retry: RetryPolicy) -> RetryPolicy:
        """Return a retry policy that raises `PollTimeoutError` instead of a wait beyond it."""

        def wait(seconds: float) -> None:
            if seconds > self.remaining:
                raise self.timeout_error("SendGrid did not accept a request")
            retry.wait(seconds)

        return dataclasses.replace(retry, wait=wait)

    def timeout_error(self, what: str) -> PollTimeoutError:
        """Return the error that it is spent, with what the run waited for."""
        return PollTimeoutError(f"{what}: timed out after {self._seconds} s (poll_timeout)")


class ExportJob:
    """An export that SendGrid is preparing or has ready.

    `label` is what is exported, for logs and errors. If it `is_new`, created just now, its status
    may be 404 for 30 s.

    Attributes:
        client: The API client.
        part_names: Identities of the parts, in the order in which they are read; known once the
            export is ready.
        contact_count: Number of contacts according to SendGrid, if it says.
        created_at: When SendGrid created it, if it says.
    """

    def __init__(self, client: SendGridClient, export_id: str, *, label: str, is_new: bool) -> None:
        self.id = export_id
        self._label = label
        self.part_names: tuple[str, ...] = ()
        self.contact_count: int | None = None
        self.created_at: datetime | None = None
        self.client = client
        self._visible_at = time.monotonic() + (NOT_FOUND_TOLERANCE.total_seconds() if is_new else 0)
        self._urls: dict[str, str] = {}
        self._urls_expire_at = 0.0

    @override
    def __str__(self) -> str:
        label = f" of {self._label}" if self._label else ""
        return f"Export {sanitize(self.id)}{label}"

    def wait_until_ready(
        self,
        poll_interval: float,
        budget: PollBudget,
        wait: Callable[[float, str], None],
    ) -> None:
        """Poll until the export is ready: at once, after `poll_interval` seconds, then up to 30 s.

        Transient failures do not end the wait: an outage of SendGrid may be shorter than it. `wait`
        waits for some seconds, and reports why.

        Raises:
            ExportUnavailableError: If the export failed, expired, or does not exist.
            FatalAPIError: On a response that is not as documented.
            PollTimeoutError: If the budget is spent.
        """
        with budget.spend():
            self._poll_until_ready(poll_interval, budget, wait)
        self.part_names = tuple(sorted(self._urls))
        count = "unknown number of" if self.contact_count is None else self.contact_count
        if not self.part_names and self.contact_count != 0:
            raise FatalAPIError(f"{self} is ready with {count} contacts but without parts")
        logger.info("%s is ready: %s contacts in %d part(s)", self, count, len(self.part_names))

    def _poll_until_ready(
        self, poll_interval: float, budget: PollBudget, wait: Callable[[float, str], None]
    ) -> None:
        interval = float(poll_interval)
        while True:
            retry_after = 0.0
            reason = "pending"
            try:
                if self._poll(timeout=max(budget.remaining, 0.1)):
                    return
            except TransientError as error:
                retry_after = error.retry_after
                reason = str(error)
                logger.warning("%s; polling again", error)
            remaining = budget.remaining
            if remaining <= 0:
                raise budget.timeout_error(f"{self} is not ready ({reason})")
            wait(min(max(interval, retry_after), remaining), f"{self}: {reason}")
            interval = min(interval * _POLL_BACKOFF, max(_MAX_POLL_INTERVAL, poll_interval))

    def signed_url(self, part_name: str) -> str:
        """Return a fresh signed URL of one of `part_names`.

        Raises:
            TransientError: If the status could not be read.
            ExportUnavailableError: If the export no longer has the part.
            FatalAPIError: If the URL is not safe to use.
        """
        if time.monotonic() >= self._urls_expire_at and not self._poll():
            raise ExportUnavailableError(f"{self} was ready and is pending again")
        if part_name not in self._urls or len(self._urls) != len(self.part_names):
            raise ExportUnavailableError(
                f"{self} changed: its parts are not those of an earlier status "
                f"(expected {len(self.part_names)}, found {len(self._urls)})"
            )
        url = self._urls[part_name]
        if not is_safe_url(url, allow_http=self.client.allows_http):
            number = self.part_names.index(part_name) + 1
            raise FatalAPIError(f"{self}: refusing non-HTTPS URL of part {number}")
        return url

    def discard_urls(self) -> None:
        """Have the next `signed_url` read the status again."""
        self._urls_expire_at = 0.0

    def _poll(self, timeout: float | None = None) -> bool:
        """Read the status; return whether the export is ready."""
        try:
            status = self.client.get_export(self.id, timeout=timeout)
        except NotFoundError:
            if time.monotonic() < self._visible_at:
                raise TransientError(
                    f"{self} was created just now and is not visible yet"
                ) from None
            raise ExportUnavailableError(f"{self} no longer exists (HTTP 404)") from None
        if status.status == "failure":
            message = sanitize(status.message or "no reason given")
            raise ExportUnavailableError(f"{self} failed: {message}")
        if status.status == "pending":
            return False
        if status.status != "ready":
            raise FatalAPIError(f"{self}: unknown export status '{sanitize(status.status)}'")
        self._set_ready(status)
        return True

    def _set_ready(self, status: ExportStatus) -> None:
        expires_at = parse_timestamp(status.expires_at)
        if expires_at and expires_at < utc_now() + self.client.clock_offset:
            raise ExportUnavailableError(f"{self} expired at {expires_at}")
        if status.contact_count is not None:
            self.contact_count = status.contact_count
        self.created_at = parse_timestamp(status.created_at)
        if len(status.urls) > _MAX_PARTS:
            raise FatalAPIError(f"{self} has more than {_MAX_PARTS:,} parts")
        self._urls = urls_by_part_name(status.urls)
        self._urls_expire_at = time.monotonic() + _MAX_URL_AGE
