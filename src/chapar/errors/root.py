"""The root of every error, and how its facts become a sentence in either language."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

Language = Literal["en", "fa"]

_PERSIAN_DIGITS = str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹")


def persian_digits(value: object) -> str:
    """Write a number the way a Persian reader expects it: `20` as `۲۰`."""
    return str(value).translate(_PERSIAN_DIGITS)


@dataclass(eq=False)
class ChaparError(Exception):
    """The root. A subclass names its facts as fields and writes its sentences around them."""

    code: ClassVar[str] = "internal"
    en: ClassVar[str] = "Something went wrong inside Chapar. The log of the gateway says what."
    fa: ClassVar[str] = "خطایی درون چاپار رخ داد. شرح آن در گزارش (log) دروازه آمده است."

    def sentence(self, language: Language = "en") -> str:
        """The error as one sentence for a person: what happened, and what to do."""
        if language == "fa":
            return self.fa.format_map({name: _for_persian(fact) for name, fact in self.facts().items()})
        return self.en.format_map(self.facts())

    def facts(self) -> Mapping[str, object]:
        """The error's fields by name."""
        return vars(self)

    def __str__(self) -> str:
        return self.sentence()


def _for_persian(fact: object) -> object:
    """Numbers get Persian digits; identifiers and other text stay as machines write them."""
    return persian_digits(fact) if isinstance(fact, int | float) else fact
