"""Bearer tokens (JWT, RFC 7519), verified as RFC 8725 asks: one algorithm a key, and issuer and audience required."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import jwt
from jwt.types import Options

from chapar.errors import CredentialInvalid, FieldInvalid, Phrase
from chapar.model.lines import plain
from chapar.model.principal import EVERYTHING, Principal, Reach, Scope, check_patterns
from chapar.model.times import LATEST, rfc3339

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA", "HS256")
MAX_TOKEN_LENGTH: Final = 8192  # characters; what is longer is no token that we would issue a right for
_DOTS: Final = 2
_REQUIRED: Final = ("exp", "iss", "aud", "sub")
_NEVER: Final = 1 << 40  # seconds since the epoch; JSON knows numbers beyond what a float holds
_SIGNATURE_ONLY: Final[Options] = {
    "enforce_minimum_key_length": True,
    "verify_aud": False,
    "verify_exp": False,
    "verify_iat": False,
    "verify_iss": False,
    "verify_jti": False,
    "verify_nbf": False,
    "verify_sub": False,
}
"""PyJWT does not say by how much a claim is at fault, or what is in it; the claims are checked here."""
_LONGEST_SHOWN: Final = 100  # characters of a claim in a sentence
_MAX_NAME: Final = 256  # characters of `sub`: it goes into the audit trail


class VerificationKey(NamedTuple):
    """A key and the one algorithm that it is used with, so that no token chooses how it is checked (RFC 8725 §3.1)."""

    key: Any  #: as PyJWT takes it: the secret's bytes, or a public key
    algorithm: str


class KeySource(Protocol):
    """A source of signing keys."""

    async def key(self, key_id: str | None) -> VerificationKey | None:
        """The key with this id (`kid`), None where there is none; raises AccessUnavailable."""

    async def keep(self) -> None:
        """Keep the keys fresh until cancelled; returns at once where they never change."""

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called whenever the keys have changed."""


class OneKey:
    """The only key, whatever its id."""

    def __init__(self, key: VerificationKey) -> None:
        self._key = key

    async def key(self, key_id: str | None) -> VerificationKey | None:  # noqa: ARG002 - the only one
        """The key."""
        return self._key

    async def keep(self) -> None:
        """It never changes."""

    def listen(self, listener: Callable[[], None]) -> None:
        """It never changes."""


class Verified(NamedTuple):
    """The claims of a verified token."""

    principal: Principal
    expires_at: float  #: until when it is taken, the leeway included, in seconds since the epoch


class TokenVerifier:
    """Tokens of one issuer for one audience."""

    def __init__(self, keys: KeySource, issuer: str, audience: str, *, leeway: float = 0) -> None:
        """`leeway`: seconds by which the issuer's clock and ours may differ."""
        self._keys = keys
        self._leeway = leeway
        self._issuer = issuer
        self._audience = audience

    @staticmethod
    def is_token(text: str) -> bool:
        """Return whether this has the shape of a signed token: three parts (RFC 7515 §7.1), and not too long."""
        return len(text) <= MAX_TOKEN_LENGTH and text.isascii() and text.count(".") == _DOTS

    async def keep_keys(self) -> None:
        """Keep the keys of the issuer fresh until cancelled; returns at once where they never change."""
        await self._keys.keep()

    def on_new_keys(self, listener: Callable[[], None]) -> None:
        """Have `listener` called whenever the keys of the issuer have changed: what was verified may not count now."""
        self._keys.listen(listener)

    async def verify(self, token: str) -> Verified:
        """Return what the token proves; raises CredentialInvalid, AccessUnavailable."""
        if not self.is_token(token):
            raise CredentialInvalid(Phrase("credential.no_token"))
        key = await self._keys.key(_key_id(token))
        if key is None:
            raise CredentialInvalid(Phrase("credential.unknown_signing_key"))
        claims = self._claims(token, key)
        self._check_claims(claims, time.time())
        return _verified(claims, self._leeway)

    def _claims(self, token: str, key: VerificationKey) -> Mapping[str, Any]:
        try:
            return jwt.decode(token, key.key, algorithms=[key.algorithm], options=_SIGNATURE_ONLY)
        except jwt.InvalidAlgorithmError:
            raise CredentialInvalid(Phrase("credential.other_algorithm", algorithm=key.algorithm)) from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            # Whatever else a hostile token makes the library stumble over: it proves nothing.
            raise CredentialInvalid(Phrase("credential.bad_signature")) from None

    def _check_claims(self, claims: Mapping[str, Any], now: float) -> None:
        """Raise CredentialInvalid for a token that is not for now or not for us (RFC 7519 §4.1).

        `iat` is not compared: no rule here depends on when a token was issued.
        """
        for claim in _REQUIRED:
            if claims.get(claim) is None:
                raise CredentialInvalid(Phrase("credential.missing_claim", claim=claim))
        if "nbf" in claims and (begin := _seconds(claims, "nbf")) > now + self._leeway:
            ahead = math.ceil(begin - now)
            raise CredentialInvalid(Phrase("credential.not_yet_valid", at=_at(begin), seconds=ahead, now=_at(now)))
        if (end := _seconds(claims, "exp")) <= now - self._leeway:
            ago = math.floor(now - end)
            raise CredentialInvalid(Phrase("credential.token_expired", at=_at(end), seconds=ago, now=_at(now)))
        if claims["iss"] != self._issuer:
            raise CredentialInvalid(Phrase("credential.other_issuer", found=_shown(claims["iss"]), ours=self._issuer))
        audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        if self._audience not in audiences:
            raise CredentialInvalid(
                Phrase("credential.other_audience", found=_shown(claims["aud"]), ours=self._audience)
            )


