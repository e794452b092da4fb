"""One export, from its request or resume until it is ready."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from msgspec.structs import replace
from singer_sdk.exceptions import FatalAPIError

from tap_sendgrid_contacts.api.export import (
    NOT_FOUND_TOLERANCE,
    ExportJob,
    ExportUnavailableError,
    PollTimeoutError,
)
from tap_sendgrid_contacts.api.http import NO_RETRY, RequestNotProcessedError, TransientError
from tap_sendgrid_contacts.api.request import CreateRequest
from tap_sendgrid_contacts.checkpoint import Checkpoint
from tap_sendgrid_contacts.dates import utc_now
from tap_sendgrid_contacts.run.progress import ProgressReporter
from tap_sendgrid_contacts.run.reader import NotResumableError
from tap_sendgrid_contacts.run.saved import digest

if TYPE_CHECKING:
    from tap_sendgrid_contacts.api.client import SendGridClient
    from tap_sendgrid_contacts.api.export import PollBudget
    from tap_sendgrid_contacts.api.http import RetryPolicy
    from tap_sendgrid_contacts.api.request import ExportRequest
    from tap_sendgrid_contacts.run.state import RunState

logger = logging.getLogger(__name__)

# Some targets keep the first STATE of a load without records for good: it must not make every
# later run search for an old request.
_ADOPTION_WINDOW = timedelta(minutes=30)


@dataclass(frozen=True)
class SyncOptions:
    """Settings of a sync; see the settings of the same names.

    Attributes:
        poll_interval: First wait between status checks, in seconds.
        poll_budget: How long to wait for SendGrid, retries of the create request included.
        allow_count_mismatch: Whether fewer contacts than `contact_count` are no error.
    """

    poll_interval: int
    poll_budget: PollBudget
    allow_count_mismatch: bool


class ExportSync:
    """One export, from its request or resume until it is ready.

    Args:
        client: The API client.
        request: Parameters of the export.
        key: Its key in the state.
        label: What is exported, for logs and errors; empty if there is only one export.
        state: The state of the run.
        options: Settings.

    Attributes:
        key: As above.
        label: As above.
        checkpoint: How far the export was read by earlier runs; once it is planned.
        job: The export; once it is started.
        is_started: Whether it is.
        rejection: Why SendGrid rejected it, if it did so ahead of its turn.
        progress: Reports progress.
        is_resumed: Whether it was requested before, by an earlier run or an earlier attempt.
    """

    checkpoint: Checkpoint
    job: ExportJob

    def __init__(
        self,
        client: SendGridClient,
        request: ExportRequest,
        key: str,
        label: str,
        state: RunState,
        options: SyncOptions,
    ) -> None:
        self.key = key
        self.label = label
        self.progress = ProgressReporter()
        self.is_started = self.is_resumed = self._is_planned = False
        self.rejection: FatalAPIError | None = None
        self._client = client
        self._request = request
        self._state = state
        self._options = options

    # --- start ------------------------------------------------------------------------------

    def plan(self) -> None:
        """Take the checkpoint of the state, or make that of a new export.

        Saved before the request: if the response is lost with this process, the next run looks
        the export up.

        Raises:
            PollTimeoutError: If a new one is needed, and `poll_timeout` has passed.
        """
        if self._is_planned:
            return
        checkpoint = self._state.checkpoint(self.key)
        if not checkpoint and self._options.poll_budget.remaining <= 0:
            # With hundreds of lists, all that is left would be created at once.
            raise PollTimeoutError("not started: poll_timeout has passed")
        self._is_planned = True
        self.is_resumed = checkpoint is not None
        self._save(checkpoint or Checkpoint(utc_now()))

    def unplan(self) -> None:
        """Remove the checkpoint of an export that was not created, unless it may have been."""
        if self.is_started:
            return
        self._is_planned = False
        if not self.is_resumed:
            self._state.drop(self.key)

    def start(self, retry: RetryPolicy) -> None:
        """Resume the export, or create it.

        Args:
            retry: How to retry.

        Raises:
            TransientError: If SendGrid could not be reached, retries included.
            FatalAPIError: If SendGrid rejects the request.
        """
        if self.rejection:
            raise self.rejection
        try:
            with self._options.poll_budget.spend():
                if self.is_resumed:
                    self._resume(retry)
                else:
                    self._create(retry)
        except FatalAPIError as error:
            self.rejection = error
            raise

    def open(self) -> None:
        """Wait until the export is ready; replace one that cannot be resumed.

        Raises:
            ExportUnavailableError: If a new export failed.
            TransientError: If SendGrid could not be reached, retries included.
            PollTimeoutError: If `poll_timeout` passed.
            FatalAPIError: If SendGrid rejects a request.
        """
        try:
            self._wait_until_ready()
        except (NotResumableError, ExportUnavailableError) as error:
            if not self.is_resumed:
                raise
            self.reopen(error)

    def reopen(self, reason: Exception) -> None:
        """Replace an export that cannot be resumed, and wait until the new one is ready.

        Args:
            reason: Why, for the log.

        Raises:
            Exception: As `open`.
        """
        with self._options.poll_budget.spend():
            self._replace(reason, self._options.poll_budget.limit(self._client.retry))
        self._wait_until_ready()

    def _create(self, retry: RetryPolicy) -> None:
        try:
            export_id, adopted = self._create_request().send(retry)
        except (TransientError, PollTimeoutError) as error:
            # It may have been processed, by an earlier attempt too: then the next one looks it up.
            is_unprocessed = isinstance(error, RequestNotProcessedError) and retry is NO_RETRY
            self.is_resumed = not is_unprocessed
            raise
        confirmed = replace(
            self.checkpoint, export_id=export_id, adopted=adopted, requested_at=utc_now()
        )
        self._save(confirmed)
        self._set_job(export_id, is_new=True)

    def _resume(self, retry: RetryPolicy) -> None:
        checkpoint = self.checkpoint
        if not checkpoint.export_id:
            try:
                export_id = self._find_unconfirmed(retry)
            except NotResumableError as error:
                self._replace(error, retry)
                return
            checkpoint = replace(checkpoint, export_id=export_id, adopted=True)
            self._save(checkpoint)
        is_new = utc_now() - checkpoint.requested_at < NOT_FOUND_TOLERANCE
        self._set_job(checkpoint.export_id or "", is_new=is_new)
        logger.info(
            "Resuming %s, requested at %s: %d contacts already emitted",
            self.job,
            checkpoint.requested_at,
            checkpoint.contacts_read,
        )

    def _find_unconfirmed(self, retry: RetryPolicy) -> str:
        if not self._is_recent():
            raise NotResumableError(
                "Unconfirmed export request in state is older than 30 min; not searching for it"
            )
        export_id = retry.call(self._create_request().find)
        if export_id is None:
            raise NotResumableError("Unconfirmed export request in state was not accepted")
        return export_id

    def _create_request(self) -> CreateRequest:
        requested_at, discarded = self.checkpoint.requested_at, self._state.discarded(self.key)
        return CreateRequest(self._client, self._request, requested_at, discarded)

    def _is_recent(self) -> bool:
        return utc_now() - self.checkpoint.requested_at <= _ADOPTION_WINDOW

    def _replace(self, reason: Exception, retry: RetryPolicy) -> None:
        prefix = f"{self.label}: " if self.label and not self.is_started else ""
        logger.warning("%s%s; starting a new export", prefix, reason)
        # One that was not found may become visible yet: it is looked for again.
        is_lost = not self.checkpoint.export_id and self._is_recent()
        self._state.discard(self.key)
        self.is_started = self.is_resumed = False
        self._save(Checkpoint(self.checkpoint.requested_at if is_lost else utc_now()))
        self._state.emit()
        self._create(retry)
        self._state.emit()

    def _wait_until_ready(self) -> None:
        options = self._options
        self.job.wait_until_ready(options.poll_interval, options.poll_budget, self.progress.wait)
        self._bind_parts()

    def _bind_parts(self) -> None:
        """Check that the parts are those of the checkpoint, if it has any."""
        job, checkpoint = self.job, self.checkpoint
        part_set = digest(job.part_names)
        part_count = len(job.part_names)
        if checkpoint.part_set not in {None, part_set}:
            raise NotResumableError(
                f"{job} changed: its parts are not those of the last run (expected "
                f"{checkpoint.part_count}, found {part_count})"
            )
        is_fully_read = len(checkpoint.finished()) == part_count > 0
        is_short = checkpoint.contacts_read < (job.contact_count or 0)
        if is_fully_read and is_short and not self._options.allow_count_mismatch:
            raise NotResumableError(f"{job} is fully read but incomplete")
        self._save(replace(checkpoint, part_count=part_count, part_set=part_set))

    def _set_job(self, export_id: str, *, is_new: bool = False) -> None:
        self.job = ExportJob(self._client, export_id, label=self.label, is_new=is_new)
        self.is_started = True

    def _save(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._state.save(self.key, checkpoint)
