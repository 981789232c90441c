"""Sources of the keys that tokens are signed with: a secret, a file, or a set of keys at a URL (RFC 7517)."""

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import httpx
import jwt
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic_core import from_json

from chapar.access.tokens import KeySource, OneKey, TokenVerifier, VerificationKey
from chapar.errors import AccessUnavailable, Phrase, SettingInvalid
from chapar.runtime.addresses import is_host, is_loopback
from chapar.runtime.certificates import client_context, trusting
from chapar.runtime.metrics import Metrics
from chapar.runtime.outbound import proxy_for

log = structlog.get_logger(__name__)

MIN_SECRET: Final = 32  # bytes: as many as the hash has (RFC 7518 §3.2)
_MIN_RSA: Final = 2048  # bits (RFC 7518 §3.3)
_FRESH: Final = 300.0  # seconds for which a set is not asked for again, unless a token names a key that is not in it
_REFRESH: Final = 240.0  # seconds between fetches; before the set stops being fresh, so that no caller waits for one
COOLDOWN: Final = 10.0  # seconds between two looks for such a key, so that made-up ids cost the issuer nothing
_STALE: Final = 3600.0  # seconds after which a set that cannot be fetched any more is not trusted any more
TIMEOUT: Final = 5.0  # seconds
_MAX_SIZE: Final = 1 << 20  # bytes
_MAX_KEYS: Final = 100
_MAX_MEMBER: Final = 4096  # characters of one member of a key: an RSA modulus of 16,384 bits has 2,731
_MAX_CAUSE: Final = 200  # characters of what a library says of a failure
_ASKED: Final = {"Accept": "application/json", "Accept-Encoding": "identity"}
_PUBLIC: Final = ("kty", "crv", "n", "e", "x", "y")  # the members of public keys (RFC 7518 §6, RFC 8037 §2)


class TokenOptions(NamedTuple):
    """Settings for verifying tokens, with one of three sources of keys; None where nothing is set."""

    secret: str | None = None
    key_file: Path | None = None
    jwks_url: str | None = None
    ca_file: Path | None = None  #: of the key set
    proxy: str | None = None  #: to the key set
    issuer: str | None = None
    audience: str | None = None
    leeway: float = 0  #: seconds by which the issuer's clock and ours may differ


def token_verifier(options: TokenOptions, metrics: Metrics) -> TokenVerifier | None:
    """Make the verifier of tokens; None where none are expected.

    Raises SettingInvalid where tokens are set up in a way that cannot be trusted, or that nothing could verify: access
    would stand open.
    """
    sources: list[tuple[str, Callable[[], KeySource]]] = []
    if (secret := options.secret) is not None:
        sources.append(("CHAPAR_JWT_SECRET", lambda: OneKey(secret_key(secret))))
    if (file := options.key_file) is not None:
        sources.append(("CHAPAR_JWT_KEY_FILE", lambda: OneKey(key_of_file(file))))
    if (url := options.jwks_url) is not None:
        key_set = partial(KeySet, url, metrics, ca_file=options.ca_file, proxy=options.proxy)
        sources.append(("CHAPAR_JWT_JWKS_URL", key_set))
    named = {"CHAPAR_JWT_ISSUER": options.issuer, "CHAPAR_JWT_AUDIENCE": options.audience}
    if not sources:
        for name, value in named.items():
            if value:
                raise SettingInvalid(name, Phrase("setting.jwt_unused"))
        return None
    if len(sources) > 1:
        raise SettingInvalid(sources[1][0], Phrase("setting.jwt_twice", other=sources[0][0]))
    if not options.issuer or not options.audience:
        missing = next(name for name, value in named.items() if not value)
        raise SettingInvalid(missing, Phrase("setting.jwt_required"))
    return TokenVerifier(sources[0][1](), options.issuer, options.audience, leeway=options.leeway)


def secret_key(secret: str) -> VerificationKey:
    """The key of HS256; raises SettingInvalid for a secret that can be guessed."""
    if len(secret.encode()) < MIN_SECRET:
        raise SettingInvalid("CHAPAR_JWT_SECRET", Phrase("setting.jwt_secret_short", least=MIN_SECRET))
    return VerificationKey(secret.encode(), "HS256")


def key_of_file(file: Path) -> VerificationKey:
    """The public key in a PEM file, with the algorithm of its kind; raises SettingInvalid."""
    try:
        key = load_pem_public_key(file.read_bytes())
    except OSError as error:
        raise _unusable(Phrase("setting.file_unreadable", file=file, cause=error.strerror)) from None
    except (ValueError, UnsupportedAlgorithm):
        raise _unusable(Phrase("setting.jwt_key_private", file=file)) from None
    algorithm = _algorithm(key)
    if algorithm is None:
        raise _unusable(Phrase("setting.jwt_key_weak", file=file))
    return VerificationKey(key, algorithm)


