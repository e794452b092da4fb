"""The tap: its settings, discovery, and the command line."""

from __future__ import annotations

import copy
import difflib
import io
import json
import logging
import os
import re
import signal
import sys
import traceback
from fnmatch import fnmatch
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar

from singer_sdk import Tap, metrics
from singer_sdk import typing as th
from singer_sdk.configuration._dict_config import TRUTHY, parse_environment_config
from singer_sdk.exceptions import ConfigurationError, SingerSDKError
from singer_sdk.helpers._classproperty import classproperty
from singer_sdk.plugin_base import JSONSchemaValidator
from singer_sdk.singerlib import StateMessage
from typing_extensions import override

from tap_sendgrid_contacts.client import SendGrid
from tap_sendgrid_contacts.decode.values import parse_date
from tap_sendgrid_contacts.export import ExportLostError
from tap_sendgrid_contacts.messages import MessageWriter
from tap_sendgrid_contacts.schema import contacts_schema
from tap_sendgrid_contacts.streams import IN_FLIGHT, ContactsStream
from tap_sendgrid_contacts.transport import ForbiddenError, is_safe_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from click import Context, Option
    from jsonschema import ValidationError

_FALSY = ("false", "0", "no", "off")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_HEADER_VALUE = re.compile(r"[!-~]+")


