"""API keys and the audit trail in both databases."""

import asyncio

import pytest
import pytest_asyncio

from chapar.access.keyring import Grant, issue, new_end, revocation
from chapar.model.acceptance import IdempotencyKey, Sender
from chapar.model.api_key import ApiKey
from chapar.model.audit import Action, AuditFilters, Entry
from chapar.model.message import Status
from chapar.model.principal import EVERYWHERE, Reach, Scope
from chapar.model.queue import Lease
from chapar.model.report import Filters
from chapar.store.administration import administer
from chapar.store.api_keys import CREATE_KEY
from chapar.store.audit import entry_of_local_user
from chapar.store.store import Store
from support.callers import CALLER, cancelling
from support.stores import PROCESS, add_one, entries, new_message, now, single

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANNA = Sender("key:anna", "Anna", "192.0.2.7")
GRANT = Grant("backend", frozenset({Scope.SEND, Scope.READ}), Reach(("farm1-*",), ("open", "باز کن")), None)


@pytest_asyncio.fixture(loop_scope="module")
async def store(shared_store: Store) -> Store:
    await shared_store.queue.acquire_lease(Lease(PROCESS, "this", 60, alone=False))
    return shared_store


def deadline_of(patience: float = 30.0) -> float:
    return asyncio.get_running_loop().time() + patience


async def every_key(store: Store) -> list[ApiKey]:
    return [key async for keys in store.api_keys.all() for key in keys]


async def created(store: Store, grant: Grant = GRANT) -> ApiKey:
    issued = issue(CALLER, grant, now())
    await store.api_keys.create(issued.key, issued.entry, deadline_of())
    return issued.key


async def test_a_key_is_found_as_it_was_made(store: Store) -> None:
    assert not await store.api_keys.any()
    key = await created(store)
    assert await store.api_keys.any()
    assert await store.api_keys.find(key.id) == key
    assert await store.api_keys.find_by_hash(key.hash) == key
    assert await every_key(store) == [key]
    assert await store.api_keys.find("nobody") is None
    assert await store.api_keys.find_by_hash("0" * 64) is None
    assert [entry.action for entry in await entries(store)] == ["key_created"]


