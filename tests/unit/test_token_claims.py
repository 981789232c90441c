"""What a properly signed token may still not say."""

from types import SimpleNamespace
from typing import Any

import jwt
import pytest

from chapar.access import tokens
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


LEEWAY = 30
NOW = 1_800_000_000.25  # 2027-01-15T08:00:00.250Z


@pytest.fixture
def at_now(monkeypatch: pytest.MonkeyPatch) -> TokenVerifier:
    monkeypatch.setattr(tokens, "time", SimpleNamespace(time=lambda: NOW))
    return TokenVerifier(OneKey(VerificationKey(SECRET, "HS256")), "issuer", "chapar", leeway=LEEWAY)


async def refusal(verifier: TokenVerifier, **claims: Any) -> str:
    with pytest.raises(CredentialInvalid) as caught:
        await verifier.verify(token(**claims))
    persian = caught.value.sentence("fa")
    assert persian != caught.value.sentence("en")
    return caught.value.sentence("en")


@pytest.mark.parametrize(
    "claims",
    [
        {"nbf": NOW + 2},
        {"nbf": int(NOW) + LEEWAY},
        {"exp": NOW - LEEWAY + 1},
        {"iat": NOW + 2},
        {"iat": NOW + 86_400},
        {"iat": "yesterday"},
        {"iat": None},
        {"jti": 7},
        {"aud": ["another", "chapar"]},
        {"exp": "4102444800"},
    ],
)
async def test_clocks_may_differ_by_the_leeway(at_now: TokenVerifier, claims: dict[str, Any]) -> None:
    assert (await at_now.verify(token(**claims))).principal.name == "backend"


async def test_a_token_is_taken_to_the_end_of_the_leeway_and_gives_away_no_more_than_it_says(
    at_now: TokenVerifier,
) -> None:
    verified = await at_now.verify(token(exp=int(NOW) - 1))
    assert verified.expires_at == int(NOW) - 1 + LEEWAY
    assert verified.principal.ends_at == (int(NOW) - 1) * 1000


async def test_a_refusal_says_by_how_much(at_now: TokenVerifier) -> None:
    early = await refusal(at_now, nbf=int(NOW) + LEEWAY + 1)
    assert (
        "is not valid yet: its `nbf` is 2027-01-15T08:00:31.000Z, in 31 s, and it is 2027-01-15T08:00:00.250Z" in early
    )
    late = await refusal(at_now, exp=int(NOW) - 3600)
    assert "has expired: its `exp` was 2027-01-15T07:00:00.000Z, 3,600 s ago, and it is 2027-01-15T08:00:00" in late
    assert "9999-12-31" in await refusal(at_now, nbf=10**400)
    assert "1970-01-01" in await refusal(at_now, exp=-(10**400))


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"aud": "another"}, "for another audience: its `aud` is another, and chapar is expected"),
        ({"aud": ["a", "b"]}, "its `aud` is a, b, and chapar"),
        ({"aud": []}, "its `aud` is –, and chapar"),
        ({"aud": {"chapar": 1}}, "its `aud` is –, and chapar"),
        ({"aud": "chapar "}, "for another audience"),
        ({"iss": "another"}, "from another issuer: its `iss` is another, and issuer is expected"),
        ({"iss": "x" * 1000}, f"its `iss` is {'x' * 100}…, and"),
        ({"iss": "a\x1b[31m"}, "its `iss` is a\\x1b[31m, and"),
        ({"exp": None}, "lacks the claim exp"),
        ({"exp": "tomorrow"}, "bad claim: `exp` must be a number of seconds"),
        ({"exp": [1]}, "bad claim: `exp` must be a number of seconds"),
        ({"nbf": {}}, "bad claim: `nbf` must be a number of seconds"),
        ({"nbf": float("inf")}, "bad claim: `nbf` must be a number of seconds"),
        ({"nbf": None}, "bad claim: `nbf` must be a number of seconds"),
        ({"sub": ["backend"]}, "has a `sub` that is not"),
        ({"sub": 7}, "has a `sub` that is not"),
    ],
)
async def test_a_refusal_says_which_claim_is_at_fault(at_now: TokenVerifier, claims: dict[str, Any], said: str) -> None:
    assert said in await refusal(at_now, **claims)


async def test_a_refusal_says_that_the_algorithm_is_another() -> None:
    signed = jwt.encode(CLAIMS, SECRET * 2, "HS512")
    with pytest.raises(CredentialInvalid, match="is not signed with HS256, the one algorithm"):
        await VERIFIER.verify(signed)
    with pytest.raises(CredentialInvalid, match="is not signed by a key that counts here"):
        await VERIFIER.verify(jwt.encode(CLAIMS, SECRET * 2, "HS256"))
