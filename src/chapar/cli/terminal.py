"""What reaches the terminal: text from elsewhere made harmless, times and numbers as a person reads them."""

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from datetime import datetime

from chapar.errors import Language, persian_digits

PATIENCE = 1.0  # seconds after which a person wants to know what takes so long

_JOINERS = "\u200c\u200d"  # invisible, harmless, and part of Persian spelling
_CLEAR_LINE = "\r\x1b[K"


def plain(text: str) -> str:
    r"""The text with everything that is not printed written out, as in `\x1b`.

    What devices and callers say must not move the cursor, set colours or turn the direction of writing.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in _JOINERS
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def json_line(value: object) -> str:
    """The value as JSON on one line: lossless, readable in any script, and as harmless as `plain()`."""
    return "".join(
        character if character.isprintable() or character in _JOINERS else json.dumps(character)[1:-1]
        for character in json.dumps(value, ensure_ascii=False)
    )


def local_time(time: datetime, language: Language) -> str:
    """`2026-11-24 06:30:00` in this machine's time zone, in the digits of the language."""
    text = time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return persian_digits(text) if language == "fa" else text


def show_progress(sentence: str) -> None:
    """Put a sentence in place of the last one, on standard error and only on a terminal; `""` clears it."""
    if sys.stderr.isatty():
        sys.stderr.write(_CLEAR_LINE + sentence)
        sys.stderr.flush()


@contextlib.contextmanager
def progress(sentence: str) -> Iterator[None]:
    """Show the sentence where the block takes longer than a second, until it ends."""
    timer = threading.Timer(PATIENCE, show_progress, (sentence,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        show_progress("")
