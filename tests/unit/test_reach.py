"""How far a principal reaches."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapar.errors import FieldInvalid
from chapar.model.principal import MAX_PATTERNS, Reach, check_patterns

PERSIAN = "باز\u200cکردن"  # with a joiner, as Persian spelling has it


@given(
    st.lists(st.text("ab*?[]!-.", min_size=1, max_size=8), min_size=1, max_size=3),
    st.text("ab[]!-.\n", max_size=8),
)
def test_a_pattern_fits_as_it_says(patterns: list[str], name: str) -> None:
    expected = any(fnmatch.fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in patterns)
    assert Reach(operations=tuple(patterns)).covers("861", name) == expected


@pytest.mark.parametrize("stars", [20, 128])
def test_a_pattern_of_many_stars_is_no_more_work_than_it_is_long(stars: int) -> None:
    pattern = "*a" * stars + "b"
    assert not Reach(operations=(pattern,)).covers("861", "a" * 1024)
    assert Reach(operations=(pattern,)).covers("861", "a" * 1024 + "b") is True


def test_a_pattern_may_be_persian_and_may_not_be_unprintable() -> None:
    assert check_patterns([PERSIAN], "operations") == (PERSIAN,)
    assert Reach(operations=(PERSIAN,)).covers("861", PERSIAN)
    for pattern in ("a\0", "a\n", "\ud800", "\u202eb"):
        with pytest.raises(FieldInvalid):
            check_patterns([pattern], "operations")


def test_a_list_is_bounded_as_it_is_given() -> None:
    assert check_patterns(["a"] * MAX_PATTERNS, "operations") == ("a",)
    for patterns in ([], ["a"] * (MAX_PATTERNS + 1)):
        with pytest.raises(FieldInvalid):
            check_patterns(patterns, "operations")
