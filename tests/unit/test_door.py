"""Who comes in, for how long that is remembered, and what happens where it cannot be found out."""

import asyncio
import time
from typing import Any

import pytest

from chapar.access import door as door_module
from chapar.access.api_keys import new_api_key
from chapar.access.door import KEY_KNOWN
from chapar.errors import AccessUnavailable, CredentialInvalid, SettingInvalid
from chapar.principal import Scope
from support.doors import DoorBench
from support.issuer import AUDIENCE, ISSUER, Issuer

TOKENS = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
SECRET = "0123456789abcdef0123456789abcdef"


async def test_the_door_is_open_until_a_key_is_made() -> None:
    bench = DoorBench()
    await bench.door.look()
    assert bench.door.is_open
    bench.new_key()
    await bench.door.look()
    assert not bench.door.is_open
    bench.store.by_hash.clear()
    await bench.door.look()
    assert not bench.door.is_open, "it never opens by itself"


async def test_a_running_door_closes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "_LOOK_EVERY", 0)
    bench = DoorBench()
    running = asyncio.create_task(bench.door.run())
    bench.new_key()
    async with asyncio.timeout(5):
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


async def test_callers_who_come_at_once_ask_the_database_once() -> None:
    bench = DoorBench()
    key = bench.new_key()
    first, *others = [asyncio.create_task(bench.door.admit(key)) for _ in range(20)]
    await asyncio.sleep(0)
    first.cancel()
    assert len({principal.id for principal in await asyncio.gather(*others)}) == 1
    assert bench.store.asked == 1


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
    with pytest.raises(CredentialInvalid, match=said):
        await bench.door.admit(bench.new_key(**changed))


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


async def test_a_key_that_ends_soon_is_not_remembered_beyond_its_end() -> None:
    bench = DoorBench()
    key = bench.new_key(expires_at=bench.clock.now() + 100)
    await bench.door.admit(key)
    assert bench.door._admitted[key].until <= time.time() + 0.1


async def test_where_the_database_is_away_a_key_is_trusted_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = DoorBench()
    key = bench.new_key()
    bench.store.away = True
    with pytest.raises(AccessUnavailable, match="it is away"):
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
    monkeypatch.setattr(door_module, "_REMEMBERED", 3)
    bench = DoorBench()
    for _ in range(7):
        await bench.door.admit(bench.new_key())
    assert len(bench.door._admitted) <= 3


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
    monkeypatch.setattr(door_module, "_USES_EVERY", 0)
    bench = DoorBench()
    await bench.door.admit(bench.new_key())
    running = asyncio.create_task(bench.door.run())
    async with asyncio.timeout(5):
        while not bench.store.uses:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_token_is_remembered_until_it_expires() -> None:
    with Issuer("RS256") as issuer:
        bench = DoorBench(jwt_jwks_url=issuer.url, **TOKENS)
        assert not bench.door.is_open
        running = asyncio.create_task(bench.door.run())
        token = issuer.token(exp=2_000_000_000)
        assert (await bench.door.admit(token)).id == "jwt:backend"
        assert bench.door._admitted[token].until == 2_000_000_000
        assert bench.door.known(token) is not None
        assert (await bench.door.admit(bench.new_key())).name == "backend", "keys are taken beside tokens"
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"jwt_secret": SECRET}, "CHAPAR_JWT_ISSUER"),
        ({"jwt_secret": SECRET, "jwt_issuer": ISSUER}, "CHAPAR_JWT_AUDIENCE"),
        ({"jwt_secret": SECRET, "jwt_issuer": "", "jwt_audience": AUDIENCE}, "CHAPAR_JWT_ISSUER"),
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


def test_with_a_secret_tokens_are_taken() -> None:
    assert not DoorBench(jwt_secret=SECRET, **TOKENS).door.is_open
