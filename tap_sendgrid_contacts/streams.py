"""The contacts stream: catalog rules, and which output a sync has."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from singer_sdk import Stream, metrics
from singer_sdk.exceptions import ConfigurationError
from singer_sdk.helpers.conform import TypeConformanceLevel
from singer_sdk.mapper import RemoveRecordTransform, SameRecordTransform
from singer_sdk.singerlib.catalog import Metadata
from typing_extensions import override

from tap_sendgrid_contacts import outputs
from tap_sendgrid_contacts.api.export import PollBudget
from tap_sendgrid_contacts.batches import is_columnar, make_folder, validate_batch_config
from tap_sendgrid_contacts.checkpoint import (
    COLUMNS_KEY,
    CheckpointStore,
    emit_state,
    resume_run,
    retain_partitions,
)
from tap_sendgrid_contacts.columns import PRIMARY_KEY, REPLICATION_KEY, ColumnLayout
from tap_sendgrid_contacts.dates import parse_date
from tap_sendgrid_contacts.decode import make_decoder
from tap_sendgrid_contacts.incremental import emit_all, make_incremental_filter, next_bookmark
from tap_sendgrid_contacts.messages import RecordMessageEncoder
from tap_sendgrid_contacts.records import Records
from tap_sendgrid_contacts.schema import (
    SOURCE_COLUMNS,
    SOURCE_KEY,
    columns_from_schema,
)
from tap_sendgrid_contacts.sources import FailedExportsError, Source, find_sources, sync_in_turn
from tap_sendgrid_contacts.sync import ExportSync, SyncOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from singer_sdk import Tap
    from singer_sdk.helpers._batch import BaseBatchFileEncoding, BatchConfig
    from singer_sdk.helpers.types import Context, Record
    from singer_sdk.metrics import Counter
    from singer_sdk.singerlib import Catalog, MetadataMapping

    from tap_sendgrid_contacts.api.client import SendGridClient
    from tap_sendgrid_contacts.api.export import ExportRequest
    from tap_sendgrid_contacts.columns import Column, Row
    from tap_sendgrid_contacts.custom_fields import ColumnPlan
    from tap_sendgrid_contacts.incremental import ContactFilter
    from tap_sendgrid_contacts.messages import MessageWriter

T = TypeVar("T")


class ContactsStream(Stream):
    """Contacts of the configured lists and segments, through a contacts export.

    Args:
        tap: The tap.
        plan: JSON schema of the contacts, and what else was decided about columns.
        client: The API client.
        request: Parameters of the export.
        message_writer: Writes messages to standard output.
    """

    name = "contacts"

    # The decoder yields values that conform to the schema.
    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.NONE

    def __init__(
        self,
        tap: Tap,
        plan: ColumnPlan,
        client: SendGridClient,
        request: ExportRequest,
        message_writer: MessageWriter,
    ) -> None:
        super().__init__(tap, schema=plan.schema)
        self._plan = plan
        self.primary_keys = [PRIMARY_KEY]
        if self.config["separate_exports"]:
            self.primary_keys.append(SOURCE_KEY)
        self._client = client
        self._request = request
        self._message_writer = message_writer
        self._record_counter: Counter | None = None

    # --- catalog ----------------------------------------------------------------------------

    @property
    @override
    def metadata(self) -> MetadataMapping:
        metadata = super().metadata
        if self._tap.input_catalog is None:
            # Offered, but no default: contacts can join a segment with `updated_at` unchanged.
            metadata.root.valid_replication_keys = [REPLICATION_KEY]
        return metadata

    @override
    def apply_catalog(self, catalog: Catalog) -> None:
        super().apply_catalog(catalog)
        if catalog.get_stream(self.tap_stream_id) is None:
            self.logger.warning("Stream '%s' not found in catalog; nothing to sync", self.name)
            return
        if not self.selected:
            self.logger.warning("Stream '%s' is deselected; nothing to sync", self.name)
        for key in self.primary_keys:
            self._mark_automatic(key)
        if self.replication_method == "FULL_TABLE":
            return
        self._mark_automatic(REPLICATION_KEY)
        self.logger.info(
            "INCREMENTAL misses contacts that join a list or segment with updated_at unchanged, "
            "and never reports contacts that left; FULL_TABLE with emit_activate_version_messages "
            "covers both"
        )
        if self.config["emit_activate_version_messages"]:
            self.logger.warning("Ignoring emit_activate_version_messages in INCREMENTAL mode")

    def _mark_automatic(self, column: str) -> None:
        # Without any metadata, everything is selected.
        if self.metadata:
            self.metadata["properties", column].inclusion = Metadata.InclusionType.AUTOMATIC

    # --- SDK hooks --------------------------------------------------------------------------

    @property
    @override
    def partitions(self) -> None:
        """None: `_sync_exports` goes through the sources; the SDK would take those of the state."""

    @property
    @override
    def emit_activate_version_messages(self) -> bool:
        # The SDK emits them at the start; targets would delete rows that are still to be loaded.
        return False

    @override
    def get_replication_key_signpost(self, context: Context | None = None) -> None:
        """None: `_finalize` sets the bookmark."""

    @override
    def _increment_stream_state(
        self, latest_record: Record, *, context: Context | None = None
    ) -> None:
        """No-op: `CheckpointStore` manages the state."""

    @override
    def compare_start_date(self, value: str, start_date_value: str) -> str:
        """Return the bookmark: the filter compares the two, and parses forms the SDK does not."""
        return value

    @override
    def get_record_counter(self, **kwargs: Any) -> Counter:
        self._record_counter = super().get_record_counter(**kwargs)
        return self._record_counter

    # --- sync -------------------------------------------------------------------------------

    @override
    def get_records(self, context: Context | None) -> Iterable[Record]:
        if not self._all_maps_drop_records():
            yield from self._sync_exports(self._read_records)

    @override
    def get_batches(
        self, batch_config: BatchConfig, context: Context | None = None
    ) -> Iterable[tuple[BaseBatchFileEncoding, list[str]]]:
        if self._all_maps_drop_records():
            return
        if len(self.stream_maps) > 1:
            # The SDK would announce every file for each of them.
            raise ConfigurationError("batch_config supports at most one stream map")
        if self._should_activate_version():
            raise ConfigurationError(
                "batch_config cannot be combined with emit_activate_version_messages: records in "
                "files have no version, so a target would delete them"
            )
        if is_columnar(batch_config.encoding) and not self._maps_nothing():
            raise ConfigurationError(
                f"batch_config.encoding.format {batch_config.encoding.format} does not support "
                "stream maps and flattening; use jsonl"
            )
        if not batch_config.storage.root:
            batch_config.storage.root = make_folder()
        read = partial(self._read_batches, batch_config)
        for manifest in self._sync_exports(read):
            yield batch_config.encoding, manifest

    @override
    def get_batch_config(self, config: Mapping[str, Any]) -> BatchConfig | None:
        try:
            batch_config = super().get_batch_config(config)
        except TypeError as error:
            raise ConfigurationError(
                'Invalid batch_config; expected e.g. {"encoding": {"format": "jsonl", '
                '"compression": "gzip"}, "storage": {"root": "file:///path"}}'
            ) from error
        if batch_config:
            validate_batch_config(batch_config)
        return batch_config

    def _read_records(self, sync: ExportSync) -> Iterator[Record]:
        self._stream_version = sync.checkpoint.version
        if self._is_passthrough():
            encoder = RecordMessageEncoder(self.name, self._stream_version, self._layout.names)
            output = outputs.record_lines(
                sync.blocks(), self._message_writer, encoder, self._record_counter
            )
            yield from outputs.emit(output, sync.store)
        else:
            yield from outputs.emit(outputs.sdk_records(sync.blocks(), self._records), sync.store)

    def _read_batches(self, config: BatchConfig, sync: ExportSync) -> Iterator[list[str]]:
        map_contacts: Callable[[list[Row]], list[Any]] | None = self._map_contacts
        if is_columnar(config.encoding):
            map_contacts = None
        elif self._maps_nothing():
            map_contacts = self._records.as_structs
        # Files of one export, also those of a resumed run, have the same time in their names.
        name = f"{self.name}-{sync.checkpoint.requested_at:%Y%m%dT%H%M%SZ}"
        output = outputs.batch_files(
            sync.blocks(), self._message_writer, config, name, self._layout.types, map_contacts
        )
        yield from outputs.emit(output, sync.store, state_per_item=True)

    def _sync_exports(self, read: Callable[[ExportSync], Iterator[T]]) -> Iterator[T]:
        """Sync the export, or one per source; then activate the version.

        Not the SDK's loop over partitions: BATCH has none, and exports are created up front.

        Args:
            read: Reads an export that is open.
        """
        syncs = self._make_syncs()

        def read_to_end(sync: ExportSync) -> Iterator[T]:
            if self._plan.loaded:
                self.stream_state[COLUMNS_KEY] = self._plan.loaded
            emitted_before = self._message_writer.records_emitted
            yield from read(sync)
            self._finalize(sync, self._message_writer.records_emitted - emitted_before)

        try:
            yield from sync_in_turn(syncs, self._open, read_to_end)
        except FailedExportsError:
            for sync in syncs:
                sync.store.restart()
            emit_state(self._tap)
            raise
        self._activate_version(syncs)
        for sync in syncs:
            sync.store.clear()

    def _make_syncs(self) -> list[ExportSync]:
        sources = [Source()]
        if self.config["separate_exports"]:
            sources = find_sources(self._client, self._request)
            if not sources:
                self.logger.warning("The account has no lists; nothing to sync")
        version = self._tap.initialized_at // 1000 if self._should_activate_version() else None
        is_reduced = retain_partitions(
            self.stream_state, [source.context for source in sources if source.context]
        )
        stores = list(map(self._make_store, sources))
        if self.config["separate_exports"]:
            version = resume_run(stores, is_reduced=is_reduced) or version
        options = SyncOptions(
            poll_interval=self.config["poll_interval"],
            poll_budget=PollBudget(self.config["poll_timeout"]),
            allow_count_mismatch=self.config["allow_count_mismatch"],
            allow_empty=self.config["max_shrink_percent"] == 100,  # noqa: PLR2004 - percent
            version=version,
        )
        return [
            ExportSync(
                self._client,
                source.request(self._request),
                store,
                make_decoder(self._request.file_type, self._make_layout(source.stamp)),
                # A count of 0 in the account's own listing confirms an empty export.
                replace(options, allow_empty=options.allow_empty or source.contact_count == 0),
                self._make_filter(store),
                str(source),
            )
            for source, store in zip(sources, stores, strict=True)
        ]

    def _make_store(self, source: Source) -> CheckpointStore:
        request = source.request(self._request)
        scope = {
            "api_url": self.config["api_url"],
            "on_behalf_of": self.config.get("on_behalf_of"),
            "list_ids": sorted(request.list_ids),
            "segment_ids": sorted(request.segment_ids),
        }
        state = self.get_context_state(source.context)
        return CheckpointStore(state, partial(emit_state, self._tap), scope, self._fingerprint())

    def _make_layout(self, stamp: Mapping[str, str | None]) -> ColumnLayout:
        return ColumnLayout(
            self._columns,
            self.config["on_invalid_value"],
            {name: value for name, value in stamp.items() if self._is_selected(name)},
        )

    def _make_filter(self, store: CheckpointStore) -> ContactFilter:
        if self.replication_method != "INCREMENTAL":
            return emit_all
        start_date = self.config.get("start_date")
        return make_incremental_filter(
            store.bookmark(),
            parse_date(start_date) if start_date else None,
            self._layout.names.index(REPLICATION_KEY),
        )

    def _open(self, sync: ExportSync) -> None:
        tags = {metrics.Tag.STREAM: self.name, metrics.Tag.JOB_TYPE: "contacts_export"}
        with metrics.Timer(metrics.Metric.JOB_DURATION, tags):
            sync.open()

    def _finalize(self, sync: ExportSync, emitted: int) -> None:
        """Mark the export as complete, and set the bookmark."""
        sync.complete()
        checkpoint, job = sync.checkpoint, sync.job
        if checkpoint.max_updated_at:
            bookmark = next_bookmark(checkpoint.max_updated_at, job.created_at)
            sync.store.advance_bookmark(REPLICATION_KEY, bookmark)
        summary = sync.progress.summary(checkpoint.contacts_read, len(job.part_names), emitted)
        self.logger.info("%s is complete: %s", job, summary)

    def _activate_version(self, syncs: Sequence[ExportSync]) -> None:
        if not self._should_activate_version():
            return
        for sync in syncs:
            if reason := sync.why_deletes_are_unsafe():
                prefix = f"{sync.label}: " if sync.label else ""
                self.logger.warning("ACTIVATE_VERSION withheld: %s%s", prefix, reason)
                return
        if syncs and (version := syncs[-1].checkpoint.version):
            self._write_activate_version_message(version)

    def _should_activate_version(self) -> bool:
        return (
            self.config["emit_activate_version_messages"]
            and self.replication_method == "FULL_TABLE"
        )

    def _fingerprint(self) -> dict[str, Any]:
        """Return what decides on the records beside the request: a change needs a new export."""
        mapping = {
            key: value
            for key, value in self.config.items()
            if key.startswith(("stream_map", "flattening_", "faker_"))
        }
        return {
            "file_type": self._request.file_type,
            "replication_method": self.replication_method,
            "start_date": self.config.get("start_date"),
            "activate_version": self._should_activate_version(),
            "columns": _digest(
                [
                    *((each.name, each.type) for each in self._columns if each.is_selected),
                    *filter(self._is_selected, SOURCE_COLUMNS),
                ]
            ),
            "stream_maps": _digest(mapping),
        }

    # --- columns and maps -------------------------------------------------------------------

    @cached_property
    def _columns(self) -> list[Column]:
        columns = columns_from_schema(self.effective_schema, self._is_selected)
        return [*columns, *self._plan.ignored]

    @cached_property
    def _layout(self) -> ColumnLayout:
        """The columns of the records, without the values of a source."""
        has_source = self.config["separate_exports"]
        return self._make_layout(dict.fromkeys(SOURCE_COLUMNS) if has_source else {})

    @cached_property
    def _records(self) -> Records:
        return Records(self._layout.names)

    def _is_selected(self, name: str) -> bool:
        is_automatic = name in {*self.primary_keys, self.replication_key}
        return name in self.effective_schema["properties"] and (
            is_automatic or self.mask["properties", name]
        )

    def _all_maps_drop_records(self) -> bool:
        return all(isinstance(each, RemoveRecordTransform) for each in self.stream_maps)

    def _is_passthrough(self) -> bool:
        """Return whether contacts can be emitted past the SDK: as they are, without a limit."""
        return self._maps_nothing() and self.ABORT_AT_RECORD_COUNT is None

    def _maps_nothing(self) -> bool:
        """Return whether a contact is the record: no maps, no filter, no flattening."""
        maps = self.stream_maps
        return (
            len(maps) == 1
            and type(maps[0]) is SameRecordTransform
            and not maps[0].flattening_enabled
        )

    def _map_contacts(self, contacts: list[Row]) -> list[Record]:
        return [
            message.record
            for record in self._records.as_dicts(contacts)
            for message in self._generate_record_messages(record)
        ]


def _digest(value: object) -> str:
    encoded = msgspec.json.encode(value, order="sorted", enc_hook=str)
    return hashlib.sha256(encoded).hexdigest()[:12]
