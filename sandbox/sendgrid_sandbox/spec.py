"""Specification of an export: the body of the POST, validated."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sendgrid_sandbox.encoders import ENCODERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sendgrid_sandbox.account import Account, ContactGroup

_DEFAULT_MAX_FILE_SIZE = 5000
_KEYS = {"list_ids", "segment_ids", "notifications", "file_type", "max_file_size"}


class ExportSpec(NamedTuple):
    """What a client can choose about an export."""

    file_type: str
    list_ids: tuple[str, ...]
    segment_ids: tuple[str, ...]
    max_file_size: int


def parse_export_spec(body: object, account: Account) -> ExportSpec:
    """Validate a request body; stricter than SendGrid may be, to detect mistakes of clients.

    Args:
        body: Decoded JSON.
        account: Account with the lists and segments that exist.

    Returns:
        The specification.

    Raises:
        TypeError: The body is not an object.
        ValueError: The body is invalid.
        LookupError: A list or segment does not exist.
    """
    if not isinstance(body, dict):
        raise TypeError("request body must be a JSON object")
    if unknown := body.keys() - _KEYS:
        raise ValueError(f"unknown field {sorted(unknown)}")
    file_type = body.get("file_type", "csv")
    if file_type not in ENCODERS:
        raise ValueError(f"file_type must be one of {', '.join(ENCODERS)}")
    size = body.get("max_file_size", _DEFAULT_MAX_FILE_SIZE)
    if type(size) is not int or size < 1:
        raise ValueError("max_file_size must be a positive integer")
    notifications = body.get("notifications", {})
    if not isinstance(notifications, dict) or not all(
        key == "email" and isinstance(value, bool) for key, value in notifications.items()
    ):
        raise ValueError("notifications must be an object with a boolean email")
    ids = {
        key: _parse_ids(body[key], key, audiences)
        for key, audiences in (("list_ids", account.lists), ("segment_ids", account.segments))
        if key in body
    }
    # GUESS: an empty array is as none.
    return ExportSpec(file_type, ids.get("list_ids", ()), ids.get("segment_ids", ()), size)


def _parse_ids(ids: object, key: str, audiences: Sequence[ContactGroup]) -> tuple[str, ...]:
    if not isinstance(ids, list) or not all(isinstance(id_, str) for id_ in ids):
        raise ValueError(f"{key} must be an array of ids")
    for id_ in ids:
        if id_ not in {audience.id for audience in audiences}:
            raise LookupError(f"{key}: no such id {id_}")
    return tuple(sorted({*ids}))
