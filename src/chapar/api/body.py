"""Read a request's body within bounds of size and time."""

import json
import re
from collections.abc import Collection
from functools import lru_cache
from typing import Final

from fastapi import Request
from pydantic import JsonValue
from starlette.requests import ClientDisconnect

from chapar.api.headers import header
from chapar.api.limits import BodyShare
from chapar.errors import BodyMalformed, BodyTooDeep, BodyTooLarge, FieldInvalid, MediaTypeUnsupported

MAX_DEPTH: Final = 64  # levels; parameters have 32 of them

_NO_BRACKET: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[^][{}"]++', re.DOTALL)  # text, and what is no bracket
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


async def read_body(request: Request, media_types: Collection[str], *, limit: int, setting: str) -> tuple[str, bytes]:
    """The media type, one of `media_types`, and the body; reading stops at `limit` bytes, which `setting` sets.

    How long it may take is the connection's to say. Raises MediaTypeUnsupported, BodyTooLarge, BodyTooSlow,
    BodiesExhausted.
    """
    media_type = _media_type(request, media_types)
    share: BodyShare = request.scope["body_share"]
    if int(header(request, b"content-length") or 0) > limit:
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
    try:
        document: JsonValue = _DECODER.decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise BodyMalformed(str(error)) from None
    return document


def check_depth(body: bytes, limit: int = MAX_DEPTH) -> None:
    """Raises BodyTooDeep where lists and objects stand in each other more than `limit` deep.

    A parser's own limit is its stack, which differs between parsers and versions.
    """
    if body.count(b"[") + body.count(b"{") <= limit:  # as nearly always
        return
    depth = 0
    for step in map(_STEPS.__getitem__, _NO_BRACKET.sub(b"", body)):
        depth += step
        if depth > limit:
            raise BodyTooDeep(limit)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise FieldInvalid(twice, "is given more than once", "بیش از یک بار آمده است")
    return fields


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique)  # json.loads would make one for each body


def _media_type(request: Request, media_types: Collection[str]) -> str:
    """JSON only: a form that another site's page submits cannot say it (CSRF)."""
    content_type = header(request, b"content-type") or ""
    media_type, charset = _type_and_charset(content_type)
    if media_type not in media_types or charset not in {"", "utf-8", "utf8"}:
        raise MediaTypeUnsupported(repr(content_type[:100]) if content_type else "a body without a type")
    encoding = header(request, b"content-encoding")
    if encoding is not None and encoding.lower() != "identity":
        raise MediaTypeUnsupported(repr(encoding[:100]))
    return media_type


@lru_cache(maxsize=64)
def _type_and_charset(content_type: str) -> tuple[str, str]:
    media_type, _, parameters = content_type.partition(";")
    return media_type.strip().lower(), parameters.strip().lower().removeprefix("charset=").strip('"')
