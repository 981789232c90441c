"""What callers reach."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapar.errors import FieldInvalid
from chapar.model.principal import EVERYTHING, EVERYWHERE, MAX_PATTERNS, Reach, check_patterns, principal_id


@pytest.mark.parametrize(
    ("patterns", "name", "fits"),
    [
        (("*",), "anything", True),
        (("farm1-*",), "farm1-", True),
        (("farm1-*",), "farm1-pump", True),
        (("farm1-*",), "farm10-pump", False),
        (("farm1-*",), "FARM1-pump", False),
        (("farm1-*",), "my-farm1-pump", False),
        (("farm?",), "farm1", True),
        (("farm?",), "farm", False),
        (("farm?",), "farm12", False),
        (("a", "b*"), "a", True),
        (("a", "b*"), "bc", True),
        (("a", "b*"), "ab", False),
        (("a.b",), "axb", False),
        (("a|b",), "a", False),
        (("[ab]",), "a", False),
        (("a*",), "a\nb", True),
    ],
)
def test_a_pattern_stands_for_what_it_says(patterns: tuple[str, ...], name: str, *, fits: bool) -> None:
    assert Reach(patterns).covers(name, "open") is fits
    assert Reach(operations=patterns).covers("device", name) is fits


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_name_without_wildcards_fits_itself_only(name: str, other: str) -> None:
    literal = name.replace("*", "x").replace("?", "x")
    assert Reach(operations=(literal,)).covers("device", literal)
    assert Reach(operations=(literal,)).covers("device", other) is (literal == other)


def test_everywhere_reaches_everything() -> None:
    assert EVERYWHERE.covers("farm1-pump", "open")
    assert EVERYWHERE.covers_device("farm1-pump")


def test_a_device_is_within_reach_whatever_operations_are() -> None:
    narrow = Reach(("farm1-*",), ("open",))
    assert narrow.covers_device("farm1-pump")
    assert not narrow.covers_device("farm2-pump")


@pytest.mark.parametrize(
    ("ours", "theirs", "includes"),
    [
        (EVERYWHERE, Reach(("a",), ("b",)), True),
        (Reach(("a", "b")), Reach(("a",)), True),
        (Reach(("a",)), Reach(("a", "b")), False),
        (Reach(("a",)), EVERYWHERE, False),
        (Reach(operations=("open",)), Reach(("a",)), False),
        (Reach(("a*",)), Reach(("ab",)), False),
    ],
)
def test_reach_includes_what_is_certain_to_be_no_wider(ours: Reach, theirs: Reach, *, includes: bool) -> None:
    assert ours.includes(theirs) is includes


def test_patterns_are_kept_once_and_in_order() -> None:
    assert check_patterns(["b", "a", "b"], "devices") == ("a", "b")
    assert check_patterns(["b", "*"], "devices") == EVERYTHING
    assert check_patterns(["باز کن", "open/*"], "operations") == ("open/*", "باز کن")


@pytest.mark.parametrize(
    ("patterns", "field"),
    [
        ([], "devices"),
        ([""], "devices"),
        (["a/b"], "devices"),
        (["#"], "devices"),
        (["a b"], "devices"),
        (["a" * 257], "devices"),
        ([f"d{number}" for number in range(MAX_PATTERNS + 1)], "devices"),
        ([], "operations"),
        ([""], "operations"),
        (["a\nb"], "operations"),
        (["a" * 257], "operations"),
    ],
)
def test_what_is_no_pattern_is_refused(patterns: list[str], field: str) -> None:
    with pytest.raises(FieldInvalid) as caught:
        check_patterns(patterns, field)
    assert caught.value.field == field


def test_as_many_patterns_as_may_be_are_taken() -> None:
    assert len(check_patterns([f"d{number}" for number in range(MAX_PATTERNS)], "devices")) == MAX_PATTERNS
    assert check_patterns(["a" * 256], "operations") == ("a" * 256,)


def test_the_id_of_a_key_is_read_in_either_case() -> None:
    assert principal_id("KEY:K3X9") == principal_id("key:k3x9") == "key:k3x9"
    assert principal_id("jwt:Zahra") == "jwt:Zahra"
