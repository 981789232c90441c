"""Read a request's body within bounds of size and time."""

import asyncio

from fastapi import Request

from chapar.errors import BodyTooLarge, BodyTooSlow, MediaTypeUnsupported

_JSON = "application/json"


async def read_json_body(request: Request, *, limit: int, seconds: float) -> bytes:
    """The body of a request that says it is JSON; reading stops at `limit` bytes and after `seconds`.

    Raises MediaTypeUnsupported, BodyTooLarge, BodyTooSlow.
    """
    _check_media_type(request)
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
    return bytes(body)


def _check_media_type(request: Request) -> None:
    """JSON only: a form that another site's page submits cannot say it (CSRF)."""
    content_type = request.headers.get("content-type", "")
    media_type, _, parameters = content_type.partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if media_type.strip().lower() != _JSON or charset not in {"", "utf-8", "utf8"}:
        raise MediaTypeUnsupported(repr(content_type[:100]) if content_type else "a body without a type")
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise MediaTypeUnsupported(repr(encoding[:100]))
