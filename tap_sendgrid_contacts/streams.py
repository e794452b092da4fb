"""The contacts stream: catalog rules, and which output a sync has."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
from singer_sdk import Stream, metrics
from singer_sdk.exceptions import ConfigurationError
from singer_sdk.helpers.conform import TypeConformanceLevel
from singer_sdk.mapper import RemoveRecordTransform, SameRecordTransform
from singer_sdk.singerlib.catalog import Metadata
from typing_extensions import override

from tap_sendgrid_contacts import outputs
from tap_sendgrid_contacts.api.export import PollBudget
from tap_sendgrid_contacts.batches import validate_batch_config
from tap_sendgrid_contacts.checkpoint import CheckpointStore
from tap_sendgrid_contacts.dates import parse_date
from tap_sendgrid_contacts.decode import make_decoder
from tap_sendgrid_contacts.incremental import (
    REPLICATION_KEY,
    emit_all,
    make_incremental_filter,
    next_bookmark,
)
from tap_sendgrid_contacts.messages import RecordMessageEncoder
from tap_sendgrid_contacts.schema import PRIMARY_KEY, columns_from_schema
from tap_sendgrid_contacts.sync import ExportSync, SyncOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from singer_sdk import Tap
    from singer_sdk.helpers._batch import BaseBatchFileEncoding, BatchConfig
    from singer_sdk.helpers.types import Context, Record
    from singer_sdk.metrics import Counter
    from singer_sdk.singerlib import Catalog, MetadataMapping

    from tap_sendgrid_contacts.api.client import SendGridClient
    from tap_sendgrid_contacts.api.export import ExportRequest
    from tap_sendgrid_contacts.decode.contact import Contact
    from tap_sendgrid_contacts.incremental import ContactFilter
    from tap_sendgrid_contacts.messages import MessageWriter
    from tap_sendgrid_contacts.schema import Column


class ContactsStream(Stream):
    """Contacts of the configured lists and segments, through a contacts export.

    Args:
        tap: The tap.
        schema: JSON schema of the contacts.
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
        schema: dict[str, Any],
        client: SendGridClient,
        request: ExportRequest,
        message_writer: MessageWriter,
    ) -> None:
        super().__init__(tap, schema=schema)
        self.primary_keys = [PRIMARY_KEY]
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
        # Raises here for an invalid catalog, and not when the export is ready.
        columns_from_schema(self.effective_schema, bool)
        self._mark_automatic(PRIMARY_KEY)
        if self.replication_method == "FULL_TABLE":
            self.replication_key = None
            return
        if self.replication_method != "INCREMENTAL":
            raise ConfigurationError(
                f"Unsupported replication method '{self.replication_method}' for stream "
                f"'{self.name}'. Supported: FULL_TABLE, INCREMENTAL"
            )
        self.replication_key = self.replication_key or REPLICATION_KEY
        if (
            self.replication_key != REPLICATION_KEY
            or REPLICATION_KEY not in self.effective_schema["properties"]
        ):
            raise ConfigurationError(
                f"'{REPLICATION_KEY}' is the only valid replication key for stream '{self.name}'"
            )
        self._mark_automatic(REPLICATION_KEY)
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
        """None: the SDK would take the partitions of the state."""

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
        if self._all_maps_drop_records():
            return
        store, sync = self._open(context)
        if self._is_passthrough():
            encoder = RecordMessageEncoder(self.name, self._stream_version)
            output = outputs.record_lines(
                sync.blocks(), self._message_writer, encoder, self._record_counter
            )
            yield from outputs.emit(output, store)
        else:
            yield from outputs.emit(outputs.sdk_records(sync.blocks()), store)
        self._finalize(sync, store)

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
        store, sync = self._open(context)
        map_contacts = None if self._is_passthrough() else self._map_contacts
        output = outputs.batch_files(
            sync.blocks(), self._message_writer, batch_config, self.name, map_contacts
        )
        for manifest in outputs.emit(output, store, state_per_item=True):
            yield batch_config.encoding, manifest
        self._finalize(sync, store)

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

    def _open(self, context: Context | None) -> tuple[CheckpointStore, ExportSync]:
        """Resume or create the export; it is ready then."""
        config = self.config
        scope = {
            "api_url": config["api_url"],
            "on_behalf_of": config.get("on_behalf_of"),
            "list_ids": sorted(self._request.list_ids),
            "segment_ids": sorted(self._request.segment_ids),
        }
        store = CheckpointStore(self.get_context_state(context), self._emit_state, scope)
        filter_contacts: ContactFilter = emit_all
        if self.replication_method == "INCREMENTAL":
            start_date = config.get("start_date")
            filter_contacts = make_incremental_filter(
                store.bookmark(), parse_date(start_date) if start_date else None
            )
        version = self._tap.initialized_at // 1000 if self._should_activate_version() else None
        sync = ExportSync(
            self._client,
            self._request,
            {**scope, **self._fingerprint()},
            store,
            make_decoder(self._request.file_type, self._columns, config["on_invalid_value"]),
            SyncOptions(
                poll_interval=config["poll_interval"],
                poll_budget=PollBudget(config["poll_timeout"]),
                allow_count_mismatch=config["allow_count_mismatch"],
                version=version,
            ),
            filter_contacts,
        )
        tags = {metrics.Tag.STREAM: self.name, metrics.Tag.JOB_TYPE: "contacts_export"}
        with metrics.Timer(metrics.Metric.JOB_DURATION, tags):
            sync.open()
        self._stream_version = sync.checkpoint.version
        return store, sync

    def _finalize(self, sync: ExportSync, store: CheckpointStore) -> None:
        """Activate the version and set the bookmark: the export is complete."""
        checkpoint, job = sync.checkpoint, sync.job
        if self._stream_version:
            if reason := self._why_deletes_are_unsafe(sync):
                self.logger.warning("ACTIVATE_VERSION withheld: %s", reason)
            else:
                self._write_activate_version_message(self._stream_version)
        if checkpoint.max_updated_at:
            bookmark = next_bookmark(checkpoint.max_updated_at, job.created_at)
            store.advance_bookmark(REPLICATION_KEY, bookmark)
        store.clear()
        summary = sync.progress.summary(
            checkpoint.contacts_read, len(job.part_names), self._message_writer.records_emitted
        )
        self.logger.info("%s is complete: %s", job, summary)

    def _why_deletes_are_unsafe(self, sync: ExportSync) -> str | None:
        expected = sync.job.contact_count
        if expected is None:
            return "the export status has no contact_count, so contacts may be missing"
        if sync.checkpoint.contacts_read < expected:
            return "fewer contacts than contact_count were read"
        if expected == 0 and not self.config["allow_empty_export"]:
            return (
                "the export has 0 contacts, so every row would be deleted. If that is right, set "
                "allow_empty_export"
            )
        return None

    def _emit_state(self) -> None:
        self._tap.state_writer.write_state(self.tap_state)

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
            "columns": _digest([column.name for column in self._columns if column.is_selected]),
            "stream_maps": _digest(mapping),
        }

    # --- columns and maps -------------------------------------------------------------------

    @cached_property
    def _columns(self) -> list[Column]:
        return columns_from_schema(
            self.effective_schema,
            lambda name: name == self.replication_key or self.mask["properties", name],
        )

    def _all_maps_drop_records(self) -> bool:
        return all(isinstance(each, RemoveRecordTransform) for each in self.stream_maps)

    def _is_passthrough(self) -> bool:
        """Return whether a contact is the record: no maps, no filter, no flattening, no limit."""
        maps = self.stream_maps
        return (
            len(maps) == 1
            and type(maps[0]) is SameRecordTransform
            and not maps[0].flattening_enabled
            and self.ABORT_AT_RECORD_COUNT is None
        )

    def _map_contacts(self, contacts: list[Contact]) -> list[Record]:
        return [
            message.record
            for contact in contacts
            for message in self._generate_record_messages(msgspec.to_builtins(contact))
        ]


def _digest(value: object) -> str:
    encoded = msgspec.json.encode(value, order="sorted", enc_hook=str)
    return hashlib.sha256(encoded).hexdigest()[:12]
