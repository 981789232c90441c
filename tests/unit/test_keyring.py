"""What is done with API keys on a running gateway."""

import asyncio
from typing import Any

import pytest

from chapar.access import keyring as keyring_module
from chapar.access.keyring import Grant, Keyring
from chapar.errors import ApiKeyNotFound, FieldInvalid, GrantTooWide
from chapar.model.api_key import ApiKey
from chapar.model.principal import EVERY_SCOPE, EVERYWHERE, Caller, Principal, Reach, Scope
from chapar.model.times import rfc3339
from support.callers import CALLER
from support.doors import DoorBench
from support.fakes import EPOCH, until

FARM1 = Reach(("farm1-*",))
FARMER = Caller(Principal("key:farmer", "farmer", frozenset({Scope.KEYS, Scope.SEND}), FARM1), "192.0.2.7")
GRANT = Grant("backend", frozenset({Scope.SEND}), FARM1, None)


class Bench(DoorBench):
    def __init__(self, *, alone: bool = True) -> None:
        super().__init__()
        store: Any = self.store
        self.keyring = Keyring(store, self.door, self.clock, 3.0, alone=alone)

    async def key(self, caller: Caller = CALLER, grant: Grant = GRANT) -> ApiKey:
        return (await self.keyring.create(caller, grant)).key

    async def seen(self, caller: Caller) -> list[ApiKey]:
        return [key async for keys in self.keyring.all(caller) for key in keys]


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_a_key_is_made_told_of_and_closes_the_door_at_once(bench: Bench) -> None:
    assert bench.door.is_open
    issued = await bench.keyring.create(CALLER, GRANT)
    assert not bench.door.is_open
    assert bench.store.by_hash == {issued.key.hash: issued.key}
    assert issued.key.created_at == EPOCH
    assert bench.store.told == [issued.entry]
    assert (await bench.door.admit(issued.secret)).id == f"key:{issued.key.id}"


async def test_ids_of_keys_are_of_ten_letters_and_digits_and_differ(bench: Bench) -> None:
    ids = {(await bench.key()).id for _ in range(50)}
    assert len(ids) == 50
    assert all(len(id_) == 10 and id_.isalnum() and id_.isascii() and id_ == id_.lower() for id_ in ids)


async def test_with_one_token_one_key_is_made(bench: Bench) -> None:
    issued = await bench.keyring.create_once(CALLER, GRANT, "token")
    assert issued is not None
    assert len(issued.key.id) == 10
    assert (await bench.door.admit(issued.secret)).id == f"key:{issued.key.id}"
    assert await bench.keyring.create_once(CALLER, GRANT, "token") is None
    assert bench.store.by_hash == {issued.key.hash: issued.key}
    assert bench.store.told == [issued.entry]
    other = await bench.keyring.create_once(CALLER, GRANT, "token 2")
    assert other is not None
    assert other.key.id != issued.key.id
    assert await bench.keyring.find(CALLER, other.key.id) == other.key


async def test_what_may_not_be_given_is_not_made(bench: Bench) -> None:
    with pytest.raises(GrantTooWide) as scopes:
        await bench.keyring.create(FARMER, GRANT._replace(scopes=EVERY_SCOPE))
    assert scopes.value.excess == (
        "audit:read",
        "devices:read",
        "devices:write",
        "messages:cancel",
        "messages:read",
        "messages:urgent",
        "metrics:read",
    )
    with pytest.raises(GrantTooWide) as reach:
        await bench.keyring.create(FARMER, GRANT._replace(reach=EVERYWHERE))
    assert reach.value.excess == ("*", "*")
    with pytest.raises(FieldInvalid):
        await bench.keyring.create(CALLER, GRANT._replace(expires_at=EPOCH))
    assert bench.store.by_hash == {}
    assert bench.door.is_open


def ending(at: int | None) -> Caller:
    """Somebody with every right, until a time."""
    return Caller(Principal("key:brief", "brief", EVERY_SCOPE, EVERYWHERE, at), "192.0.2.7")


async def test_nobody_gives_away_more_time_than_they_have(bench: Bench) -> None:
    own_end = EPOCH + 60_000
    caller = ending(own_end)
    for end in (None, own_end + 1):
        with pytest.raises(GrantTooWide) as made:
            await bench.keyring.create(caller, GRANT._replace(expires_at=end))
        assert made.value.excess == (f"expires_at > {rfc3339(own_end)}",)
    assert bench.store.by_hash == {}
    assert (await bench.key(caller, GRANT._replace(expires_at=own_end))).expires_at == own_end
    assert (await bench.key(caller, GRANT._replace(ends_with_maker=True))).expires_at == own_end
    assert (await bench.key(ending(None), GRANT._replace(ends_with_maker=True))).expires_at is None
    with pytest.raises(FieldInvalid):
        await bench.keyring.create(ending(EPOCH), GRANT._replace(ends_with_maker=True))


