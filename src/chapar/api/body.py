"""Read a request's body within bounds of size and time."""

import asyncio
import json

from fastapi import Request

from chapar.errors import BodyMalformed, BodyTooLarge, BodyTooSlow, FieldInvalid, MediaTypeUnsupported

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


def check_unique_fields(body: bytes) -> None:
    """Raise FieldInvalid where an object in a JSON body has a field twice, BodyMalformed where it is no JSON.

    RFC 8259 §4 leaves open which of them counts: a proxy that checks the device id may have read the other one.
    """
    try:
        json.loads(body, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise BodyMalformed(str(error)) from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise FieldInvalid(twice, "is given more than once", "بیش از یک بار آمده است")
    return fields


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
