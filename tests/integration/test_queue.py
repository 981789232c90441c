"""The queue in the database: who comes next, what waits, what is too late, and what a dead process leaves."""

import asyncio
import time
from itertools import count

import pytest
import pytest_asyncio
from sqlalchemy import event

from chapar.model.acceptance import UNBOUNDED, Added, Full, IdempotencyKey, KeptAnswer, Placement, Withdrawal
from chapar.model.message import Message, Status, clearing
from chapar.model.queue import Backlog, Lease, Taken
from chapar.store.database import Role, open_engine
from chapar.store.queue import RELEASE_LEASE, SETTLE, Settle
from chapar.store.store import Store
from support.callers import cancelling
from support.stores import CLAIM, PROCESS, add_one, move_one, new_message, now, published, single

OTHER = "fedcba9876543210"
CLAIMS = count(1)
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def store(shared_store: Store) -> Store:
    await shared_store.queue.acquire_lease(Lease(PROCESS, "this", 60, alone=False))
    return shared_store


def queued(imei: str = "A", **fields: object) -> Message:
    return new_message(imei, Status.QUEUED, **{"claim": None, "attempts": 0} | fields)


async def take(store: Store, limit: int = 100, at: int | None = None, process: str = PROCESS) -> Taken:
    return await store.queue.take(f"{process}.{next(CLAIMS)}", limit, now() if at is None else at)


async def add(
    store: Store, message: Message, max_depth: int = UNBOUNDED, key: IdempotencyKey | None = None
) -> Added | Status:
    """What came of it: the status alone where the message was added."""
    added = await add_one(store, message, max_depth=max_depth, key=key)
    return added.status if isinstance(added, Placement) else added


async def cancel(store: Store, message_id: str, at: int = 0) -> tuple[bool, Status] | None:
    deadline = asyncio.get_running_loop().time() + 30
    cancelled = await single(store.messages.cancel([cancelling(message_id, at)], deadline))
    return cancelled and (cancelled.won, cancelled.message.status)


def superseded(taken: Taken) -> list[str]:
    return [change.id for change in taken.others if change.reason == "superseded"]


async def add_all(store: Store, *messages: Message) -> None:
    for message in messages:
        assert await add(store, message) == message.status


async def test_messages_are_taken_in_the_order_of_acceptance(store: Store) -> None:
    messages = [queued(imei) for imei in "BABAC"]
    await add_all(store, *messages)
    taken = (await take(store, 3)).messages + (await take(store, 3)).messages
    assert [message.id for message in taken] == [message.id for message in messages]
    assert {message.status for message in taken} == {Status.PUBLISHING}
    assert [message.attempts for message in taken] == [1] * 5


async def test_a_device_with_a_whole_page_on_its_way_leaves_the_next_to_the_others(store: Store) -> None:
    crowd, other = [queued("A") for _ in range(7)], queued("B")
    await add_all(store, *crowd, other)
    first = await take(store, 3)
    assert [message.id for message in first.messages] == [message.id for message in crowd[:3]]
    assert [message.id for message in (await take(store, 3)).messages] == [other.id]
    assert await move_one(store, first.messages[0], published(first.messages[0]))
    assert [message.id for message in (await take(store, 3)).messages] == [message.id for message in crowd[3:6]]


async def test_a_repeated_take_finds_what_it_took_and_takes_no_more(store: Store) -> None:
    await add_all(store, *(queued() for _ in range(4)))
    first = await store.queue.take(f"{PROCESS}.again", 2, now())
    again = await store.queue.take(f"{PROCESS}.again", 2, now())
    assert again == first
    assert len((await take(store)).messages) == 2


async def test_what_comes_for_a_device_with_a_backlog_goes_behind_it(store: Store) -> None:
    await add_all(store, queued("A"))
    behind, elsewhere = new_message("A"), new_message("B")
    assert await add(store, behind) is Status.QUEUED
    assert await add(store, elsewhere) is Status.PUBLISHING
    found = await store.messages.find(behind.id)
    assert found is not None
    assert (found.status, found.attempts, found.claim) == (Status.QUEUED, 0, None)