class TapSendGridContacts(Tap):
    """Loads SendGrid contacts, with typed custom fields, through contacts exports."""

    name = "tap-sendgrid-contacts"
    dynamic_catalog = True
    message_writer_class = MessageWriter
    message_writer: MessageWriter

    config_jsonschema: ClassVar[dict[str, Any]] = th.PropertiesList(
        th.Property(
            "api_key",
            th.StringType,
            required=True,
            secret=True,
            title="API key",
            description="SendGrid API key with access to Marketing; sent to the API alone.",
        ),
        th.Property(
            "list_ids",
            th.ArrayType(th.StringType),
            default=[],
            title="Lists",
            description="Ids (UUIDs) of the lists to export. "
            "With neither lists nor segments, all contacts.",
        ),
        th.Property(
            "segment_ids",
            th.ArrayType(th.StringType),
            default=[],
            title="Segments",
            description="Ids of the segments to export.",
        ),
        th.Property(
            "file_type",
            th.StringType,
            default="json",
            allowed_values=["json", "csv"],
            title="File type",
            description="Format of the export; the records are the same either way.",
        ),
        th.Property(
            "max_file_size",
            th.IntegerType(minimum=1),
            title="Largest part",
            description="Largest file of the export in MB; a larger export comes in parts.",
        ),
        th.Property(
            "notify_email",
            th.BooleanType,
            default=False,
            title="Notify by mail",
            description="Have SendGrid mail a link to the export too.",
        ),
        th.Property(
            "api_url",
            th.StringType,
            default="https://api.sendgrid.com",
            title="API URL",
            description="Base URL of the API: https, or http on this machine.",
        ),
        th.Property(
            "on_behalf_of",
            th.StringType,
            title="Subuser",
            description="Subuser to act for, sent as the on-behalf-of header to the API alone.",
        ),
        th.Property(
            "poll_interval",
            th.IntegerType(minimum=1),
            default=2,
            title="First wait",
            description="Seconds to the second status check (the first is at once); "
            "waits grow to 30 s.",
        ),
        th.Property(
            "poll_timeout",
            th.IntegerType(minimum=1),
            default=3600,
            title="Longest wait",
            description="Seconds to wait for an export in one run; "
            "the next run goes on waiting for the same export.",
        ),
        th.Property(
            "request_timeout",
            th.IntegerType(minimum=1),
            default=300,
            title="Request timeout",
            description="Seconds to wait for a connection and for more bytes, in each request.",
        ),
        th.Property(
            "allow_count_mismatch",
            th.BooleanType,
            default=False,
            title="Allow a count mismatch",
            description="Finish with a warning, not an error, when fewer contacts arrive than "
            "SendGrid's contact_count promised.",
        ),
        th.Property(
            "start_date",
            th.DateTimeType,
            title="Start date",
            description="With INCREMENTAL replication: the earliest updated_at to load.",
        ),
        th.Property(
            "emit_activate_version_messages",
            th.BooleanType,
            default=False,
            title="Emit ACTIVATE_VERSION",
            description="After a complete FULL_TABLE export, tell the target to delete "
            "the rows that were not in it.",
        ),
    ).to_dict()

    def __init__(self, *, catalog: Any = None, **options: Any) -> None:  # noqa: ANN401 - as the SDK's
        if isinstance(catalog, dict):
            _heed_chosen_replication(catalog)
        super().__init__(catalog=catalog, **options)

    # --- settings ---------------------------------------------------------------------------

    @classproperty
    @override
    def _env_var_config(cls) -> dict[str, Any]:  # noqa: N805 - as in the SDK
        """Settings from the environment; a value of the wrong type is left to validation."""
        prefix = cls._env_var_prefix
        cls.append_builtin_config(cls.config_jsonschema)
        parse_environment_config({}, prefix)  # reads .env
        # Undeclared ones too, for the warning; but for the SDK's log level, and what orchestrators
        # set aside with a second underscore.
        config: dict[str, Any] = {
            key: text
            for name, text in os.environ.items()
            if name.startswith(prefix)
            and not (key := name.removeprefix(prefix).lower()).startswith(("_", "loglevel"))
            and key not in cls.config_jsonschema["properties"]
        }
        for key, schema in cls.config_jsonschema["properties"].items():
            text = os.environ.get(prefix + key.upper())
            if text is None or (text == "" and key != "api_key"):
                continue
            try:
                config |= parse_environment_config({"properties": {key: schema}}, prefix)
            except ValueError:
                config[key] = text
            if "boolean" in schema["type"] and text.lower() not in {*TRUTHY, *_FALSY}:
                config[key] = text
        return config

    @override
    def _validate_config(self, *, raise_errors: bool = True) -> list[str]:
        """Check every setting before any request, in words that never quote a value."""
        self.append_builtin_config(self.config_jsonschema)
        # Orchestrators write unset settings as null.
        self._config = {key: value for key, value in self._config.items() if value is not None}
        self._warn_undeclared()
        validator = JSONSchemaValidator(self.config_jsonschema)
        errors = [_in_words(error) for error in validator.iter_errors(self._config)]
        if not errors:
            errors += self._errors_in_values()
        if errors and raise_errors:
            raise ConfigurationError("; ".join(errors))
        return errors

    def _warn_undeclared(self) -> None:
        declared = list(self.config_jsonschema["properties"])
        for key in self._config.keys() - declared:
            near = difflib.get_close_matches(key, declared, n=1, cutoff=0)[0]
            self.logger.warning("There is no setting `%.100s`: ignored. Is it `%s`?", key, near)

    def _errors_in_values(self) -> Iterator[str]:
        """Check what the types leave open, and bring values to one form."""
        config = self._config
        # A key read from a file often ends in a line break.
        config["api_key"] = config["api_key"].strip()
        for key in ("list_ids", "segment_ids"):
            config[key] = list(dict.fromkeys(config[key]))
        if not config.get("on_behalf_of"):
            config.pop("on_behalf_of", None)
        checks = {
            "`api_key` is empty: set it to a SendGrid API key": config["api_key"],
            "`api_key` has blanks or characters that no key has: copy it again": (
                _HEADER_VALUE.fullmatch(config["api_key"] or "-")
            ),
            "`api_url` must be an https URL, or http on this machine, and without a user": (
                is_safe_url(config["api_url"])
            ),
            "`list_ids` holds something that is not the id of a list (a UUID); `--test` with any "
            "UUID there names the lists that exist": (
                all(map(_UUID.fullmatch, config["list_ids"]))
            ),
            "`segment_ids` has an empty id": all(map(str.strip, config["segment_ids"])),
            "`on_behalf_of` has blanks or characters that no subuser has": (
                _HEADER_VALUE.fullmatch(config.get("on_behalf_of", "-"))
            ),
            "`start_date` is not a date; write it as 2024-01-31T00:00:00Z": (
                _is_date(config.get("start_date", "2024-01-31"))
            ),
            "`flattening_enabled` needs `flattening_max_depth`": (
                "flattening_max_depth" in config or not config.get("flattening_enabled")
            ),
        }
        yield from (error for error, holds in checks.items() if not holds)
        for name, rules in config.get("stream_maps", {}).items():
            source = rules.get("__source__", name) if isinstance(rules, dict) else name
            if name != "__else__" and not fnmatch(ContactsStream.name, source):
                # The SDK would pass over it, and what it was to hide would be sent.
                yield f"`stream_maps` names `{source}`: the only stream is `{ContactsStream.name}`"

    # --- command line -----------------------------------------------------------------------

    @classmethod
    @override
    def cb_config(cls, ctx: Context, param: Option, value: tuple[str, ...]) -> Any:
        for path in value:
            if path == "ENV":
                continue
            try:
                text = Path(path).read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise ConfigurationError(f"--config {path}: the file cannot be read") from error
            _check_object(f"--config {path}", text)
        return super().cb_config(ctx, param, value)

    @classmethod
    @override
    def invoke(
        cls, *, state: IO[str] | None = None, catalog: IO[str] | None = None, **options: Any
    ) -> None:
        # After a first run without any STATE, a script's state file is empty.
        state_text = state.read().strip() or "{}" if state else None
        catalog_text = catalog.read() if catalog else None
        for option, text in (("--state", state_text), ("--catalog", catalog_text)):
            if text is not None:
                _check_object(option, text)
        super().invoke(
            state=None if state_text is None else io.StringIO(state_text),
            catalog=None if catalog_text is None else io.StringIO(catalog_text),
            **options,
        )

    # --- streams ----------------------------------------------------------------------------

    @override
    def discover_streams(self) -> list[ContactsStream]:
        api = SendGrid(
            self.config["api_key"],
            api_url=self.config["api_url"],
            on_behalf_of=self.config.get("on_behalf_of"),
            request_timeout=self.config["request_timeout"],
            on_answer=self._log_answer,
        )
        try:
            fields = api.field_definitions()
        except ForbiddenError as error:
            fields = []
            self.logger.warning("No custom fields, only reserved columns: %s", error)
        return [ContactsStream(self, contacts_schema(fields), api, self.message_writer)]

    def _log_answer(self, endpoint: str, status: int, seconds: float) -> None:
        outcome = (
            metrics.Status.SUCCEEDED if status < HTTPStatus.BAD_REQUEST else metrics.Status.FAILED
        )
        tags: dict[str, Any] = {
            metrics.Tag.ENDPOINT: endpoint,
            metrics.Tag.HTTP_STATUS_CODE: status,
            metrics.Tag.STATUS: outcome,
        }
        duration = metrics.Metric.HTTP_REQUEST_DURATION
        metrics.log(self.metrics_logger, metrics.Point("timer", duration, seconds, tags))

    @override
    def setup_mapper(self) -> None:
        # What the stream selects by itself is to be in the SCHEMAs that the SDK makes here.
        _ = self.streams
        super().setup_mapper()

    @override
    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        bookmarks = self.state.get("bookmarks", {})
        if not any(bookmark.get(IN_FLIGHT) for bookmark in bookmarks.values()):
            # The SDK begins a run by sending it back. To target-duckdb the first STATE of a load
            # without records is the last: it is to be the one that names the new export.
            self._state_writer._last_emitted_state = copy.deepcopy(self.state)  # noqa: SLF001

    # --- signals ----------------------------------------------------------------------------

    @override
    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        """Stop between two lines, with a last STATE, as a run that was stopped."""

        def stop() -> None:
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, signal.SIG_IGN)
            self.logger.warning("Stopped by %s", signal.Signals(signum).name)
            # Not through the SDK's state writer, which leaves out a STATE it has sent before.
            # Before --state is read there is none to send.
            if self.state:
                self.write_message(StateMessage(self.state))
            # What a shell reports of a process that a signal ended.
            sys.exit(128 + signum)

        self.message_writer.between_lines(stop)


