"""The root of every error, and how its facts become a sentence in either language."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

Language = Literal["en", "fa"]

_PERSIAN_DIGITS = str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹")


def persian_digits(value: object) -> str:
    """Write a number the way a Persian reader expects it: `20` as `۲۰`."""
    return str(value).translate(_PERSIAN_DIGITS)


class Phrase(NamedTuple):
    """A part of a sentence, in both languages."""

    en: str
    fa: str

    def filled(self, **facts: object) -> "Phrase":
        """With its placeholders filled in, in the digits of the language."""
        return Phrase(self.en.format(**facts), self.fa.format_map(_spoken(facts, "fa")))


@dataclass(eq=False)
class ChaparError(Exception):
    """The root. A subclass names its facts as fields and writes its sentences around them."""

    code: ClassVar[str] = "internal"
    en: ClassVar[str] = "Something went wrong inside Chapar. The log of the gateway says what."
    fa: ClassVar[str] = "خطایی درون چاپار رخ داد. شرح آن در گزارش (log) دروازه آمده است."

    def sentence(self, language: Language = "en") -> str:
        """The error as one sentence for a person: what happened, and what to do."""
        return (self.fa if language == "fa" else self.en).format_map(_spoken(self.facts(), language))

    def facts(self) -> Mapping[str, object]:
        """The error's fields by name."""
        return vars(self)

    def __str__(self) -> str:
        return self.sentence()


def _spoken(facts: Mapping[str, object], language: Language) -> Mapping[str, object]:
    """The facts in words. Numbers get Persian digits; identifiers and other text stay as machines write them."""
    return {name: _in_words(fact, language) for name, fact in facts.items()}


def _in_words(fact: object, language: Language) -> object:
    if isinstance(fact, Phrase):
        return fact.fa if language == "fa" else fact.en
    if language == "fa" and isinstance(fact, int | float):
        is_whole = isinstance(fact, float) and fact.is_integer()
        return persian_digits(int(fact) if is_whole else fact)
    return fact
