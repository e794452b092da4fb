"""The settings of the tap, as a JSON schema; `config` validates what it cannot express."""

from __future__ import annotations

from typing import Any

from singer_sdk import typing as th

from tap_sendgrid_contacts.decode import FILE_TYPES
from tap_sendgrid_contacts.output.formats import COMPRESSIONS, FORMATS

_VISIBLE_ASCII_PATTERN = r"^[!-~]+$"

# Maxima, so that no number is beyond what sockets, timers and SendGrid accept.
_HOUR = 3600
_DAY = 24 * _HOUR
_MAX_FILE_SIZE_MB = 1_000_000
_MAX_BATCH_SIZE = 100_000_000

# Names that are not settings, and what to use: of an earlier version, or easily mistaken for one.
INSTEAD_OF = {
    "allow_empty_export": "max_shrink_percent (100 always lets ACTIVATE_VERSION through)",
    "list": "list_ids",
    "lists": "list_ids",
    "segment": "segment_ids",
    "segments": "segment_ids",
}

SETTINGS_SCHEMA: dict[str, Any] = th.PropertiesList(
    th.Property(
        "api_key",
        th.StringType(pattern=_VISIBLE_ASCII_PATTERN),
        required=True,
        secret=True,
        title="API key",
        description="SendGrid API key with access to Marketing. Sent to the API host only.",
    ),
    th.Property(
        "list_ids",
        th.ArrayType(th.StringType(pattern=r"\S")),
        default=[],
        title="List IDs",
        description="IDs (UUIDs) of the lists to export. If list_ids and segment_ids are both "
        "empty, all contacts are exported. --test shows the IDs.",
    ),
    th.Property(
        "segment_ids",
        th.ArrayType(th.StringType(pattern=r"\S")),
        default=[],
        title="Segment IDs",
        description="IDs of the segments to export.",
    ),
    th.Property(
        "separate_exports",
        th.BooleanType,
        default=False,
        title="Separate exports",
        description="Create one export per configured list and segment, or per list of the "
        "account, and add source_type, source_id and source_name to each contact.",
    ),
    th.Property(
        "file_type",
        th.StringType,
        default="json",
        allowed_values=list(FILE_TYPES),
        title="File type",
        description="Format of the export files. The records are the same for both.",
    ),
    th.Property(
        "max_file_size",
        th.IntegerType(minimum=1, maximum=_MAX_FILE_SIZE_MB),
        title="Max file size (MB)",
        description="Maximum size of one part in MB; SendGrid's own default is 5000. SendGrid "
        "splits a larger export into several parts.",
    ),
    th.Property(
        "notify_email",
        th.BooleanType,
        default=False,
        title="Notify by email",
        description="Have SendGrid also send a download link by email.",
    ),
    th.Property(
        "api_url",
        th.StringType,
        default="https://api.sendgrid.com",
        title="API URL",
        description="Base URL of the API: https, or http on the loopback interface (sandbox). EU: "
        "https://api.eu.sendgrid.com.",
    ),
    th.Property(
        "on_behalf_of",
        th.StringType(pattern=_VISIBLE_ASCII_PATTERN),
        title="Subuser",
        description="Subuser to act on behalf of. Sent as the on-behalf-of header, to the API "
        "host only.",
    ),
    th.Property(
        "poll_interval",
        th.IntegerType(minimum=1, maximum=_HOUR),
        default=2,
        title="Poll interval",
        description="Seconds between the first and the second status check. Later waits grow "
        "to 30 seconds.",
    ),
    th.Property(
        "poll_timeout",
        th.IntegerType(minimum=1, maximum=7 * _DAY),
        default=3600,
        title="Poll timeout",
        description="Maximum seconds to wait for SendGrid in one run, everything included. The "
        "next run resumes the same exports.",
    ),
    th.Property(
        "request_timeout",
        th.IntegerType(minimum=1, maximum=_DAY),
        default=300,
        title="Request timeout",
        description="Connect and read timeout of each request in seconds.",
    ),
    th.Property(
        "allow_count_mismatch",
        th.BooleanType,
        default=False,
        title="Allow count mismatch",
        description="Log a warning instead of failing when fewer contacts are received than "
        "contact_count.",
    ),
    th.Property(
        "max_shrink_percent",
        th.IntegerType(minimum=0, maximum=100),
        default=50,
        title="Max shrink (percent)",
        description="Withhold ACTIVATE_VERSION if the export has fewer contacts than the last "
        "complete one by more than this percentage or, without an earlier one, if it has none. "
        "100 always lets it through.",
    ),
    th.Property(
        "hash_columns",
        th.ArrayType(th.StringType(pattern=r"\S")),
        default=[],
        title="Hash columns",
        description="Columns (text, or list of texts) whose values are replaced by the hex "
        "HMAC-SHA-256 under hash_key before anything is written. The key columns cannot be "
        "hashed.",
    ),
    th.Property(
        "hash_key",
        th.StringType(pattern=r"\S"),
        secret=True,
        title="Hash key",
        description="Key of the hashes; required with hash_columns.",
    ),
    th.Property(
        "on_invalid_value",
        th.StringType,
        default="fail",
        allowed_values=["fail", "null"],
        title="On invalid value",
        description="What to do with a value that does not match its column's type: fail the "
        "run, or emit null and log one warning per column.",
    ),
    th.Property(
        "start_date",
        th.DateTimeType,
        title="Start date",
        description="With INCREMENTAL replication, the earliest updated_at to emit. Otherwise it "
        "is ignored, with a warning.",
    ),
    th.Property(
        "emit_activate_version_messages",
        th.BooleanType,
        default=False,
        title="Emit ACTIVATE_VERSION",
        description="After a complete FULL_TABLE export, emit ACTIVATE_VERSION, so that the "
        "target deletes the rows that were not in the export.",
    ),
    # Instead of the SDK's own declaration, which allows neither zstd nor the format arrow.
    th.Property(
        "batch_config",
        th.ObjectType(
            th.Property(
                "encoding",
                th.ObjectType(
                    th.Property(
                        "format",
                        th.StringType,
                        required=True,
                        allowed_values=list(FORMATS),
                    ),
                    th.Property("compression", th.StringType, allowed_values=COMPRESSIONS),
                    additional_properties=False,
                ),
                required=True,
            ),
            th.Property(
                "storage",
                th.ObjectType(
                    th.Property("root", th.StringType),
                    th.Property("prefix", th.StringType),
                    th.Property("params", th.ObjectType()),
                    additional_properties=False,
                ),
            ),
            th.Property("batch_size", th.IntegerType(minimum=1, maximum=_MAX_BATCH_SIZE)),
            additional_properties=False,
        ),
        title="Batch configuration",
        description="Write contacts to files and emit BATCH messages: encoding (format: "
        f"{', '.join(FORMATS)}; compression), storage (root, prefix, params) and batch_size. "
        "Without a root, they go to a new folder in the system's temp folder.",
    ),
    # Instead of the SDK's own declaration, which makes the validator raise an AttributeError for
    # some values; `maps` validates it.
    th.Property(
        "stream_maps",
        th.ObjectType(),
        title="Stream Maps",
        description="Config object for stream maps capability. For more information check out "
        "[Stream Maps](https://sdk.meltano.com/en/latest/stream_maps.html).",
    ),
).to_dict()
