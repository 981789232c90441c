"""JSON as callers write it, read by the same rules wherever it comes from (RFC 8259)."""

import json
import re
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from chapar.errors import BodyMalformed, FieldInvalid, Phrase
from chapar.model.lines import plain

if TYPE_CHECKING:  # the writer, which reads replies, must start quickly
    from pydantic import JsonValue

_FEW: Final = 32  # lists and objects; so many may stand in each other
MAX_PARAMS_DEPTH: Final = 32  # levels; deeper JSON is an attack on the device's parser

_LONGEST_NAME: Final = 50  # characters

_NO_BRACKET: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[^][{}"]++', re.DOTALL)  # text, and what is no bracket
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def parse(body: bytes) -> "JsonValue":
    """A JSON document; raises FieldInvalid where an object has a field twice, BodyMalformed where it is no JSON.

    RFC 8259 §4 leaves open which of the two counts: a proxy that checks the device id may have read the other one.
    """
    return _decoded(body, _DECODER)


def check_grammar(body: bytes) -> None:
    """Raise BodyMalformed where a document is no JSON, whatever it holds."""
    _decoded(body, _GRAMMAR)


def as_json(value: object) -> bytes:
    """A value as JSON in UTF-8, which cannot hold a lone surrogate: that stays the escape sequence that it came as."""
    return json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace")


def depth_of(body: bytes) -> int:
    """Return how deep lists and objects stand in each other; at most as many as there are, where these are few.

    A parser's own limit is its stack, which differs between parsers and versions.
    """
    brackets = body.count(b"[") + body.count(b"{")
    if brackets <= _FEW:  # as nearly always
        return brackets
    return max(accumulate(map(_STEPS.__getitem__, _NO_BRACKET.sub(b"", body))), default=0)


def shown(name: str) -> str:
    """A field's name as an answer repeats it, short and printable: a lone surrogate could not be sent back."""
    return plain(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…") or '""'


def _decoded(body: bytes, decoder: json.JSONDecoder) -> "JsonValue":
    try:
        document: JsonValue = decoder.decode(body.decode())
    except json.JSONDecodeError as error:
        raise BodyMalformed(Phrase("body.syntax", problem=error.msg, line=error.lineno, column=error.colno)) from None
    except UnicodeDecodeError as error:
        raise BodyMalformed(Phrase("body.encoding", place=error.start + 1)) from None
    except (ValueError, RecursionError):
        raise BodyMalformed(Phrase("body.unreadable")) from None
    return document


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        known: set[str] = set()
        for name, _ in pairs:
            if name in known:
                raise FieldInvalid(shown(name), Phrase("rule.repeated"))
            known.add(name)
    return fields


# json.loads would make one for each body.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique)
_GRAMMAR: Final = json.JSONDecoder(parse_int=str, parse_float=str)  # a number of many digits is JSON too
