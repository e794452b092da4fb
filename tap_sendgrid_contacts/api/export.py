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
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from singer_sdk.exceptions import FatalAPIError, FatalSyncError
from typing_extensions import override

from tap_sendgrid_contacts import stopping
from tap_sendgrid_contacts.api.http import (
    NotFoundError,
    RequestNotProcessedError,
    TransientError,
)
from tap_sendgrid_contacts.api.urls import is_safe_url, url_lifetime, urls_by_part_name
from tap_sendgrid_contacts.dates import parse_date, utc_now
from tap_sendgrid_contacts.redaction import sanitize

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from datetime import datetime

    from tap_sendgrid_contacts.api.client import ExportStatus, SendGridClient
    from tap_sendgrid_contacts.api.http import RetryPolicy

logger = logging.getLogger(__name__)

_MAX_POLL_INTERVAL = 30.0
_POLL_BACKOFF = 1.5

# Both the time of the request and `created_at` are known to the second only.
_CLOCK_SKEW = timedelta(seconds=2)

# A URL is used for the start of a download only, and is valid for five minutes.
_MAX_URL_AGE = 60.0


# SendGrid does not promise that the status of an export can be read right after its creation.
# Observed: it can. A store that is replicated with delays lags by seconds, not by minutes.
NOT_FOUND_TOLERANCE = timedelta(seconds=30)


class ExportUnavailableError(FatalAPIError):
    """The export failed, expired or no longer exists; a new one is required."""


class PollTimeoutError(FatalSyncError):
    """`poll_timeout` passed. Nothing is wrong with the exports: the next run resumes them."""


@dataclass(frozen=True)
class ExportRequest:
    """Parameters of an export.

    Attributes:
        list_ids: Ids of lists.
        segment_ids: Ids of segments; with neither, all contacts.
        file_type: `json` or `csv`.
        max_file_size: Largest part, in MB.
        notify_email: Whether SendGrid also mails a link.
    """

    list_ids: tuple[str, ...] = ()
    segment_ids: tuple[str, ...] = ()
    file_type: str = "json"
    max_file_size: int | None = None
    notify_email: bool = False

    def body(self) -> dict[str, Any]:
        """Return the body of `POST /v3/marketing/contacts/exports`.

        Empty arrays are omitted: their effect is not documented.
        """
        body: dict[str, Any] = {"file_type": self.file_type}
        if self.list_ids:
            body["list_ids"] = list(self.list_ids)
        if self.segment_ids:
            body["segment_ids"] = list(self.segment_ids)
        if self.max_file_size:
            body["max_file_size"] = self.max_file_size
        if self.notify_email:
            body["notifications"] = {"email": True}
        return body


def create_export_once(
    client: SendGridClient, request: ExportRequest, retry: RetryPolicy
) -> tuple[str, bool]:
    """Create an export, and one only: a request whose response was lost is looked up.

    Args:
        client: The API client.
        request: Parameters of the export.
        retry: How to retry.

    Returns:
        The id of the export, and whether it was adopted: found, but not confirmed.

    Raises:
        TransientError: If SendGrid did not respond, retries included.
        FatalAPIError: If SendGrid rejects the request.
    """
    requested_at = utc_now()
    maybe_created = False

    def find_or_create() -> tuple[str, bool]:
        nonlocal maybe_created
        if maybe_created:
            if export_id := find_matching_export(client, request, requested_at):
                return export_id, True
            logger.warning("Export not found; retrying the create request")
            maybe_created = False
        try:
            return client.create_export(request.body()), False
        except RequestNotProcessedError:
            raise
        except TransientError:
            maybe_created = True
            raise

    return retry.call(find_or_create)


