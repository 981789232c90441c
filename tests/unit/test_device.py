"""What is known of a device: words, evidence, and the presence that follows from it and the clock."""

import pytest

from chapar.errors import FieldInvalid
from chapar.model.device import (
    GRACE,
    STALE_AFTER,
    Evidence,
    Ground,
    Presence,
    State,
    Word,
    after_live,
    after_retained,
    check_labels,
    check_name,
    presence,
    read_label,
    read_word,
    settled,
)

T = 1_700_000_000_000
ONLINE, OFFLINE, LIFE, EMPTY = b"online", b"offline", b'{"battery":71}', b""
UNKNOWN = ("unknown", None, None)


def seen(*events: tuple[int, bytes, bool], at: int) -> tuple[str, int | None, str | None]:
    """The presence at a time (ms after T) after events: when each was, its payload, and whether it was retained."""
    evidence: Evidence | None = None
    for when, payload, retained in events:
        evidence = (after_retained if retained else after_live)(evidence, read_word(payload), T + when)
    state, since, ground, _ = presence(evidence, T + at, None)
    return state.value, None if since is None else since - T, ground and ground.value


@pytest.mark.parametrize(
    ("payload", "word"),
    [
        (b"online", Word.ONLINE),
        (b"ONLINE ", Word.ONLINE),
        (b"\r\n Online\t", Word.ONLINE),
        (b"online\0", Word.ONLINE),
        (b"Offline", Word.OFFLINE),
        (b" offline\n", Word.OFFLINE),
        (b"", Word.FORGOTTEN),
        (b" ", Word.SIGN_OF_LIFE),
        (b"on line", Word.SIGN_OF_LIFE),
        (b"online!", Word.SIGN_OF_LIFE),
        (b'"online"', Word.SIGN_OF_LIFE),
        (b"1", Word.SIGN_OF_LIFE),
        ("آنلاین".encode(), Word.SIGN_OF_LIFE),
        (b"\xff\xfe", Word.SIGN_OF_LIFE),
        (b"online" + b" " * 1_000_000, Word.SIGN_OF_LIFE),
        (b"offline" * 100_000, Word.SIGN_OF_LIFE),
    ],
)
def test_a_presence_topic_has_two_words(payload: bytes, word: Word) -> None:
    assert read_word(payload) is word


