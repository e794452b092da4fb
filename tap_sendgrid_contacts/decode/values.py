"""Coerce text and JSON values to column types, in every form SendGrid may write them."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from tap_sendgrid_contacts.dates import UTC, from_epoch, parse_date

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tap_sendgrid_contacts.columns import ColumnType, Value

# Types of values in JSON that need no more than decoding.
AwareDatetime = Annotated[datetime, msgspec.Meta(tz=True)]
_NOT_EMPTY = msgspec.Meta(min_length=1)
Text = Annotated[str, _NOT_EMPTY]
Texts = Annotated[list[Text], _NOT_EMPTY]


def repair_surrogates(text: str) -> str:
    """Join surrogate pairs and drop lone surrogates."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")


_NUMBER = re.compile(r"[+-]?(?:([0-9]+)|(?:[0-9]+\.[0-9]*|\.?[0-9]+)(?:[eE][+-]?[0-9]+)?)")


def _parse_number(text: str) -> float:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError
    return _require_finite(int(text) if match[1] else float(text))


def _require_finite(number: float) -> float:
    if not -math.inf < number < math.inf:
        raise ValueError
    return number


def _parse_list(text: str) -> list[str] | None:
    # How CSV writes several addresses in one cell is not documented.
    items = json.loads(text) if text.startswith("[") else re.split(r"[,;\s]+", text)
    return [clean for item in items if (clean := _sanitize_text(item))] or None


def _sanitize_text(value: object) -> str | None:
    if not isinstance(value, str):
        raise TypeError
    text = value.replace("\0", "")
    return (text if text.isascii() else repair_surrogates(text)) or None


PARSERS: dict[ColumnType, Callable[[str], Value]] = {
    "text": str,
    "number": _parse_number,
    "date": parse_date,
    "list": _parse_list,
}


def coerce(column_type: ColumnType, value: object) -> Value:
    """Coerce a value from JSON to its column's type.

    Raises:
        Exception: One of `COERCION_ERRORS`, if the value is invalid.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        if column_type == "number":
            return _require_finite(value)
        if column_type == "date" and value == int(_require_finite(value)):
            return from_epoch(int(value))
    if column_type == "list" and isinstance(value, list):
        return [clean for item in value if (clean := _sanitize_text(item))] or None
    text = _sanitize_text(value)
    return text and PARSERS[column_type](text)


COERCION_ERRORS = (ValueError, TypeError, OverflowError, RecursionError, msgspec.ValidationError)
"""Exceptions that mean 'invalid value'."""


def are_utc(dates: Iterable[Any]) -> bool:
    """Return whether dates, or None, are all in UTC."""
    return {date.tzinfo for date in dates if date} <= {UTC}
