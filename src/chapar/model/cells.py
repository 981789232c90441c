"""Text in the cells of a spreadsheet, which would run some of it, and shortens long numbers."""

import re
from typing import Final

# What a spreadsheet runs (OWASP, CSV injection): some read full-width signs alike, and drop what is not seen in front.
_UNSEEN: Final = r"[\s\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]*"
_SIGNS: Final = "[=+@＝＋－＠-]"
# Behind apostrophes that are the text's own, too: else nobody could say later which of them are.
_FORMULA: Final = re.compile(f"'*(?:[\t\r\n]|{_UNSEEN}{_SIGNS})")
# Where lists are separated by semicolons, a spreadsheet ends a cell there, whatever stands around it.
_NEXT: Final = f"'*(?:{_UNSEEN}\")*{_UNSEEN}{_SIGNS}"
_NEXT_FORMULA: Final = re.compile(f";(?={_NEXT})")
_GUARDED: Final = re.compile(f"'(?={_FORMULA.pattern})")
_NEXT_GUARDED: Final = re.compile(f";'(?={_NEXT})")

# 8.61234E+14: a spreadsheet took a long number for one to calculate with, and its last digits are gone.
_SHORTENED: Final = re.compile(r"[0-9]([.,\u066b][0-9]+)?[eE]\+[0-9]+")


def guarded(text: str) -> str:
    """The text with an apostrophe in front of each part that a spreadsheet would run.

    >>> guarded("=1+1")
    "'=1+1"
    """
    text = _NEXT_FORMULA.sub(";'", text)
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(text: str) -> str:
    """The text that was guarded so."""
    text = _NEXT_GUARDED.sub(";", text)
    return text[1:] if _GUARDED.match(text) else text


def without_formulas(json: str) -> str:
    """JSON in which no semicolon is followed by a formula: it is written as JSON has it, too."""
    return _NEXT_FORMULA.sub(r"\\u003b", json)


def is_shortened(text: str) -> bool:
    """Return whether this is how a spreadsheet writes a number of which it has kept the first digits only."""
    return _SHORTENED.fullmatch(text) is not None
