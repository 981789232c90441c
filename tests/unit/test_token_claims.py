"""What a properly signed token may still not say."""

import jwt
import pytest

from chapar.access.tokens import OneKey, TokenVerifier, VerificationKey
from chapar.errors import CredentialInvalid

SECRET = b"a secret of as many bytes as HS256 asks for"
CLAIMS = {"iss": "issuer", "aud": "chapar", "sub": "backend", "exp": 4102444800}
VERIFIER = TokenVerifier(OneKey(VerificationKey(SECRET, "HS256")), "issuer", "chapar")


def token(**claims: object) -> str:
    return jwt.encode({**CLAIMS, **claims}, SECRET, "HS256")


async def test_an_end_beyond_what_a_float_holds_is_far_away() -> None:
    verified = await VERIFIER.verify(token(exp=10**400))
    assert verified.expires_at > CLAIMS["exp"]


@pytest.mark.parametrize("subject", ["", "a\0", "a\nb", "\ud800", "\x1b[31m", "\u202eb", "x" * 257])
async def test_a_subject_that_cannot_be_written_down_is_refused(subject: str) -> None:
    with pytest.raises(CredentialInvalid):
        await VERIFIER.verify(token(sub=subject))


async def test_a_subject_may_be_persian() -> None:
    verified = await VERIFIER.verify(token(sub="باغ\u200cها"))
    assert verified.principal.name == "باغ\u200cها"
