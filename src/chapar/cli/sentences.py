"""Sentences that commands print for a person, in either language; they stand in `en.toml` and `fa.toml`."""

from pathlib import Path
from typing import Final

from chapar.errors import Catalogs, Language

SENTENCES: Final = Catalogs(Path(__file__).parent)


def say(key: str, language: Language, /, **facts: object) -> str:
    """The sentence with its facts; numbers get the digits of the language."""
    return SENTENCES.say(key, language, facts.__getitem__)


def word(kind: str, code: str, language: Language) -> str:
    """Put a code into words; a newer gateway may know codes that have none here."""
    return str(SENTENCES[language].get(f"{kind}.{code}", code))
