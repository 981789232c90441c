"""Words of the pages, in either language; they stand in `en.toml` and `fa.toml`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, get_args

from fastapi import Request

from chapar.errors import Catalogs, Language
from chapar.web.http.problems import language_of

WORDS: Final = Catalogs(Path(__file__).parent)

LANGUAGE_COOKIE: Final = "chapar_language"

NAMES: Final[Mapping[Language, str]] = {"en": "English", "fa": "\u0641\u0627\u0631\u0633\u06cc"}
"""The name of each language in itself."""

_CODE: Final = re.compile(
    r"[/?]?[A-Za-z0-9_](?:[A-Za-z0-9_.:/@?=+*{}-]*[A-Za-z0-9_])?"
    "|[\u06f0-\u06f9]+(?:[-/:][\u06f0-\u06f9]+)+"  # a day or a time of day in Persian digits
)
_ISOLATE: Final = "\u2068"  # FIRST STRONG ISOLATE (Unicode UAX 9)
_LEFT_TO_RIGHT: Final = "\u2066"  # LEFT-TO-RIGHT ISOLATE
_END: Final = "\u2069"  # POP DIRECTIONAL ISOLATE


def words_of(key: str, language: Language, /, **facts: object) -> str:
    """The words with their facts. Text among them keeps its own direction, whatever is around it."""

    def fact(name: str) -> object:
        value = facts[name]
        return f"{_ISOLATE}{value}{_END}" if isinstance(value, str) else value

    return WORDS.say(key, language, fact)


def isolated(sentence: str) -> str:
    """The sentence, in which ids, addresses and other code keep their order, whatever is around them."""
    return _CODE.sub(lambda found: f"{_LEFT_TO_RIGHT}{found[0]}{_END}", sentence)


def code_in_words(kind: str, code: str, language: Language) -> str:
    """Put a code into words; one that has none stands as it is."""
    return str(WORDS[language].get(f"{kind}.{code}", code))


def chosen_language(request: Request) -> Language:
    """The language that the reader chose, by `?lang=` or by a cookie of before; else the browser's."""
    chosen = asked_language(request) or request.cookies.get(LANGUAGE_COOKIE)
    return next((language for language in get_args(Language) if language == chosen), language_of(request))


def asked_language(request: Request) -> Language | None:
    """The language that the address names."""
    asked = request.query_params.get("lang")
    return next((language for language in get_args(Language) if language == asked), None)