def find_matching_export(
    client: SendGridClient, request: ExportRequest, requested_at: datetime
) -> str | None:
    """Find the export that an unconfirmed request created.

    Args:
        client: The API client.
        request: Parameters of the export.
        requested_at: When it was requested, by this machine's clock.

    Returns:
        The id of the first export of the same lists and segments created since, if any.
    """
    # `GET /exports` has neither file type nor size. Assumption: a concurrent export of the same
    # lists is less likely than a lost response.
    wanted = [{id_.lower() for id_ in ids} for ids in (request.list_ids, request.segment_ids)]
    exports = client.list_exports()
    # Only now, after a response, is the offset of SendGrid's clock known.
    created_since = requested_at + client.clock_offset - _CLOCK_SKEW
    matches = [
        (created_at, export.id)
        for export in exports
        if (created_at := _parse_timestamp(export.created_at))
        and created_at >= created_since
        and export.status in {"pending", "ready"}
        and [
            {audience.id.lower() for audience in audiences}
            for audiences in (export.lists, export.segments)
        ]
        == wanted
    ]
    if not matches:
        return None
    _, export_id = min(matches)
    logger.info("Create request was accepted; adopting export %s", sanitize(export_id))
    return export_id


class PollBudget:
    """How long a run may wait for SendGrid, all exports and requests together: `poll_timeout`.

    Args:
        seconds: The time to wait, in seconds.
    """

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
        """Deduct the time that the block takes; blocks may be nested."""
        if self._started is not None:
            yield
            return
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
        """Return the error that it is spent.

        Args:
            what: What the run waited for.
        """
        return PollTimeoutError(f"{what}: timed out after {self._seconds} s (poll_timeout)")


class ExportJob:
    """An export that SendGrid is preparing or has ready.

    Args:
        client: The API client.
        export_id: The export.
        label: What is exported, for logs and errors.
        is_new: Whether it was created just now: then its status may be 404 for 30 s.

    Attributes:
        id: The export.
        part_names: Identities of the parts, in the order in which they are read; known once the
            export is ready.
        contact_count: Number of contacts according to SendGrid, if it says.
        created_at: When SendGrid created it, if it says.
    """

    def __init__(
        self, client: SendGridClient, export_id: str, *, label: str = "", is_new: bool = False
    ) -> None:
        self.id = export_id
        self._label = label
        self.part_names: tuple[str, ...] = ()
        self.contact_count: int | None = None
        self.created_at: datetime | None = None
        self._client = client
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
        wait: Callable[[float, str], None] = lambda seconds, _reason: stopping.sleep(seconds),
    ) -> None:
        """Poll until the export is ready.

        Transient failures do not end the wait: an outage of SendGrid may be shorter than it.

        Args:
            poll_interval: First wait between two polls, in seconds; it grows to 30.
            budget: How long to poll.
            wait: Waits for some seconds, and reports why.

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
        """Return a fresh signed URL of a part.

        Args:
            part_name: One of `part_names`.

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
        if not is_safe_url(url, allow_http=self._client.allows_http):
            number = self.part_names.index(part_name) + 1
            raise FatalAPIError(f"{self}: refusing non-HTTPS URL of part {number}")
        return url

    def discard_urls(self) -> None:
        """Have the next `signed_url` read the status again."""
        self._urls_expire_at = 0.0

    def _poll(self, timeout: float | None = None) -> bool:
        """Read the status; return whether the export is ready."""
        try:
            status = self._client.get_export(self.id, timeout=timeout)
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
        expires_at = _parse_timestamp(status.expires_at)
        if expires_at and expires_at < self._client.server_time():
            raise ExportUnavailableError(f"{self} expired at {expires_at}")
        if status.contact_count is not None:
            self.contact_count = status.contact_count
        self.created_at = _parse_timestamp(status.created_at)
        self._urls = urls_by_part_name(status.urls)
        lifetime = min(map(url_lifetime, self._urls.values()), default=0.0)
        self._urls_expire_at = time.monotonic() + min(_MAX_URL_AGE, lifetime / 2)


def _parse_timestamp(text: str | None) -> datetime | None:
    try:
        return parse_date(text) if text else None
    except (ValueError, OverflowError):
        return None