async def test_what_came_direct_to_this_process_is_no_backlog(store: Store) -> None:
    assert await add(store, new_message("A")) is Status.PUBLISHING
    assert await add(store, new_message("A")) is Status.PUBLISHING


async def test_what_was_taken_from_the_queue_is_not_overtaken(store: Store) -> None:
    await add_all(store, queued("A"))
    await take(store)
    assert await add(store, new_message("A")) is Status.QUEUED
    assert await add(store, new_message("B")) is Status.PUBLISHING


async def test_what_another_process_has_in_flight_keeps_its_device(store: Store) -> None:
    await store.queue.acquire_lease(Lease(OTHER, "other", 60, alone=False))
    await add_all(store, new_message("A", claim=f"{OTHER}.1"))
    assert await add(store, new_message("A")) is Status.QUEUED
    await add_all(store, queued("B"))
    assert [message.imei for message in (await take(store)).messages] == ["B"]


async def test_a_message_put_off_keeps_its_device_and_no_other(store: Store) -> None:
    later = now() + 60_000
    await add_all(store, queued("A", not_before=later), queued("A"), queued("B"))
    taken = await take(store)
    assert [message.imei for message in taken.messages] == ["B"]
    assert taken.next_at == later
    assert [message.imei for message in (await take(store, at=later)).messages] == ["A", "A"]


async def test_a_scheduled_message_becomes_due_and_never_early(store: Store) -> None:
    due = now() + 60_000
    scheduled = new_message("A", Status.SCHEDULED, deliver_at=due, claim=None, attempts=0)
    await add_all(store, scheduled)
    early = await take(store, at=due - 1)
    assert (early.messages, early.next_at) == ([], due)
    assert [message.id for message in (await take(store, at=due)).messages] == [scheduled.id]


async def test_what_is_too_late_expires_and_is_not_taken(store: Store) -> None:
    at = now() + 1000
    late, in_time = queued("A", expires_at=at), queued("A", expires_at=at + 1)
    await add_all(store, late, in_time)
    taken = await take(store, at=at)
    assert [(change.id, change.after) for change in taken.others] == [(late.id, Status.EXPIRED)]
    assert [message.id for message in taken.messages] == [in_time.id]
    found = await store.messages.find(late.id)
    assert found is not None
    assert (found.status, found.reason, found.finished_at) == (Status.EXPIRED, "expired", at)


async def test_taking_nothing_still_lets_time_pass(store: Store) -> None:
    at = now() + 1000
    await add_all(store, queued(expires_at=at), queued("B", expires_at=at + 5))
    taken = await take(store, 0, at)
    assert (taken.messages, len(taken.others), taken.next_at) == ([], 1, at + 5)


@pytest.mark.parametrize("status", [Status.QUEUED, Status.SCHEDULED])
async def test_a_message_that_waits_is_withdrawn_once_and_for_all(store: Store, status: Status) -> None:
    message = queued()._replace(status=status, deliver_at=now() if status is Status.SCHEDULED else None)
    await add_all(store, message)
    assert await cancel(store, message.id) == (True, Status.CANCELLED)
    assert await cancel(store, message.id, at=1) == (False, Status.CANCELLED)
    assert (await take(store, at=now() + 10)).messages == []


async def test_a_message_on_its_way_is_not_withdrawn(store: Store) -> None:
    message = new_message()
    await add_all(store, message)
    assert await cancel(store, message.id) == (False, Status.PUBLISHING)
    assert await cancel(store, "there-is-none") is None
    assert await move_one(store, message, published(message)) is True


async def test_a_dead_process_is_settled_and_a_living_one_left_alone(store: Store) -> None:
    await store.queue.acquire_lease(Lease(OTHER, "other", 60, alone=False))
    own, living = new_message("A"), new_message("B", claim=f"{OTHER}.1")
    dead, once = new_message("C", claim="0000000000000000.7"), new_message("D", claim="0000000000000000.8")
    once = once._replace(at_most_once=True)
    await add_all(store, own, living, dead, once)
    assert await store.queue.settle(PROCESS, now()) == 2
    after = {message.id: message for message in await store.messages.find_all([own.id, living.id, dead.id, once.id])}
    assert after[own.id] == own
    assert after[living.id] == living
    assert (after[dead.id].status, after[dead.id].possible_duplicate) == (Status.QUEUED, True)
    assert (after[once.id].status, after[once.id].reason) == (Status.UNCONFIRMED, "process_died")
    assert [attempt.outcome for attempt in await store.messages.attempts(dead.id)] == ["process_died"]
    await store.queue.release_lease(OTHER)
    assert await store.queue.settle(PROCESS, now()) == 1


