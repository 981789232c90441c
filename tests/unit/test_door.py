"""Who comes in, for how long that is remembered, and what happens where it cannot be found out."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
import structlog

from chapar.access import door as door_module
from chapar.access.api_keys import new_api_key
from chapar.access.door import KEY_KNOWN
from chapar.access.jwks import TokenOptions, token_verifier
from chapar.errors import AccessUnavailable, CredentialInvalid, SettingInvalid, StoreUnavailable, Unauthenticated
from chapar.model.api_key import ApiKey
from chapar.model.principal import Reach, Scope
from chapar.model.times import LATEST
from chapar.runtime.metrics import Metrics
from support.doors import DoorBench
from support.fakes import EPOCH, until
from support.issuer import AUDIENCE, ISSUER, Issuer, claims, new_key, public_pem
from support.timers import Timers

TOKENS = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
SECRET = "0123456789abcdef0123456789abcdef"


async def test_the_door_is_open_until_a_key_is_made() -> None:
    bench = DoorBench()
    await bench.door.refresh()
    assert bench.door.is_open
    bench.new_key()
    await bench.door.refresh()
    assert not bench.door.is_open
    bench.store.by_hash.clear()
    await bench.door.refresh()
    assert not bench.door.is_open, "it never opens by itself"


async def test_a_running_door_closes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "LOOK_EVERY", 0)
    bench = DoorBench()
    running = asyncio.create_task(bench.door.run())
    bench.new_key()
    async with asyncio.timeout(60):
        while bench.door.is_open:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_key_lets_its_holder_in_and_is_remembered_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = DoorBench()
    key = bench.new_key()
    assert bench.door.known(key) is None
    principal = await bench.door.admit(key)
    assert principal.name == "backend"
    assert principal.scopes == {Scope.SEND}
    assert principal.id.startswith("key:")
    assert bench.door.known(key) is principal
    now = time.time()
    monkeypatch.setattr(door_module.time, "time", lambda: now + KEY_KNOWN + 0.1)
    assert bench.door.known(key) is None
    bench.door.forget()
    assert bench.door.known(key) is None


async def test_who_was_let_in_is_checked_anew_whatever_is_remembered() -> None:
    bench = DoorBench()
    await bench.door.readmit(None)  # it is open
    key = bench.new_key()
    await bench.door.refresh()
    with pytest.raises(Unauthenticated):
        await bench.door.readmit(None)
    await bench.door.admit(key)
    await bench.door.readmit(key)
    bench.store.by_hash = {hash_: row._replace(revoked_at=1) for hash_, row in bench.store.by_hash.items()}
    assert bench.door.known(key) is not None
    with pytest.raises(CredentialInvalid, match="was revoked"):
        await bench.door.readmit(key)


async def test_what_somebody_gives_away_ends_with_their_key_or_token() -> None:
    bench = DoorBench(jwt_secret=SECRET, **TOKENS)
    ends = bench.clock.now() + 5000
    assert (await bench.door.admit(bench.new_key(expires_at=ends))).ends_at == ends
    assert (await bench.door.admit(bench.new_key())).ends_at is None
    soon = int(time.time()) + 60
    assert (await bench.door.admit(jwt.encode(claims(exp=soon), SECRET, "HS256"))).ends_at == soon * 1000
    assert (await bench.door.admit(jwt.encode(claims(exp=1 << 62), SECRET, "HS256"))).ends_at == LATEST


async def test_callers_who_come_at_once_ask_the_database_once() -> None:
    bench = DoorBench()
    key = bench.new_key()
    first, *others = [asyncio.create_task(bench.door.admit(key)) for _ in range(20)]
    await asyncio.sleep(0)
    first.cancel()
    assert len({principal.id for principal in await asyncio.gather(*others)}) == 1
    assert bench.store.asked == 1


async def test_what_was_read_before_a_revocation_is_not_remembered_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = DoorBench()
    key = bench.new_key()
    has_read, may_answer = asyncio.Event(), asyncio.Event()
    read = bench.store.find_by_hash

    async def slow(hash_: str) -> ApiKey | None:
        found = await read(hash_)
        has_read.set()
        await may_answer.wait()
        return found

    monkeypatch.setattr(bench.store, "find_by_hash", slow)
    early = asyncio.create_task(bench.door.admit(key))
    await has_read.wait()
    bench.store.by_hash = {hash_: row._replace(revoked_at=1) for hash_, row in bench.store.by_hash.items()}
    bench.door.forget()
    late = asyncio.create_task(bench.door.admit(key))
    may_answer.set()
    assert (await early).name == "backend", "it came before the revocation was answered"
    with pytest.raises(CredentialInvalid, match="was revoked"):
        await late
    assert bench.door.known(key) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"revoked_at": 1}, "was revoked"),
        ({"expires_at": 1}, "has expired"),
        ({"hash": "0" * 64}, "is no API key of this gateway"),
    ],
)
async def test_a_key_that_counts_no_more_is_refused(changed: dict[str, Any], said: str) -> None:
    bench = DoorBench()
    key = bench.new_key(**changed)
    await bench.door.refresh()
    with pytest.raises(CredentialInvalid, match=said):
        await bench.door.admit(key)


async def test_what_is_no_key_is_refused_before_the_database_is_asked() -> None:
    bench = DoorBench()
    key = bench.new_key()
    with pytest.raises(CredentialInvalid, match="mistyped"):
        await bench.door.admit(key[:-1])
    with pytest.raises(CredentialInvalid, match="no API key"):
        await bench.door.admit("a.b.c")
    assert bench.store.asked == 0
    with pytest.raises(CredentialInvalid, match="no API key"):
        await bench.door.admit(new_api_key())


async def test_a_key_that_ends_soon_is_not_remembered_beyond_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = DoorBench()
    key = bench.new_key(expires_at=bench.clock.now() + 100)
    await bench.door.admit(key)
    later = time.time() + 0.1
    monkeypatch.setattr(door_module, "time", SimpleNamespace(time=lambda: later))
    assert bench.door.known(key) is None


async def test_why_nobody_can_be_checked_is_logged_now_and_then() -> None:
    bench = DoorBench()
    key = bench.new_key()
    bench.store.away = True
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            with pytest.raises(AccessUnavailable):
                await bench.door.admit(key)
    assert [(line["event"], line["cause"]) for line in logged] == [("access_unavailable", "it is away.")]


async def test_where_the_database_is_away_a_key_is_trusted_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = DoorBench()
    key = bench.new_key()
    bench.store.away = True
    with pytest.raises(AccessUnavailable, check=lambda error: "it is away" in error.cause not in str(error)):
        await bench.door.admit(key)
    bench.store.away = False
    principal = await bench.door.admit(key)
    bench.store.away = True
    now = time.time()
    monkeypatch.setattr(door_module.time, "time", lambda: now + 30)
    assert await bench.door.admit(key) == principal
    monkeypatch.setattr(door_module.time, "time", lambda: now + 62)
    with pytest.raises(AccessUnavailable):
        await bench.door.admit(key)


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "MOST_REMEMBERED", 3)
    bench = DoorBench()
    keys = [bench.new_key() for _ in range(7)]
    for key in keys:
        await bench.door.admit(key)
    assert sum(bench.door.known(key) is not None for key in keys) <= 3


async def test_uses_are_written_down() -> None:
    bench = DoorBench()
    key = bench.new_key()
    await bench.door.admit(key)
    bench.store.away = True
    await bench.door.write_uses()
    bench.store.away = False
    await bench.door.admit(bench.new_key())
    await bench.door.write_uses()
    await bench.door.write_uses()
    assert len(bench.store.uses) == 1


async def test_uses_are_written_down_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "USES_EVERY", 0)
    bench = DoorBench()
    await bench.door.admit(bench.new_key())
    running = asyncio.create_task(bench.door.run())
    async with asyncio.timeout(60):
        while not bench.store.uses:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_token_is_remembered_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    with Issuer("RS256") as issuer:
        bench = DoorBench(jwt_jwks_url=issuer.url, **TOKENS)
        assert not bench.door.is_open
        running = asyncio.create_task(bench.door.run())
        token = issuer.token(exp=2_000_000_000)
        assert (await bench.door.admit(token)).id == "jwt:backend"
        assert bench.door.known(token) is not None
        assert (await bench.door.admit(bench.new_key())).name == "backend", "keys are taken beside tokens"
        for now, is_known in ((2_000_000_029.9, True), (2_000_000_030, False)):  # the leeway is taken to its end
            monkeypatch.setattr(door_module, "time", SimpleNamespace(time=lambda now=now: now))
            assert (bench.door.known(token) is not None) is is_known
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"jwt_secret": SECRET}, "CHAPAR_JWT_ISSUER"),
        ({"jwt_secret": SECRET, "jwt_issuer": ISSUER}, "CHAPAR_JWT_AUDIENCE"),
        ({"jwt_secret": SECRET, "jwt_issuer": "", "jwt_audience": AUDIENCE}, "CHAPAR_JWT_ISSUER"),
        ({"jwt_issuer": ISSUER}, "CHAPAR_JWT_ISSUER"),
        ({"jwt_audience": AUDIENCE}, "CHAPAR_JWT_AUDIENCE"),
        ({"jwt_secret": "short", **TOKENS}, "CHAPAR_JWT_SECRET"),
        ({"jwt_secret": SECRET, "jwt_jwks_url": "https://issuer.example.org/keys", **TOKENS}, "CHAPAR_JWT_JWKS_URL"),
        ({"jwt_key_file": "/nowhere/key.pem", **TOKENS}, "CHAPAR_JWT_KEY_FILE"),
        ({"jwt_jwks_url": "http://issuer.example.org/keys", **TOKENS}, "CHAPAR_JWT_JWKS_URL"),
    ],
)
def test_a_set_up_that_cannot_be_trusted_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingInvalid) as caught:
        DoorBench(**settings)
    assert caught.value.setting == named
    assert SECRET not in str(caught.value)


def test_where_no_tokens_are_set_up_none_are_verified() -> None:
    assert token_verifier(TokenOptions(), Metrics()) is None


def test_with_a_secret_tokens_are_taken() -> None:
    assert not DoorBench(jwt_secret=SECRET, **TOKENS).door.is_open


@pytest.mark.parametrize(("later", "known"), [(0.0, True), (0.99, True), (1.0, False), (1.01, False)])
async def test_a_key_is_known_for_a_second(monkeypatch: pytest.MonkeyPatch, later: float, *, known: bool) -> None:
    clock = {"now": 1000.0}
    monkeypatch.setattr(door_module, "time", SimpleNamespace(time=lambda: clock["now"]))
    bench = DoorBench()
    key = bench.new_key()
    await bench.door.admit(key)
    clock["now"] += later
    assert (bench.door.known(key) is not None) is known


@pytest.mark.parametrize(("left", "counts"), [(400, 0.4), (1000, 1.0), (5000, 1.0), (None, 1.0)])
async def test_a_key_counts_for_a_second_and_not_beyond_its_end(
    monkeypatch: pytest.MonkeyPatch, left: int | None, counts: float
) -> None:
    clock = {"now": 1000.0}
    monkeypatch.setattr(door_module, "time", SimpleNamespace(time=lambda: clock["now"]))
    bench = DoorBench()
    key = bench.new_key(expires_at=None if left is None else bench.clock.now() + left)
    await bench.door.admit(key)
    for now, is_known in ((999.999 + counts, True), (1000.0 + counts, False)):
        clock["now"] = now
        assert (bench.door.known(key) is not None) is is_known


@pytest.mark.parametrize(("later", "trusted"), [(60.99, True), (61.0, False)])
async def test_for_a_minute_a_key_is_trusted_without_the_database(
    monkeypatch: pytest.MonkeyPatch, later: float, *, trusted: bool
) -> None:
    clock = {"now": 1000.0}
    monkeypatch.setattr(door_module, "time", SimpleNamespace(time=lambda: clock["now"]))
    bench = DoorBench()
    key = bench.new_key()
    principal = await bench.door.admit(key)
    bench.store.away = True
    clock["now"] += later
    if trusted:
        assert await bench.door.admit(key) == principal
    else:
        with pytest.raises(AccessUnavailable) as caught:
            await bench.door.admit(key)
        assert "it is away." in caught.value.cause


async def test_what_a_key_allows_is_what_it_was_given() -> None:
    bench = DoorBench()
    reach = Reach(("farm1-*",), ("open",))
    key = bench.new_key(Scope.READ, Scope.AUDIT, id="k1", name="Anna", reach=reach)
    principal = await bench.door.admit(key)
    assert principal == ("key:k1", "Anna", {Scope.READ, Scope.AUDIT}, reach, None)


async def test_as_many_are_remembered_as_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "MOST_REMEMBERED", 2)
    bench = DoorBench()
    keys = [bench.new_key() for _ in range(3)]
    for key in keys[:2]:
        await bench.door.admit(key)
    assert [key for key in keys if bench.door.known(key)] == keys[:2]
    await bench.door.admit(keys[2])
    assert [key for key in keys if bench.door.known(key)] == keys[2:]


async def test_a_key_is_asked_for_again_once_the_answer_is_there() -> None:
    bench = DoorBench()
    key = bench.new_key()
    for _ in range(2):
        await bench.door.admit(key)
        await asyncio.sleep(0)
    assert bench.store.asked == 2


async def test_the_times_of_use_are_those_of_the_clock() -> None:
    bench = DoorBench()
    await bench.door.admit(bench.new_key(id="k1"))
    bench.clock.at += 7
    await bench.door.admit(bench.new_key(id="k2"))
    await bench.door.write_uses()
    assert bench.store.uses == [("k1", EPOCH), ("k2", EPOCH + 7)]


async def test_a_running_door_looks_twice_a_second_and_writes_uses_down_each_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timers = Timers()
    monkeypatch.setattr(door_module, "asyncio", timers)
    with Issuer("EdDSA") as issuer:
        bench = DoorBench(jwt_jwks_url=issuer.url, **TOKENS)
        bench.door.is_open = True
        running = asyncio.create_task(bench.door.run())
        await until(lambda: len(timers.sleeps) == 2)
        names = {task.get_name() for task in asyncio.all_tasks()}
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert sorted(timers.sleeps) == [0.5, 60.0]
    assert names >= {"door", "key_uses", "jwks"}


async def test_a_running_door_keeps_looking_where_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "LOOK_EVERY", 0)
    bench = DoorBench()
    looked = 0

    async def away() -> bool:
        nonlocal looked
        looked += 1
        raise StoreUnavailable("it is away.")

    monkeypatch.setattr(bench.store, "any", away)
    running = asyncio.create_task(bench.door.run())
    await until(lambda: looked == 3)
    assert bench.door.is_open
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_tokens_are_of_the_issuer_and_for_the_audience_that_are_set(tmp_path: Path) -> None:
    key, file = new_key("EdDSA"), tmp_path / "issuer.pem"
    file.write_bytes(public_pem(key))
    for settings, signer, algorithm in (
        ({"jwt_secret": SECRET}, SECRET, "HS256"),
        ({"jwt_key_file": str(file)}, key, "EdDSA"),
    ):
        bench = DoorBench(**settings, **TOKENS)
        assert (await bench.door.admit(jwt.encode(claims(), signer, algorithm))).id == "jwt:backend"
        for wrong in ({"iss": "https://evil.example.org"}, {"aud": "another"}):
            with pytest.raises(CredentialInvalid):
                await bench.door.admit(jwt.encode(claims(**wrong), signer, algorithm))


async def test_a_change_of_the_issuers_keys_makes_the_door_forget() -> None:
    with Issuer("EdDSA") as issuer:
        bench = DoorBench(jwt_jwks_url=issuer.url, **TOKENS)
        key = bench.new_key()
        await bench.door.admit(key)
        assert bench.door.known(key) is not None
        await bench.door.admit(issuer.token("EdDSA"))  # the first, for which the keys are fetched
        assert bench.door.known(key) is None


def test_two_ways_to_verify_tokens_are_one_too_many_and_both_are_named() -> None:
    with pytest.raises(SettingInvalid, match="CHAPAR_JWT_SECRET is set too") as caught:
        DoorBench(jwt_secret=SECRET, jwt_key_file="/nowhere/key.pem", **TOKENS)
    assert caught.value.setting == "CHAPAR_JWT_KEY_FILE"
