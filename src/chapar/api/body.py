"""Read a request's body within bounds of size and time."""

import asyncio
from collections.abc import Collection

from fastapi import Request

from chapar.errors import BodyTooLarge, BodyTooSlow, MediaTypeUnsupported


async def read_body(request: Request, media_types: Collection[str], *, limit: int, seconds: float) -> tuple[str, bytes]:
    """The media type, one of `media_types`, and the body; reading stops at `limit` bytes and after `seconds`.

    Raises MediaTypeUnsupported, BodyTooLarge, BodyTooSlow.
    """
    media_type = _media_type(request, media_types)
    if int(request.headers.get("content-length", 0)) > limit:
        raise BodyTooLarge(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise BodyTooLarge(limit)
    except TimeoutError:
        raise BodyTooSlow(seconds) from None
    return media_type, bytes(body)


def _media_type(request: Request, media_types: Collection[str]) -> str:
    """JSON only: a form that another site's page submits cannot say it (CSRF)."""
    content_type = request.headers.get("content-type", "")
    media_type, _, parameters = content_type.partition(";")
    media_type = media_type.strip().lower()
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if media_type not in media_types or charset not in {"", "utf-8", "utf8"}:
        raise MediaTypeUnsupported(repr(content_type[:100]) if content_type else "a body without a type")
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise MediaTypeUnsupported(repr(encoding[:100]))
    return media_type