@pytest.mark.parametrize(
    ("events", "at", "expected"),
    [
        # What a device announces, and its will.
        ([], 0, UNKNOWN),
        ([(0, ONLINE, False)], 0, ("online", 0, "announced")),
        ([(0, ONLINE, False)], 10**9, ("online", 0, "announced")),
        ([(0, ONLINE, False), (500, ONLINE, False)], 500, ("online", 0, "announced")),
        ([(0, ONLINE, False), (1000, OFFLINE, False)], 1000, ("online", 0, "announced")),
        ([(0, ONLINE, False), (1000, OFFLINE, False)], 1000 + GRACE - 1, ("online", 0, "announced")),
        ([(0, ONLINE, False), (1000, OFFLINE, False)], 1000 + GRACE, ("offline", 1000, "announced")),
        ([(0, OFFLINE, False)], GRACE - 1, UNKNOWN),
        ([(0, OFFLINE, False)], GRACE, ("offline", 0, "announced")),
        ([(0, OFFLINE, False), (9000, OFFLINE, False)], GRACE, ("offline", 0, "announced")),
        ([(0, OFFLINE, False), (GRACE, OFFLINE, False)], GRACE, ("offline", 0, "announced")),
        # A will that arrives behind the new `online`, with and without another word of the device.
        ([(0, ONLINE, False), (100, OFFLINE, False), (200, ONLINE, False)], GRACE + 200, ("online", 0, "announced")),
        ([(0, ONLINE, False), (100, OFFLINE, False), (9000, LIFE, False)], 9000, ("online", 0, "spoke")),
        ([(0, ONLINE, False), (100, OFFLINE, False), (9000, LIFE, False)], 10**9, ("online", 0, "spoke")),
        ([(0, ONLINE, False), (100, OFFLINE, False), (20_000, LIFE, False)], 20_000, ("online", 20_000, "spoke")),
        ([(0, ONLINE, False), (100, OFFLINE, False), (20_000, ONLINE, False)], 20_000, ("online", 20_000, "announced")),
        # The last word was `offline`, and the device speaks.
        ([(0, OFFLINE, False), (50, LIFE, False)], 50, ("online", 50, "spoke")),
        ([(0, OFFLINE, False), (GRACE + 5, LIFE, False)], 10**9, ("online", GRACE + 5, "spoke")),
        (
            [(0, OFFLINE, False), (20_000, LIFE, False), (30_000, ONLINE, False)],
            30_000,
            ("online", 20_000, "announced"),
        ),
        (
            [(0, OFFLINE, False), (20_000, LIFE, False), (30_000, OFFLINE, False)],
            45_000,
            ("offline", 30_000, "announced"),
        ),
        # It never said a word of these.
        ([(0, LIFE, False), (10, LIFE, False), (10**6, LIFE, False)], 10**6, UNKNOWN),
        # Forgotten.
        ([(0, ONLINE, False), (5, EMPTY, False)], 5, UNKNOWN),
        ([(0, OFFLINE, False), (5, EMPTY, False), (6, LIFE, False)], 10**6, UNKNOWN),
        ([(0, EMPTY, False)], 5, UNKNOWN),
        ([(0, ONLINE, False), (5, EMPTY, False), (9, ONLINE, False)], 9, ("online", 9, "announced")),
        # Retained says what the topic last held, at once, and is never a sign of life.
        ([(0, ONLINE, True)], 0, ("online", 0, "retained")),
        ([(0, OFFLINE, True)], 0, ("offline", 0, "retained")),
        ([(0, LIFE, True)], 0, UNKNOWN),
        ([(0, OFFLINE, True), (9, LIFE, True)], 9, ("offline", 0, "retained")),
        ([(0, OFFLINE, False), (20_000, LIFE, True)], 20_000, ("offline", 0, "announced")),
        ([(0, ONLINE, False), (7, OFFLINE, True)], 7, ("offline", 7, "retained")),
        ([(0, OFFLINE, False), (20_000, ONLINE, True)], 20_000, ("online", 20_000, "retained")),
        ([(0, ONLINE, False), (7, ONLINE, True)], 7, ("online", 0, "announced")),
        ([(0, OFFLINE, True), (7, OFFLINE, True)], 7, ("offline", 0, "retained")),
        # A will in its grace is not undone by what the topic held before.
        ([(0, ONLINE, False), (9, OFFLINE, False), (50, ONLINE, True)], 9 + GRACE, ("offline", 9, "announced")),
        # Live after retained.
        ([(0, ONLINE, True), (8, LIFE, False)], 8, ("online", 0, "spoke")),
        ([(0, ONLINE, True), (8, ONLINE, False)], 8, ("online", 0, "announced")),
        ([(0, ONLINE, True), (8, OFFLINE, False)], 8 + GRACE, ("offline", 8, "announced")),
        ([(0, OFFLINE, True), (8, LIFE, False)], 8, ("online", 8, "spoke")),
        ([(0, OFFLINE, True), (8, OFFLINE, False)], 8, ("offline", 0, "announced")),
        ([(0, ONLINE, True), (8, EMPTY, True)], 8, ("online", 0, "retained")),
    ],
)
def test_presence_follows_from_what_came_and_the_clock(
    events: list[tuple[int, bytes, bool]], at: int, expected: tuple[str, int | None, str | None]
) -> None:
    assert seen(*events, at=at) == expected


