"""A run: all contacts of its sources, from complete exports.

Read `Run.read` from top to bottom.
"""

from __future__ import annotations

import logging
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from singer_sdk.exceptions import DataError, FatalAPIError, FatalSyncError

from tap_sendgrid_contacts import stopping
from tap_sendgrid_contacts.api.export import PollBudget, PollTimeoutError
from tap_sendgrid_contacts.api.http import (
    NO_RETRY,
    ForbiddenError,
    TransientError,
    UnauthorizedError,
)
from tap_sendgrid_contacts.api.part_file import check_temp_dir
from tap_sendgrid_contacts.columns import REPLICATION_KEY
from tap_sendgrid_contacts.dates import parse_date
from tap_sendgrid_contacts.decode import make_decoder
from tap_sendgrid_contacts.run.incremental import Since
from tap_sendgrid_contacts.run.reader import (
    ExportReader,
    IncompleteExportError,
    NotResumableError,
)
from tap_sendgrid_contacts.run.saved import export_key
from tap_sendgrid_contacts.run.sources import Source, find_sources
from tap_sendgrid_contacts.run.sync import ExportSync, SyncOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tap_sendgrid_contacts.api.client import SendGridClient
    from tap_sendgrid_contacts.api.http import RetryPolicy
    from tap_sendgrid_contacts.api.request import ExportRequest
    from tap_sendgrid_contacts.checkpoint import Checkpoint
    from tap_sendgrid_contacts.columns import ColumnLayout
    from tap_sendgrid_contacts.output import Output
    from tap_sendgrid_contacts.run.state import RunState

T = TypeVar("T")

logger = logging.getLogger(__name__)

EXPORTS_AHEAD = 4
"""Exports that SendGrid prepares while another one is read.

Few, since SendGrid does not document how many may run at a time, and since each is available for
some hours only.
"""


# The export may still be read by a later attempt.
_INTERRUPTIONS = (TransientError, PollTimeoutError)


class FailedExportsError(FatalSyncError):
    """Some of several exports failed; the others were read to their end."""


class _Failure(NamedTuple):
    """Why an export was not read to its end, and whether it was discarded."""

    message: str
    is_final: bool


