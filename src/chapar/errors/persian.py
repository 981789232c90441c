"""Numbers and dates as a Persian reader writes them: digits, separators, the Jalali calendar."""

from datetime import date

_THOUSANDS = "\u066c"
_DECIMAL = "\u066b"
_DIGITS = {str(digit): chr(0x06F0 + digit) for digit in range(10)}
_PERSIAN_DIGITS = str.maketrans(_DIGITS)
_PERSIAN_NUMBER = str.maketrans(_DIGITS | {",": _THOUSANDS, ".": _DECIMAL})
_ASCII_DIGITS = str.maketrans({zero + digit: str(digit) for zero in (0x06F0, 0x0660) for digit in range(10)})
_ASCII_NUMBER = _ASCII_DIGITS | str.maketrans({_THOUSANDS: "", _DECIMAL: "."})

# Days of the proleptic Gregorian calendar before the year 0. Leap years recur every 33 years: with this the first day
# of every year from 1178 to 1502 (1799 to 2123) is that of the equinox in Tehran, by which the calendar goes.
_EPOCH = 226_530
_HALF = 186  # days of the six months that have 31


def persian_digits(text: str) -> str:
    """The text with Persian digits."""
    return text.translate(_PERSIAN_DIGITS)


def persian_number(number: str) -> str:
    """A number with Persian digits, decimal and thousands separators."""
    return number.translate(_PERSIAN_NUMBER)


def ascii_digits(text: str) -> str:
    """The text with ASCII digits in place of Persian and Arabic ones."""
    return text.translate(_ASCII_DIGITS)


def ascii_number(number: str) -> str:
    """A number as a program reads it, written with Persian or Arabic digits and separators."""
    return number.translate(_ASCII_NUMBER)


def persian_date(day: date) -> str:
    """A day of the Jalali calendar, as `1405-09-08` with Persian digits."""
    return persian_digits("{:04}-{:02}-{:02}".format(*_jalali(day)))


def gregorian(year: int, month: int, day: int) -> date:
    """The day that the Jalali calendar calls so; raises ValueError where there is none."""
    found = date.fromordinal(_new_year(year) + 31 * (month - 1) - max(0, month - 7) + day - 1)
    if _jalali(found) != (year, month, day):
        raise ValueError
    return found


def _jalali(day: date) -> tuple[int, int, int]:
    ordinal = day.toordinal()
    year = day.year - 621
    if _new_year(year) > ordinal:
        year -= 1
    elapsed = ordinal - _new_year(year)
    month, days = divmod(elapsed, 31) if elapsed < _HALF else divmod(elapsed - _HALF, 30)
    return year, month + (1 if elapsed < _HALF else 7), days + 1


def _new_year(year: int) -> int:
    return _EPOCH + 365 * year + (8 * year + 21) // 33
