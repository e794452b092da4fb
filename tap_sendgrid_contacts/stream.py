"""The contacts stream: catalog rules, and which output a sync has."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from singer_sdk import Stream
from singer_sdk.exceptions import ConfigurationError
from singer_sdk.helpers.conform import TypeConformanceLevel
from singer_sdk.mapper import RemoveRecordTransform, SameRecordTransform
from singer_sdk.singerlib.catalog import Metadata
from typing_extensions import override

from tap_sendgrid_contacts.columns import (
    PRIMARY_KEY,
    REPLICATION_KEY,
    STREAM,
    ColumnLayout,
    Hasher,
    validate_hash_columns,
)
from tap_sendgrid_contacts.output.batch import BatchFiles, validate_batch_config
from tap_sendgrid_contacts.output.formats import FORMATS
from tap_sendgrid_contacts.output.lines import RecordLines, SdkRecords
from tap_sendgrid_contacts.output.records import Records
from tap_sendgrid_contacts.run.emitter import StateEmitter
from tap_sendgrid_contacts.run.run import Run
from tap_sendgrid_contacts.run.saved import COLUMNS_KEY, digest, request_fingerprint
from tap_sendgrid_contacts.run.state import RunState
from tap_sendgrid_contacts.schema import SOURCE_COLUMNS, SOURCE_KEY, columns_from_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from singer_sdk.helpers._batch import BaseBatchFileEncoding, BatchConfig
    from singer_sdk.helpers.types import Context, Record
    from singer_sdk.metrics import Counter
    from singer_sdk.singerlib import Catalog, MetadataMapping, RecordMessage

    from tap_sendgrid_contacts.api.client import SendGridClient
    from tap_sendgrid_contacts.api.request import ExportRequest
    from tap_sendgrid_contacts.catalog.fields import ColumnPlan
    from tap_sendgrid_contacts.columns import Column, Row
    from tap_sendgrid_contacts.output import Output
    from tap_sendgrid_contacts.output.messages import MessageWriter
    from tap_sendgrid_contacts.tap import TapSendGridContacts


class ContactsStream(Stream):
    """Contacts of the configured lists and segments, through a contacts export.

    What was decided about its columns is in `plan`.
    """

    name = STREAM

    # The decoder yields values that conform to the schema.
    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.NONE

    def __init__(
        self,
        tap: TapSendGridContacts,
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
        self._emitter = StateEmitter(tap)
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
        """None: `Run` goes through the sources; the SDK would take those of the state."""

    @property
    @override
    def emit_activate_version_messages(self) -> bool:
        # The SDK emits them at the start; targets would delete rows that are still to be loaded.
        return False

    @override
    def get_replication_key_signpost(self, context: Context | None = None) -> None:
        """None: `RunState` sets the bookmark."""

    @override
    def _increment_stream_state(
        self, latest_record: Record, *, context: Context | None = None
    ) -> None:
        """No-op: `RunState` manages the state."""

    @override
    def _generate_record_messages(self, record: Record) -> Generator[RecordMessage, None, None]:
        try:
            messages = list(super()._generate_record_messages(record))
        except Exception as error:  # noqa: BLE001 - expressions can raise anything
            # The SDK's own message has the expression, others may have values.
            raise ConfigurationError(
                f"stream_maps cannot be applied to a contact ({type(error).__name__}): an "
                "expression may have to allow for null, as in `email or ''`"
            ) from None
        yield from messages

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
        if self._all_maps_drop_records():
            return
        output: Output[Record]
        if self._is_passthrough():
            output = RecordLines(
                self.name, self._layout.names, self._message_writer, self._record_counter
            )
        else:
            output = SdkRecords(self._records, self._message_writer)
        with self._emitter.emit_if_stopped():
            run = self._start_run()
            for record in run.read(output):
                self._stream_version = run.state.version
                yield record
            self._end_run(run)

    @override
    def get_batches(
        self, batch_config: BatchConfig, context: Context | None = None
    ) -> Iterable[tuple[BaseBatchFileEncoding, list[str]]]:
        if self._all_maps_drop_records():
            return
        self._validate_batches(batch_config)
        with self._emitter.emit_if_stopped():
            run = self._start_run()
            for manifest in run.read(self._make_batch_files(batch_config)):
                yield batch_config.encoding, manifest
            self._end_run(run)

    def _make_batch_files(self, batch_config: BatchConfig) -> BatchFiles:
        make_records: Callable[[Sequence[Row]], Sequence[Any]] | None = self._map_rows
        if FORMATS[batch_config.encoding.format].is_columnar:
            make_records = None
        elif self._maps_nothing():
            make_records = self._records.as_structs
        return BatchFiles(batch_config, self.name, self._layout.types, make_records)

    def validate_hash_columns(self) -> None:
        """Raise `ConfigurationError` if one of `hash_columns` cannot be hashed."""
        validate_hash_columns(
            self.config["hash_columns"], self._columns, self.primary_keys, self._source_columns
        )

    def _validate_batches(self, batch_config: BatchConfig) -> None:
        if len(self.stream_maps) > 1:
            # The SDK would announce every file for each of them.
            raise ConfigurationError("batch_config supports at most one stream map")
        if self._should_activate_version():
            raise ConfigurationError(
                "batch_config cannot be combined with emit_activate_version_messages: records in "
                "files have no version, so a target would delete them"
            )
        if FORMATS[batch_config.encoding.format].is_columnar and not self._maps_nothing():
            raise ConfigurationError(
                f"batch_config.encoding.format {batch_config.encoding.format} does not support "
                "stream maps and flattening; use jsonl"
            )

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

    def _start_run(self) -> Run:
        if self._plan.loaded:
            self.stream_state[COLUMNS_KEY] = self._plan.loaded
        state = RunState(
            self.stream_state,
            self._emitter,
            fingerprint=request_fingerprint(self._request, self.config) | self._fingerprint(),
            has_version=self._should_activate_version(),
        )
        return Run(
            self._client,
            self._request,
            self.config,
            self._layout,
            state,
            is_incremental=self.replication_method == "INCREMENTAL",
        )

    def _end_run(self, run: Run) -> None:
        if version := run.state.version:
            reason = run.state.why_deletes_are_unsafe(self.config["max_shrink_percent"])
            if reason:
                self.logger.warning("ACTIVATE_VERSION withheld: %s", reason)
            else:
                self._write_activate_version_message(version)
        run.complete()

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
        columns = [(each.name, each.type.name) for each in self._columns if each.is_selected]
        return {
            "replication_method": self.replication_method,
            "start_date": self.config.get("start_date"),
            "activate_version": self._should_activate_version(),
            "columns": digest([*columns, *self._source_columns]),
            "stream_maps": digest(mapping),
            "hash_columns": self._hasher.digest() if self._hasher else None,
        }

    # --- columns and maps -------------------------------------------------------------------

    @cached_property
    def _columns(self) -> list[Column]:
        columns = columns_from_schema(self.effective_schema, self._is_selected)
        return [*columns, *self._plan.ignored]

    @cached_property
    def _hasher(self) -> Hasher | None:
        names = self.config["hash_columns"]
        return Hasher(frozenset(names), self.config["hash_key"].encode()) if names else None

    @cached_property
    def _source_columns(self) -> list[str]:
        return [name for name in SOURCE_COLUMNS if self._is_selected(name)]

    @cached_property
    def _layout(self) -> ColumnLayout:
        """The columns of the records, without the values of a source."""
        return ColumnLayout(
            self._columns,
            self.config["on_invalid_value"],
            dict.fromkeys(self._source_columns),
            self._hasher,
        )

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

    def _map_rows(self, rows: Sequence[Row]) -> list[Record]:
        return [
            message.record
            for record in self._records.as_dicts(rows)
            for message in self._generate_record_messages(record)
        ]