async def test_what_a_dead_process_left_is_not_passed_while_two_others_settle_it(store: Store, shared_url: str) -> None:
    if not shared_url.startswith("postgresql"):
        pytest.skip("nobody else writes to SQLite meanwhile")
    left, behind = new_message("C", claim="0000000000000000.7"), queued("C")
    await add_all(store, left, behind)
    settle = [Settle(OTHER, now())]
    with (
        open_engine(shared_url, Role.WRITER).connect() as first,
        open_engine(shared_url, Role.WRITER).connect() as second,
    ):
        first.begin()
        second.begin()
        assert [len(found) for found in SETTLE.run(first, settle)] == [1]
        settling = asyncio.create_task(asyncio.to_thread(SETTLE.run, second, settle))
        await asyncio.sleep(0.1)
        first.commit()
        assert await settling == [[]]
        taking = asyncio.create_task(take(store))
        await asyncio.sleep(0.1)
        second.commit()
    assert [message.id for message in (await taking).messages] == [left.id, behind.id]


async def test_a_lease_that_is_over_is_no_lease(store: Store) -> None:
    await store.queue.acquire_lease(Lease(OTHER, "other", 0, alone=False))
    await add_all(store, new_message(claim=f"{OTHER}.1"))
    assert await store.queue.is_alive(OTHER) is False
    assert await store.queue.is_alive(PROCESS) is True
    assert await store.queue.settle(PROCESS, now()) == 1


@pytest.mark.parametrize("statements", range(5))
async def test_what_may_be_sent_once_is_not_queued_where_a_lease_ends_while_it_is_settled(
    store: Store, shared_url: str, statements: int
) -> None:
    if not shared_url.startswith("postgresql"):
        pytest.skip("nobody else writes to SQLite meanwhile")
    await store.queue.acquire_lease(Lease(OTHER, "other", 60, alone=False))
    once = new_message(claim=f"{OTHER}.1")._replace(at_most_once=True)
    await add_all(store, once)
    await asyncio.to_thread(_settle_while_a_lease_ends, shared_url, statements)
    await store.queue.release_lease(OTHER)
    await store.queue.settle(PROCESS, now())
    after = await store.messages.find(once.id)
    assert after is not None
    assert (after.status, after.possible_duplicate) == (Status.UNCONFIRMED, False)
    assert [attempt.outcome for attempt in await store.messages.attempts(once.id)] == ["process_died"]


def _settle_while_a_lease_ends(database_url: str, statements: int) -> None:
    """Settle, and let another process leave behind so many statements of that."""
    engine = open_engine(database_url, Role.WRITER)
    executed = count()
    with engine.connect() as connection, engine.connect() as another:

        @event.listens_for(connection, "after_cursor_execute")
        def leave(*_: object) -> None:
            if next(executed) == statements:
                RELEASE_LEASE.apply(another, [OTHER])
                another.commit()

        SETTLE.apply(connection, [(PROCESS, now())])
        connection.commit()


async def test_a_device_has_no_more_unfinished_messages_than_it_may(store: Store) -> None:
    front = queued("A")
    assert await add(store, front, max_depth=2) is Status.QUEUED
    second = queued("A")
    assert await add(store, second, max_depth=2) is Status.QUEUED
    assert await add(store, queued("A"), max_depth=2) == Full(front.id)
    assert await add(store, queued("B"), max_depth=2) is Status.QUEUED
    assert await add(store, second, max_depth=2) is Status.QUEUED, "it is there: this is a repetition"