@pytest.mark.parametrize("count", [9, 10, 21])
async def test_every_key_is_listed_once_the_oldest_first(store: Store, count: int) -> None:
    made = [issue(CALLER, GRANT, at // 4) for at in range(count)]
    await asyncio.gather(*(store.api_keys.create(each.key, each.entry, deadline_of()) for each in made))
    listed = await every_key(store)
    assert listed == sorted((each.key for each in made), key=lambda key: (key.created_at, key.id))


async def test_a_page_of_the_audit_trail_ends_at_its_bytes(store: Store) -> None:
    entry = Entry(1, "cli:root", "root", "", Action.PRUNED, "", detail="x" * 100_000)
    for number in range(5):
        await store.trail.add(entry._replace(at=number))
    seen, page = [], await store.trail.page(AuditFilters(), before=None, limit=1000)
    while page.next is not None:
        seen.append(page.entries)
        page = await store.trail.page(AuditFilters(), before=page.next, limit=1000)
    assert [[entry.at for _, entry in entries] for entries in [*seen, page.entries]] == [[4, 3], [2, 1], [0]]


async def test_a_key_that_is_made_again_because_the_answer_was_lost_is_there_once(store: Store) -> None:
    issued = issue(CALLER, GRANT, now())
    for _ in range(2):
        await store.api_keys.create(issued.key, issued.entry, deadline_of())
    assert await every_key(store) == [issued.key]
    assert len(await entries(store)) == 1


async def test_a_key_is_revoked_once_and_for_good(store: Store) -> None:
    key = await created(store)
    for at in (now(), now() + 1000):
        assert await store.api_keys.change(revocation(CALLER, key, at), deadline_of())
    revoked = await store.api_keys.find(key.id)
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert revoked.revoked_at < now() + 1000
    assert await store.api_keys.change(new_end(CALLER, key, now() + 5000, now()), deadline_of())
    assert await store.api_keys.find(key.id) == revoked
    assert [entry.action for entry in await entries(store)] == ["key_created", "key_revoked"]


async def test_a_key_gets_another_end(store: Store) -> None:
    key, end = await created(store), now() + 60_000
    for _ in range(2):
        assert await store.api_keys.change(new_end(CALLER, key, end, now()), deadline_of())
    assert await store.api_keys.find(key.id) == key._replace(expires_at=end)
    assert await store.api_keys.change(new_end(CALLER, key, None, now()), deadline_of())
    assert await store.api_keys.find(key.id) == key
    assert [entry.action for entry in await entries(store)] == ["key_created", "key_expires", "key_expires"]


@pytest.mark.parametrize("key_id", ["nobody", "کلید", "\0", "a\nb", "\udcff"])
async def test_what_is_no_id_of_a_key_finds_none(store: Store, key_id: str) -> None:
    assert await store.api_keys.find(key_id) is None


async def test_a_key_that_is_not_there_is_not_changed(store: Store) -> None:
    key = issue(CALLER, GRANT, now()).key
    assert not await store.api_keys.change(revocation(CALLER, key, now()), deadline_of())
    assert await entries(store) == []


async def test_the_last_use_of_a_key_only_goes_forward(store: Store) -> None:
    key = await created(store)
    for at in (5000, 7000, 6000):
        await store.api_keys.used(key.id, at)
    used = await store.api_keys.find(key.id)
    assert used is not None
    assert used.last_used_at == 7000


async def test_who_sent_what_is_kept_with_the_message(store: Store) -> None:
    messages = [new_message(imei) for imei in ("A", "B")]
    for message in messages:
        await add_one(store, message, sender=ANNA)
        await add_one(store, message, sender=ANNA)  # repeated, because the answer was lost
    found = await entries(store)
    assert [(entry[1:7], entry.micro_op) for entry in found] == [
        ((*ANNA, "message_sent", message.id, message.imei), message.micro_op) for message in messages
    ]
    assert [entry.at for entry in found] == [message.created_at for message in messages]


async def test_a_batch_with_a_repetition_is_told_of_once(store: Store) -> None:
    first, second = new_message("A"), new_message("B")
    await add_one(store, first, sender=ANNA)
    futures = [add_one(store, message, sender=ANNA) for message in (first, second)]
    for future in futures:
        await future
    assert [entry.subject for entry in await entries(store)] == [first.id, second.id]


async def test_what_was_not_added_is_not_told_of(store: Store) -> None:
    for _ in range(2):
        message = new_message("A", Status.QUEUED, claim=None, attempts=0)
        await add_one(store, message, sender=ANNA, max_depth=1)
    assert len(await entries(store)) == 1


async def test_who_withdrew_what_is_kept_once(store: Store) -> None:
    message = new_message("A", Status.QUEUED, claim=None, attempts=0)
    await add_one(store, message)
    for _ in range(2):
        await single(store.messages.cancel([cancelling(message.id, now())], deadline_of()))
    assert [entry.action for entry in await entries(store)] == ["message_cancelled"]


async def test_the_trail_is_narrowed_and_paged(store: Store) -> None:
    messages = [new_message(imei, micro_op=operation) for imei in ("farm1-a", "farm2-b") for operation in ("open", "x")]
    for message in messages:
        await add_one(store, message, sender=ANNA)
    key = await created(store)
    assert len(await entries(store)) == 5
    assert len(await entries(store, principal="key:anna")) == 4
    assert len(await entries(store, imei="farm1-a")) == 2
    assert len(await entries(store, subject=key.id)) == 1
    assert len(await entries(store, action=Action.KEY_CREATED)) == 1
    assert len(await entries(store, since=now() + 60_000)) == 0
    assert len(await entries(store, until=now() + 60_000)) == 5
    assert [e.imei for e in await entries(store, reach=Reach(("farm1-*",)))] == ["farm1-a", "farm1-a"]
    assert [e.micro_op for e in await entries(store, reach=Reach(operations=("op*",)))] == ["open", "open"]
    page = await store.trail.page(AuditFilters(), before=None, limit=2)
    assert page.next == page.entries[-1][0]
    rest = await store.trail.page(AuditFilters(), before=page.next, limit=3)
    assert len(rest.entries) == 3
    assert page.next > rest.entries[0][0]
    assert rest.next is None


async def test_an_entry_of_its_own_that_is_repeated_is_there_once(store: Store) -> None:
    entry = entry_of_local_user(now(), Action.PRUNED, "begun")
    for _ in range(2):
        await store.trail.add(entry)
    assert await entries(store) == [entry]


@pytest.mark.parametrize(
    ("reach", "seen"),
    [
        (EVERYWHERE, ["farm1-a/open", "farm1-a/[x]%_", "FARM1-b/open", "farm2_c/open"]),
        (Reach(("farm1-*",)), ["farm1-a/open", "farm1-a/[x]%_"]),
        (Reach(("farm2?c",)), ["farm2_c/open"]),
        (Reach(("farm2_c", "FARM1-?")), ["FARM1-b/open", "farm2_c/open"]),
        (Reach(("farm_-*",)), []),
        (Reach(operations=("[x]%_",)), ["farm1-a/[x]%_"]),
        (Reach(operations=("[o]pen", "o%n")), []),
        (Reach(("farm1-*",), ("o*",)), ["farm1-a/open"]),
    ],
)
async def test_lists_and_counts_are_narrowed_to_what_is_within_reach(
    store: Store, reach: Reach, seen: list[str]
) -> None:
    for place in ("farm1-a/open", "farm1-a/[x]%_", "FARM1-b/open", "farm2_c/open"):
        imei, _, operation = place.partition("/")
        await add_one(store, new_message(imei, micro_op=operation))
    for filters in (Filters(reach=reach), Filters(reach=reach, status=(Status.PUBLISHING,))):
        page = (await store.reports.page(filters, after=None, limit=10)).messages
        assert [f"{message.imei}/{message.micro_op}" for message in reversed(page)] == seen
        rows = [message async for rows in store.reports.pages(filters) for message in rows]
        assert [f"{message.imei}/{message.micro_op}" for message in rows] == seen
        summary = await store.reports.summary(filters, "hour")
        assert summary.total == len(seen)
        assert {name for name, _ in summary.devices.counts} == {place.partition("/")[0] for place in seen}
    for imei in ("farm1-a", "FARM1-b", "farm2_c"):
        page = (await store.reports.page(Filters(imei=imei, reach=reach), after=None, limit=10)).messages
        assert all(reach.covers(message.imei, message.micro_op) for message in page)


async def test_patterns_of_a_query_and_of_a_command_mean_the_same(store: Store) -> None:
    names = ["a", "ab", "a-b", "a_b", "a.b", "A", "b", "aa", "abab"]
    for name in names:
        await add_one(store, new_message(name))
    for pattern in ("a*", "*b", "a?b", "?", "a_b", "a.b", "*", "a*b", "??", "A*"):
        reach = Reach((pattern,)) if pattern != "*" else EVERYWHERE
        page = (await store.reports.page(Filters(reach=reach), after=None, limit=100)).messages
        assert {message.imei for message in page} == {name for name in names if reach.covers(name, "push_down")}, (
            pattern
        )


async def test_the_owner_works_beside_a_gateway(store: Store, shared_url: str) -> None:
    issued = issue(CALLER, GRANT, now())
    with administer(shared_url) as connection:
        CREATE_KEY.apply(connection, [(issued.key, issued.entry)])
    await add_one(store, new_message(), sender=ANNA)
    assert await every_key(store) == [issued.key]
    assert [entry.action for entry in await entries(store)] == ["key_created", "message_sent"]


async def test_what_a_key_was_used_for_is_found_until_it_may_be_used_anew(store: Store) -> None:
    message = new_message()
    key = IdempotencyKey("key:anna", "k", "0" * 64, message.id, PROCESS, None, None, kept_until=1000)
    await add_one(store, message, key=key)
    assert await store.keys.owner(key[:2], 999) == key
    assert await store.keys.owner(key[:2], 1000) is None
    assert await store.keys.owner(("key:bahram", "k"), 999) is None
