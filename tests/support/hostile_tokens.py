"""Tokens that prove nothing, each wrong in one way. All claim every scope."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt

from support.issuer import Issuer, claims, new_key, public_pem


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def unsigned(header: dict[str, Any], **changed: Any) -> str:
    return f"{_part(header)}.{_part(claims(**changed))}."


def signed_with_public_key(issuer: Issuer) -> str:
    """HMAC with the public key as its secret, which PyJWT would not make."""
    signed = f"{_part({'alg': 'HS256', 'typ': 'JWT', 'kid': 'key-RS256'})}.{_part(claims())}"
    digest = hmac.new(public_pem(issuer.keys["RS256"]), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def hostile_tokens(issuer: Issuer) -> dict[str, str]:
    good = issuer.token()
    header, payload, signature = good.split(".")
    return {
        "expired": issuer.token(exp=time.time() - 60),
        "without an end": issuer.token(exp=None),
        "not valid yet": issuer.token(nbf=time.time() + 600),
        "for another audience": issuer.token(aud="somebody-else"),
        "without an audience": issuer.token(aud=None),
        "from another issuer": issuer.token(iss="https://evil.example.org"),
        "without an issuer": issuer.token(iss=None),
        "without a subject": issuer.token(sub=None),
        "with a bad pattern": issuer.token(devices=["#"]),
        "with devices that are no list": issuer.token(devices="*"),
        "with no devices": issuer.token(devices=[]),
        "signed by another key": jwt.encode(claims(), new_key(), "RS256", headers={"kid": "key-RS256"}),
        "of another algorithm": jwt.encode(claims(), issuer.keys["RS256"], "RS512", headers={"kid": "key-RS256"}),
        "under the id of another kind of key": jwt.encode(
            claims(), issuer.keys["ES256"], "ES256", headers={"kid": "key-RS256"}
        ),
        "of an unknown key id": jwt.encode(claims(), issuer.keys["RS256"], "RS256", headers={"kid": "key-X"}),
        "without a key id": jwt.encode(claims(), issuer.keys["RS256"], "RS256"),
        "signed with the public key as a secret": signed_with_public_key(issuer),
        "unsigned": unsigned({"alg": "none", "kid": "key-RS256"}),
        "unsigned in odd letters": unsigned({"alg": "nOnE", "kid": "key-RS256"}),
        "without an algorithm": unsigned({"kid": "key-RS256"}),
        "without its signature": f"{header}.{payload}.",
        "changed": f"{header}.{_part(claims(sub='admin'))}.{signature}",
        "with a key of its own": unsigned({"alg": "RS256", "jwk": {"kty": "oct", "k": "AA"}, "kid": "key-RS256"}),
        "critical beyond us": jwt.encode(
            claims(), issuer.keys["RS256"], "RS256", headers={"kid": "key-RS256", "crit": ["x"], "x": 1}
        ),
        "garbage": "a.b.c",
        "empty parts": "..",
        "far too long": good + "A" * 10_000,
        "no token": "open sesame",
    }
