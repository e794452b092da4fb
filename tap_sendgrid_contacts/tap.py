"""The tap: its settings, discovery, catalog and state."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any, ClassVar, cast

import click
from singer_sdk import Tap
from singer_sdk.exceptions import ConfigurationError, SingerSDKError
from singer_sdk.helpers._classproperty import classproperty
from singer_sdk.plugin_base import _ConfigInput
from singer_sdk.singerlib import Catalog, Schema, SelectionMask
from typing_extensions import override

from tap_sendgrid_contacts import stopping
from tap_sendgrid_contacts.account import AccountReport
from tap_sendgrid_contacts.api.client import SendGridClient
from tap_sendgrid_contacts.api.http import ForbiddenError, RetryPolicy
from tap_sendgrid_contacts.api.request import ExportRequest
from tap_sendgrid_contacts.catalog.fields import plan_columns
from tap_sendgrid_contacts.catalog.normalize import normalize_catalog, resolve_key
from tap_sendgrid_contacts.config import (
    check_names,
    find_invalid_ids,
    from_environment,
    normalize,
    validate,
)
from tap_sendgrid_contacts.maps import find_mistakes, removes_stream
from tap_sendgrid_contacts.options import adapt_options, read_json_object
from tap_sendgrid_contacts.output.messages import MessageWriter
from tap_sendgrid_contacts.run.emitter import StateEmitter
from tap_sendgrid_contacts.run.saved import COLUMNS_KEY, has_exports
from tap_sendgrid_contacts.schema import build_schema, columns_from_schema
from tap_sendgrid_contacts.settings import SETTINGS_SCHEMA
from tap_sendgrid_contacts.state_file import normalize_state
from tap_sendgrid_contacts.stream import ContactsStream

if TYPE_CHECKING:
    from types import FrameType

    from click import Context, Option

    from tap_sendgrid_contacts.api.client import FieldDefinition


class TapSendGridContacts(Tap):
    """Singer tap for SendGrid Marketing contacts, with typed custom fields."""

    name = "tap-sendgrid-contacts"
    dynamic_catalog = True
    message_writer_class = MessageWriter
    message_writer: MessageWriter

    retry: ClassVar[RetryPolicy] = RetryPolicy()

    config_jsonschema: ClassVar[dict[str, Any]] = SETTINGS_SCHEMA

    def __init__(
        self,
        *,
        catalog: Any = None,  # noqa: ANN401 - as the SDK's
        setup_mapper: bool = True,
        **options: Any,
    ) -> None:
        if isinstance(catalog, Catalog):
            catalog = catalog.to_dict()
        if isinstance(catalog, dict):
            catalog = normalize_catalog(catalog)
        super().__init__(catalog=catalog, setup_mapper=False, **options)
        # After the state is loaded: the names of columns depend on it.
        if setup_mapper:
            self.setup_mapper()

    # --- settings ---------------------------------------------------------------------------

    @classproperty
    @override
    def _env_var_config(cls) -> dict[str, Any]:  # noqa: N805 - as in the SDK
        cls.append_builtin_config(cls.config_jsonschema)
        return from_environment(os.environ, cls.config_jsonschema, cls._env_var_prefix)

    @override
    def _validate_config(self, *, raise_errors: bool = True) -> list[str]:
        """Validate every setting before any request, without quoting a value."""
        self.append_builtin_config(self.config_jsonschema)
        try:
            self._config = normalize(self._config)
            errors, warnings = check_names(self._config, self.config_jsonschema)
            errors += validate(self._config, self.config_jsonschema)
        except RecursionError:
            raise ConfigurationError("Settings are nested too deeply") from None
        if errors and raise_errors:
            raise ConfigurationError("; ".join(errors))
        for warning in warnings:
            self.logger.warning(warning)
        return errors

    # --- command line -----------------------------------------------------------------------

    @classmethod
    @override
    def cb_config(cls, ctx: Context, param: Option, value: tuple[str, ...]) -> _ConfigInput:
        config: dict[str, Any] = {}
        for path in value:
            if path != "ENV":
                config |= read_json_object("--config", path)
        return _ConfigInput(config=config, parse_env="ENV" in value)

    @classmethod
    @override
    def cb_test(cls, ctx: Context, param: Option, value: str) -> None:
        if value != "all":
            super().cb_test(ctx, param, value)
            return
        # The SDK's own test would start an export.
        config = ctx.params["config"]
        tap = cls(config=config.config, parse_env_config=config.parse_env, setup_mapper=False)
        separate_exports = tap.config["separate_exports"]
        report = AccountReport(
            tap._make_client(), tap._make_request(), separate_exports=separate_exports
        )
        columns = columns_from_schema(tap.streams[ContactsStream.name].schema, bool)
        click.echo("\n".join(report.lines(columns)), err=True)
        report.check()
        tap.setup_mapper()
        ctx.exit()

    @classmethod
    @override
    def get_singer_command(cls) -> click.Command:
        command = super().get_singer_command()
        adapt_options(command.params)
        return command

    # --- streams ----------------------------------------------------------------------------

    @override
    def discover_streams(self) -> list[ContactsStream]:
        client = self._make_client()
        entry = self.input_catalog and self.input_catalog.get_stream(ContactsStream.name)
        separate_exports = self.config["separate_exports"]
        fields = self._list_custom_fields(client, is_required=not entry)
        if entry:
            schema = entry.schema.to_dict()
            entry.key_properties = resolve_key(
                schema["properties"], entry.key_properties, separate_exports=separate_exports
            )
        else:
            schema = build_schema(fields or (), separate_exports=separate_exports)
        mask = entry.metadata.resolve_selection() if entry else SelectionMask()
        bookmark = self.state.get("bookmarks", {}).get(ContactsStream.name, {})
        plan = plan_columns(
            schema,
            fields,
            lambda name: mask["properties", name],
            bookmark.get(COLUMNS_KEY),
            self._mentioned_names(),
        )
        for warning in plan.warnings:
            self.logger.warning(warning)
        if entry:
            entry.schema = Schema.from_dict(plan.schema)
        return [ContactsStream(self, plan, client, self._make_request())]

    def _list_custom_fields(
        self, client: SendGridClient, *, is_required: bool
    ) -> list[FieldDefinition] | None:
        try:
            return client.retry.call(client.list_field_definitions)
        except ForbiddenError as error:
            # Without a catalog, custom columns would silently go stale.
            if is_required:
                raise
            self.logger.warning(
                "Using the custom columns of the catalog as they are: if a field no longer exists, "
                "its column will be null. %s",
                error,
            )
            return None

    def _mentioned_names(self) -> set[str]:
        """Return words of the settings that hide or read columns, by the names they have."""
        settings = [self.config.get("stream_maps", {}), self.config["hash_columns"]]
        return set(re.findall(r"\w+", json.dumps(settings, default=str)))

    def _make_client(self) -> SendGridClient:
        return SendGridClient(
            self.config["api_key"],
            api_url=self.config["api_url"],
            on_behalf_of=self.config.get("on_behalf_of"),
            request_timeout=self.config["request_timeout"],
            retry=self.retry,
        )

    def _make_request(self) -> ExportRequest:
        return ExportRequest(
            list_ids=tuple(self.config["list_ids"]),
            segment_ids=tuple(self.config["segment_ids"]),
            file_type=self.config["file_type"],
            max_file_size=self.config.get("max_file_size"),
            notify_email=self.config["notify_email"],
        )

    @override
    def setup_mapper(self) -> None:
        """Set up stream maps, and check all that a run needs but `--discover` does not."""
        if errors := list(find_invalid_ids(self.config)):
            raise ConfigurationError("; ".join(errors))
        # The SDK makes the SCHEMAs here: the columns that are always selected must be by then.
        stream = cast("ContactsStream", self.streams[ContactsStream.name])
        try:
            super().setup_mapper()
        except SingerSDKError:
            raise
        except Exception as error:
            # Expressions of aliases, and settings of Faker, can raise anything.
            reason = type(error).__name__
            raise ConfigurationError(f"stream_maps cannot be applied: {reason}") from error
        if self.catalog.get_stream(stream.tap_stream_id) is None:
            return
        # Both raise for settings that cannot be followed.
        stream.get_batch_config(self.config)
        columns = stream.layout.names
        stream_maps = self.config.get("stream_maps", {})
        if errors := list(find_mistakes(stream_maps, columns, stream.stream_maps)):
            raise ConfigurationError("; ".join(errors))
        if removes_stream(stream.stream_maps):
            self.logger.warning("stream_maps removes stream '%s'; nothing to sync", stream.name)
        if "start_date" in self.config and stream.replication_method != "INCREMENTAL":
            self.logger.warning("Ignoring start_date: the replication method is not INCREMENTAL")

    @override
    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(normalize_state(state))
        bookmark = self.state.get("bookmarks", {}).get(ContactsStream.name) or {}
        if not has_exports(bookmark):
            StateEmitter(self).suppress_initial()

    # --- signals ----------------------------------------------------------------------------

    @override
    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        """Note the signal: the run ends at its next safe point."""
        stopping.note(signum)
