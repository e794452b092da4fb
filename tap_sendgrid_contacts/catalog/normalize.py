"""Catalogs as users and Meltano write them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
from singer_sdk.exceptions import ConfigurationError

from tap_sendgrid_contacts.columns import REPLICATION_KEY, STREAM
from tap_sendgrid_contacts.redaction import sanitize
from tap_sendgrid_contacts.schema import (
    SOURCE_COLUMNS,
    SOURCE_KEY,
    normalize_definition,
    stream_key,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

logger = logging.getLogger(__name__)

_REPLICATION_METHODS = ("FULL_TABLE", "INCREMENTAL")
REFRESH = "re-run discovery (Meltano: meltano run --refresh-catalog)"


class _Metadata(msgspec.Struct, rename="kebab", omit_defaults=True):
    inclusion: str | None = None
    selected: bool | None = None
    selected_by_default: bool | None = None
    table_key_properties: list[str] | None = None
    replication_key: str | None = None
    replication_method: str | None = None
    forced_replication_method: str | None = None


class _MetadataEntry(msgspec.Struct):
    breadcrumb: list[str] = []
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


class _Schema(msgspec.Struct):
    properties: dict[str, dict[str, Any]] = {}


class _Stream(msgspec.Struct):
    tap_stream_id: str | None = None
    stream: str | None = None
    schema: _Schema = msgspec.field(default_factory=_Schema)
    metadata: list[_MetadataEntry] | None = None
    key_properties: list[str] | None = None
    replication_key: str | None = None
    replication_method: str | None = None


class _Catalog(msgspec.Struct):
    streams: list[_Stream]


def normalize_catalog(catalog: object) -> dict[str, Any]:
    """Return a catalog with this tap's stream, or without any.

    It says what the SDK would guess, and lacks what it would not survive.

    Raises:
        ConfigurationError: If it is not a catalog of this tap, or contradicts itself.
    """
    try:
        streams = msgspec.convert(catalog, _Catalog).streams
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"--catalog: {error}; {REFRESH}") from None
    found = [each for each in streams if STREAM in {each.tap_stream_id, each.stream}]
    others = quote_names(each.tap_stream_id or each.stream for each in streams if each not in found)
    if not found:
        if others:
            raise ConfigurationError(
                f"The catalog has no stream '{STREAM}', but {others}: it is of another tap, or "
                f"the stream was renamed; {REFRESH}"
            )
        return {"streams": []}
    if len(found) > 1:
        raise ConfigurationError(f"The catalog has stream '{STREAM}' {len(found)} times")
    if not {found[0].tap_stream_id, found[0].stream} <= {STREAM, None}:
        raise ConfigurationError(
            f"The catalog renames stream '{STREAM}': its tap_stream_id and stream must be "
            f"'{STREAM}'. To load into another table, set __alias__ in stream_maps"
        )
    if others:
        logger.warning("Ignoring streams of the catalog that this tap does not have: %s", others)
    return {"streams": [_normalize_stream(found[0])]}


def _normalize_stream(stream: _Stream) -> dict[str, Any]:
    metadata = stream.metadata or []
    root = next((each.metadata for each in metadata if not each.breadcrumb), None)
    if root is None:
        root = _Metadata(selected=True)
        if metadata:
            # Without it, the SDK selects the stream, but none of the columns with metadata.
            metadata.append(_MetadataEntry([], root))
    keys = [each for each in (stream.key_properties, root.table_key_properties) if each]
    if len(keys) > 1 and set(keys[0]) != set(keys[1]):
        raise ConfigurationError(
            f"The catalog has two keys: {quote_names(keys[0])} in key_properties, and "
            f"{quote_names(keys[1])} in table-key-properties; {REFRESH}"
        )
    method = _replication_method(stream, root)
    return {
        "tap_stream_id": STREAM,
        "stream": STREAM,
        "replication_method": method,
        "replication_key": REPLICATION_KEY if method == "INCREMENTAL" else None,
        "key_properties": keys[0] if keys else None,
        "schema": {
            "type": "object",
            "properties": {
                name: normalize_definition(name, definition, field=None)
                for name, definition in stream.schema.properties.items()
            },
        },
        "metadata": [
            {
                "breadcrumb": each.breadcrumb,
                "metadata": {
                    "inclusion": each.metadata.inclusion,
                    "selected": each.metadata.selected,
                    "selected-by-default": each.metadata.selected_by_default,
                },
            }
            for each in metadata
        ],
    }


def _replication_method(stream: _Stream, root: _Metadata) -> str:
    # Discovery writes the stream's own method; users and Meltano choose one in the metadata.
    method = root.replication_method or root.forced_replication_method or stream.replication_method
    key = root.replication_key or stream.replication_key
    if method and method not in _REPLICATION_METHODS:
        raise ConfigurationError(
            f"Unsupported replication method {method[:40]!a} for stream '{STREAM}'. Supported: "
            + ", ".join(_REPLICATION_METHODS)
        )
    if method == "INCREMENTAL":
        properties = stream.schema.properties
        if key not in {None, REPLICATION_KEY} or REPLICATION_KEY not in properties:
            raise ConfigurationError(
                f"'{REPLICATION_KEY}' is the only valid replication key for stream '{STREAM}'"
            )
    elif key:
        logger.warning(
            "Ignoring the catalog's replication key %s: the replication method is FULL_TABLE. To "
            "emit only contacts that were updated, set replication-method to INCREMENTAL",
            quote_names([key]),
        )
    return method or "FULL_TABLE"


def resolve_key(
    columns: Collection[str], key: Collection[str] | None, *, separate_exports: bool
) -> list[str]:
    """Return the stream's key, if a catalog has no other one.

    Raises:
        ConfigurationError: If the catalog has another key, or was made for the other value of
            `separate_exports`.
    """
    found = [name for name in SOURCE_COLUMNS if name in columns]
    if SOURCE_KEY not in found if separate_exports else found:
        raise ConfigurationError(
            f"separate_exports does not fit the catalog: {SOURCE_KEY} must be in its schema if it "
            f"is set, and none of {quote_names(SOURCE_COLUMNS)} otherwise; re-run discovery"
        )
    own_key = stream_key(separate_exports=separate_exports)
    if key and set(key) != set(own_key):
        raise ConfigurationError(
            f"The catalog's key ({quote_names(key)}) is not that of stream '{STREAM}' "
            f"({quote_names(own_key)}); remove it from the catalog, or re-run discovery"
        )
    return own_key


def quote_names(names: Iterable[object]) -> str:
    """Return names for a message; they are from files and from the API."""
    return ", ".join(f"{sanitize(str(name))[:100]!a}" for name in names)
