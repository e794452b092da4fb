"""The contacts stream: catalog rules, and which output a sync has."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from singer_sdk import Stream
from singer_sdk.exceptions import ConfigurationError
from singer_sdk.helpers.conform import TypeConformanceLevel
from singer_sdk.singerlib.catalog import Metadata
from typing_extensions import override

from tap_sendgrid_contacts.columns import (
    REPLICATION_KEY,
    STREAM,
    ColumnLayout,
    Hasher,
)
from tap_sendgrid_contacts.maps import changes_nothing, removes_stream
from tap_sendgrid_contacts.output.batch import (
    BatchFiles,
    validate_batch_config,
    validate_combination,
)
from tap_sendgrid_contacts.output.formats import FORMATS
from tap_sendgrid_contacts.output.lines import RecordLines, SdkRecords
from tap_sendgrid_contacts.output.records import Records
from tap_sendgrid_contacts.run.emitter import StateEmitter
from tap_sendgrid_contacts.run.run import Run
from tap_sendgrid_contacts.run.saved import COLUMNS_KEY, run_fingerprint
from tap_sendgrid_contacts.run.state import RunState
from tap_sendgrid_contacts.schema import SOURCE_COLUMNS, columns_from_schema, stream_key

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from singer_sdk.helpers._batch import BaseBatchFileEncoding, BatchConfig
    from singer_sdk.helpers.types import Context, Record
    from singer_sdk.metrics import Counter
    from singer_sdk.singerlib import Catalog, MetadataMapping, RecordMessage

    from tap_sendgrid_contacts.api.client import SendGridClient
    from tap_sendgrid_contacts.api.request import ExportRequest
    from tap_sendgrid_contacts.catalog.fields import ColumnPlan
    from tap_sendgrid_contacts.columns import Row
    from tap_sendgrid_contacts.output import Output
    from tap_sendgrid_contacts.tap import TapSendGridContacts

T = TypeVar("T")


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
    ) -> None:
        super().__init__(tap, schema=plan.schema)
        self._plan = plan
        self.primary_keys = stream_key(separate_exports=self.config["separate_exports"])
        self._emitter = StateEmitter(tap)
        self._client = client
        self._request = request
        self._message_writer = tap.message_writer
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
        if removes_stream(self.stream_maps):
            return
        output: Output[Record] = SdkRecords(self._records, self._message_writer)
        if changes_nothing(self.stream_maps) and self.ABORT_AT_RECORD_COUNT is None:
            output = RecordLines(
                self.name, self.layout.names, self._message_writer, self._record_counter
            )
        yield from self._read_contacts(output)

    @override
    def get_batches(
        self, batch_config: BatchConfig, context: Context | None = None
    ) -> Iterable[tuple[BaseBatchFileEncoding, list[str]]]:
        if removes_stream(self.stream_maps):
            return
        make_records: Callable[[Sequence[Row]], Sequence[Any]] | None = self._map_rows
        if FORMATS[batch_config.encoding.format].is_columnar:
            make_records = None
        elif changes_nothing(self.stream_maps):
            make_records = self._records.as_structs
        files = BatchFiles(batch_config, self.name, self.layout.types, make_records)
        for manifest in self._read_contacts(files):
            yield batch_config.encoding, manifest

    @override
    def get_batch_config(self, config: Mapping[str, Any]) -> BatchConfig | None:
        batch_config = super().get_batch_config(config)
        if batch_config is None:
            return None
        validate_batch_config(batch_config)
        validate_combination(batch_config, self.stream_maps, has_version=self._has_version)
        return batch_config

    def _read_contacts(self, output: Output[T]) -> Iterator[T]:
        with self._emitter.emit_if_stopped():
            run = self._start_run()
            for item in run.read(output):
                self._stream_version = run.state.version
                yield item
            if version := run.state.version:
                reason = run.state.why_deletes_are_unsafe(self.config["max_shrink_percent"])
                if reason:
                    self.logger.warning("ACTIVATE_VERSION withheld: %s", reason)
                else:
                    self._write_activate_version_message(version)
            run.complete()

    def _start_run(self) -> Run:
        if self._plan.loaded:
            self.stream_state[COLUMNS_KEY] = self._plan.loaded
        is_incremental = self.replication_method == "INCREMENTAL"
        fingerprint = run_fingerprint(
            self._request,
            self.config,
            self.layout,
            is_incremental=is_incremental,
            has_version=self._has_version,
        )
        state = RunState(
            self.stream_state,
            self._emitter,
            fingerprint=fingerprint,
            has_version=self._has_version,
        )
        return Run(
            self._client,
            self._request,
            self.config,
            self.layout,
            state,
            is_incremental=is_incremental,
        )

    @property
    def _has_version(self) -> bool:
        """Whether the run ends with ACTIVATE_VERSION."""
        return (
            self.config["emit_activate_version_messages"]
            and self.replication_method == "FULL_TABLE"
        )

    # --- columns and maps -------------------------------------------------------------------

    @cached_property
    def layout(self) -> ColumnLayout:
        """The columns of the contacts, without the values of a source.

        Raises:
            ConfigurationError: If one of `hash_columns` cannot be hashed.
        """
        hashed = self.config["hash_columns"]
        return ColumnLayout(
            [
                *columns_from_schema(self.effective_schema, self._is_selected),
                *self._plan.ignored,
            ],
            self.config["on_invalid_value"],
            dict.fromkeys(filter(self._is_selected, SOURCE_COLUMNS)),
            Hasher(frozenset(hashed), self.config["hash_key"].encode()) if hashed else None,
        )

    @cached_property
    def _records(self) -> Records:
        return Records(self.layout.names)

    def _is_selected(self, name: str) -> bool:
        is_automatic = name in {*self.primary_keys, self.replication_key}
        return name in self.effective_schema["properties"] and (
            is_automatic or self.mask["properties", name]
        )

    def _map_rows(self, rows: Sequence[Row]) -> list[Record]:
        return [
            message.record
            for record in self._records.as_dicts(rows)
            for message in self._generate_record_messages(record)
        ]