async def test_what_is_on_its_way_counts_as_unfinished_too(store: Store) -> None:
    first, second = new_message("A"), new_message("A")
    assert await add(store, first, max_depth=2) is Status.PUBLISHING
    assert await add(store, second, max_depth=2) is Status.PUBLISHING
    assert await add(store, new_message("A"), max_depth=2) == Full(first.id)
    assert await add(store, queued("A"), max_depth=2) == Full(first.id)
    assert await add(store, new_message("B"), max_depth=2) is Status.PUBLISHING
    assert await add(store, second, max_depth=2) is Status.PUBLISHING, "it is there: this is a repetition"
    recorded = new_message("A", Status.REJECTED, claim=None)
    assert await add(store, recorded, max_depth=2) is Status.REJECTED, "it takes no room"
    assert await move_one(store, first, published(first))
    assert await add(store, new_message("A"), max_depth=2) is Status.PUBLISHING
    await add_all(store, *(new_message("C") for _ in range(5)))
    together = [add_one(store, message, max_depth=7) for message in (new_message("C") for _ in range(5))]
    assert [isinstance(each, Full) for each in await asyncio.gather(*together)] == [False] * 2 + [True] * 3


def key(message: Message, name: str = "k", fingerprint: str = "f", kept_until: int | None = None) -> IdempotencyKey:
    return IdempotencyKey("me", name, fingerprint, message.id, PROCESS, None, None, kept_until or now() + 60_000)


async def test_a_key_makes_one_message_and_keeps_its_first_answer(store: Store) -> None:
    first, second = queued(), queued()
    assert await add(store, first, key=key(first)) is Status.QUEUED
    assert await add(store, second, key=key(second)) == key(first)._replace(
        kept_until=(await owner(store, first)).kept_until
    )
    assert await store.messages.find(second.id) is None
    assert await add(store, first, key=key(first)) is Status.QUEUED, "repeated because its answer was lost"
    await single(store.keys.answer([KeptAnswer(key(first), 202, "{}")]))
    await single(store.keys.answer([KeptAnswer(key(first), 500, "too late")]))
    assert (await owner(store, first))[5:7] == (202, "{}")


async def test_a_key_belongs_to_its_principal(store: Store) -> None:
    first, second = queued(), queued()
    assert await add(store, first, key=key(first)) is Status.QUEUED
    assert await add(store, second, key=key(second)._replace(principal="you")) is Status.QUEUED


async def test_a_key_that_is_outlived_is_new(store: Store) -> None:
    first, second = queued(), queued()
    assert await add(store, first, key=key(first, kept_until=1)) is Status.QUEUED
    assert await add(store, second, key=key(second)) is Status.QUEUED


def never(message: Message) -> Message:
    return message._replace(status=Status.REJECTED, reason="outcome_unknown", attempts=0, claim=None, finished_at=now())


@pytest.mark.parametrize("place", ["nowhere", "queued", "scheduled", "direct", "put off"])
async def test_what_nobody_can_vouch_for_is_withdrawn_with_its_key(store: Store, place: str) -> None:
    message = new_message() if place == "direct" else queued()
    if place == "scheduled":
        message = message._replace(status=Status.SCHEDULED, deliver_at=now())
    if place != "nowhere":
        await add(store, message, key=key(message))
    if place == "put off":
        (taken,) = (await take(store)).messages
        back = taken.moved(Status.QUEUED, attempts=0, claim=None, not_before=now() + 1000)
        assert await move_one(store, taken, back)
    assert await single(store.messages.withdraw([Withdrawal(never(message), message.claim, key(message))])) is not None
    found = await store.messages.find(message.id)
    assert found is not None
    expected = Status.REJECTED if place in {"nowhere", "direct"} else Status.CANCELLED
    assert (found.status, found.reason, found.claim, found.not_before) == (expected, "outcome_unknown", None, None)
    assert (await take(store, at=now() + 10)).messages == []
    another = queued()
    assert await add(store, another, key=key(another)) is Status.QUEUED, "the key is free again"
    assert [taken.id for taken in (await take(store)).messages] == [another.id]


