"""Sync of one export: resume or create it, poll, read its parts, verify that it is complete.

Nothing here knows the SDK, standard output, BATCH or partitions.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace
from singer_sdk.exceptions import DataError, FatalSyncError

from tap_sendgrid_contacts.api.download import iter_parts
from tap_sendgrid_contacts.api.export import (
    ExportJob,
    ExportUnavailableError,
    PollBudget,
    create_export_once,
    find_matching_export,
)
from tap_sendgrid_contacts.api.part_file import check_temp_dir
from tap_sendgrid_contacts.checkpoint import Checkpoint, InvalidCheckpointError
from tap_sendgrid_contacts.dates import utc_now
from tap_sendgrid_contacts.incremental import emit_all
from tap_sendgrid_contacts.progress import ProgressReporter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tap_sendgrid_contacts.api.client import SendGridClient
    from tap_sendgrid_contacts.api.download import Part
    from tap_sendgrid_contacts.api.export import ExportRequest
    from tap_sendgrid_contacts.checkpoint import CheckpointStore
    from tap_sendgrid_contacts.decode import Decoder
    from tap_sendgrid_contacts.decode.contact import Contact
    from tap_sendgrid_contacts.incremental import ContactFilter

logger = logging.getLogger(__name__)

# Some targets keep the first STATE of a load without records for good: it must not make every
# later run search for an old request.
_ADOPTION_WINDOW = timedelta(minutes=30)


class CheckpointMismatchError(Exception):
    """The export of the checkpoint cannot be resumed; a new one is required."""


class RepeatedPartError(FatalSyncError):
    """Two parts have the same content, so another part is missing."""


class Block(NamedTuple):
    """Contacts to emit.

    Attributes:
        contacts: The contacts.
        checkpoint: Valid once the contacts are durable.
        previous: The checkpoint before these contacts.
    """

    contacts: list[Contact]
    checkpoint: Checkpoint
    previous: Checkpoint


@dataclass(frozen=True)
class SyncOptions:
    """Settings of a sync; see the settings of the same names.

    Attributes:
        poll_interval: First wait between status checks, in seconds.
        poll_budget: How long to wait for SendGrid, retries of the create request included.
        allow_count_mismatch: Whether fewer contacts than `contact_count` are no error.
        version: Table version of a new export, if ACTIVATE_VERSION is to be emitted.
    """

    poll_interval: int = 2
    poll_budget: PollBudget = field(default_factory=lambda: PollBudget(3600))
    allow_count_mismatch: bool = False
    version: int | None = None


class ExportSync:
    """One export, from its request or resume to its last contact.

    Args:
        client: The API client.
        request: Parameters of the export.
        fingerprint: What else decides on the records: a checkpoint with another one is not
            resumed.
        store: Saves checkpoints.
        decoder: Decodes the parts.
        options: Settings.
        filter_contacts: Chooses the contacts to emit.
        progress: Reports progress.

    Attributes:
        checkpoint: How far the export is read; once the sync is open.
        job: The export; once the sync is open.
    """

    checkpoint: Checkpoint
    job: ExportJob

    def __init__(
        self,
        client: SendGridClient,
        request: ExportRequest,
        fingerprint: dict[str, Any],
        store: CheckpointStore,
        decoder: Decoder,
        options: SyncOptions,
        filter_contacts: ContactFilter = emit_all,
        progress: ProgressReporter | None = None,
    ) -> None:
        self.progress = progress or ProgressReporter()
        self._client = client
        self._request = request
        self._fingerprint = fingerprint
        self._store = store
        self._decoder = decoder
        self._options = options
        self._filter_contacts = filter_contacts

    def open(self) -> None:
        """Resume the export of the state or create a new one, and wait until it is ready.

        Raises:
            ExportUnavailableError: If a new export failed.
            TransientError: If SendGrid could not be reached.
            FatalAPIError: If SendGrid rejects a request, or `poll_timeout` passed.
        """
        try:
            checkpoint = self._store.load()
            if checkpoint:
                self._resume(checkpoint)
                return
        except (InvalidCheckpointError, CheckpointMismatchError, ExportUnavailableError) as error:
            logger.warning("%s; starting a new export", error)
        self._create()

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
            self._store.discard()
            raise
        except DataError:
            if self.checkpoint.adopted and not self.checkpoint.contacts_read:
                # It may be another one, of the other file type.
                self._store.discard()
            raise
        finally:
            self._decoder.log_invalid_values()

    # --- open -------------------------------------------------------------------------------

    def _create(self) -> None:
        check_temp_dir()
        # Saved before the request: if the response is lost with this process, the next run looks
        # the export up.
        requested_at, version = utc_now(), self._options.version
        self._save(Checkpoint(requested_at, self._fingerprint, version=version))
        with self._options.poll_budget.spend():
            export_id, adopted = create_export_once(self._client, self._request)
        self._save(replace(self.checkpoint, export_id=export_id, adopted=adopted))
        self._wait_until_ready(ExportJob(self._client, export_id, is_new=True))
        self._save(_with_parts(self.checkpoint, self.job))

    def _resume(self, checkpoint: Checkpoint) -> None:
        saved = checkpoint.fingerprint
        changed = [key for key, value in self._fingerprint.items() if value != saved.get(key)]
        if changed:
            raise CheckpointMismatchError(f"{', '.join(changed)} changed since the last run")
        if not checkpoint.export_id:
            export_id = self._find_unconfirmed(checkpoint)
            checkpoint = replace(checkpoint, export_id=export_id, adopted=True)
        job = ExportJob(self._client, checkpoint.export_id or "")
        logger.info(
            "Resuming %s, requested at %s: %d contacts already emitted",
            job,
            checkpoint.requested_at,
            checkpoint.contacts_read,
        )
        self._save(checkpoint)
        self._wait_until_ready(job)
        self._bind_parts(checkpoint)

    def _find_unconfirmed(self, checkpoint: Checkpoint) -> str:
        if utc_now() - checkpoint.requested_at > _ADOPTION_WINDOW:
            raise CheckpointMismatchError(
                "Unconfirmed export request in state is older than 30 min; not searching for it"
            )
        find = self._client.retry(find_matching_export)
        export_id = find(self._client, self._request, checkpoint.requested_at)
        if export_id is None:
            raise CheckpointMismatchError("Unconfirmed export request in state was not accepted")
        return export_id

    def _wait_until_ready(self, job: ExportJob) -> None:
        self.job = job
        job.wait_until_ready(
            self._options.poll_interval, self._options.poll_budget, self.progress.wait
        )

    def _bind_parts(self, checkpoint: Checkpoint) -> None:
        """Check that the parts are those of the checkpoint."""
        job = self.job
        bound = _with_parts(checkpoint, job)
        if checkpoint.part_set not in {None, bound.part_set}:
            raise CheckpointMismatchError(
                f"{job} changed: its parts are not those of the last run (expected "
                f"{checkpoint.part_count}, found {bound.part_count})"
            )
        is_fully_read = len(checkpoint.finished()) == bound.part_count
        is_short = checkpoint.contacts_read < (job.contact_count or 0)
        if is_fully_read and is_short and not self._options.allow_count_mismatch:
            raise CheckpointMismatchError(f"{job} is fully read but incomplete")
        self._save(bound)

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
        yield self._block([], finished, checkpoint)

    def _block(
        self, contacts: list[Contact], checkpoint: Checkpoint, previous: Checkpoint
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
        self._store.save(checkpoint)


def _with_parts(checkpoint: Checkpoint, job: ExportJob) -> Checkpoint:
    part_set = _digest("\n".join(job.part_names))
    return replace(checkpoint, part_count=len(job.part_names), part_set=part_set)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
