"""Explanations: the cause of where a message stands, and the facts that its sentence names, in words. No I/O."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import zip_longest
from pathlib import Path
from string import Formatter
from types import MappingProxyType
from typing import Final, NamedTuple

from chapar.delivery.causes import Cause
from chapar.errors import (
    Catalogs,
    ChaparError,
    Language,
    Phrase,
    persian_date,
    persian_digits,
)
from chapar.model.times import datetime_of, rfc3339

SENTENCES: Final = Catalogs(Path(__file__).parent)
"""The sentences of causes."""

_APART: Final = "\0"  # in a sentence, in the place of a time that is set apart

_UNITS: Final = {"days": 86_400, "hours": 3600, "minutes": 60}  # seconds
_IN_UNIT: Final = 2  # so many of a unit, at least, are said in it
_TENTHS_BELOW: Final = 10  # seconds


class Moment(NamedTuple):
    """A point in time, as a fact."""

    at: int  #: ms since the epoch


class Length(NamedTuple):
    """A length of time, as a fact."""

    ms: int


class Clause(NamedTuple):
    """A part of a sentence; empty: nothing is said."""

    key: str


Fact = str | int | bool | Moment | Length | Clause | ChaparError | Phrase | None
Facts = Mapping[str, Fact]
NOTHING: Final[Facts] = MappingProxyType({})


class Explanation(NamedTuple):
    """The cause of where a message stands, and the facts that its sentence names."""

    cause: Cause
    facts: Facts

    def sentence(self, language: Language) -> str:
        """The cause as a sentence."""
        return _worded(f"cause.{self.cause}", self.facts, language, _written)

    def parts(self, language: Language) -> list[str | Moment]:
        """The cause as a sentence in parts, the times apart: each reader has a clock and a calendar."""
        moments: list[Moment] = []

        def set_apart(moment: Moment, _: Language) -> str:
            moments.append(moment)
            return _APART

        texts = _worded(f"cause.{self.cause}", self.facts, language, set_apart).split(_APART)
        return [part for pair in zip_longest(texts, moments) for part in pair if part]

    def named_facts(self, language: Language) -> dict[str, str | int | float | bool | None]:
        """The facts as plain values: times in RFC 3339, lengths in seconds, errors in words."""
        names = dict.fromkeys(_names(f"cause.{self.cause}", self.facts))
        return {name: plain_fact(self.facts[name], language) for name in names}


def plain_fact(fact: Fact, language: Language) -> str | int | float | bool | None:
    """A fact as a plain value: a time in RFC 3339, a length in seconds, an error in words."""
    match fact:
        case Moment():
            return rfc3339(fact.at)
        case Length():
            return fact.ms / 1000
        case Clause():
            return _clause(fact, {}, language, _written)
        case ChaparError() | Phrase():
            return fact.sentence(language)
        case _:
            return fact


def _worded(key: str, facts: Facts, language: Language, write: Callable[[Moment, Language], str]) -> str:
    """The sentence of a key; `write` gives the text of a time in it, in the order in which they stand there."""

    def fact(name: str) -> object:
        value = facts[name]
        match value:
            case Moment():
                return write(value, language)
            case Length():
                return _length(value.ms / 1000, language)
            case Clause():
                return _clause(value, facts, language, write)
            case str():
                return value.replace(_APART, "")  # a device may have said it
            case _:
                return value

    return SENTENCES.say(key, language, fact)


def _clause(clause: Clause, facts: Facts, language: Language, write: Callable[[Moment, Language], str]) -> str:
    return _worded(f"clause.{clause.key}", facts, language, write) if clause.key else ""


def _written(moment: Moment, language: Language) -> str:
    time = datetime_of(moment.at)
    day = persian_date(time) if language == "fa" else f"{time:%Y-%m-%d}"
    clock = f"{time:%H:%M:%S}"
    return f"{day} {persian_digits(clock) if language == 'fa' else clock} UTC"


def _length(seconds: float, language: Language) -> str:
    for unit, width in _UNITS.items():
        if seconds >= _IN_UNIT * width:
            return SENTENCES.say(f"length.{unit}", language, {"amount": int(seconds // width)}.__getitem__)
    amount = round(seconds, 1) if seconds < _TENTHS_BELOW else round(seconds)
    return SENTENCES.say("length.seconds", language, {"amount": amount}.__getitem__)


@cache
def _placeholders(key: str) -> tuple[str, ...]:
    text = SENTENCES["en"][key]
    forms = [text] if isinstance(text, str) else ["{count}", *text.values()]
    return tuple(dict.fromkeys(name for form in forms for _, name, _, _ in Formatter().parse(form) if name))


def _names(key: str, facts: Facts) -> Iterator[str]:
    """The facts that a sentence names, in their order, those of its clauses among them."""
    for name in _placeholders(key):
        match facts.get(name):
            case Clause(clause):
                # A clause that names no message's fact, a reason say, is a fact by itself.
                named = list(_names(f"clause.{clause}", facts)) if clause else []
                yield from named or ([name] if clause and name.endswith("_why") else [])
            case _:
                yield name