def test_what_changes_nothing_is_the_evidence_itself() -> None:
    announced = after_live(None, Word.ONLINE, T)
    for word in (Word.ONLINE, Word.SIGN_OF_LIFE):
        assert after_live(announced, word, T + 60_000) is announced
    assert after_retained(announced, Word.ONLINE, T + 60_000) is announced
    doubted = after_live(announced, Word.OFFLINE, T + 1)
    assert after_live(doubted, Word.OFFLINE, T + 2) is doubted
    spoke = after_live(doubted, Word.SIGN_OF_LIFE, T + 3)
    assert after_live(spoke, Word.SIGN_OF_LIFE, T + 4) is spoke
    retained = after_retained(None, Word.OFFLINE, T)
    assert after_retained(retained, Word.FORGOTTEN, T + 5) is retained
    assert after_live(after_live(retained, Word.OFFLINE, T), Word.OFFLINE, T).evidence is Ground.ANNOUNCED  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("down_since", "stale"),
    [(None, False), (T, False), (T - STALE_AFTER + 1, False), (T - STALE_AFTER, True), (0, True)],
)
def test_a_presence_is_stale_while_nobody_listens(down_since: int | None, *, stale: bool) -> None:
    online = Evidence(State.ONLINE, T - 5, Ground.ANNOUNCED, None)
    assert presence(online, T, down_since) == Presence(State.ONLINE, T - 5, Ground.ANNOUNCED, stale)
    assert presence(None, T, down_since) == Presence(State.UNKNOWN, None, None, stale)


def test_a_clock_that_starts_in_the_past_keeps_no_will_in_its_grace() -> None:
    doubted = Evidence(State.ONLINE, T, Ground.ANNOUNCED, T)
    assert presence(doubted, T - GRACE, None).state is State.OFFLINE
    assert presence(doubted, T - 50, None).state is State.ONLINE, "the clocks of two hosts differ by some milliseconds"


def test_names_and_labels_are_short_and_printable() -> None:
    assert check_name(" پمپ شمالی ") == "پمپ شمالی"
    assert check_name("می‌رود") == "می‌رود"
    for name in ("", "  ", "a" * 101, "a\x1b[31m", "a\nb", "\u202eabc"):
        with pytest.raises(FieldInvalid):
            check_name(name)
    assert list(check_labels({"b": "", "a": "مزرعه ۱"})) == ["a", "b"]
    for labels in (
        {"": "x"},
        {"a:b": "x"},
        {"a" * 65: "x"},
        {"a": "x" * 129},
        {"a": "\x07"},
        {"a\u202e": "x"},
        {str(number): "" for number in range(17)},
    ):
        with pytest.raises(FieldInvalid):
            check_labels(labels)
    assert read_label("farm:1:2") == ("farm", "1:2")
    assert read_label("farm:") == ("farm", "")
    for text in ("", "farm", ":1", "farm\n:1"):
        with pytest.raises(FieldInvalid):
            read_label(text)


@pytest.mark.parametrize("before", [None, State.ONLINE, State.UNKNOWN])
@pytest.mark.parametrize("at", [T, T + GRACE - 1, T + GRACE, T + 10 * GRACE, T - 2 * GRACE])
@pytest.mark.parametrize("word", [Word.ONLINE, Word.OFFLINE, Word.SIGN_OF_LIFE, Word.FORGOTTEN])
def test_what_is_settled_says_the_same_in_fewer_words(before: State | None, at: int, word: Word) -> None:
    earlier = None if before is None else Evidence(before, T - 9, Ground.ANNOUNCED, None)
    evidence = after_live(earlier, Word.OFFLINE, T)
    assert evidence is not None
    now = settled(evidence, at)
    assert (now is evidence) == (0 <= at - T < GRACE)
    later = max(at, T) + GRACE
    assert presence(now, later, None) == presence(evidence, later, None)
    follows = [after_live(each, word, later) for each in (evidence, now)]
    assert presence(follows[0], later + GRACE, None) == presence(follows[1], later + GRACE, None)
    assert settled(now, later) == settled(evidence, later)
