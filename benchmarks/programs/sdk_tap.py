"""A conventional SDK tap: `get_records` yields dicts, everything else is left at its default.

Usage: sdk_tap.py --config FILE
"""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any, ClassVar

import requests
from singer_sdk import Stream, Tap
from singer_sdk import typing as th
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterator

_TIMEOUT = 300
_TEXT_FIELDS = (
    *("contact_id", "email", "first_name", "last_name", "unique_name", "phone_number"),
    *("phone_number_id", "external_id", "anonymous_id", "address_line_1", "address_line_2"),
    *("city", "state_province_region", "postal_code", "country", "whatsapp", "line", "facebook"),
)
_FIELD_TYPES = {"Text": th.StringType, "Number": th.NumberType, "Date": th.DateTimeType}


class Contacts(Stream):
    """Contacts, read through an export."""

    name = "contacts"
    primary_keys: ClassVar[list[str]] = ["contact_id"]

    @override
    def get_records(self, context: object) -> Iterator[dict[str, Any]]:
        exports_url = f"{self.config['api_url']}/v3/marketing/contacts/exports"
        export = requests.post(exports_url, json={"file_type": "json"}, timeout=_TIMEOUT).json()
        status = requests.get(f"{exports_url}/{export['id']}", timeout=_TIMEOUT).json()
        for url in status["urls"]:
            with (
                requests.get(url, stream=True, timeout=_TIMEOUT) as response,
                gzip.open(response.raw) as lines,
            ):
                for line in lines:
                    contact = json.loads(line)
                    custom = contact.pop("custom_fields", {})
                    for name, value in custom.items():
                        contact[f"custom_{name.lower()}"] = value
                    yield contact


class ContactsTap(Tap):
    """Tap with a single contacts stream."""

    name = "tap-contacts"
    config_jsonschema = th.PropertiesList(
        th.Property("api_url", th.StringType, required=True)
    ).to_dict()

    @override
    def discover_streams(self) -> list[Stream]:
        url = f"{self.config['api_url']}/v3/marketing/field_definitions"
        fields = requests.get(url, timeout=_TIMEOUT).json()["custom_fields"]
        schema = th.PropertiesList(
            *(th.Property(name, th.StringType) for name in _TEXT_FIELDS),
            th.Property("alternate_emails", th.ArrayType(th.StringType)),
            th.Property("created_at", th.DateTimeType),
            th.Property("updated_at", th.DateTimeType),
            *(
                th.Property(f"custom_{field['name'].lower()}", _FIELD_TYPES[field["field_type"]])
                for field in fields
            ),
        )
        return [Contacts(self, schema=schema.to_dict())]


if __name__ == "__main__":
    ContactsTap.cli()
