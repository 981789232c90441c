"""Where the keys that tokens are signed with come from: a secret, a file, or a set of keys at a URL (RFC 7517)."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import jwt
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from chapar.access.tokens import VerificationKey
from chapar.addresses import is_loopback
from chapar.certificates import client_context
from chapar.errors import AccessUnavailable, SettingInvalid, persian_digits

log = structlog.get_logger(__name__)

MIN_SECRET: Final = 32  # bytes: as many as the hash has (RFC 7518 §3.2)
_MIN_RSA: Final = 2048  # bits (RFC 7518 §3.3)
_FRESH: Final = 300.0  # seconds for which a set is not asked for again, unless a token names a key that is not in it
_REFRESH: Final = 240.0  # seconds between fetches; before the set stops being fresh, so that no caller waits for one
_COOLDOWN: Final = 10.0  # seconds between two looks for such a key, so that made-up ids cost the issuer nothing
_STALE: Final = 3600.0  # seconds after which a set that cannot be fetched any more is not trusted any more
_TIMEOUT: Final = 5.0  # seconds
_MAX_SIZE: Final = 1 << 20  # bytes
_MAX_KEYS: Final = 100


def secret_key(secret: str) -> VerificationKey:
    """The key of HS256; raises SettingInvalid for a secret that can be guessed."""
    if len(secret.encode()) < MIN_SECRET:
        raise SettingInvalid(
            "CHAPAR_JWT_SECRET",
            f"it must have at least {MIN_SECRET} bytes, drawn at random.",
            f"باید دست‌کم {persian_digits(MIN_SECRET)} بایت تصادفی داشته باشد.",
        )
    return VerificationKey(secret.encode(), "HS256")


def key_of_file(file: Path) -> VerificationKey:
    """The public key in a PEM file, with the algorithm of its kind; raises SettingInvalid."""
    try:
        key = load_pem_public_key(file.read_bytes())
    except OSError as error:
        raise _unusable(
            f"{file} cannot be read: {error.strerror}.", f"{file} خوانده نمی‌شود: {error.strerror}."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise _unusable(f"{file} is not a public key in PEM.", f"{file} کلید عمومی به شکل PEM نیست.") from None
    algorithm = _algorithm(key)
    if algorithm is None:
        raise _unusable(
            f"{file} must be RSA (2048 bits or more), P-256 or Ed25519.",
            f"{file} باید RSA (۲۰۴۸ بیت یا بیشتر)، P-256 یا Ed25519 باشد.",
        )
    return VerificationKey(key, algorithm)


def _unusable(problem: str, problem_fa: str) -> SettingInvalid:
    return SettingInvalid("CHAPAR_JWT_KEY_FILE", problem, problem_fa)


def _algorithm(key: object) -> str | None:
    """The one algorithm that a public key is used with."""
    match key:
        case RSAPublicKey() if key.key_size >= _MIN_RSA:
            return "RS256"
        case EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            return "ES256"
        case Ed25519PublicKey():
            return "EdDSA"
        case _:
            return None


def check_url(url: str) -> str:
    """The URL of a set of keys unchanged; raises SettingInvalid where others could put keys of their own into it."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise SettingInvalid(
            "CHAPAR_JWT_JWKS_URL",
            "write it as https://…; http is for this machine only.",
            "آن را به شکل https://… بنویسید؛ http تنها برای همین ماشین است.",
        )
    return url


class KeySet:
    """The keys at a URL, fetched when they are needed and kept for a while.

    It fails closed: where it was never fetched, or not for an hour, no token is believed.
    """

    def __init__(self, url: str, on_change: Callable[[], None]) -> None:
        """`on_change` is called when a fetch finds other keys than the one before."""
        self._url = check_url(url)
        self._on_change = on_change
        self._keys: Mapping[str | None, VerificationKey] = {}
        self._fetched_at = float("-inf")  # monotonic
        self._tried_at = float("-inf")
        self._problem = "the key set has not been fetched yet."
        self._fetching = asyncio.Lock()

    async def keep(self) -> None:
        """Keep the set fresh until cancelled, so that no caller waits for the issuer."""
        while True:
            await self.refresh()
            await asyncio.sleep(_REFRESH)

    async def key(self, key_id: str | None) -> VerificationKey | None:
        """The key with this id; without an id, the only key. Raises AccessUnavailable."""
        now = time.monotonic()
        known = key_id in self._keys
        if now - self._fetched_at > _FRESH or (not known and now - self._tried_at > _COOLDOWN):
            await self.refresh()
        if time.monotonic() - self._fetched_at > _STALE:
            raise AccessUnavailable(self._problem)
        return self._keys.get(key_id)

    async def refresh(self) -> None:
        """Fetch the set, unless somebody just did; where that fails, the last one stays for as long as it may."""
        async with self._fetching:
            if time.monotonic() - self._tried_at < _COOLDOWN:
                return
            self._tried_at = time.monotonic()
            try:
                keys = _keys_of(await self._fetch())
            except (httpx.HTTPError, ValueError, TimeoutError) as error:
                self._problem = f"the key set at {_shown(self._url)} cannot be fetched ({_cause(error)})."
                log.warning("jwks_unavailable", problem=self._problem)
                return
            self._fetched_at = time.monotonic()
            if keys != self._keys:
                log.info("jwks_fetched", key_ids=sorted(key_id for key_id in keys if key_id is not None))
                self._keys = keys
                self._on_change()

    async def _fetch(self) -> bytes:
        body = bytearray()
        trusted = await asyncio.to_thread(client_context)
        async with (
            asyncio.timeout(_TIMEOUT),
            httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=False, verify=trusted) as client,
            client.stream("GET", self._url, headers={"Accept": "application/json"}) as answer,
        ):
            answer.raise_for_status()
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > _MAX_SIZE:
                    raise ValueError("it is larger than 1 MiB")
        return bytes(body)


def _keys_of(document: bytes) -> dict[str | None, VerificationKey]:
    """The usable keys of a set by id; under None too where there is one only. Raises ValueError."""
    entries = json.loads(document)["keys"] if document else []
    if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
        raise ValueError("it has no list of keys")
    keys: dict[str | None, VerificationKey] = {}
    for entry in entries:
        if (key := _key_of(entry)) is not None:
            keys[entry.get("kid")] = key
    if not keys:
        raise ValueError("it has no key for RS256, ES256 or EdDSA")
    if len(keys) == 1:
        keys[None] = next(iter(keys.values()))
    return keys


def _key_of(entry: Any) -> VerificationKey | None:  # noqa: ANN401 - whatever the issuer's JSON holds
    """The key in a JWK that is for signatures of public keys; None for every other: a secret has no place here."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") not in {"RSA", "EC", "OKP"}:
        return None
    if not isinstance(entry.get("kid", ""), str):
        return None
    public = {name: value for name, value in entry.items() if name not in {"d", "alg"}}
    try:
        key = jwt.PyJWK(public).key
    except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    algorithm = _algorithm(key)
    # A key that says what it is for is used for that or not at all.
    return None if algorithm is None or entry.get("alg", algorithm) != algorithm else VerificationKey(key, algorithm)


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _cause(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"it answers {error.response.status_code}"
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return f"no answer within {_TIMEOUT:.0f} s"
    return str(error).partition("] ")[2] or str(error) or type(error).__name__
