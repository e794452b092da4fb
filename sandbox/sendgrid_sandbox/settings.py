"""Settings of a sandbox: how its API behaves, and what its files look like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sendgrid_sandbox.formats import DateFormat


@dataclass(frozen=True)
class FileFormat:
    """Format of exported files where SendGrid's is unknown or may change."""

    parts: int = 1
    gzip_members: int = 1
    compression: Literal["x-gzip", "gzip", "plain-gzip", "none"] = "x-gzip"
    number_format: Literal["number", "text"] = "number"
    date_format: DateFormat = "rfc3339"
    alternate_emails: Literal["json", "comma"] = "json"
    header_case: Literal["original", "upper"] = "original"
    duplicates: Literal["drop", "keep"] = "drop"
    bom: bool = False
    part_headers: Literal["all", "first"] = "all"
    empty_export: Literal["header", "file", "none"] = "header"


@dataclass(frozen=True)
class Settings:
    """Settings of a sandbox.

    Attributes:
        api_key: API key that clients must send.
        host: Interface to listen on.
        port: Port to listen on; 0 for any free port.
        pending_polls: Number of status requests answered with `pending` per export.
        url_ttl: Lifetime of a signed URL in seconds.
        throttle: MB per second of one download, if limited.
        null_collections: Whether the API sends null instead of empty collections.
        file_format: Format of the exported files.
        faults: How often each fault is to occur.
    """

    api_key: str
    host: str = "127.0.0.1"
    port: int = 0
    pending_polls: int = 1
    url_ttl: int = 300
    throttle: float | None = None
    null_collections: bool = False
    file_format: FileFormat = field(default_factory=FileFormat)
    faults: Mapping[str, int] = field(default_factory=dict)
