"""Authorization headers, good, forged and mangled: the input of the credentials' fuzzer."""

import base64
import hashlib
import hmac
import json
import random
from typing import Any, Final

SECRET: Final = b"an HMAC secret of the fuzzer, 48 bytes, no other"
ISSUER: Final = "https://issuer.example.org"
AUDIENCE: Final = "chapar"
CLAIMS: Final = {"iss": ISSUER, "aud": AUDIENCE, "sub": "backend", "exp": 4102444800, "scope": "messages:send"}
HEADER: Final = {"alg": "HS256", "typ": "JWT"}

_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, 0, -1, 1, 1.5, 4102444800, 10**30, 10**400, float("inf"), float("nan")),
    *("", "none", "None", "HS256", "HS512", "ES256", "EdDSA", "messages:send keys", "*", "[", "\0", "\ud800", "é"),
    *("x" * 300, AUDIENCE, ISSUER, [AUDIENCE], [], {}, [[]], ["*"], ["a", 1], {"a": {"b": []}}),
)
_FIELDS: Final = (
    *("alg", "typ", "kid", "jwk", "jku", "x5c", "crit", "b64", "zip", "cty"),
    *("iss", "aud", "sub", "exp", "nbf", "iat", "jti", "scope", "devices", "operations"),
)
_SCHEMES: Final = (b"Bearer ", b"bearer ", b"BEARER\t", b"Bearer", b"Basic ", b"Digest ", b"", b"Bearer  ")


def header(source: random.Random) -> bytes:
    """A header with a token, a key or a password, of which some count."""
    match source.randrange(4):
        case 0:
            return b"Bearer chapar_" + source.randbytes(16).hex().encode()
        case 1:
            return b"Basic " + base64.b64encode(b"user:chapar_" + source.randbytes(8).hex().encode())
        case _:
            return b"Bearer " + _token(_changed(HEADER, source), _changed(CLAIMS, source), source)


def mutated(data: bytes, source: random.Random) -> bytes:
    """Another header: mostly with a token whose signature is right, so that what is behind it is reached."""
    scheme, _, token = data.rpartition(b" ")
    parts = token.split(b".")
    match source.randrange(6):
        case 0:
            return source.choice(_SCHEMES) + token
        case 1 if len(parts) > 1:
            source.shuffle(parts)
            return scheme + b" " + b".".join(parts)
        case 2:
            place = source.randrange(len(data) + 1)
            return data[:place] + source.choice([b"", b".", b"=", b"\0", b"\xff", b"A", b" "]) + data[place + 1 :]
        case _:
            return b"Bearer " + _token(_changed(_read(parts, 0), source), _changed(_read(parts, 1), source), source)


def is_signed(token: str) -> bool:
    """Whether the token's signature is ours, by the standard library alone (RFC 7515 §5.2)."""
    signed, _, signature = token.rpartition(".")
    expected = hmac.digest(SECRET, signed.encode(), hashlib.sha256)
    return hmac.compare_digest(base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4)), expected)


def _token(head: object, claims: object, source: random.Random) -> bytes:
    signed = f"{_encoded(head)}.{_encoded(claims)}".encode()
    secret = SECRET if source.random() < 0.8 else source.choice([b"", b"another", SECRET[:-1]])
    digest = hmac.digest(secret, signed, source.choice(["sha256", "sha256", "sha256", "sha512"]))
    return signed + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")


def _encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _read(parts: list[bytes], place: int) -> object:
    """The JSON in a part of a token, or that of a good one."""
    try:
        part = parts[place]
        document: object = json.loads(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    except (IndexError, ValueError, RecursionError):
        return (HEADER, CLAIMS)[place]
    return document


def _changed(document: object, source: random.Random) -> object:
    if not isinstance(document, dict) or source.random() < 0.4:
        return document
    if source.random() < 0.05:
        return source.choice(_VALUES)
    field = source.choice([*document, source.choice(_FIELDS)])
    if source.random() < 0.2:
        return {name: value for name, value in document.items() if name != field}
    return {**document, field: source.choice(_VALUES)}