class Run:
    """All contacts of the configured lists and segments, or of the account.

    Args:
        client: The API client.
        request: Parameters of the exports.
        config: The tap's settings.
        layout: The columns of the contacts.
        state: The state of the run.
        is_incremental: Whether to emit only contacts updated since the bookmark.

    Attributes:
        state: As above.
    """

    def __init__(
        self,
        client: SendGridClient,
        request: ExportRequest,
        config: Mapping[str, Any],
        layout: ColumnLayout,
        state: RunState,
        *,
        is_incremental: bool,
    ) -> None:
        self.state = state
        self._client = client
        self._request = request
        self._config = config
        self._layout = layout
        self._is_incremental = is_incremental
        self._poll_budget = PollBudget(config["poll_timeout"])
        self._retry = self._poll_budget.limit(client.retry)
        self._sources: dict[str, Source] = {}
        self._syncs: list[ExportSync] = []

    def read(self, output: Output[T]) -> Iterator[T]:
        """Read the exports one after the other; SendGrid prepares the next ones meanwhile.

        An export that fails does not keep the others from being read.

        Args:
            output: Writes the contacts.

        Yields:
            What the SDK is to write.

        Raises:
            FatalSyncError: If an export failed; if there are several, the log says why.
        """
        check_temp_dir()
        self._syncs = self._find_exports()
        failures: list[_Failure] = []
        for position, sync in enumerate(self._syncs):
            if self.state.is_finished(sync.key):
                logger.info("%s: read to its end by the interrupted run; skipping", sync.label)
                continue
            emitted_before = output.records_emitted
            try:
                self._start([sync], self._retry)
                self._start_ahead(position)
                sync.open()
                # Now that this one is ready, SendGrid may accept another one.
                self._start_ahead(position)
                yield from self._read_export(sync, output)
            except (UnauthorizedError, ForbiddenError):
                # It would recur with the next one.
                raise
            except (*_INTERRUPTIONS, FatalAPIError, DataError) as error:
                self._log_end(sync, output.records_emitted - emitted_before)
                failure = self._handle_failure(sync, error)
                if len(self._syncs) == 1:
                    raise type(error)(failure.message) from error
                if sync.is_started or not isinstance(error, PollTimeoutError):
                    logger.error(failure.message)  # noqa: TRY400 - no traceback for users
                failures.append(failure)
            else:
                self._log_end(sync, output.records_emitted - emitted_before)
        if failures:
            self._end(failures)

    def complete(self) -> None:
        """End the run: all records are written."""
        self.state.complete(REPLICATION_KEY if self._is_incremental else None)

    # --- start ------------------------------------------------------------------------------

    def _find_exports(self) -> list[ExportSync]:
        config = self._config
        sources = [Source()]
        if config["separate_exports"]:
            sources = find_sources(self._client, self._request)
            if not sources:
                logger.warning("The account has no lists; nothing to sync")
        requests = {source: source.request(self._request) for source in sources}
        account = config["api_url"], config.get("on_behalf_of")
        self._sources = {
            export_key(*account, each.list_ids, each.segment_ids): source
            for source, each in requests.items()
        }
        self.state.set_exports({key: str(source) for key, source in self._sources.items()})
        options = SyncOptions(
            poll_interval=config["poll_interval"],
            poll_budget=self._poll_budget,
            allow_count_mismatch=config["allow_count_mismatch"],
        )
        return [
            ExportSync(self._client, requests[source], key, str(source), self.state, options)
            for key, source in self._sources.items()
        ]

    def _start(self, syncs: Sequence[ExportSync], retry: RetryPolicy) -> None:
        """Create exports, or resume them; emit STATE before the requests and after them."""
        syncs = [sync for sync in syncs if not sync.is_started]
        if not syncs:
            return
        try:
            for sync in syncs:
                sync.plan()
            self.state.emit()
            for sync in syncs:
                sync.start(retry)
        except Exception:
            for sync in syncs:
                sync.unplan()
            self.state.emit()
            raise
        self.state.emit()

    def _start_ahead(self, position: int) -> None:
        """Create the next exports, without retries: their turn is still to come.

        In groups, since each request needs a STATE before it and after it.
        """
        following = islice(self._syncs, position + 1, None)
        unfinished = (sync for sync in following if not self.state.is_finished(sync.key))
        ahead = list(islice(unfinished, EXPORTS_AHEAD))
        while missing := [sync for sync in ahead if not sync.is_started and not sync.rejection]:
            if 2 * len(missing) < len(ahead):
                return
            try:
                self._start(missing, NO_RETRY)
            except PollTimeoutError:
                return
            except TransientError as error:
                logger.info("%s; creating the next exports later", error)
                return
            except FatalAPIError:
                # It is raised again at its turn.
                continue

    # --- read -------------------------------------------------------------------------------

    def _read_export(self, sync: ExportSync, output: Output[T]) -> Iterator[T]:
        layout = self._layout.with_stamp(self._sources[sync.key].stamp)
        since = self._make_filter(sync.key, layout) if self._is_incremental else None
        while True:
            reader = ExportReader(
                sync.job,
                sync.checkpoint,
                make_decoder(self._request.file_type, layout),
                since,
                sync.progress,
                allow_count_mismatch=self._config["allow_count_mismatch"],
            )
            try:
                yield from self._write(sync.key, output.write(reader.blocks(), self.state.version))
                break
            except NotResumableError as error:
                sync.reopen(error)
        self.state.finish(sync.key, sync.job.contact_count, sync.job.created_at)

    def _write(
        self, key: str, written: Iterator[tuple[Iterable[T], Checkpoint | None]]
    ) -> Iterator[T]:
        for items, checkpoint in written:
            # The SDK has written an item when it asks for the next one.
            yield from items
            if checkpoint:
                self.state.save(key, checkpoint)
            stopping.check()

    def _make_filter(self, key: str, layout: ColumnLayout) -> Since:
        start_date = self._config.get("start_date")
        dates = self.state.since(key), parse_date(start_date) if start_date else None
        earliest = max(filter(None, dates), default=None)
        since = f"updated since {earliest}" if earliest else "of the export"
        logger.info("Emitting the contacts %s", since)
        return Since(layout.names.index(REPLICATION_KEY), earliest)

    # --- end --------------------------------------------------------------------------------

    def _handle_failure(self, sync: ExportSync, error: Exception) -> _Failure:
        """Keep the export, or give it up; the message says which."""
        message = str(error)
        if sync.label and sync.label not in message:
            message = f"{sync.label}: {message}"
        is_damaged = isinstance(error, DataError) and not isinstance(error, IncompleteExportError)
        is_final = not isinstance(error, _INTERRUPTIONS) and not (
            is_damaged and self.state.keep_once(sync.key)
        )
        if is_final:
            self.state.discard(sync.key)
        self.state.emit()
        if sync.is_started:
            next_run = "starts a new export" if is_final else "resumes it"
            message = f"{message}. The next run {next_run}"
        return _Failure(message, is_final)

    def _end(self, failures: Sequence[_Failure]) -> None:
        summary = f"{len(failures)} of {len(self._syncs)} exports are not complete. The next run"
        what = "continues this one"
        if until := self.state.resumable_until:
            what += f" if it starts before {until:%Y-%m-%d %H:%M} UTC"
        if all(failure.is_final for failure in failures):
            # Each is finished or failed. The next run must not take what is finished for fresh.
            self.state.restart()
            what = "reads all lists and segments again"
        self.state.emit()
        raise FailedExportsError(f"{summary} {what}")

    def _log_end(self, sync: ExportSync, emitted: int) -> None:
        if sync.is_started:
            sync.progress.log_end(
                sync.job,
                export=sync.label or "all",
                contacts_read=self.state.contacts_read(sync.key),
                contacts_emitted=emitted,
                resumed=sync.is_resumed,
                complete=self.state.is_finished(sync.key),
            )