async def test_what_another_process_has_answered_for_is_not_withdrawn(store: Store) -> None:
    message = queued()
    await add(store, message, key=key(message))
    await single(store.keys.answer([KeptAnswer(key(message), 202, "{}")]))
    assert await single(store.messages.withdraw([Withdrawal(never(message), message.claim, key(message))])) is None
    assert [taken.id for taken in (await take(store)).messages] == [message.id]


async def test_what_is_on_its_way_is_not_withdrawn_and_keeps_its_key(store: Store) -> None:
    message = queued()
    await add(store, message, key=key(message))
    await take(store)
    assert await single(store.messages.withdraw([Withdrawal(never(message), message.claim, key(message))])) is None
    assert isinstance(await add(store, queued(), key=key(queued())), IdempotencyKey)


async def test_a_full_device_leaves_the_key_unused(store: Store) -> None:
    first, second = queued(), queued()
    await add_all(store, first)
    assert await add(store, second, max_depth=1, key=key(second)) == Full(first.id)
    assert await add(store, second, max_depth=2, key=key(second)) is Status.QUEUED


async def test_the_backlog_is_counted_by_status_and_names_its_front(store: Store) -> None:
    front = queued("A")
    await add_all(store, front, queued("B"), new_message("C", claim=CLAIM), published(new_message()))
    backlog = await store.queue.backlog()
    assert backlog.depths == {Status.QUEUED: 2, Status.PUBLISHING: 1}
    assert backlog.oldest == front


async def test_what_waits_to_clear_a_retained_message_is_no_backlog(store: Store) -> None:
    retained = new_message("A", Status.PUBLISHED, retain=True, claim=None)
    await add_one(store, clearing(retained, time.time_ns(), due=now() + 1000))
    assert await store.queue.backlog() == Backlog({}, None)
    scheduled = new_message("A", Status.SCHEDULED, claim=None, deliver_at=now() + 1000)
    await add_one(store, scheduled)
    assert await store.queue.backlog() == Backlog({Status.SCHEDULED: 1}, scheduled)


async def owner(store: Store, message: Message) -> IdempotencyKey:
    """The row of the key, as somebody else who asks for it is told."""
    found = await add(store, queued(), key=key(queued()))
    assert isinstance(found, IdempotencyKey)
    assert found.message_id == message.id
    return found


def deadline_of() -> float:
    return asyncio.get_running_loop().time() + 10


def clearing_of(retained: Message) -> Message:
    return clearing(retained, time.time_ns())


async def test_a_clearing_gives_way_to_a_newer_one_that_is_on_its_way_behind_it(store: Store) -> None:
    first = new_message("A", Status.PUBLISHED, retain=True, claim=None)
    clears = clearing(first, time.time_ns(), due=now() + 1000)
    await add_all(store, first, clears, new_message("A", Status.PUBLISHING, retain=True))
    taken = await take(store, at=now() + 2000)
    assert (taken.messages, superseded(taken)) == ([], [clears.id])


async def test_a_clearing_whose_origin_is_forgotten_gives_way_to_a_newer_one(store: Store) -> None:
    forgotten = new_message("A", Status.PUBLISHED, retain=True, claim=None)
    clears = clearing_of(forgotten)
    await add_one(store, clears)
    await add_one(store, new_message("A", Status.PUBLISHED, retain=True, claim=None))
    taken = await take(store)
    assert (taken.messages, superseded(taken)) == ([], [clears.id])


async def test_a_clearing_whose_origin_is_forgotten_is_sent_where_nothing_is_newer(store: Store) -> None:
    clears = clearing_of(new_message("A", Status.PUBLISHED, retain=True, claim=None))
    await add_one(store, new_message("A", Status.PUBLISHED, retain=True, claim=None))
    await add_one(store, clears)
    taken = await take(store)
    assert ([message.id for message in taken.messages], superseded(taken)) == ([clears.id], [])


async def test_what_clears_takes_nothing_of_the_bound_of_its_device(store: Store) -> None:
    await add_one(store, clearing_of(new_message("A", Status.PUBLISHED, retain=True)))
    first, second = queued("A"), queued("A")
    assert await add(store, first, max_depth=1) is Status.QUEUED
    assert await add(store, second, max_depth=1) == Full(first.id)
