"""The time, and dates in every form SendGrid may write them."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta, timezone

import msgspec

UTC = timezone.utc

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_PER_DAY = 86_400
_MIN_EPOCH_DIGITS, _MAX_EPOCH_DIGITS = 9, 11

_ISO_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_US_DATE = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})")
# Go's `time.Time.String()`: 2021-02-03 19:26:52.5 +0000 UTC.
_GO_DATE = re.compile(r"([0-9-]{10} [0-9:.]+) ([+-][0-9]{4})(?: [A-Z]{1,5}| [+-][0-9]{2,4})?")
_INTEGER = re.compile(r"-?[0-9]+")


def utc_now() -> datetime:
    """Return the time by this machine's clock."""
    return datetime.fromtimestamp(time.time(), UTC)


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
        return from_epoch(int(text))
    if date := _GO_DATE.fullmatch(text):
        text = "".join(date.groups())
    parsed = msgspec.convert(text, datetime)
    return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def from_epoch(seconds: int) -> datetime:
    """Return the date of epoch seconds.

    Short numbers may be a year or a day such as 20210203, unless they are midnights, which is
    what a Date field contains. Long ones may be milliseconds.
    """
    digits = len(str(abs(seconds)))
    if digits > _MAX_EPOCH_DIGITS or (digits < _MIN_EPOCH_DIGITS and seconds % _SECONDS_PER_DAY):
        raise ValueError
    return _EPOCH + timedelta(seconds=seconds)
