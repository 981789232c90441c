"""Which tokens prove who calls, and which prove nothing (RFC 8725)."""

import asyncio
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from chapar.access import jwks
from chapar.access.jwks import KeySet, key_of_file, secret_key
from chapar.access.tokens import MAX_TOKEN_LENGTH, OneKey, TokenVerifier, VerificationKey
from chapar.errors import AccessUnavailable, CredentialInvalid, SettingInvalid
from chapar.model.principal import EVERY_SCOPE, EVERYTHING, Scope
from chapar.runtime.metrics import Metrics
from support.hostile_tokens import hostile_tokens
from support.issuer import AUDIENCE, ISSUER, Issuer, claims, jwk_of, new_key, public_pem
from support.ports import free_port
from support.timers import Timers

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as running:
        yield running


def unavailable(cause: str) -> Any:
    """What is raised where nobody can be checked: the cause is for the log, not for the caller."""
    return pytest.raises(AccessUnavailable, check=lambda error: cause in error.cause and cause not in str(error))


def verifier_of(issuer: Issuer, changes: list[None] | None = None) -> TokenVerifier:
    verifier = TokenVerifier(KeySet(issuer.url, Metrics()), ISSUER, AUDIENCE)
    if changes is not None:
        verifier.on_new_keys(lambda: changes.append(None))
    return verifier


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
        KeySet(url, Metrics())


async def test_a_rotated_key_is_found_and_the_old_one_counts_no_more(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[None] = []
    verifier = verifier_of(issuer, changes)
    old = issuer.token()
    await verifier.verify(old)
    monkeypatch.setattr(jwks, "COOLDOWN", 0)
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
    with unavailable("it answers 500"):
        await verifier.verify(issuer.token())
    issuer.status = 200
    monkeypatch.setattr(jwks, "COOLDOWN", 0)
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
    with unavailable("larger than 1 MiB"):
        await verifier_of(issuer).verify(issuer.token())


async def test_an_issuer_that_does_not_answer_is_not_waited_for_without_end(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "TIMEOUT", 0.0)
    with unavailable("no answer within 0 s"):
        await verifier_of(issuer).verify(issuer.token())


async def test_an_issuer_that_nobody_listens_for_is_named_without_the_password_in_its_url() -> None:
    key_set = KeySet(f"http://anna:secret@127.0.0.1:{free_port()}/keys?token=secret", Metrics())
    with pytest.raises(AccessUnavailable) as caught:
        await key_set.key("key-RS256")
    assert "http://127.0.0.1:" in caught.value.cause
    assert "/keys cannot be fetched (" in caught.value.cause
    assert "secret" not in caught.value.cause
    assert "127.0.0.1" not in caught.value.sentence("en") + caught.value.sentence("fa")


@pytest.mark.parametrize("key_id", [7, None, ["key-RS256"]])
async def test_a_key_whose_id_is_no_text_is_passed_over(issuer: Issuer, key_id: Any) -> None:
    issuer.entries = [jwk_of(issuer.keys["RS256"], "key-RS256", "RS256") | {"kid": key_id}]
    with unavailable("no key for RS256"):
        await verifier_of(issuer).verify(issuer.token())


async def test_the_only_key_is_for_tokens_that_name_none(issuer: Issuer) -> None:
    unnamed = jwt.encode(claims(), issuer.keys["RS256"], "RS256")
    issuer.entries = issuer.entries[:1]
    assert (await verifier_of(issuer).verify(unnamed)).principal.name == "backend"
    del issuer.entries[0]["kid"]
    assert (await verifier_of(issuer).verify(unnamed)).principal.name == "backend"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("[Errno 111] Connection refused", "Connection refused"),
        ("[SSL] certificate [x] expired", "certificate [x] expired"),
        ("all attempts failed", "all attempts failed"),
        ("", "ConnectError"),
    ],
)
def test_why_a_set_cannot_be_fetched_is_told_without_numbers_of_the_system(said: str, told: str) -> None:
    assert jwks.cause_of(httpx.ConnectError(said)) == told


async def test_where_a_set_cannot_be_fetched_from_is_told(issuer: Issuer) -> None:
    issuer.status = 503
    with pytest.raises(AccessUnavailable) as caught:
        await verifier_of(issuer).verify(issuer.token())
    assert caught.value.cause == f"the key set at {issuer.url} cannot be fetched (it answers 503)."


def test_what_is_wrong_with_a_key_file_is_told_in_both_languages(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid) as caught:
        key_of_file(tmp_path / "missing.pem")
    assert caught.value.setting == "CHAPAR_JWT_KEY_FILE"
    assert "خوانده نمی‌شود" in caught.value.sentence("fa")