def _seconds(claims: Mapping[str, Any], claim: str) -> int:
    """A time in a claim, in seconds since the epoch; raises CredentialInvalid for what is no number."""
    try:
        return max(-_NEVER, min(int(claims[claim]), _NEVER))
    except (ValueError, TypeError, OverflowError):
        raise CredentialInvalid(Phrase("credential.bad_claim", claim=claim, rule=Phrase("rule.seconds"))) from None


def _at(seconds: float) -> str:
    return str(rfc3339(int(seconds * 1000)))


def _shown(claim: object) -> str:
    """The names in a claim, on one short line."""
    names = claim if isinstance(claim, list) else [claim]
    text = plain(", ".join(name for name in names if isinstance(name, str))) or "–"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _key_id(token: str) -> str | None:
    """The `kid` of the header, which chooses among our keys and nothing else."""
    try:
        key_id = jwt.get_unverified_header(token).get("kid")
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise CredentialInvalid(Phrase("credential.no_token")) from None
    return key_id if isinstance(key_id, str) else None


def _verified(claims: Mapping[str, Any], leeway: float) -> Verified:
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_NAME or subject != plain(subject):
        raise CredentialInvalid(Phrase("credential.bad_subject", limit=_MAX_NAME))
    try:
        reach = Reach(_patterns(claims, "devices"), _patterns(claims, "operations"))
    except FieldInvalid as error:
        raise CredentialInvalid(Phrase("credential.bad_claim", claim=error.field, rule=error.rule)) from None
    ends_at = _seconds(claims, "exp")
    principal = Principal(f"jwt:{subject}", subject, _scopes(claims), reach, min(ends_at * 1000, LATEST))
    return Verified(principal, ends_at + leeway)


def _scopes(claims: Mapping[str, Any]) -> frozenset[Scope]:
    """Those of `scope` (RFC 8693 §4.2, words in one string) that we know; a list is read too."""
    given = claims.get("scope", "")
    words = given.split() if isinstance(given, str) else given
    return frozenset(scope for scope in Scope if isinstance(words, list) and scope.value in words)


def _patterns(claims: Mapping[str, Any], claim: str) -> tuple[str, ...]:
    """The patterns in a claim; without it nothing is narrowed. Raises FieldInvalid."""
    given = claims.get(claim)
    if given is None:
        return EVERYTHING
    if not isinstance(given, list) or not all(isinstance(pattern, str) for pattern in given):
        raise FieldInvalid(claim, Phrase("rule.pattern_list"))
    return check_patterns(given, claim)