def _heed_chosen_replication(catalog: dict[str, Any]) -> None:
    """Copy the replication method from the metadata, where users choose it, to where the SDK looks.

    The SDK reads only the stream's own `replication_method`, which discovery fills.
    """
    for stream in catalog.get("streams", ()):
        for entry in stream.get("metadata", ()):
            method = entry.get("metadata", {}).get("replication-method")
            if method and not entry.get("breadcrumb"):
                stream["replication_method"] = method


def _in_words(error: ValidationError) -> str:
    """Say what is wrong with a setting; unlike the validator's message, without its value."""
    path = "".join(f"[{step}]" if isinstance(step, int) else f"`{step}`" for step in error.path)
    allowed: Any = error.validator_value
    each = allowed if isinstance(allowed, list) else [allowed]
    text = ", ".join(str(item) for item in each if item != "null")
    return {
        "required": "`api_key` is missing: set it to a SendGrid API key",
        "type": f"{path} must be of type {text}",
        "enum": f"{path} must be one of {text}",
        "minimum": f"{path} must be at least {text}",
    }.get(str(error.validator), f"{path} is not valid ({error.validator})")


def _is_date(text: str) -> bool:
    try:
        parse_date(text)
    except (ValueError, OverflowError):
        return False
    return True


def _check_object(option: str, text: str) -> None:
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ConfigurationError(f"{option}: the file holds no JSON object")


class _OneLine(logging.Filter):
    """Drops the line that the SDK adds to each error."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("An unhandled error occurred")


def main() -> None:
    """Run the tap; whatever goes wrong is told in one line, with exit code 1."""
    logger = TapSendGridContacts.logger
    logger.getChild(ContactsStream.name).addFilter(_OneLine())
    try:
        TapSendGridContacts.cli()
    except SingerSDKError as error:
        then = "; the next run asks for a new one" if isinstance(error, ExportLostError) else ""
        logger.error(" ".join(str(error).split()) + then)  # noqa: TRY400, G003 - no traceback for users
    except Exception as error:  # noqa: BLE001 - its text may quote a contact: a map's, say
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        logger.error(  # noqa: TRY400 - the traceback ends in the text
            "%s in %s: is the catalog, the state or a stream map as it should be? In a map, any "
            "value can be null. LOGLEVEL=DEBUG shows more",
            type(error).__name__,
            where,
        )
        logger.debug("".join(traceback.format_list(frames)))
    sys.exit(1)


if __name__ == "__main__":
    main()
