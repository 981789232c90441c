"""What reaches the terminal is harmless, and reads as the language wants it."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapar.cli.terminal import local_time, local_time_of
from chapar.errors import Language
from chapar.model.lines import json_line, plain
from chapar.model.times import LATEST
from chapar.runtime.settings import preferred_language

HOSTILE = [
    ("\x1b[2Jgone", r"\x1b[2Jgone"),
    ("\x9b31mred", r"\x9b31mred"),  # CSI in one character
    ("a\r\nb", r"a\r\nb"),
    ("\x07\x7f", r"\x07\x7f"),
    ("abc\u202etxt.exe", r"abc\u202etxt.exe"),  # turns the direction of writing
    ("\u2028", r"\u2028"),
    ("\ud800", r"\ud800"),
    ("\U000e0041", r"\U000e0041"),  # an invisible tag
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_what_is_not_printed_is_written_out(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize("text", ["push_down", "می\u200cرود بالا", "[red]x[/red] :smile:", "پمپ ۷", "👩\u200d🔧"])
def test_text_stays_text(text: str) -> None:
    assert plain(text) == text


@given(st.text())
def test_nothing_that_is_not_printed_gets_through(text: str) -> None:
    assert all(character.isprintable() or character in "\u200c\u200d" for character in plain(text))


@given(
    st.recursive(
        st.text() | st.integers() | st.none() | st.booleans(), lambda v: st.dictionaries(st.text(), v), max_leaves=20
    )
)
def test_json_is_harmless_and_loses_nothing(value: object) -> None:
    line = json_line(value)
    assert all(character.isprintable() or character in "\u200c\u200d" for character in line)
    assert json.loads(line) == value


def test_json_is_readable_in_persian() -> None:
    assert json_line({"micro_op": "برو\x1b"}) == r'{"micro_op": "برو\u001b"}'


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({"LANG": "fa_IR.UTF-8"}, "fa"),
        ({"LANG": "en_GB.UTF-8"}, "en"),
        ({"LANG": "fa_IR.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        ({"LANG": "C", "LC_MESSAGES": "fa_IR"}, "fa"),
        ({"LANG": "fa_IR.UTF-8", "LC_ALL": "", "CHAPAR_LANGUAGE": ""}, "fa"),
        ({"LANG": "fa_IR.UTF-8", "CHAPAR_LANGUAGE": "en"}, "en"),
        ({}, "en"),
    ],
)
def test_the_language_is_the_one_asked_for_else_that_of_the_locale(
    variables: dict[str, str], language: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CHAPAR_LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert preferred_language() == language


@pytest.fixture
def tehran(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "<+0330>-3:30")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("tehran")
def test_times_are_local_and_in_the_digits_of_the_language() -> None:
    moment = datetime(2026, 11, 24, 21, 0, 5, tzinfo=UTC)
    assert local_time(moment, "en") == "2026-11-25 00:30:05"
    assert local_time(moment, "fa") == "۱۴۰۵-۰۹-۰۴ ۰۰:۳۰:۰۵"


@pytest.mark.parametrize("language", ["en", "fa"])
@pytest.mark.usefixtures("tehran")
def test_a_time_out_of_range_is_shown_as_the_nearest_one(language: Language) -> None:
    last = local_time_of(2**62, language)
    assert last == local_time_of(LATEST, language)
    assert last == {"en": "9999-12-31 23:59:59", "fa": "۹۳۷۸-۱۰-۱۰ ۲۳:۵۹:۵۹"}[language]
    assert local_time_of(-(2**62), language) == local_time_of(0, language)