async def test_a_set_is_kept_fresh_before_it_is_needed(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    timers = Timers()
    monkeypatch.setattr(jwks, "asyncio", timers)
    key_set = KeySet(issuer.url, Metrics())
    keeping = asyncio.create_task(key_set.keep())
    async with asyncio.timeout(60):
        while not timers.sleeps:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0)
    keeping.cancel()
    assert timers.sleeps == [240.0]
    assert timers.timeouts == [5.0]
    assert await key_set.key("key-RS256") is not None
    assert issuer.asked == 1


@pytest.mark.parametrize(
    ("after", "key_id", "asked"),
    [
        (0.0, "key-RS256", 1),
        (300.0, "key-RS256", 1),
        (300.5, "key-RS256", 2),
        (9.5, "unknown", 1),
        (10.0, "unknown", 1),
        (10.5, "unknown", 2),
        (10.5, None, 2),
    ],
)
async def test_the_issuer_is_asked_again_when_the_set_is_old_or_a_key_is_not_in_it(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, after: float, key_id: str | None, asked: int
) -> None:
    clock = {"now": 1_000_000.0}
    monkeypatch.setattr(jwks, "time", SimpleNamespace(monotonic=lambda: clock["now"]))
    key_set = KeySet(issuer.url, Metrics())
    await key_set.key("key-RS256")
    clock["now"] += after
    assert (await key_set.key(key_id) is None) is (key_id != "key-RS256")
    assert issuer.asked == asked


@pytest.mark.parametrize(("age", "trusted"), [(3600.0, True), (3600.5, False)])
async def test_a_set_is_trusted_for_an_hour(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, age: float, *, trusted: bool
) -> None:
    clock = {"now": 1_000_000.0}
    monkeypatch.setattr(jwks, "time", SimpleNamespace(monotonic=lambda: clock["now"]))
    key_set = KeySet(issuer.url, Metrics())
    await key_set.key("key-RS256")
    issuer.status = 500
    clock["now"] += age
    if trusted:
        assert await key_set.key("key-RS256") is not None
    else:
        with unavailable("it answers 500"):
            await key_set.key("key-RS256")


async def test_callers_who_come_at_once_fetch_the_set_once(issuer: Issuer) -> None:
    key_set = KeySet(issuer.url, Metrics())
    keys = await asyncio.gather(*(key_set.key("key-RS256") for _ in range(10)))
    assert len(keys) == 10
    assert None not in keys
    assert issuer.asked == 1


async def test_whoever_remembers_tokens_hears_of_other_keys_only(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "COOLDOWN", 0)
    changes: list[None] = []
    key_set = KeySet(issuer.url, Metrics())
    key_set.listen(lambda: changes.append(None))
    for _ in range(3):
        await key_set.refresh()
    assert len(changes) == 1


@pytest.mark.parametrize(("count", "usable"), [(100, True), (101, False)])
def test_a_set_holds_a_hundred_keys_at_most(count: int, *, usable: bool) -> None:
    key = new_key("EdDSA")
    document = json.dumps({"keys": [jwk_of(key, f"key-{number}", "EdDSA") for number in range(count)]}).encode()
    if usable:
        assert len(jwks.keys_of(document)) == count
    else:
        with pytest.raises(ValueError, match="no list of up to 100 keys"):
            jwks.keys_of(document)


def test_an_empty_answer_has_no_keys() -> None:
    with pytest.raises(ValueError, match="EOF"):
        jwks.keys_of(b"")


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        ({}, True),
        ({"use": "sig"}, True),
        ({"alg": None}, False),
        ({"use": "enc"}, False),
        ({"alg": "HS256"}, False),
        ({"kty": "oct"}, False),
        ({"kid": 7}, False),
        ({"x": "AA"}, False),
        ({"crv": "X25519"}, False),
    ],
)
def test_a_key_of_a_set_is_for_signatures_of_its_own_kind(fields: dict[str, Any], *, taken: bool) -> None:
    entry = jwk_of(new_key("EdDSA"), "key-1", "EdDSA", **fields)
    assert (jwks.key_of(entry) is not None) is taken


