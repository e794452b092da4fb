"""Read the parts of an export that is ready, and verify that it is complete."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from msgspec.structs import replace
from singer_sdk.exceptions import DataError, SingerSDKError

from tap_sendgrid_contacts import stopping
from tap_sendgrid_contacts.api.download import iter_parts
from tap_sendgrid_contacts.checkpoint import Block
from tap_sendgrid_contacts.run.saved import digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tap_sendgrid_contacts.api.export import ExportJob
    from tap_sendgrid_contacts.api.part_file import Part
    from tap_sendgrid_contacts.checkpoint import Checkpoint
    from tap_sendgrid_contacts.columns import Row
    from tap_sendgrid_contacts.decode import Decoder
    from tap_sendgrid_contacts.run.incremental import Since
    from tap_sendgrid_contacts.run.progress import ProgressReporter

logger = logging.getLogger(__name__)


class NotResumableError(SingerSDKError):
    """The export of the checkpoint cannot be resumed; a new one is required."""


class IncompleteExportError(DataError):
    """Contacts of the export are missing, or parts of it repeat."""


class ExportReader:
    """Reads an export that is ready.

    Args:
        job: The export.
        checkpoint: How far it has been read.
        decoder: Decodes the parts.
        since: Chooses the contacts to emit; None for all.
        progress: Reports progress.
        allow_count_mismatch: Whether fewer contacts than `contact_count` are no error.

    Attributes:
        checkpoint: How far the export is read.
    """

    def __init__(
        self,
        job: ExportJob,
        checkpoint: Checkpoint,
        decoder: Decoder,
        since: Since | None,
        progress: ProgressReporter,
        *,
        allow_count_mismatch: bool,
    ) -> None:
        self.checkpoint = checkpoint
        self._job = job
        self._decoder = decoder
        self._since = since
        self._progress = progress
        self._allow_count_mismatch = allow_count_mismatch

    def blocks(self) -> Iterator[Block]:
        """Read the parts that are not finished.

        Yields:
            The contacts to emit, block by block.

        Raises:
            DataError: On data that is not that of a contact.
            NotResumableError: If a part that was read in part has changed.
            IncompleteExportError: If contacts are missing, or two parts have the same content.
            ExportUnavailableError: If the export changed.
        """
        self._progress.start_reading(self.checkpoint.contacts_read)
        try:
            yield from self._read_parts()
            self._verify()
        finally:
            self._decoder.log_invalid_values()

    def _read_parts(self) -> Iterator[Block]:
        job = self._job
        finished = self.checkpoint.finished()
        # Content of each part that had contacts: no other part may have the same.
        contents = {content for content in finished.values() if content}
        remaining = [name for name in job.part_names if digest(name) not in finished]
        is_counted = job.contact_count is not None and not self._allow_count_mismatch
        downloads = iter_parts(job, remaining, self._progress.report, is_counted=is_counted)
        with contextlib.closing(downloads) as parts:
            for part in parts:
                self._progress.bytes_downloaded += part.size
                if part.digest in contents:
                    raise IncompleteExportError(
                        f"{job}: {part.label} repeats the content of another part, so contacts "
                        "are missing"
                    )
                contacts_before = self.checkpoint.contacts_before
                yield from self._read_part(part)
                if self.checkpoint.contacts_before > contacts_before:
                    contents.add(part.digest)

    def _read_part(self, part: Part) -> Iterator[Block]:
        checkpoint = self.checkpoint
        skip = checkpoint.part_offset if checkpoint.part_digest == part.digest else 0
        if skip < checkpoint.part_offset:
            raise NotResumableError(f"{self._job}: {part.label} changed since the last run")
        if skip:
            logger.info("%s: skipping %d already emitted contacts", part.label, skip)
        checkpoint = replace(checkpoint, part_digest=part.digest, part_offset=0)
        for rows in self._decoder.decode(part.file, part.label):
            # Not every block is yielded, or written at once.
            stopping.check()
            offset = checkpoint.part_offset + len(rows)
            checkpoint = replace(checkpoint, part_offset=offset)
            self._progress.report_contacts(
                part.label, checkpoint.contacts_read, self._job.contact_count
            )
            if offset <= skip:
                continue
            unread: Sequence[Row] = rows[max(0, len(rows) - (offset - skip)) :]
            if self._since:
                unread, latest = self._since.select(unread)
                latest = max(filter(None, (checkpoint.max_updated_at, latest)), default=None)
                checkpoint = replace(checkpoint, max_updated_at=latest)
            self.checkpoint = checkpoint
            yield Block(unread, checkpoint)
        self.checkpoint = checkpoint.finish_part(digest(part.name), part.digest)
        yield Block((), self.checkpoint)

    def _verify(self) -> None:
        """Check that no contact is missing."""
        read, expected = self.checkpoint.contacts_read, self._job.contact_count
        if expected is None:
            logger.warning("No contact_count in export status; completeness not verified")
        elif read > expected:
            logger.warning("Read %d contacts, expected %d (contact_count)", read, expected)
        elif read < expected:
            message = f"{self._job}: read {read} contacts, expected {expected} (contact_count)"
            if not self._allow_count_mismatch:
                raise IncompleteExportError(
                    f"{message}. If that recurs and you know why, set allow_count_mismatch"
                )
            logger.warning("%s; continuing because of allow_count_mismatch", message)
