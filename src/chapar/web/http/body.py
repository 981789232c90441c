"""Read a request's body within bounds of size and time."""

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Final

from fastapi import Request
from starlette.requests import ClientDisconnect

from chapar.errors import BodyTooLarge, MediaTypeUnsupported, Phrase
from chapar.web.http.headers import first_headers, headers
from chapar.web.http.rates import BodyShare

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


def has_body(request: Request) -> bool:
    """Return whether a request has a body (RFC 9112 §6.3), so that it may be left out."""
    first = first_headers(request.scope)
    return b"transfer-encoding" in first or first.get(b"content-length", b"0") != b"0"


def _media_type(request: Request, first: Mapping[bytes, bytes], media_types: Collection[str]) -> str:
    """Find the media type, one of `media_types`: never one that a form on another site's page can send (CSRF)."""
    content_type = first.get(b"content-type", b"").decode("latin-1")
    media_type = _type_in_utf_8(content_type)
    if media_type is None or media_type not in media_types:
        found = repr(content_type[:100]) if content_type else Phrase("body.untyped")
        raise MediaTypeUnsupported(found, tuple(sorted(media_types)))
    if b"content-encoding" in first:
        encoding = ", ".join(headers(request, b"content-encoding"))
        if encoding and encoding.lower() != "identity":
            raise MediaTypeUnsupported(repr(encoding[:100]), tuple(sorted(media_types)))
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