def _unusable(problem: Phrase) -> SettingInvalid:
    return SettingInvalid("CHAPAR_JWT_KEY_FILE", problem)


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
    try:
        parts, port = httpx.URL(url), urlsplit(url).port
    except (httpx.InvalidURL, ValueError):
        parts, port = httpx.URL(), None
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.host))
    if not is_host(parts.raw_host.decode()) or port == 0 or not is_safe:
        raise SettingInvalid("CHAPAR_JWT_JWKS_URL", Phrase("setting.jwks_url"))
    return url


class KeySet:
    """The keys at a URL, fetched when they are needed and kept for a while.

    It fails closed: where it was never fetched, or not for an hour, no token is believed.
    """

    def __init__(
        self,
        url: str,
        metrics: Metrics,
        *,
        ca_file: Path | None = None,
        proxy: str | None = None,
    ) -> None:
        """Raises SettingInvalid."""
        self._url = check_url(url)
        self._metrics = metrics
        self._ca_file = ca_file
        trusting("CHAPAR_JWT_CA_FILE", ca_file)  # read anew at each fetch; what is wrong with it is said at the start
        self._proxy = proxy_for(httpx.URL(url).host, proxy)
        self._listeners: list[Callable[[], None]] = []
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

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called when a fetch finds other keys than the one before."""
        self._listeners.append(listener)

    async def key(self, key_id: str | None) -> VerificationKey | None:
        """The key with this id; without an id, the only key. Raises AccessUnavailable."""
        now = time.monotonic()
        known = key_id in self._keys
        if now - self._fetched_at > _FRESH or (not known and now - self._tried_at > COOLDOWN):
            await self.refresh()
        if time.monotonic() - self._fetched_at > _STALE:
            raise AccessUnavailable(self._problem)
        return self._keys.get(key_id)

    async def refresh(self) -> None:
        """Fetch the set, unless somebody just did; where that fails, the last one stays for as long as it may."""
        async with self._fetching:
            if time.monotonic() - self._tried_at < COOLDOWN:
                return
            self._tried_at = time.monotonic()
            try:
                keys = keys_of(await self._fetch())
            except Exception as error:  # noqa: BLE001 - whatever the issuer's answer makes a library stumble over
                self._problem = f"the key set at {_shown(self._url)} cannot be fetched ({cause_of(error)})."
                self._metrics.key_set_failures.inc()
                log.warning("jwks_unavailable", problem=self._problem)
                return
            self._fetched_at = time.monotonic()
            if keys != self._keys:
                log.info("jwks_fetched", key_ids=sorted(key_id for key_id in keys if key_id is not None))
                self._keys = keys
                for listener in self._listeners:
                    listener()

    async def _fetch(self) -> bytes:
        body = bytearray()
        trusted = await asyncio.to_thread(client_context, self._ca_file)
        async with (
            asyncio.timeout(TIMEOUT),
            httpx.AsyncClient(
                timeout=TIMEOUT,
                follow_redirects=False,
                trust_env=False,
                proxy=self._proxy,
                verify=trusted,
            ) as client,
            client.stream("GET", self._url, headers=_ASKED) as answer,
        ):
            answer.raise_for_status()
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise ValueError("it is compressed, which was not asked for")  # a few bytes may become gigabytes
            async for chunk in answer.aiter_raw():
                body += chunk
                if len(body) > _MAX_SIZE:
                    raise ValueError("it is larger than 1 MiB")
        return bytes(body)


def keys_of(document: bytes) -> dict[str | None, VerificationKey]:
    """The usable keys of a set by id; under None too where there is one only. Raises ValueError."""
    parsed = from_json(document)  # bounded in depth
    entries = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
        raise ValueError(f"it has no list of up to {_MAX_KEYS} keys")
    keys: dict[str | None, VerificationKey] = {}
    for entry in entries:
        if isinstance(entry, dict) and (key := key_of(entry)) is not None:
            keys[entry.get("kid")] = key
    if not keys:
        raise ValueError("it has no key for RS256, ES256 or EdDSA")
    if len(keys) == 1:
        keys[None] = next(iter(keys.values()))
    return keys


def key_of(entry: Mapping[str, object]) -> VerificationKey | None:
    """The key in a JWK that is for signatures of public keys; None for every other: a secret has no place here."""
    public = {name: entry[name] for name in _PUBLIC if name in entry}
    texts = [entry.get("kid", ""), *public.values()]
    if not all(isinstance(text, str) and len(text) <= _MAX_MEMBER for text in texts):
        return None
    if public.get("kty") not in {"RSA", "EC", "OKP"} or entry.get("use", "sig") != "sig":
        return None
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


def cause_of(error: Exception) -> str:
    """Return why a key set cannot be fetched, without numbers of the system."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"it answers {error.response.status_code}"
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return f"no answer within {TIMEOUT:.0f} s"
    return (str(error).partition("] ")[2] or str(error) or type(error).__name__)[:_MAX_CAUSE]
