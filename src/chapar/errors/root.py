"""The root of every error, and how a sentence of the catalogs is said in either language with its facts."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, Literal

Language = Literal["en", "fa"]

_PERSIAN_DIGITS = str.maketrans({str(digit): chr(0x06F0 + digit) for digit in range(10)})


def _catalog(language: Language) -> Mapping[str, str | Mapping[str, str]]:
    tables = tomllib.loads((Path(__file__).parent / f"{language}.toml").read_text("utf-8"))
    return {f"{table}.{name}": text for table, texts in tables.items() for name, text in texts.items()}


# Read at once, because a process that has no file descriptor left must be able to say so.
CATALOGS: Final[Mapping[Language, Mapping[str, str | Mapping[str, str]]]] = {
    "en": _catalog("en"),
    "fa": _catalog("fa"),
}
"""By language and by `table.key`: a sentence, or, where it depends on the fact `count`, one for `one` and `other`."""


def persian_digits(value: object) -> str:
    """Write the digits of a number the way a Persian reader expects them."""
    return str(value).translate(_PERSIAN_DIGITS)


class Phrase:
    """A part of a sentence: its key in the catalogs, and its facts.

    >>> Phrase("rule.name", limit=100).sentence("en")
    'must be 1 to 100 printable characters'
    """

    __slots__ = ("facts", "key")

    def __init__(self, key: str, /, **facts: object) -> None:
        self.key = key
        self.facts = facts

    def sentence(self, language: Language = "en") -> str:
        """The phrase with its facts."""
        return _say(self.key, self.facts.__getitem__, language)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Phrase) and (self.key, self.facts) == (other.key, other.facts)

    def __hash__(self) -> int:
        return hash((self.key, *self.facts.values()))

    def __str__(self) -> str:
        return self.sentence()


@dataclass(eq=False)
class ChaparError(Exception):
    """The root. A subclass has a code, under which its sentence stands in the catalogs, and its facts as attributes."""

    code: ClassVar[str] = "internal"

    def sentence(self, language: Language = "en") -> str:
        """The error as one sentence for a person: what happened, and what to do."""
        return _say(_key(type(self)), partial(getattr, self), language)

    def __str__(self) -> str:
        return self.sentence()


def _key(error: type[ChaparError]) -> str:
    """Find the sentence of an error; a family without one of its own has its parent's."""
    keys = (f"error.{kind.code}" for kind in error.__mro__ if issubclass(kind, ChaparError))
    return next(key for key in keys if key in CATALOGS["en"])


def _say(key: str, fact: Callable[[str], object], language: Language) -> str:
    text = CATALOGS[language][key]
    if not isinstance(text, str):
        text = text["one" if fact("count") == 1 else "other"]
    return text.format_map(_Facts(fact, language))


class _Facts:
    """Facts by name, each as a reader of the language expects it."""

    def __init__(self, fact: Callable[[str], object], language: Language) -> None:
        self._fact = fact
        self._language = language

    def __getitem__(self, name: str) -> object:
        fact = self._fact(name)
        if isinstance(fact, Phrase | ChaparError):
            return fact.sentence(self._language)
        if isinstance(fact, int | float) and self._language == "fa":
            return _PersianNumber(fact)
        return fact


class _PersianNumber:
    """A number in Persian digits; with `!s`, where it is something to type, and in hexadecimal it stays in ASCII."""

    def __init__(self, value: float) -> None:
        self._value = value

    def __format__(self, spec: str) -> str:
        shown = format(self._value, spec)
        return shown if spec.endswith("X") else persian_digits(shown)

    def __str__(self) -> str:
        return str(self._value)
