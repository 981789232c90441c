"""Numbers and dates as a Persian reader writes them."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapar.errors import Phrase, ascii_digits, ascii_number, gregorian, persian_date, persian_digits
from chapar.errors.persian import persian_number

NEW_YEARS = {  # by the almanac of the University of Tehran
    1348: date(1969, 3, 21),
    1375: date(1996, 3, 20),
    1376: date(1997, 3, 21),
    1399: date(2020, 3, 20),
    1400: date(2021, 3, 21),
    1403: date(2024, 3, 20),
    1404: date(2025, 3, 21),
    1405: date(2026, 3, 21),
    1408: date(2029, 3, 20),
    1409: date(2030, 3, 21),
}


@pytest.mark.parametrize(("year", "day"), NEW_YEARS.items())
def test_a_year_begins_with_the_equinox(year: int, day: date) -> None:
    assert gregorian(year, 1, 1) == day
    assert persian_date(day) == persian_digits(f"{year}-01-01")


@pytest.mark.parametrize(
    ("day", "shown"),
    [
        (date(2026, 11, 29), "۱۴۰۵-۰۹-۰۸"),
        (date(2025, 3, 20), "۱۴۰۳-۱۲-۳۰"),
        (date(2026, 3, 20), "۱۴۰۴-۱۲-۲۹"),
        (date(2026, 9, 22), "۱۴۰۵-۰۶-۳۱"),
        (date(2026, 9, 23), "۱۴۰۵-۰۷-۰۱"),
        (date(1970, 1, 1), "۱۳۴۸-۱۰-۱۱"),
    ],
)
def test_a_day_is_that_of_the_almanac(day: date, shown: str) -> None:
    assert persian_date(day) == shown


@given(st.dates(date(1800, 1, 1), date(2122, 12, 31)))
def test_every_day_is_followed_by_the_next_and_found_again(day: date) -> None:
    year, month, number = map(int, ascii_digits(persian_date(day)).split("-"))
    assert gregorian(year, month, number) == day
    assert persian_date(day + timedelta(days=1)) > persian_date(day)


@pytest.mark.parametrize(
    "day", [(1404, 12, 30), (1405, 7, 31), (1405, 0, 1), (1405, 13, 1), (1405, 1, 0), (1405, 2, 32)]
)
def test_a_day_that_there_is_not_is_refused(day: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - it has no more to say
        gregorian(*day)


@given(st.integers() | st.decimals(allow_nan=False, allow_infinity=False, places=3))
def test_a_number_is_read_as_it_was_written(number: int) -> None:
    assert ascii_number(persian_number(f"{number:,}")) == str(number)


def test_a_time_in_a_sentence_is_that_of_the_reader() -> None:
    phrase = Phrase("tls.expired", now=datetime(2026, 11, 29, 6, 30, tzinfo=UTC))
    assert "2026-11-29 06:30 UTC" in phrase.sentence("en")
    assert "۱۴۰۵-۰۹-۰۸ ۰۶:۳۰ UTC" in phrase.sentence("fa")
