"""Which tokens prove who calls, and which prove nothing (RFC 8725)."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from chapar.access import jwks
from chapar.access.jwks import KeySet, key_of_file, secret_key
from chapar.access.tokens import OneKey, TokenVerifier
from chapar.errors import AccessUnavailable, CredentialInvalid, SettingInvalid
from chapar.principal import EVERY_SCOPE, EVERYTHING, Scope
from support.hostile_tokens import hostile_tokens
from support.issuer import AUDIENCE, ISSUER, Issuer, claims, jwk_of, new_key, public_pem
from support.ports import free_port

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as running:
        yield running


def verifier_of(issuer: Issuer, changes: list[None] | None = None) -> TokenVerifier:
    heard = changes if changes is not None else []
    return TokenVerifier(KeySet(issuer.url, lambda: heard.append(None)), ISSUER, AUDIENCE)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_token_of_the_issuer_proves_who_calls(issuer: Issuer, algorithm: str) -> None:
    verified = await verifier_of(issuer).verify(issuer.token(algorithm, exp=2_000_000_000))
    assert verified.principal.id == "jwt:backend"
    assert verified.principal.name == "backend"
    assert verified.principal.scopes == EVERY_SCOPE
    assert verified.principal.reach == (EVERYTHING, EVERYTHING)
    assert verified.expires_at == 2_000_000_000


async def test_the_claims_say_what_the_caller_may_do(issuer: Issuer) -> None:
    token = issuer.token(scope="messages:read openid", devices=["farm1-*"], operations=["open", "close"])
    principal = (await verifier_of(issuer).verify(token)).principal
    assert principal.scopes == {Scope.READ}
    assert principal.reach.covers("farm1-a", "open")
    assert not principal.reach.covers("farm2-a", "open")
    assert not principal.reach.covers("farm1-a", "burn")


@pytest.mark.parametrize("scope", [None, "", 7, {"messages:send": True}, "MESSAGES:SEND", [["messages:send"]]])
async def test_a_scope_that_is_not_plainly_given_is_not_there(issuer: Issuer, scope: Any) -> None:
    assert (await verifier_of(issuer).verify(issuer.token(scope=scope))).principal.scopes == frozenset()


async def test_scopes_may_be_a_list(issuer: Issuer) -> None:
    token = issuer.token(scope=["messages:send", "other"])
    assert (await verifier_of(issuer).verify(token)).principal.scopes == {Scope.SEND}


async def test_a_hostile_token_proves_nothing(issuer: Issuer) -> None:
    verifier = verifier_of(issuer)
    for what, token in hostile_tokens(issuer).items():
        with pytest.raises(CredentialInvalid):
            pytest.fail(f"{what}: {await verifier.verify(token)}")


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_key_file_has_the_algorithm_of_its_kind(tmp_path: Path, algorithm: str) -> None:
    key, file = new_key(algorithm), tmp_path / "issuer.pem"
    file.write_bytes(public_pem(key))
    verification_key = key_of_file(file)
    assert verification_key.algorithm == algorithm
    verifier = TokenVerifier(OneKey(verification_key), ISSUER, AUDIENCE)
    assert (await verifier.verify(jwt.encode(claims(), key, algorithm))).principal.name == "backend"


async def test_a_secret_is_for_hs256_only() -> None:
    verifier = TokenVerifier(OneKey(secret_key(SECRET)), ISSUER, AUDIENCE)
    assert (await verifier.verify(jwt.encode(claims(), SECRET, "HS256"))).principal.name == "backend"
    for token in (jwt.encode(claims(), SECRET * 2, "HS512"), jwt.encode(claims(), SECRET[::-1], "HS256")):
        with pytest.raises(CredentialInvalid):
            await verifier.verify(token)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(SettingInvalid, match="at least 32 bytes"):
        secret_key(SECRET[:-1])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"nonsense", "is not a public key"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_key_file_that_is_none_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "issuer.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingInvalid, match=said):
        key_of_file(file)


def test_a_weak_key_is_refused(tmp_path: Path) -> None:
    for key in (
        rsa.generate_private_key(public_exponent=65537, key_size=1024),  # noqa: S505 - that is the point
        ec.generate_private_key(ec.SECP384R1()),
    ):
        (tmp_path / "issuer.pem").write_bytes(public_pem(key))
        with pytest.raises(SettingInvalid, match="RSA"):
            key_of_file(tmp_path / "issuer.pem")


@pytest.mark.parametrize("url", ["http://issuer.example.org/keys", "ftp://127.0.0.1/keys", "keys", "http://0.0.0.0/k"])
def test_a_key_set_comes_over_a_way_that_nobody_else_can_write_on(url: str) -> None:
    with pytest.raises(SettingInvalid, match="https"):
        KeySet(url, lambda: None)


async def test_a_rotated_key_is_found_and_the_old_one_counts_no_more(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[None] = []
    verifier = verifier_of(issuer, changes)
    old = issuer.token()
    await verifier.verify(old)
    monkeypatch.setattr(jwks, "_COOLDOWN", 0)
    issuer.keys["RS256"] = new_key()
    issuer.entries = [jwk_of(issuer.keys["RS256"], "key-2", "RS256")]
    new = jwt.encode(claims(), issuer.keys["RS256"], "RS256", headers={"kid": "key-2"})
    assert (await verifier.verify(new)).principal.name == "backend"
    assert len(changes) == 2, "whoever remembers tokens is told to forget them"
    with pytest.raises(CredentialInvalid):
        await verifier.verify(old)


async def test_made_up_key_ids_do_not_trouble_the_issuer(issuer: Issuer) -> None:
    verifier = verifier_of(issuer)
    for number in range(20):
        token = jwt.encode(claims(), issuer.keys["RS256"], "RS256", headers={"kid": f"made-up-{number}"})
        with pytest.raises(CredentialInvalid):
            await verifier.verify(token)
    assert issuer.asked == 1


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [{"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U", "kid": "key-RS256"}],
        [{"kty": "RSA"}],
        ["nonsense"],
        "nonsense",
    ],
)
async def test_without_a_usable_key_nobody_comes_in(issuer: Issuer, entries: Any) -> None:
    issuer.entries = entries
    with pytest.raises(AccessUnavailable):
        await verifier_of(issuer).verify(issuer.token())


async def test_a_key_for_encryption_or_another_algorithm_is_not_for_signatures(issuer: Issuer) -> None:
    key = issuer.keys["RS256"]
    issuer.entries = [
        jwk_of(key, "key-RS256", "RS256", use="enc"),
        jwk_of(key, "key-RS256", "RS256", alg="PS256"),
        jwk_of(issuer.keys["ES256"], "key-ES256", "ES256"),
    ]
    with pytest.raises(CredentialInvalid):
        await verifier_of(issuer).verify(issuer.token())


async def test_it_fails_closed(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = verifier_of(issuer)
    issuer.status = 500
    with pytest.raises(AccessUnavailable, match="it answers 500"):
        await verifier.verify(issuer.token())
    issuer.status = 200
    monkeypatch.setattr(jwks, "_COOLDOWN", 0)
    await verifier.verify(issuer.token())
    issuer.status = 500
    now = time.monotonic()
    monkeypatch.setattr(jwks.time, "monotonic", lambda: now + 1800)
    await verifier.verify(issuer.token())  # for an hour the last set is believed
    monkeypatch.setattr(jwks.time, "monotonic", lambda: now + 3700)
    with pytest.raises(AccessUnavailable):
        await verifier.verify(issuer.token())


async def test_a_set_that_is_too_large_is_not_read_to_its_end(issuer: Issuer) -> None:
    issuer.entries.append({"kty": "RSA", "x": "A" * (1 << 20)})
    with pytest.raises(AccessUnavailable, match="larger than 1 MiB"):
        await verifier_of(issuer).verify(issuer.token())


async def test_an_issuer_that_does_not_answer_is_not_waited_for_without_end(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "_TIMEOUT", 0.0)
    with pytest.raises(AccessUnavailable, match="no answer within 0 s"):
        await verifier_of(issuer).verify(issuer.token())


async def test_an_issuer_that_nobody_listens_for_is_named_without_the_password_in_its_url() -> None:
    key_set = KeySet(f"http://anna:secret@127.0.0.1:{free_port()}/keys?token=secret", lambda: None)
    with pytest.raises(AccessUnavailable) as caught:
        await key_set.key("key-RS256")
    assert "http://127.0.0.1:" in str(caught.value)
    assert "/keys cannot be fetched (" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key_id", [7, None, ["key-RS256"]])
async def test_a_key_whose_id_is_no_text_is_passed_over(issuer: Issuer, key_id: Any) -> None:
    issuer.entries = [jwk_of(issuer.keys["RS256"], "key-RS256", "RS256") | {"kid": key_id}]
    with pytest.raises(AccessUnavailable, match="no key for RS256"):
        await verifier_of(issuer).verify(issuer.token())


async def test_the_only_key_is_for_tokens_that_name_none(issuer: Issuer) -> None:
    unnamed = jwt.encode(claims(), issuer.keys["RS256"], "RS256")
    issuer.entries = issuer.entries[:1]
    assert (await verifier_of(issuer).verify(unnamed)).principal.name == "backend"
    del issuer.entries[0]["kid"]
    assert (await verifier_of(issuer).verify(unnamed)).principal.name == "backend"
