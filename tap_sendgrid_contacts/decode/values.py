"""Text to values: numbers, dates and lists in any form SendGrid may write them."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tap_sendgrid_contacts.schema import Kind

Value = str | int | float | datetime | list[str] | None
DATE = Annotated[datetime, msgspec.Meta(tz=True)]
UTC = timezone.utc


def without_surrogates(text: str) -> str:
    """Join surrogates that are a pair and drop the others."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")


_NUMBER = re.compile(r"[+-]?(?:([0-9]+)|(?:[0-9]+\.[0-9]*|\.?[0-9]+)(?:[eE][+-]?[0-9]+)?)")


def _parse_number(text: str) -> float:
    form = _NUMBER.fullmatch(text)
    if form is None:
        raise ValueError
    return _finite(int(text) if form[1] else float(text))


def _finite(number: float) -> float:
    if not -math.inf < number < math.inf:
        raise ValueError
    return number


_DAY = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_US_DAY = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})")


def parse_date(text: str) -> datetime:
    """Read a date in any form SendGrid may write it.

    Args:
        text: RFC 3339, `YYYY-MM-DD` or `MM/DD/YYYY`. Without an offset it is taken as UTC.

    Returns:
        The date, aware and in UTC.

    Raises:
        ValueError: If it is none of these, or outside the years 1 to 9999.
        OverflowError: If only its offset takes it outside.
    """
    if day := _DAY.fullmatch(text):
        year, month, date = map(int, day.groups())
        return datetime(year, month, date, tzinfo=UTC)
    if day := _US_DAY.fullmatch(text):
        month, date, year = map(int, day.groups())
        return datetime(year, month, date, tzinfo=UTC)
    moment = msgspec.convert(text, datetime)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _parse_list(text: str) -> list[str] | None:
    # How CSV writes several addresses in one cell is not documented.
    items = json.loads(text) if text.startswith("[") else re.split(r"[,;\s]+", text)
    return [clean for item in items if (clean := _clean(item))] or None


def _clean(value: object) -> str | None:
    if not isinstance(value, str):
        raise TypeError
    text = value.replace("\0", "")
    return (text if text.isascii() else without_surrogates(text)) or None


PARSE: dict[Kind, Callable[[str], Value]] = {
    "text": str,
    "number": _parse_number,
    "date": parse_date,
    "list": _parse_list,
}


def to_kind(kind: Kind, value: object) -> Value:
    """Bring a value from JSON to its column's type; raises `ValueError` or `TypeError`."""
    if kind == "number" and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value)
    if kind == "list" and isinstance(value, list):
        return [clean for item in value if (clean := _clean(item))] or None
    text = _clean(value)
    return text and PARSE[kind](text)


# What a parser raises for a value it cannot take.
MISFITS = (ValueError, TypeError, OverflowError, RecursionError, msgspec.ValidationError)


def all_utc(dates: Iterable[Any]) -> bool:
    """Tell whether dates, or None, are all in UTC."""
    return {date.tzinfo for date in dates if date} <= {UTC}
