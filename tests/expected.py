"""What the records of an account must be, worked out from the sandbox's truth alone."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sendgrid_sandbox.account import Account

RESERVED = (
    *("contact_id", "email", "first_name", "last_name", "unique_name", "phone_number"),
    *("phone_number_id", "external_id", "anonymous_id", "alternate_emails", "address_line_1"),
    *("address_line_2", "city", "state_province_region", "postal_code", "country", "whatsapp"),
    *("line", "facebook", "created_at", "updated_at"),
)


def expected(
    account: Account,
    schema: dict[str, Any],
    list_ids: Sequence[str] = (),
    segment_ids: Sequence[str] = (),
) -> dict[Any, dict[str, Any]]:
    """The records of lists and segments, by `contact_id`.

    The schema only tells which column a custom field has: its title is the field's name.
    """
    columns = {
        definition["title"]: name
        for name, definition in schema["properties"].items()
        if "title" in definition
    }
    records = (
        {
            **{name: _plain(contact.values.get(name)) for name in RESERVED},
            **{
                columns[field.name]: _plain(contact.custom.get(field.name))
                for field in account.fields
            },
        }
        for contact in account.members(list_ids, segment_ids)
    )
    return {record["contact_id"]: record for record in records}


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, list):
        return [clean for item in value if (clean := _plain(item))] or None
    if isinstance(value, str):
        text = value.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "ignore")
        return text or None
    return value
