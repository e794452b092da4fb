"""The contacts stream, Singer's side: schema, state, versions, messages."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace
from singer_sdk import Stream, metrics
from singer_sdk.exceptions import ConfigurationError, DataError
from singer_sdk.helpers.conform import TypeConformanceLevel
from singer_sdk.mapper import RemoveRecordTransform, SameRecordTransform
from singer_sdk.singerlib.catalog import Metadata
from typing_extensions import override

from tap_sendgrid_contacts import batches
from tap_sendgrid_contacts.decode import decoder
from tap_sendgrid_contacts.download import fetch_parts
from tap_sendgrid_contacts.export import (
    ExportJob,
    ExportLostError,
    ExportRequest,
    find,
    start,
)
from tap_sendgrid_contacts.incremental import REPLICATION_KEY, picker, set_bookmark
from tap_sendgrid_contacts.messages import RecordEncoder
from tap_sendgrid_contacts.position import Position
from tap_sendgrid_contacts.progress import Progress
from tap_sendgrid_contacts.schema import KEY, columns_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    from singer_sdk import Tap
    from singer_sdk.helpers._batch import BaseBatchFileEncoding, BatchConfig
    from singer_sdk.helpers.types import Context, Record
    from singer_sdk.metrics import Counter
    from singer_sdk.singerlib import Catalog, MetadataMapping

    from tap_sendgrid_contacts.client import SendGrid
    from tap_sendgrid_contacts.decode.contact import Contact
    from tap_sendgrid_contacts.incremental import Pick
    from tap_sendgrid_contacts.messages import MessageWriter
    from tap_sendgrid_contacts.schema import Column

# A list, with one export or none. Meltano merges states on `--full-refresh`: there an object
# keeps the keys that a later one lacks, and only lists are replaced whole.
IN_FLIGHT = "exports"

_UNANSWERED_FOR = timedelta(minutes=30)


class ContactsStream(Stream):
    """Contacts of the configured lists and segments, through a contacts export.

    Args:
        tap: The tap.
        schema: JSON schema of the contacts.
        api: SendGrid's API.
        writer: Where messages go.
    """

    name = "contacts"

    # Contacts come out of the decoder as the schema says.
    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.NONE

    def __init__(
        self, tap: Tap, schema: dict[str, Any], api: SendGrid, writer: MessageWriter
    ) -> None:
        super().__init__(tap, schema=schema)
        self.primary_keys = [KEY]
        self._api = api
        self._writer = writer
        self._counter: Counter | None = None
        self._position: Position
        self._records_since_state = 0
        self._progress = Progress()
        config = self.config
        self._request = ExportRequest(
            list_ids=tuple(config["list_ids"]),
            segment_ids=tuple(config["segment_ids"]),
            file_type=config["file_type"],
            max_file_size=config.get("max_file_size"),
            notify_email=config["notify_email"],
        )
        # Whose contacts these are: a bookmark means nothing for others.
        self._source = {
            "api_url": config["api_url"],
            "on_behalf_of": config.get("on_behalf_of"),
            "list_ids": sorted(self._request.list_ids),
            "segment_ids": sorted(self._request.segment_ids),
        }

    # --- catalog ----------------------------------------------------------------------------

    @property
    @override
    def metadata(self) -> MetadataMapping:
        metadata = super().metadata
        if self._tap.input_catalog is None:
            # Offered, and not the default: a contact can enter a segment without a new updated_at.
            metadata.root.valid_replication_keys = [REPLICATION_KEY]
        return metadata

    @override
    def apply_catalog(self, catalog: Catalog) -> None:
        super().apply_catalog(catalog)
        if catalog.get_stream(self.tap_stream_id) is None:
            self.logger.warning("The catalog has no stream %s: nothing is loaded", self.name)
            return
        if not self.selected:
            self.logger.warning("The catalog deselects %s: nothing is loaded", self.name)
        # Now, for a catalog that cannot be read; not when the export is there.
        columns_of(self.effective_schema, bool)
        self._always_select(KEY)
        if self.replication_method == "FULL_TABLE":
            self.replication_key = None
            return
        if self.replication_method != "INCREMENTAL":
            raise ConfigurationError(
                f"The catalog asks for {self.replication_method} replication of {self.name}: "
                "there are FULL_TABLE and INCREMENTAL"
            )
        self.replication_key = self.replication_key or REPLICATION_KEY
        if (
            self.replication_key != REPLICATION_KEY
            or REPLICATION_KEY not in self.effective_schema["properties"]
        ):
            raise ConfigurationError(
                f"INCREMENTAL replication of {self.name} goes by {REPLICATION_KEY} alone"
            )
        self._always_select(REPLICATION_KEY)
        if self.config["emit_activate_version_messages"]:
            self.logger.warning(
                "INCREMENTAL sends no ACTIVATE_VERSION: what did not change would be deleted"
            )

    def _always_select(self, name: str) -> None:
        # Without any metadata, all is selected.
        if self.metadata:
            self.metadata["properties", name].inclusion = Metadata.InclusionType.AUTOMATIC

    @property
    @override
    def emit_activate_version_messages(self) -> bool:
        # The SDK sends them at the start, when a target would take all rows for deleted that
        # are yet to come. `_complete` sends one at the end.
        return False

    @override
    def get_replication_key_signpost(self, context: Context | None = None) -> None:
        """None: the bookmark is set by `_complete`."""

    @override
    def _increment_stream_state(
        self, latest_record: Record, *, context: Context | None = None
    ) -> None:
        """Nothing: the export's position and `_complete` are all the state there is."""

    @override
    def compare_start_date(self, value: str, start_date_value: str) -> str:
        """The bookmark as it is: `picker` compares the two, and reads forms the SDK does not."""
        return value

    @override
    def get_record_counter(self, **kwargs: Any) -> Counter:
        self._counter = super().get_record_counter(**kwargs)
        return self._counter

    # --- records ----------------------------------------------------------------------------

    @override
    def get_records(self, context: Context | None) -> Iterable[Record]:
        if self.ABORT_AT_RECORD_COUNT is not None:
            self._check_access()
            return
        if self._is_dropped():
            return
        job = self._open_export()
        if self._is_plain():
            self._write_records(job)
        else:
            for contacts, position in self._read(job):
                yield from map(msgspec.to_builtins, contacts)
                self._commit(position)
        self._complete(job)

    def _is_dropped(self) -> bool:
        """Tell of maps that leave nothing of the stream."""
        return all(isinstance(each, RemoveRecordTransform) for each in self.stream_maps)

    @property
    def _activates_version(self) -> bool:
        return (
            self.config["emit_activate_version_messages"]
            and self.replication_method == "FULL_TABLE"
        )

    @cached_property
    def _columns(self) -> list[Column]:
        return columns_of(
            self.effective_schema,
            lambda name: name == self.replication_key or self.mask["properties", name],
        )

    def _is_plain(self) -> bool:
        """Tell whether a contact as decoded is the record: no maps, no filter, no flattening."""
        maps = self.stream_maps
        plain = (
            len(maps) == 1
            and type(maps[0]) is SameRecordTransform
            and not maps[0].flattening_enabled
        )
        how = "in blocks" if plain else "one by one, for a map or flattening"
        self.logger.info("Records are made %s", how)
        return plain

    def _write_records(self, job: ExportJob) -> None:
        encoder = RecordEncoder(self.name, self._stream_version)
        for contacts, position in self._read(job):
            self._writer.write(encoder.encode(contacts))
            if self._counter is not None:
                self._counter.increment(len(contacts))
            self._records_since_state += len(contacts)
            self._commit(position)

    # --- batches ----------------------------------------------------------------------------

    @override
    def get_batch_config(self, config: Mapping[str, Any]) -> BatchConfig | None:
        try:
            batch_config = super().get_batch_config(config)
        except TypeError as error:
            raise ConfigurationError(
                '`batch_config` is to be as {"encoding": {"format": "jsonl", "compression": '
                '"gzip"}, "storage": {"root": "file:///a/folder"}}; `storage` may have `prefix` '
                "and `params` too"
            ) from error
        if batch_config:
            batches.check(batch_config)
        return batch_config

    @override
    def get_batches(
        self, batch_config: BatchConfig, context: Context | None = None
    ) -> Iterable[tuple[BaseBatchFileEncoding, list[str]]]:
        if self.ABORT_AT_RECORD_COUNT is not None:
            self._check_access()
            return
        if self._is_dropped():
            return
        if len(self.stream_maps) > 1:
            raise ConfigurationError(
                "`batch_config` goes with one stream map at most: the SDK would announce every "
                "file for each of them"
            )
        if self._activates_version:
            raise ConfigurationError(
                "`batch_config` does not go with `emit_activate_version_messages`: records in "
                "files have no version, so a target would delete them"
            )
        job = self._open_export()
        chunks = self._chunks(job, batch_config.batch_size)
        for url, position in batches.write_files(chunks, batch_config, self.tap_stream_id):
            if url is not None:
                yield batch_config.encoding, [url]
            # The file is announced; the STATE that the SDK sent before this names the one before.
            self._commit(position, emit=url is not None)
        self._complete(job)

    def _chunks(self, job: ExportJob, size: int) -> Iterator[batches.Chunk]:
        encode = self._bare_encoder()
        before = self._position
        for contacts, position in self._read(job):
            for first in range(0, max(len(contacts), 1), size):
                lines, rows = encode(contacts[first : first + size])
                # A position is behind a whole block: up to its last piece it counts as unread.
                is_last = first + size >= len(contacts)
                yield batches.Chunk(lines, rows, position if is_last else before)
            before = position

    def _bare_encoder(self) -> Callable[[list[Contact]], tuple[bytes, int]]:
        """Choose how contacts become lines without a message around."""
        encoder = msgspec.json.Encoder(decimal_format="number")
        if self._is_plain():
            return lambda contacts: (encoder.encode_lines(contacts), len(contacts))

        def encode(contacts: list[Contact]) -> tuple[bytes, int]:
            mapped = [
                message.record
                for record in map(msgspec.to_builtins, contacts)
                for message in self._generate_record_messages(record)
            ]
            return encoder.encode_lines(mapped), len(mapped)

        return encode

    # --- the export -------------------------------------------------------------------------

    def _open_export(self) -> ExportJob:
        """Go on with the export that the state names, or ask for one; then wait for it."""
        asked_for = {
            **self._source,
            "file_type": self._request.file_type,
            # Not asked of SendGrid, but with another of these, what was sent before is amiss.
            "replication_method": self.replication_method,
            "start_date": self.config.get("start_date"),
            "activate_version": self._activates_version,
        }
        if saved := self.stream_state.get(IN_FLIGHT):
            try:
                return self._resume(saved, asked_for)
            except ExportLostError as error:
                self.logger.warning("%s: asking for a new export", error)
        version = self._tap.initialized_at // 1000 if self._activates_version else None
        # Out before the request: if its answer is lost with this process, the next one looks
        # for the export.
        self._commit(Position(self._api.now, asked_for, version=version), emit=True)
        return self._wait_for(start(self._api, self._request), is_new=True)

    def _resume(self, saved: object, asked_for: dict[str, Any]) -> ExportJob:
        try:
            (self._position,) = msgspec.convert(saved, tuple[Position])
        except msgspec.ValidationError as error:
            raise ExportLostError(f"The state's export cannot be read ({error})") from error
        before = self._position.request
        changed = [key for key in asked_for if asked_for[key] != before.get(key)]
        if changed:
            raise ExportLostError(f"{', '.join(changed)} changed since the last run")
        export_id = self._position.id or self._find_unanswered()
        self.logger.info("Going on with export %s", export_id)
        known = self._position.parts
        job = self._wait_for(export_id)
        if known not in {0, job.parts}:
            raise ExportLostError(f"Export {job.id} was in {known} part(s) and is in {job.parts}")
        at = self._position
        is_short = at.part == job.parts and at.contacts < (job.contact_count or 0)
        if is_short and not self.config["allow_count_mismatch"]:
            raise ExportLostError(f"Export {job.id} was read to its end and lacks contacts")
        return job

    def _find_unanswered(self) -> str:
        """Find the export that a run asked for and ended before the answer."""
        # Some targets keep the first STATE of a load without records for good: it must not hold
        # on to an old export.
        if self._api.now - self._position.asked_at > _UNANSWERED_FOR:
            raise ExportLostError("The state's export was asked for too long ago to look for it")
        export_id = find(self._api, self._request, self._position.asked_at)
        if export_id is None:
            raise ExportLostError("SendGrid does not list the export that was asked for")
        return export_id

    def _wait_for(self, export_id: str, *, is_new: bool = False) -> ExportJob:
        # Out before the first wait: whatever happens then, the export is not lost.
        self._commit(replace(self._position, id=export_id), emit=True)
        if self._activates_version:
            self._stream_version = self._position.version
        job = ExportJob(
            self._api,
            export_id,
            self.config["poll_interval"],
            self.config["poll_timeout"],
            self._progress.pause,
            is_new,
        )
        tags = {metrics.Tag.STREAM: self.name, metrics.Tag.JOB_TYPE: "contacts_export"}
        with metrics.Timer(metrics.Metric.JOB_DURATION, tags):
            job.wait()
        self._position = replace(self._position, parts=job.parts)
        return job

    def _read(self, job: ExportJob) -> Generator[tuple[list[Contact], Position], None, None]:
        """Read the export from the state's position on.

        Yields:
            Contacts to send, and the position behind them: to commit when they are sent.
        """
        decode = decoder(self._request.file_type, self._columns)
        pick = self._picker()
        at = self._position
        self._progress.loading(at.contacts + at.records)
        timeout = self.config["request_timeout"]
        fetched = fetch_parts(job, at.part, timeout, self._progress.tell)
        with contextlib.closing(fetched) as parts:
            for part in parts:
                self._progress.bytes += part.bytes
                where = f"Part {part.number + 1} of {job.parts}"
                skip = at.records if at.file == part.version else 0
                if skip < at.records:
                    self.logger.warning("%s is another file now: reading it anew", where)
                elif skip:
                    self.logger.info("%s: skipping %d contacts sent before", where, skip)
                at = replace(at, file=part.version, records=0)
                for contacts in decode(part.file, where):
                    at = replace(at, records=at.records + len(contacts))
                    if at.records > skip:
                        fresh = contacts[max(0, len(contacts) - (at.records - skip)) :]
                        fresh, newest = pick(fresh, at.newest)
                        at = replace(at, newest=newest)
                        self._progress.sent += len(fresh)
                        yield fresh, at
                        self._progress.show(where, at.contacts + at.records, job.contact_count)
                at = replace(
                    at, part=at.part + 1, file=None, records=0, contacts=at.contacts + at.records
                )
                yield [], at

    def _picker(self) -> Pick:
        if self.replication_method == "INCREMENTAL":
            return picker(self.stream_state, self._source, self.config.get("start_date"))
        return lambda contacts, newest: (contacts, newest)

    def _commit(self, position: Position, *, emit: bool = False) -> None:
        """Make a position the state's, in one step, and send a STATE if it is time for one."""
        emit = emit or position.part != self._position.part
        self._position = position
        self.stream_state[IN_FLIGHT] = [msgspec.to_builtins(position)]
        if emit or self._records_since_state >= self.STATE_MSG_FREQUENCY:
            self._records_since_state = 0
            self._tap.state_writer.write_state(self.tap_state)

    def _complete(self, job: ExportJob) -> None:
        """Check that nothing is missing; only then are rows that left the export given up."""
        contacts, promised = self._position.contacts, job.contact_count
        if promised is None:
            self.logger.warning("SendGrid did not say how many contacts to expect: not checked")
        elif contacts > promised:
            self.logger.warning("%d contacts came, SendGrid promised %d", contacts, promised)
        elif contacts < promised:
            text = f"Export {job.id}: {contacts} contacts came, SendGrid promised {promised}"
            if not self.config["allow_count_mismatch"]:
                raise DataError(
                    f"{text}. The next run asks for a new export; if it stays so and you know "
                    "why, set `allow_count_mismatch`"
                )
            self.logger.warning("%s; `allow_count_mismatch` lets it pass", text)
        if self._stream_version:
            self._write_activate_version_message(self._stream_version)
        state = self.stream_state
        if newest := self._position.newest:
            set_bookmark(state, self._source, newest, job.created_at)
        state[IN_FLIGHT] = []
        summary = self._progress.summary(contacts, job.parts)
        self.logger.info("Export %s is complete: %s", job.id, summary)

    def _check_access(self) -> None:
        """Check for `--test` what a sync needs, as far as it shows without an export."""
        self._api.exports()
        for setting, wanted, existing in (
            ("list_ids", self._request.list_ids, self._api.lists),
            ("segment_ids", self._request.segment_ids, self._api.segments),
        ):
            if not wanted:
                continue
            there = existing()
            missing = {each.lower() for each in wanted} - {each.id.lower() for each in there}
            if missing:
                raise ConfigurationError(
                    f"`{setting}`: SendGrid has no {', '.join(sorted(missing))}; it has "
                    + (", ".join(f"{each.id} ({each.name})" for each in there) or "none at all")
                )
        whole = not (self._request.list_ids or self._request.segment_ids)
        what = "all contacts are asked for" if whole else "the lists and segments exist"
        self.logger.info("The key is accepted, %s; whether it may export shows then", what)
