"""Fields of forms as people fill them in: digits of any script, days of either calendar."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from chapar.errors import FieldInvalid, Phrase, ascii_digits, gregorian
from chapar.model.times import check_time, milliseconds

_DAY: Final = re.compile(
    r"(?P<year>[0-9]{4})[-/.](?P<month>[0-9]{1,2})[-/.](?P<day>[0-9]{1,2})"
    r"(?:[ T\u060c,]+(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}))?)?"
)
_JALALI: Final = range(1300, 1500)  # years
_FARTHEST: Final = 18 * 60  # minutes; no clock is farther from UTC
_DAY_LONG: Final = timedelta(days=1)


def read_moment(text: str, field: str, *, offset: int, end: bool = False) -> int:
    """A day, with a time of day or without, as ms since the epoch; raises FieldInvalid.

    `offset`: minutes by which the reader's clock is ahead of UTC. `end`: a day without a time means its end.
    """
    found = _DAY.fullmatch(ascii_digits(text).strip())
    if found is None:
        raise FieldInvalid(field, Phrase("rule.day"))
    year, month, day = int(found["year"]), int(found["month"]), int(found["day"])
    hour, minute, second = (int(found[part] or 0) for part in ("hour", "minute", "second"))
    try:
        if year in _JALALI:
            date = gregorian(year, month, day)
            year, month, day = date.year, date.month, date.day
        time = datetime(year, month, day, hour, minute, second, tzinfo=UTC) - timedelta(minutes=offset)
        if end and found["hour"] is None:
            time += _DAY_LONG
        check_time(time)
    except (ValueError, OverflowError):
        raise FieldInvalid(field, Phrase("rule.day")) from None
    at = milliseconds(time)
    assert at is not None  # noqa: S101 - of a time
    return at


def read_offset(text: str) -> int:
    """Minutes by which the reader's clock is ahead of UTC, as the page's script found it; 0 where it did not."""
    try:
        offset = int(text)
    except ValueError:
        return 0
    return offset if abs(offset) <= _FARTHEST else 0
