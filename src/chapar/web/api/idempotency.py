"""The `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header): one message a key, one answer a key."""

import hashlib
from typing import Final, NamedTuple

from fastapi import Request

from chapar.delivery.idempotency import Use
from chapar.errors import KeyNotTaken
from chapar.model.acceptance import MAX_KEY_LENGTH, check_key
from chapar.web.http.entrance import caller_of
from chapar.web.http.headers import first_headers, header

KEY_PARAMETER: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Makes a repetition safe, with a key of your own such as a UUID: the same key with the same request "
    "gets the answer of the first one (201, 202 or 406) and sends nothing. Kept for a day, and longer "
    "than the message can be delivered.",
    # At least one character that is neither a space nor a quote, which may stand around it.
    "schema": {"type": "string", "maxLength": MAX_KEY_LENGTH, "pattern": "^[ -~]*[!#-~][ -~]*$"},
}


class RequestKey(NamedTuple):
    """The key that a request names."""

    principal: str  #: whose key it is
    key: str
    target: bytes  #: the method and the path

    def use(self, content: bytes, part: str = "") -> Use:
        """Return how the request, or a `part` of it, uses the key for this content."""
        return Use(self.principal, self.key + part, hashlib.sha256(self.target + content).hexdigest())


def key_of(request: Request) -> RequestKey | None:
    """The key that a request names, None where it names none; raises FieldInvalid for one that cannot be a key."""
    key = header(request, b"idempotency-key")
    if key is None:
        return None
    key = key.strip()
    if key.startswith('"') and key.endswith('"'):  # the draft's string; most clients send it bare
        key = key[1:-1]
    check_key(key, "Idempotency-Key")
    target = f"{request.method} {request.url.path.lower()}\n"  # an id may be in capitals
    return RequestKey(caller_of(request).principal.id, key, target.encode())


def use_of_key(request: Request, content: bytes) -> Use | None:
    """Return how the request uses a key for this content, None where it names none; raises FieldInvalid."""
    key = key_of(request)
    return None if key is None else key.use(content)


def refuse_key(request: Request) -> None:
    """Raise KeyNotTaken where a request names a key on a route whose answer nobody may keep."""
    if b"idempotency-key" in first_headers(request.scope):
        raise KeyNotTaken