def test_a_key_that_does_not_say_what_it_is_for_is_taken_and_a_private_one_is_not_kept() -> None:
    key = new_key("EdDSA")
    entry = jwk_of(key, "key-1", "EdDSA")
    del entry["alg"], entry["kid"]
    found = jwks.key_of(entry | {"d": "AA"})
    assert found is not None
    assert found.algorithm == "EdDSA"
    assert found.key == key.public_key()


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("https://issuer.example.org/keys", True),
        ("http://localhost/keys", True),
        ("http://127.0.0.1:8080/keys", True),
        ("http://[::1]/keys", True),
        ("http://localhost.example.org/keys", False),
        ("http://192.0.2.7/keys", False),
        ("http:///keys", False),
        ("file:///keys", False),
    ],
)
def test_a_key_set_over_http_is_for_this_machine_only(url: str, *, taken: bool) -> None:
    if taken:
        assert jwks.check_url(url) == url
    else:
        with pytest.raises(SettingInvalid) as caught:
            jwks.check_url(url)
        assert caught.value.setting == "CHAPAR_JWT_JWKS_URL"


async def test_an_issuer_that_sends_elsewhere_is_not_followed(issuer: Issuer) -> None:
    issuer.status = 302
    with unavailable("it answers 302"):
        await verifier_of(issuer).verify(issuer.token())


async def test_json_is_asked_for(issuer: Issuer) -> None:
    await verifier_of(issuer).verify(issuer.token())
    assert issuer.accepts == "application/json"


@pytest.mark.parametrize(("beyond", "taken"), [(0, True), (1, False)])
async def test_a_set_of_a_mebibyte_is_read(issuer: Issuer, beyond: int, *, taken: bool) -> None:
    issuer.entries = [{"kty": "oct", "k": ""}, jwk_of(issuer.keys["RS256"], "key-RS256", "RS256")]
    length = len(json.dumps({"keys": issuer.entries}))
    issuer.entries[0]["k"] = "A" * ((1 << 20) - length + beyond)
    if taken:
        await verifier_of(issuer).verify(issuer.token())
    else:
        with unavailable("larger than 1 MiB"):
            await verifier_of(issuer).verify(issuer.token())


async def test_a_set_is_not_fetched_twice_in_ten_seconds(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 1_000_000.0}
    monkeypatch.setattr(jwks, "time", SimpleNamespace(monotonic=lambda: clock["now"]))
    key_set = KeySet(issuer.url, Metrics())
    for after, asked in ((0.0, 1), (9.9, 1), (10.0, 2)):
        clock["now"] = 1_000_000.0 + after
        await key_set.refresh()
        assert issuer.asked == asked


async def test_a_key_that_can_be_guessed_verifies_nothing() -> None:
    verifier = TokenVerifier(OneKey(VerificationKey(b"short", "HS256")), ISSUER, AUDIENCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        token = jwt.encode(claims(), b"short", "HS256")
    with pytest.raises(CredentialInvalid):
        await verifier.verify(token)


async def test_a_token_is_as_long_as_it_may_be() -> None:
    verifier = TokenVerifier(OneKey(secret_key(SECRET)), ISSUER, AUDIENCE)
    pad, too_long, longest = MAX_TOKEN_LENGTH, "", ""
    while len(longest := jwt.encode(claims(exp=2_000_000_000, pad="x" * pad), SECRET, "HS256")) > MAX_TOKEN_LENGTH:
        pad, too_long = pad - 1, longest
    assert len(longest) == MAX_TOKEN_LENGTH
    with pytest.raises(CredentialInvalid):
        await verifier.verify(too_long)
    assert (await verifier.verify(longest)).principal.name == "backend"


@pytest.mark.parametrize("length", [1, 256])
async def test_a_subject_is_as_short_and_as_long_as_it_may_be(length: int) -> None:
    verifier = TokenVerifier(OneKey(secret_key(SECRET)), ISSUER, AUDIENCE)
    verified = await verifier.verify(jwt.encode(claims(sub="x" * length), SECRET, "HS256"))
    assert verified.principal.id == "jwt:" + "x" * length


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"exp": 1}, "has expired"),
        ({"aud": "another"}, "is for another audience"),
        ({"iss": "another"}, "is from another issuer"),
        ({"sub": None}, "lacks the claim sub"),
        ({"exp": None}, "lacks the claim exp"),
        ({"nbf": 4_000_000_000}, "is not valid yet"),
        ({"sub": "x" * 257}, "has a `sub` that is not 1 to 256"),
        ({"devices": [7]}, "has a bad claim: devices must be a list of patterns"),
        ({"operations": "*"}, "has a bad claim: operations must be a list of patterns"),
    ],
)
async def test_why_a_token_is_refused_is_told(changed: dict[str, Any], said: str) -> None:
    verifier = TokenVerifier(OneKey(secret_key(SECRET)), ISSUER, AUDIENCE)
    with pytest.raises(CredentialInvalid) as caught:
        await verifier.verify(jwt.encode(claims(**changed), SECRET, "HS256"))
    assert said in caught.value.sentence("en").replace("`devices`", "devices").replace("`operations`", "operations")
