"""Sync of one export: resume or create it, poll, read its parts, verify that it is complete.

Nothing here knows the SDK, standard output, BATCH or partitions.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from msgspec.structs import replace
from singer_sdk.exceptions import DataError, FatalAPIError, FatalSyncError

from tap_sendgrid_contacts.api.download import iter_parts
from tap_sendgrid_contacts.api.export import (
    ExportJob,
    ExportUnavailableError,
    PollBudget,
    PollTimeoutError,
    create_export_once,
    find_matching_export,
)
from tap_sendgrid_contacts.api.http import (
    NO_RETRY,
    RequestNotProcessedError,
    RetryPolicy,
    TransientError,
)
from tap_sendgrid_contacts.api.part_file import check_temp_dir
from tap_sendgrid_contacts.checkpoint import (
    Checkpoint,
    CheckpointMismatchError,
    InvalidCheckpointError,
)
from tap_sendgrid_contacts.dates import utc_now
from tap_sendgrid_contacts.incremental import emit_all
from tap_sendgrid_contacts.progress import ProgressReporter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tap_sendgrid_contacts.api.client import SendGridClient
    from tap_sendgrid_contacts.api.download import Part
    from tap_sendgrid_contacts.api.export import ExportRequest
    from tap_sendgrid_contacts.checkpoint import CheckpointStore
    from tap_sendgrid_contacts.columns import Row
    from tap_sendgrid_contacts.decode import Decoder
    from tap_sendgrid_contacts.incremental import ContactFilter

logger = logging.getLogger(__name__)

# Some targets keep the first STATE of a load without records for good: it must not make every
# later run search for an old request.
_ADOPTION_WINDOW = timedelta(minutes=30)


class NotStartedError(PollTimeoutError):
    """`poll_timeout` passed before an export could be created."""


class RepeatedPartError(FatalSyncError):
    """Two parts have the same content, so another part is missing."""


@dataclass(frozen=True)
class Block:
    """Contacts to emit.

    Attributes:
        contacts: The contacts; None at the end of a part.
        checkpoint: Valid once the contacts are durable.
        previous: The checkpoint before these contacts.
    """

    contacts: list[Row] | None
    checkpoint: Checkpoint
    previous: Checkpoint


@dataclass(frozen=True)
class SyncOptions:
    """Settings of a sync; see the settings of the same names.

    Attributes:
        poll_interval: First wait between status checks, in seconds.
        poll_budget: How long to wait for SendGrid, retries of the create request included.
        allow_count_mismatch: Whether fewer contacts than `contact_count` are no error.
        allow_empty: Whether rows may be deleted after an export of 0 contacts.
        version: Table version of a new export, if ACTIVATE_VERSION is to be emitted.
    """

    poll_interval: int = 2
    poll_budget: PollBudget = field(default_factory=lambda: PollBudget(3600))
    allow_count_mismatch: bool = False
    allow_empty: bool = False
    version: int | None = None


class ExportSync:
    """One export, from its request or resume to its last contact.

    Args:
        client: The API client.
        request: Parameters of the export.
        store: Saves checkpoints.
        decoder: Decodes the parts.
        options: Settings.
        filter_contacts: Chooses the contacts to emit.
        label: What is exported, for logs and errors; empty if there is only one export.

    Attributes:
        store: As above.
        label: As above.
        checkpoint: How far the export is read; once it is started.
        job: The export; once it is started.
        progress: Reports progress; once the export is open.
    """

    checkpoint: Checkpoint
    job: ExportJob
    progress: ProgressReporter

    def __init__(
        self,
        client: SendGridClient,
        request: ExportRequest,
        store: CheckpointStore,
        decoder: Decoder,
        options: SyncOptions,
        filter_contacts: ContactFilter = emit_all,
        label: str = "",
    ) -> None:
        self.store = store
        self.label = label
        self._client = client
        self._request = request
        self._decoder = decoder
        self._options = options
        self._filter_contacts = filter_contacts
        self._is_started = self._is_resumed = False
        self._rejection: FatalAPIError | None = None

    def start(self) -> None:
        """Resume the export of the state or create a new one, unless that is done.

        Raises:
            PollTimeoutError: If `poll_timeout` passed while other exports were polled.
            TransientError: If SendGrid could not be reached, retries included.
            FatalAPIError: If SendGrid rejects a request.
        """
        if self._rejection:
            raise self._rejection
        if not self._is_started:
            self._start(self._options.poll_budget.limit(self._client.retry))

    def start_early(self) -> bool:
        """Start the export before its turn, without retries.

        Returns:
            Whether the next one may be tried; `start` raises or retries what failed.
        """
        try:
            if not self._is_started and not self._rejection:
                self._start(NO_RETRY)
        except PollTimeoutError:
            return False
        except TransientError as error:
            logger.info("%s: %s; trying again later", self.label, error)
            return False
        except FatalAPIError as error:
            self._rejection = error
        return True

    def open(self) -> None:
        """Start the export, and wait until it is ready.

        Raises:
            ExportUnavailableError: If a new export failed.
            TransientError: If SendGrid could not be reached, retries included.
            FatalAPIError: If SendGrid rejects a request.
            PollTimeoutError: If `poll_timeout` passed.
        """
        self.start()
        self.progress = ProgressReporter()
        try:
            self._wait_until_ready()
        except (CheckpointMismatchError, ExportUnavailableError) as error:
            if not self._is_resumed:
                raise
            with self._options.poll_budget.spend():
                self._replace(error, self._client.retry)
            self._wait_until_ready()

    def blocks(self) -> Iterator[Block]:
        """Read the parts that are not finished.

        Yields:
            The contacts to emit, block by block.

        Raises:
            DataError: On data that is not that of a contact, or if contacts are missing.
            RepeatedPartError: If two parts have the same content.
            ExportUnavailableError: If the export changed.
        """
        self.progress.start_reading(self.checkpoint.contacts_read)
        try:
            yield from self._read_parts()
            self._verify()
        except (RepeatedPartError, ExportUnavailableError):
            # Resuming it would end in the same error until it expires, or pass for complete
            # where the parts that are gone are not known to be missing.
            self.store.discard()
            raise
        except DataError:
            if self.checkpoint.adopted and not self.checkpoint.contacts_read:
                # It may be another one, of the other file type.
                self.store.discard()
            raise
        finally:
            self._decoder.log_invalid_values()

    def complete(self) -> None:
        """Mark the export as complete: its contacts are verified and durable."""
        count = self.job.contact_count
        self.checkpoint = replace(self.checkpoint, is_complete=True, contact_count=count)

    def why_deletes_are_unsafe(self) -> str | None:
        """Return why rows that were not in this complete export must not be deleted, if so."""
        expected = self.checkpoint.contact_count
        if expected is None:
            return "the export status has no contact_count, so contacts may be missing"
        if self.checkpoint.contacts_read < expected:
            return "fewer contacts than contact_count were read"
        if expected == 0 and not self._options.allow_empty:
            return (
                "the export has 0 contacts, so every row would be deleted. If that is right, set "
                "max_shrink_percent to 100"
            )
        return None

    # --- open -------------------------------------------------------------------------------

    def _start(self, retry: RetryPolicy) -> None:
        with self._options.poll_budget.spend():
            try:
                checkpoint = self.store.load()
                if checkpoint:
                    self._resume(checkpoint, retry)
                else:
                    self._create(retry)
            except (InvalidCheckpointError, CheckpointMismatchError) as error:
                self._replace(error, retry)
        self._is_started = True

    def _replace(self, reason: Exception, retry: RetryPolicy) -> None:
        prefix = f"{self.label}: " if self.label else ""
        logger.warning("%s%s; starting a new export", prefix, reason)
        self._create(retry)

    def _create(self, retry: RetryPolicy) -> None:
        if self._options.poll_budget.remaining <= 0:
            # With hundreds of lists, all that is left would be created at once.
            raise NotStartedError(
                f"{self.label or 'Export'} not started: poll_timeout has passed. The next run "
                "continues here"
            )
        check_temp_dir()
        # Saved before the request: if the response is lost with this process, the next run looks
        # the export up.
        self._save(self.store.new(utc_now(), self._options.version))
        try:
            export_id, adopted = create_export_once(self._client, self._request, retry)
        except FatalAPIError:
            self.store.clear()
            raise
        except RequestNotProcessedError:
            if retry is NO_RETRY:
                # Otherwise, an earlier attempt may have been processed.
                self.store.clear()
            raise
        self._save(replace(self.checkpoint, export_id=export_id, adopted=adopted))
        self._is_resumed = False
        self.job = ExportJob(self._client, export_id, label=self.label, is_new=True)

    def _resume(self, checkpoint: Checkpoint, retry: RetryPolicy) -> None:
        self._is_resumed = True
        if checkpoint.is_complete:
            self.checkpoint = checkpoint
            return
        if not checkpoint.export_id:
            export_id = self._find_unconfirmed(checkpoint, retry)
            checkpoint = replace(checkpoint, export_id=export_id, adopted=True)
        if checkpoint.version is None:
            checkpoint = replace(checkpoint, version=self._options.version)
        self.job = ExportJob(self._client, checkpoint.export_id or "", label=self.label)
        logger.info(
            "Resuming %s, requested at %s: %d contacts already emitted",
            self.job,
            checkpoint.requested_at,
            checkpoint.contacts_read,
        )
        self._save(checkpoint)

    def _find_unconfirmed(self, checkpoint: Checkpoint, retry: RetryPolicy) -> str:
        if utc_now() - checkpoint.requested_at > _ADOPTION_WINDOW:
            raise CheckpointMismatchError(
                "Unconfirmed export request in state is older than 30 min; not searching for it"
            )
        export_id = retry.call(
            find_matching_export, self._client, self._request, checkpoint.requested_at
        )
        if export_id is None:
            raise CheckpointMismatchError("Unconfirmed export request in state was not accepted")
        return export_id

    def _wait_until_ready(self) -> None:
        options = self._options
        self.job.wait_until_ready(options.poll_interval, options.poll_budget, self.progress.wait)
        self._bind_parts()

    def _bind_parts(self) -> None:
        """Check that the parts are those of the checkpoint, if it has any."""
        job, checkpoint = self.job, self.checkpoint
        part_set = _digest("\n".join(job.part_names))
        part_count = len(job.part_names)
        if checkpoint.part_set not in {None, part_set}:
            raise CheckpointMismatchError(
                f"{job} changed: its parts are not those of the last run (expected "
                f"{checkpoint.part_count}, found {part_count})"
            )
        is_fully_read = len(checkpoint.finished()) == part_count
        is_short = checkpoint.contacts_read < (job.contact_count or 0)
        if is_fully_read and is_short and not self._options.allow_count_mismatch:
            raise CheckpointMismatchError(f"{job} is fully read but incomplete")
        self._save(replace(checkpoint, part_count=part_count, part_set=part_set))

    # --- read -------------------------------------------------------------------------------

    def _read_parts(self) -> Iterator[Block]:
        finished = self.checkpoint.finished()
        # Content of each part that had contacts: no other part may have the same.
        contents = {content for content in finished.values() if content}
        remaining = [name for name in self.job.part_names if _digest(name) not in finished]
        downloads = iter_parts(self._client, self.job, remaining, self.progress.report)
        with contextlib.closing(downloads) as parts:
            for part in parts:
                self.progress.bytes_downloaded += part.size
                if part.digest in contents:
                    raise RepeatedPartError(
                        f"{self.job}: {part.label} repeats the content of another part, so "
                        "contacts are missing. The next run starts a new export"
                    )
                contacts_before = self.checkpoint.contacts_before
                yield from self._read_part(part)
                if self.checkpoint.contacts_before > contacts_before:
                    contents.add(part.digest)

    def _read_part(self, part: Part) -> Iterator[Block]:
        checkpoint = self.checkpoint
        skip = checkpoint.part_offset if checkpoint.part_digest == part.digest else 0
        if skip < checkpoint.part_offset:
            logger.warning("%s changed since the last run; re-reading from the start", part.label)
        elif skip:
            logger.info("%s: skipping %d already emitted contacts", part.label, skip)
        checkpoint = replace(checkpoint, part_digest=part.digest, part_offset=0)
        for contacts in self._decoder.decode(part.file, part.label):
            previous = replace(checkpoint, part_offset=max(checkpoint.part_offset, skip))
            offset = checkpoint.part_offset + len(contacts)
            checkpoint = replace(checkpoint, part_offset=offset)
            if offset <= skip:
                continue
            unread = contacts[max(0, len(contacts) - (offset - skip)) :]
            selected, latest = self._filter_contacts(unread, checkpoint.max_updated_at)
            checkpoint = replace(checkpoint, max_updated_at=latest)
            yield self._block(selected, checkpoint, previous)
            self.progress.report_contacts(
                part.label, checkpoint.contacts_read, self.job.contact_count
            )
        finished = checkpoint.finish_part(_digest(part.name), part.digest)
        yield self._block(None, finished, checkpoint)

    def _block(
        self, contacts: list[Row] | None, checkpoint: Checkpoint, previous: Checkpoint
    ) -> Block:
        self.checkpoint = checkpoint
        return Block(contacts, checkpoint, previous)

    def _verify(self) -> None:
        """Check that no contact is missing."""
        read, expected = self.checkpoint.contacts_read, self.job.contact_count
        if expected is None:
            logger.warning("No contact_count in export status; completeness not verified")
        elif read > expected:
            logger.warning("Read %d contacts, expected %d (contact_count)", read, expected)
        elif read < expected:
            message = f"{self.job}: read {read} contacts, expected {expected} (contact_count)"
            if not self._options.allow_count_mismatch:
                raise DataError(
                    f"{message}. The next run starts a new export; if the error persists and you "
                    "know why, set allow_count_mismatch"
                )
            logger.warning("%s; continuing because of allow_count_mismatch", message)

    def _save(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.store.save(checkpoint)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
