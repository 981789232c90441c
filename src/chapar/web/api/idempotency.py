"""The `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header): one message a key, one answer a key."""

import hashlib
from typing import Final

from fastapi import Request

from chapar.delivery.idempotency import Use
from chapar.errors import FieldInvalid, KeyNotTaken, Phrase
from chapar.web.http.entrance import caller_of
from chapar.web.http.headers import first_headers, header

MAX_KEY_LENGTH: Final = 255  # characters; a UUID has 36

KEY_PARAMETER: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Makes a repetition safe, with a key of your own such as a UUID: the same key with the same request "
    "gets the answer of the first one (201, 202 or 406) and sends nothing. Kept for a day, and longer "
    "than the message can be delivered.",
    # At least one character that is neither a space nor a quote, which may stand around it.
    "schema": {"type": "string", "maxLength": MAX_KEY_LENGTH, "pattern": "^[ -~]*[!#-~][ -~]*$"},
}


def use_of_key(request: Request, content: bytes, part: str = "") -> Use | None:
    """Return how the request uses a key, None where it names none; `part` tells the parts of one request apart.

    Raises FieldInvalid for a key that cannot be one.
    """
    key = header(request, b"idempotency-key")
    if key is None:
        return None
    key = key.strip()
    if key.startswith('"') and key.endswith('"'):  # the draft's string; most clients send it bare
        key = key[1:-1]
    if not (0 < len(key) <= MAX_KEY_LENGTH and key.isascii() and key.isprintable()):
        raise FieldInvalid("Idempotency-Key", Phrase("rule.idempotency_key", limit=MAX_KEY_LENGTH))
    target = f"{request.method} {request.url.path.lower()}\n"  # an id may be in capitals
    fingerprint = hashlib.sha256(target.encode() + content).hexdigest()
    return Use(caller_of(request).principal.id, key + part, fingerprint)


def refuse_key(request: Request) -> None:
    """Raise KeyNotTaken where a request names a key on a route whose answer nobody may keep."""
    if b"idempotency-key" in first_headers(request.scope):
        raise KeyNotTaken
