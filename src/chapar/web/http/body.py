"""Read a request's body within bounds of size and time."""

import json
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Final

from fastapi import Request
from pydantic import JsonValue
from starlette.requests import ClientDisconnect

from chapar.errors import BodyMalformed, BodyTooLarge, FieldInvalid, MediaTypeUnsupported, Phrase
from chapar.web.http.headers import first_headers, headers
from chapar.web.http.rates import BodyShare

_FEW: Final = 32  # lists and objects; so many may stand in each other
_LONGEST_NAME: Final = 50  # characters

_NO_BRACKET: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[^][{}"]++', re.DOTALL)  # text, and what is no bracket
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}

# A media type and its parameters (RFC 9110 §8.3.1, §5.6.6).
_TCHARS: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_PARAMETER: Final = re.compile(rf'[ \t]*+;[ \t]*+(?:({_TCHARS})=(?:({_TCHARS})|"((?:[^"\\]|\\.)*+)"))?+')
_CONTENT_TYPE: Final = re.compile(rf"(?P<type>{_TCHARS}/{_TCHARS})(?P<parameters>(?:{_PARAMETER.pattern})*+)[ \t]*")
_QUOTED_PAIR: Final = re.compile(r"\\(.)")
_UTF_8: Final = frozenset({"utf-8", "utf8"})


async def read_body(request: Request, media_types: Collection[str], *, limit: int, setting: str) -> tuple[str, bytes]:
    """The media type, one of `media_types`, and the body; reading stops at `limit` bytes, which `setting` sets.

    How long it may take is the connection's to say. Raises MediaTypeUnsupported, BodyTooLarge, BodyTooSlow,
    BodiesExhausted.
    """
    first = first_headers(request.scope)
    media_type = _media_type(request, first, media_types)
    share: BodyShare = request.scope["body_share"]
    if int(first.get(b"content-length", 0)) > limit:
        raise BodyTooLarge(limit, setting)
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message["body"]
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(limit, setting)
        share.take(len(chunk))
        chunks.append(chunk)
        more = message["more_body"]
    return media_type, b"".join(chunks)


def parse(body: bytes) -> JsonValue:
    """A JSON body; raises FieldInvalid where an object has a field twice, BodyMalformed where it is no JSON.

    RFC 8259 §4 leaves open which of the two counts: a proxy that checks the device id may have read the other one.
    """
    return _decoded(body, _DECODER)


def check_grammar(body: bytes) -> None:
    """Raise BodyMalformed where a body is no JSON, whatever it holds."""
    _decoded(body, _GRAMMAR)


def depth_of(body: bytes) -> int:
    """Return how deep lists and objects stand in each other; at most as many as there are, where these are few.

    A parser's own limit is its stack, which differs between parsers and versions.
    """
    brackets = body.count(b"[") + body.count(b"{")
    if brackets <= _FEW:  # as nearly always
        return brackets
    return max(accumulate(map(_STEPS.__getitem__, _NO_BRACKET.sub(b"", body))), default=0)


def shown(name: str) -> str:
    """A field's name as an answer repeats it: nobody has a long one sent back to them again and again."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"


def _decoded(body: bytes, decoder: json.JSONDecoder) -> JsonValue:
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


def _media_type(request: Request, first: Mapping[bytes, bytes], media_types: Collection[str]) -> str:
    """JSON only: a form that another site's page submits cannot say it (CSRF)."""
    content_type = first.get(b"content-type", b"").decode("latin-1")
    media_type = _type_in_utf_8(content_type)
    if media_type is None or media_type not in media_types:
        raise MediaTypeUnsupported(repr(content_type[:100]) if content_type else Phrase("body.untyped"))
    if b"content-encoding" in first:
        encoding = ", ".join(headers(request, b"content-encoding"))
        if encoding and encoding.lower() != "identity":
            raise MediaTypeUnsupported(repr(encoding[:100]))
    return media_type


@lru_cache(maxsize=64)
def _type_in_utf_8(content_type: str) -> str | None:
    """The type and subtype; None where the parameters are malformed, or say that the text is not UTF-8."""
    found = _CONTENT_TYPE.fullmatch(content_type)
    if found is None:
        return None
    for name, token, quoted in _PARAMETER.findall(found["parameters"]):
        charset = token or _QUOTED_PAIR.sub(r"\1", quoted)
        if name.lower() == "charset" and charset.lower() not in _UTF_8:
            return None
    return found["type"].lower()
