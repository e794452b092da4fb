"""The time, and dates in every form SendGrid may write them."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

UTC = timezone.utc

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_PER_DAY = 86_400
_MIN_EPOCH_DIGITS, _MAX_EPOCH_DIGITS, _MILLISECOND_DIGITS = 9, 11, 13

_ISO_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_US_DATE = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})")
# Go's `time.Time.String()`: 2021-02-03 19:26:52.5 +0000 UTC.
_GO_DATE = re.compile(r"([0-9-]{10} [0-9:.]+) ([+-][0-9]{4})(?: [A-Z]{1,5}| [+-][0-9]{2,4})?")
# As JSON may write a whole number.
_EPOCH_NUMBER = re.compile(r"(-?[0-9]{1,20})(?:\.0+)?")
# RFC 3339 without seconds, or with a leap second.
_ODD_SECONDS = re.compile(
    r"([0-9-]{10}[Tt ][0-9]{2}:[0-9]{2})(?:(:60)(\.[0-9]+)?)?([Zz]|[+-][0-9]{2}:?[0-9]{2})?"
)


def utc_now() -> datetime:
    """Return the time by this machine's clock."""
    return datetime.fromtimestamp(time.time(), UTC)


def parse_date(text: str) -> datetime:
    """Parse a date in any form SendGrid may write it.

    Args:
        text: RFC 3339, with `T` or a blank; `YYYY-MM-DD`; `MM/DD/YYYY`; as Go prints it; or
            epoch seconds or milliseconds. Without an offset it is taken as UTC. Seconds may be
            missing, or those of a leap second, which is the second after it.

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
    if number := _EPOCH_NUMBER.fullmatch(text):
        return _from_epoch(int(number[1]))
    if date := _GO_DATE.fullmatch(text):
        text = "".join(date.groups())
    if odd := _ODD_SECONDS.fullmatch(text):
        return _parse_odd_seconds(*odd.groups(default=""))
    return _parse_rfc3339(text)


def are_utc(dates: Iterable[Any]) -> bool:
    """Return whether dates, or None, are all in UTC."""
    return {date.tzinfo for date in dates if date} <= {UTC}


def _parse_rfc3339(text: str) -> datetime:
    parsed = msgspec.convert(text, datetime)
    return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _parse_odd_seconds(minute: str, leap: str, fraction: str, offset: str) -> datetime:
    if not leap:
        return _parse_rfc3339(f"{minute}:00{offset}")
    parsed = _parse_rfc3339(f"{minute}:59{fraction}{offset}") + timedelta(seconds=1)
    if (parsed.hour, parsed.minute, parsed.second) != (0, 0, 0):
        # Leap seconds are at the end of a day in UTC.
        raise ValueError
    return parsed


def _from_epoch(number: int) -> datetime:
    """Return the date of epoch seconds or milliseconds.

    Short numbers may be a year or a day such as 20210203, unless they are midnights, which is
    what a Date field contains.
    """
    digits = len(str(abs(number)))
    if digits == _MILLISECOND_DIGITS:
        return _EPOCH + timedelta(milliseconds=number)
    if digits > _MAX_EPOCH_DIGITS or (digits < _MIN_EPOCH_DIGITS and number % _SECONDS_PER_DAY):
        raise ValueError
    return _EPOCH + timedelta(seconds=number)


def parse_timestamp(text: str | None) -> datetime | None:
    """Return the date of a text; None if there is none, or `parse_date` knows no such form."""
    try:
        return parse_date(text) if text else None
    except (ValueError, OverflowError):
        return None
