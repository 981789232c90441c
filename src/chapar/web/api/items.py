"""The messages of a bulk body: where each begins and ends, found before any of them is parsed.

All three forms (CSV in `rows`) are read in steps of bounded work. A step that found no message is None: whoever takes
the steps can let others have the event loop between two.
"""

import re
from collections.abc import Generator
from typing import Final

from chapar.errors import BodyMalformed, BodyTooDeep, FieldInvalid, Phrase
from chapar.model.json_text import parse

Steps = Generator[slice | None, None, None]

MAX_DEPTH: Final = 512  # levels of one message's lists and objects; far below it, a message fails alone

AT_A_TIME: Final = 16 * 1024  # bytes that one step looks at: a few milliseconds where each is a bracket
_SMALL: Final = 64 * 1024  # bytes; of a larger body that is no list of messages nobody says whether it is JSON

_SPACE: Final = re.compile(rb"[ \t\n\r]*+")
_BLANK: Final = re.compile(rb"\s*+")
_LINE: Final = re.compile(rb"[^\r\n]*+")
_STRING: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)  # up to the quote that ends it
# The next sign outside of strings; the quote of a string that goes on behind what is looked at; nothing at its end.
# They match at every place: a search that began again at each byte would not be linear.
_SIGN: Final = rb'(?:[^%b"]++|"(?:[^"\\]++|\\.)*+")*+(?:([%b])|(")(?:[^"\\]++|\\.)*+\\?|\Z)'
_BRACKET: Final = re.compile(_SIGN % (rb"][{}", rb"][{}"), re.DOTALL)
_BRACKET_OR_COMMA: Final = re.compile(_SIGN % (rb"][{},", rb"][{},"), re.DOTALL)
_LEVELS: Final = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}


def in_lines(body: bytes) -> Steps:
    """The messages of NDJSON: each line that is not blank."""
    at = 0
    while (at := (yield from past(_BLANK, body, at))) < len(body):
        begin, at = at, (yield from past(_LINE, body, at))
        yield slice(begin, at)


def in_list(body: bytes) -> Steps:
    """The messages of `{"messages": […]}`: what stands between its commas, which need not be JSON.

    Raises BodyMalformed, BodyTooDeep, FieldInvalid.
    """
    at = 0
    for opening in (b"{", b'"messages"', b":", b"["):
        at = yield from _behind(opening, body, at)
    at = yield from _elements(body, at)
    at = yield from _behind(b"}", body, at)
    if (yield from past(_SPACE, body, at)) < len(body):
        raise BodyMalformed(Phrase("body.more"))


def _elements(body: bytes, at: int) -> Generator[slice | None, None, int]:
    """The elements of the list that has begun before `at`; gives where the list ends."""
    begin = at = yield from past(_SPACE, body, at)
    is_empty = body.startswith(b"]", at)
    step_ends = at + AT_A_TIME
    while at < len(body):
        found = _BRACKET_OR_COMMA.match(body, at, at + AT_A_TIME)
        assert found is not None  # noqa: S101 - it matches everywhere
        at = found.end()
        match found[1]:
            case b"[" | b"{":
                at = yield from _behind_brackets(body, at - 1)
            case b",":
                yield slice(begin, at - 1)
                begin = at
            case b"]":
                if not is_empty:
                    yield slice(begin, at - 1)
                return at
            case b"}":
                break
            case _:
                at = yield from _behind_string(body, found)
        if at >= step_ends:
            yield None
            step_ends = at + AT_A_TIME
    raise BodyMalformed(Phrase("body.endless_messages"))


def _behind_brackets(body: bytes, at: int) -> Generator[None, None, int]:
    """Return where the list or object ends that begins at `at`, and any that stands right behind it.

    No such row is JSON, and there may be millions of them.
    """
    depth = 0
    while at < len(body):
        for found in _BRACKET.finditer(body, at, at + AT_A_TIME):
            at = found.end()
            if found[1] is None:
                at = yield from _behind_string(body, found)
                break
            depth += _LEVELS[found[1]]
            if not depth and not body.startswith((b"[", b"{"), at):
                return at
            if depth > MAX_DEPTH:
                raise BodyTooDeep(MAX_DEPTH)
        yield None
    raise BodyMalformed(Phrase("body.endless_value"))


def _behind_string(body: bytes, found: re.Match[bytes]) -> Generator[None, None, int]:
    """Return where the string ends that was found to go on; the end of what was looked at where there is none."""
    if found[2] is None:
        return found.end()
    end = yield from past(_STRING, body, found.end(2))
    if end == len(body):
        raise BodyMalformed(Phrase("body.endless_string"))
    return end + 1


def _behind(sign: bytes, body: bytes, at: int) -> Generator[None, None, int]:
    """Return where `sign` ends, which stands at `at` or behind white space."""
    at = yield from past(_SPACE, body, at)
    if body.startswith(sign, at):
        return at + len(sign)
    if len(body) <= _SMALL:
        parse(body)
    raise FieldInvalid("messages", Phrase("rule.messages"))


def past(pattern: re.Pattern[bytes], body: bytes, at: int) -> Generator[None, None, int]:
    """Return where that ends which matches from `at` on."""
    while True:
        found = pattern.match(body, at, at + AT_A_TIME)
        assert found is not None  # noqa: S101 - it matches everywhere
        begin, at = at, found.end()
        if at - begin < AT_A_TIME - 1:  # an escape may stand across the border
            return at
        yield None
