"""The fuzzer of what reads an Authorization header: `python -m fuzz.token_target [libFuzzer's options]`."""

import asyncio
import random
import sys
from typing import Final

import atheris
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

with atheris.instrument_imports(include=["chapar.access.tokens", "chapar.web.http.entrance", "jwt"]):
    from chapar.access.tokens import OneKey, TokenVerifier, VerificationKey, Verified
    from chapar.web.http import entrance as access

from chapar.errors import CredentialInvalid
from chapar.model.lines import plain
from fuzz.tokens import AUDIENCE, ISSUER, SECRET, is_signed, mutated

_METHODS: Final = ("GET", "POST")

_OURS: Final = TokenVerifier(OneKey(VerificationKey(SECRET, "HS256")), ISSUER, AUDIENCE)
# No token here is signed by its private key: whatever this one takes is forged.
_STRANGERS: Final = TokenVerifier(
    OneKey(VerificationKey(Ed25519PrivateKey.generate().public_key(), "EdDSA")), ISSUER, AUDIENCE
)


async def _enter(data: bytes) -> None:
    """Read a header and verify what is in it; raises AssertionError where something is taken that should not be."""
    for method in _METHODS:
        try:
            credential = access._credential(data, method)
        except CredentialInvalid as error:
            _check_sentences(error)
            continue
        verified = await _verified(_OURS, credential)
        assert verified is None or is_signed(credential), credential
        assert await _verified(_STRANGERS, credential) is None, credential


async def _verified(verifier: TokenVerifier, credential: str) -> Verified | None:
    try:
        verified = await verifier.verify(credential)
    except CredentialInvalid as error:
        _check_sentences(error)
        return None
    principal = verified.principal
    assert 0 < len(principal.name) <= 256, principal
    assert principal.name == plain(principal.name), principal  # it goes into the log and into the audit trail
    assert isinstance(principal.reach.devices, tuple), principal
    assert verified.expires_at > 0, verified
    return verified


def _check_sentences(error: CredentialInvalid) -> None:
    assert error.sentence("en") != error.sentence("fa"), error


def _mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's own mutations, or those that know tokens."""
    source = random.Random(seed)
    if source.random() < 0.2:
        return atheris.Mutate(data, max_size)
    return mutated(data, source)[:max_size]


def main() -> None:
    loop = asyncio.new_event_loop()
    atheris.Setup(sys.argv, lambda data: loop.run_until_complete(_enter(data)), custom_mutator=_mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
