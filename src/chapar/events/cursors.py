"""Cursors: places among the events, as listeners keep them."""

import base64
import binascii
import re
from typing import Final

from chapar.errors import FieldInvalid, Phrase
from chapar.model.event import Position

LONGEST: Final = 4000  # characters: a snapshot of PostgreSQL lists the transactions that run

_SIGN: Final = "e"  # of a cursor, by which it differs from a time
_SNAPSHOT: Final = r"(?:[0-9]{1,19}:[0-9]{1,19}:(?:[0-9]{1,19}(?:,[0-9]{1,19})*)?)?"
_FORM: Final = re.compile(rf"({_SNAPSHOT})\|({_SNAPSHOT})\|([0-9]{{1,18}})\|([0-9]{{1,10}})\|([0-9]{{1,15}})")


def cursor_of(place: Position) -> str:
    """The cursor of a place."""
    before, upto, seq, item, at = place
    text = f"{before}|{upto}|{seq}|{item}|{at}"
    return _SIGN + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def is_cursor(text: str) -> bool:
    """Return whether a text is meant as a cursor."""
    return text.startswith(_SIGN)


def place_of(cursor: str, field: str) -> Position:
    """The place of a cursor; raises FieldInvalid where it is none."""
    try:
        text = base64.b64decode(cursor[1:] + "=" * (-(len(cursor) - 1) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    form = _FORM.fullmatch(text)
    if not is_cursor(cursor) or len(cursor) > LONGEST or form is None or bool(form[1]) != bool(form[2]):
        raise FieldInvalid(field, Phrase("rule.cursor"))
    return Position(form[1], form[2], int(form[3]), int(form[4]), int(form[5]))
