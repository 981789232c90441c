"""The root of every error, and how a sentence of the catalogs is said in either language with its facts."""

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, Literal, get_args

from chapar.errors.persian import persian_date, persian_digits, persian_number

Language = Literal["en", "fa"]

_SEPARATORS: Final[Mapping[Language, str]] = {"en": ", ", "fa": "\u060c "}

Text = str | Mapping[str, str]
"""A sentence, or, where it depends on the fact `count`, one for `one` and one for `other`."""


class Catalogs:
    """The sentences of a folder's `en.toml` and `fa.toml`, by `table.key`; they name their facts in braces."""

    def __init__(self, folder: Path) -> None:
        # Read at once, because a process that has no file descriptor left must be able to say so.
        self._texts = {language: _texts_of(folder / f"{language}.toml") for language in get_args(Language)}

    def __getitem__(self, language: Language) -> Mapping[str, Text]:
        """All sentences in one language."""
        return self._texts[language]

    def say(self, key: str, language: Language, fact: Callable[[str], object]) -> str:
        """The sentence with its facts, each as a reader of the language expects it."""
        text = self._texts[language][key]
        if not isinstance(text, str):
            text = text["one" if fact("count") == 1 else "other"]
        return text.format_map(_Facts(fact, language))


def _texts_of(catalog: Path) -> Mapping[str, Text]:
    tables = tomllib.loads(catalog.read_text("utf-8"))
    return {f"{table}.{name}": text for table, texts in tables.items() for name, text in texts.items()}


CATALOGS: Final = Catalogs(Path(__file__).parent)
"""The sentences of errors."""


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
        return CATALOGS.say(self.key, language, self.facts.__getitem__)

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
        return CATALOGS.say(_key(type(self)), language, partial(getattr, self))

    def __str__(self) -> str:
        return self.sentence()


def _key(error: type[ChaparError]) -> str:
    """Find the sentence of an error; a family without one of its own has its parent's."""
    keys = (f"error.{kind.code}" for kind in error.__mro__ if issubclass(kind, ChaparError))
    return next(key for key in keys if key in CATALOGS["en"])


def joined(items: Iterable[str], language: Language) -> str:
    """Write a list as a reader of the language expects it."""
    return _SEPARATORS[language].join(items)


def _minute(time: datetime, language: Language) -> str:
    day = persian_date(time) if language == "fa" else f"{time:%Y-%m-%d}"
    clock = persian_digits(f"{time:%H:%M}") if language == "fa" else f"{time:%H:%M}"
    return f"{day} {clock} UTC"


class _Facts:
    """Facts by name, each as a reader of the language expects it."""

    def __init__(self, fact: Callable[[str], object], language: Language) -> None:
        self._fact = fact
        self._language = language

    def __getitem__(self, name: str) -> object:
        fact = self._fact(name)
        if isinstance(fact, Phrase | ChaparError):
            return fact.sentence(self._language)
        if isinstance(fact, datetime):
            return _minute(fact, self._language)
        if isinstance(fact, tuple):
            return joined(fact, self._language)
        if isinstance(fact, float) and fact.is_integer():
            fact = int(fact)
        if isinstance(fact, int | float) and self._language == "fa":
            return _PersianNumber(fact)
        return fact


class _PersianNumber:
    """A number in Persian digits; with `!s`, where it is something to type, and in hexadecimal it stays in ASCII."""

    def __init__(self, value: float) -> None:
        self._value = value

    def __format__(self, spec: str) -> str:
        shown = format(self._value, spec)
        return shown if spec.endswith("X") else persian_number(shown)

    def __str__(self) -> str:
        return str(self._value)
