"""Coerce text and JSON values to column types, in every form SendGrid may write them."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tap_sendgrid_contacts.schema import ColumnType

Value = str | int | float | datetime | list[str] | None
AwareDatetime = Annotated[datetime, msgspec.Meta(tz=True)]
UTC = timezone.utc

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_PER_DAY = 86_400
_MIN_EPOCH_DIGITS, _MAX_EPOCH_DIGITS = 9, 11


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


_ISO_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_US_DATE = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})")
# Go's `time.Time.String()`: 2021-02-03 19:26:52.5 +0000 UTC.
_GO_DATE = re.compile(r"([0-9-]{10} [0-9:.]+) ([+-][0-9]{4})(?: [A-Z]{1,5}| [+-][0-9]{2,4})?")
_INTEGER = re.compile(r"-?[0-9]+")


def parse_date(text: str) -> datetime:
    """Parse a date in any form SendGrid may write it.

    Args:
        text: RFC 3339, with `T` or a blank; `YYYY-MM-DD`; `MM/DD/YYYY`; as Go prints it; or
            epoch seconds. Without an offset it is taken as UTC.

    Returns:
        The date, aware and in UTC.

    Raises:
        ValueError: If it is none of these, or outside the years 1 to 9999.
        OverflowError: If only its offset takes it outside.
    """
    if date := _ISO_DATE.fullmatch(text):
        year, month, day = map(int, date.groups())
        return datetime(year, month, day, tzinfo=UTC)
    if date := _US_DATE.fullmatch(text):
        month, day, year = map(int, date.groups())
        return datetime(year, month, day, tzinfo=UTC)
    if _INTEGER.fullmatch(text):
        return _from_epoch(int(text))
    if date := _GO_DATE.fullmatch(text):
        text = "".join(date.groups())
    parsed = msgspec.convert(text, datetime)
    return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _from_epoch(seconds: int) -> datetime:
    """Return the date of epoch seconds; raises `ValueError` where they may be something else.

    Short numbers may be a year or a day such as 20210203, long ones milliseconds. Midnights,
    which is what a Date field holds, are taken as seconds whatever their length.
    """
    digits = len(str(abs(seconds)))
    if digits > _MAX_EPOCH_DIGITS or (digits < _MIN_EPOCH_DIGITS and seconds % _SECONDS_PER_DAY):
        raise ValueError
    return _EPOCH + timedelta(seconds=seconds)


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
            return _from_epoch(int(value))
    if column_type == "list" and isinstance(value, list):
        return [clean for item in value if (clean := _sanitize_text(item))] or None
    text = _sanitize_text(value)
    return text and PARSERS[column_type](text)


COERCION_ERRORS = (ValueError, TypeError, OverflowError, RecursionError, msgspec.ValidationError)
"""Exceptions that mean 'invalid value'."""


def are_utc(dates: Iterable[Any]) -> bool:
    """Return whether dates, or None, are all in UTC."""
    return {date.tzinfo for date in dates if date} <= {UTC}
