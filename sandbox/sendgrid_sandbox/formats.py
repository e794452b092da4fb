"""Formats of dates and numbers in exported files; which of them SendGrid uses is a GUESS."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

DateFormat = Literal["rfc3339", "iso", "us", "go", "epoch"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_DATE_FORMATS: dict[DateFormat, Callable[[str, datetime], str | int]] = {
    "rfc3339": lambda text, _: f"{text[:10]}T{text[11:19]}Z",
    "iso": lambda text, _: text[:10],
    "us": lambda text, _: f"{text[5:7]}/{text[8:10]}/{text[:4]}",
    "go": lambda text, _: f"{text[:19]} +0000 UTC",
    "epoch": lambda _, value: (value - _EPOCH) // timedelta(seconds=1),
}
_WITHOUT_TIME = ("iso", "us")


@cache
def format_date(value: datetime, date_format: DateFormat) -> str | int:
    """Format a custom date."""
    return _DATE_FORMATS[date_format](str(value), value)


def format_time(value: datetime, date_format: DateFormat) -> str | int:
    """Format a reserved time, which is never a day alone."""
    date_format = "rfc3339" if date_format in _WITHOUT_TIME else date_format
    return _DATE_FORMATS[date_format](str(value), value)


def format_number(value: float) -> str:
    """Format a custom number as text, one of them with an exponent."""
    return "1e5" if repr(value) == "100000.0" else repr(value)