async def test_nobody_extends_a_key_beyond_their_own_end(bench: Bench) -> None:
    own_end = EPOCH + 60_000
    brief, endless = await bench.key(grant=GRANT._replace(expires_at=own_end)), await bench.key()
    later = await bench.key(grant=GRANT._replace(expires_at=own_end + 9))
    for end in (None, own_end + 1):
        with pytest.raises(GrantTooWide):
            await bench.keyring.expire(ending(own_end), brief.id, end)
    with pytest.raises(GrantTooWide):
        await bench.keyring.expire(ending(own_end), later.id, own_end + 10)
    for key, end in ((brief, own_end - 1), (brief, own_end), (endless, own_end + 5), (later, own_end + 8)):
        assert (await bench.keyring.expire(ending(own_end), key.id, end)).expires_at == end
    with pytest.raises(GrantTooWide):
        await bench.keyring.expire(ending(own_end), endless.id, None)
    assert (await bench.keyring.expire(CALLER, endless.id, None)).expires_at is None


async def test_a_caller_sees_the_keys_that_have_no_more_rights_than_it(bench: Bench) -> None:
    own = await bench.key()
    wider = await bench.key(grant=GRANT._replace(scopes=EVERY_SCOPE))
    farther = await bench.key(grant=GRANT._replace(reach=EVERYWHERE))
    assert await bench.seen(CALLER) == [own, wider, farther]
    assert await bench.seen(FARMER) == [own]


async def test_a_revoked_key_counts_no_more_from_the_next_request_on(bench: Bench) -> None:
    issued = await bench.keyring.create(CALLER, GRANT)
    await bench.door.admit(issued.secret)
    bench.clock.at += 5
    revoked = await bench.keyring.revoke(FARMER, issued.key.id)
    assert revoked == issued.key._replace(revoked_at=EPOCH + 5)
    assert bench.door.known(issued.secret) is None
    entry = bench.store.told[-1]
    assert (entry.at, entry.principal, entry.action) == (EPOCH + 5, "key:farmer", "key_revoked")


async def test_a_key_is_given_another_end_or_none(bench: Bench) -> None:
    issued = await bench.keyring.create(CALLER, GRANT)
    await bench.door.admit(issued.secret)
    assert (await bench.keyring.expire(FARMER, issued.key.id, EPOCH + 1)).expires_at == EPOCH + 1
    assert bench.door.known(issued.secret) is None
    assert (await bench.keyring.expire(FARMER, issued.key.id, None)).expires_at is None
    assert [entry.detail for entry in bench.store.told[1:]] == [f"backend: {EPOCH + 1}", "backend: never"]
    assert {entry.at for entry in bench.store.told} == {EPOCH}
    with pytest.raises(FieldInvalid):
        await bench.keyring.expire(CALLER, issued.key.id, EPOCH)


@pytest.mark.parametrize("key_id", ["nobody", "", "a/b", "\0", "'"])
async def test_a_key_that_is_not_there_is_neither_revoked_nor_given_an_end(bench: Bench, key_id: str) -> None:
    await bench.key()
    for asked in (bench.keyring.revoke(CALLER, key_id), bench.keyring.expire(CALLER, key_id, None)):
        with pytest.raises(ApiKeyNotFound) as caught:
            await asked
        assert caught.value.id == key_id
    assert len(bench.store.told) == 1


async def test_an_id_that_no_key_can_have_is_not_asked_for(bench: Bench) -> None:
    bench.store.away = True
    with pytest.raises(ApiKeyNotFound):
        await bench.keyring.revoke(CALLER, "a\0")


async def test_a_key_that_is_none_of_the_callers_business_is_not_there_for_it(bench: Bench) -> None:
    wider = await bench.key(grant=GRANT._replace(reach=EVERYWHERE))
    for asked in (bench.keyring.revoke(FARMER, wider.id), bench.keyring.expire(FARMER, wider.id, None)):
        with pytest.raises(ApiKeyNotFound):
            await asked
    assert (await bench.seen(CALLER)) == [wider]


async def test_a_key_that_goes_away_while_it_is_changed_is_not_there(bench: Bench) -> None:
    key = await bench.key()

    async def gone(*_: object) -> bool:
        bench.store.by_hash.clear()
        return False

    bench.store.change = gone  # type: ignore[method-assign]
    with pytest.raises(ApiKeyNotFound) as caught:
        await bench.keyring.revoke(CALLER, key.id)
    assert caught.value.id == key.id


@pytest.mark.parametrize("alone", [True, False])
async def test_where_other_processes_serve_the_answer_waits_until_they_know(
    monkeypatch: pytest.MonkeyPatch, *, alone: bool
) -> None:
    monkeypatch.setattr(keyring_module, "KEY_KNOWN", 3600)
    bench = Bench(alone=alone)
    key = await bench.key()
    revoking = asyncio.create_task(bench.keyring.revoke(CALLER, key.id))
    await until(lambda: len(bench.store.told) == 2)
    for _ in range(20):
        await asyncio.sleep(0)
    assert revoking.done() is alone
    revoking.cancel()


async def test_a_commit_has_its_time_and_no_more(bench: Bench) -> None:
    before = asyncio.get_running_loop().time()
    key = await bench.key()
    await bench.keyring.revoke(CALLER, key.id)
    after = asyncio.get_running_loop().time()
    assert len(bench.store.deadlines) == 2
    assert all(before + 3 <= deadline <= after + 3 for deadline in bench.store.deadlines)
