"""Pauses in both databases: nothing is taken for a paused device, and what waited leaves in its order once resumed."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest
import pytest_asyncio
from sqlalchemy import Connection, insert

from chapar.model.acceptance import Addition, Placement
from chapar.model.audit import Action
from chapar.model.device import Pause
from chapar.model.message import Message, Status
from chapar.model.principal import EVERYWHERE
from chapar.model.queue import Lease, Taken
from chapar.store import pauses, queue
from chapar.store.acceptance import ADD
from chapar.store.contacts import Contact
from chapar.store.database import Role, open_engine
from chapar.store.pauses import PAUSE_QUEUE, RESUME_QUEUE, PauseQueue
from chapar.store.queue import TAKE, Take
from chapar.store.schema import messages
from chapar.store.store import Store
from support.plans import counting, plans_on
from support.stores import CLAIM, PROCESS, add_one, entries, entry_about, move_one, new_message, now, single

OTHER = "fedcba9876543210"
CLAIMS = count(1)
PAUSED, READY = ("queued", "paused"), ("queued", None)
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def store(shared_store: Store) -> Store:
    await shared_store.queue.acquire_lease(Lease(PROCESS, "this", 60, alone=False))
    return shared_store


def soon() -> float:
    return asyncio.get_running_loop().time() + 30


def queued(imei: str = "A", **fields: object) -> Message:
    return new_message(imei, **{"status": Status.QUEUED, "claim": None, "attempts": 0} | fields)


def pausing(imei: str = "A", note: str | None = "repair", room: int = 100) -> PauseQueue:
    entry = entry_about(imei, Action.QUEUE_PAUSED)._replace(detail=note)
    return PauseQueue(entry, "Anna", note, room)


async def pause(store: Store, imei: str = "A") -> Pause:
    found = await store.pauses.pause(pausing(imei), 30)
    assert found is not None
    return found


async def resume(store: Store, imei: str = "A") -> bool:
    return await store.pauses.resume(entry_about(imei, Action.QUEUE_RESUMED), soon())


async def take(store: Store, at: int | None = None, limit: int = 100) -> Taken:
    claim = f"{PROCESS}.{next(CLAIMS)}"
    return await store.queue.take(claim, limit, now() if at is None else at, urgent=limit)


async def taken(store: Store, at: int | None = None) -> list[str]:
    return [message.id for message in (await take(store, at)).messages]


async def add(store: Store, *messages: Message) -> list[tuple[str, str | None]]:
    placed = [await add_one(store, message) for message in messages]
    return [(each.status.value, each.reason) for each in placed if isinstance(each, Placement)]


async def standing(store: Store, *messages: Message) -> list[tuple[str, str | None]]:
    found = {each.id: each for each in await store.messages.find_all([message.id for message in messages])}
    return [(found[message.id].status.value, found[message.id].reason) for message in messages]


@contextmanager
def other_process(url: str, role: Role = Role.WRITER) -> Iterator[Connection]:
    """A transaction of another gateway process, committed at the end."""
    with open_engine(url, role).connect() as connection:
        connection.begin()
        yield connection
        connection.commit()


async def test_nothing_is_taken_for_a_paused_device_and_all_of_it_once_resumed(store: Store) -> None:
    waiting = [queued(), queued(urgent=True), queued(), queued("B")]
    await add(store, *waiting)
    first = await pause(store)
    assert (first.by, first.note) == ("Anna", "repair")
    assert await standing(store, *waiting) == [PAUSED, PAUSED, PAUSED, READY]
    later = [new_message("A"), new_message("A", urgent=True), queued(), new_message("A", retain=True)]
    assert await add(store, *later) == [PAUSED] * 4
    assert await taken(store) == [waiting[3].id]
    assert await pause(store) == first, "the first one stands"
    assert await resume(store)
    assert not await resume(store)
    urgent, plain = [waiting[1], later[1]], [waiting[0], waiting[2], later[0], later[2], later[3]]
    assert await taken(store) == [message.id for message in [*urgent, *plain]]
    said = [(each.action, each.imei, each.detail) for each in await entries(store)]
    assert said == [("queue_paused", "A", "repair"), ("queue_resumed", "A", None)]


async def test_a_device_that_nobody_knows_is_registered(store: Store) -> None:
    first = await pause(store, "new")
    known = await store.devices.find("new", EVERYWHERE, now())
    assert known is not None
    assert (known.queue.depth, known.queue.pause) == (0, first)
    assert await store.pauses.pause(pausing("more", room=1), 30) is None
    assert await store.pauses.pause(pausing("new", room=1), 30) == first, "it is registered already"
    assert await store.devices.find("more", EVERYWHERE, now()) is None
    await resume(store, "new")
    known = await store.devices.find("new", EVERYWHERE, now())
    assert known is not None
    assert known.queue.pause is None


async def test_what_never_waits_for_its_device_is_rejected(store: Store) -> None:
    await pause(store)
    assert await add(store, new_message("A", condition="online")) == [("rejected", "paused")]
    due = now() + 60_000
    scheduled = new_message("A", Status.SCHEDULED, claim=None, attempts=0, deliver_at=due, condition="online")
    assert await add(store, scheduled) == [("scheduled", None)]
    found = await take(store, due)
    assert found.messages == []
    assert await standing(store, scheduled) == [("rejected", "paused")]
    assert [(change.after, change.reason) for change in found.others] == [
        (Status.QUEUED, None),
        (Status.REJECTED, "paused"),
    ]


async def test_clocks_run_on(store: Store) -> None:
    at = now()
    due = queued(deliver_at=at + 10, status=Status.SCHEDULED)
    late = queued(expires_at=at + 20)
    await add(store, due, late)
    await pause(store)
    assert await taken(store, at + 15) == []
    assert await standing(store, due, late) == [PAUSED, PAUSED]
    assert await taken(store, at + 25) == []
    assert await standing(store, due, late) == [PAUSED, ("expired", "expired")]
    await resume(store)
    assert await taken(store, at + 30) == [due.id]


async def test_what_comes_back_into_the_queue_waits_too(store: Store) -> None:
    """Given back by the link, or left behind by a process."""
    direct, dead = new_message("A"), new_message("B", claim=f"{OTHER}.1")
    await add(store, direct, dead)
    for imei in "AB":
        await pause(store, imei)
    assert await move_one(store, direct, direct.moved(Status.QUEUED, attempts=0, claim=None))
    assert await store.queue.settle(PROCESS, now()) == 1
    assert await taken(store) == []
    assert await standing(store, direct, dead) == [PAUSED, PAUSED]
    for imei in "AB":
        await resume(store, imei)
    assert await taken(store) == [direct.id, dead.id]


async def test_a_contact_of_a_paused_device_is_not_used_up(store: Store) -> None:
    at = now()
    message = queued(condition="contact", reason="waiting_for_contact")
    await add(store, message)
    await pause(store)
    await single(store.contacts.release([Contact("A", at + 10, at + 100)]))
    assert await taken(store, at + 20) == []
    assert await standing(store, message) == [PAUSED]
    assert await taken(store, at + 200) == []
    assert await standing(store, message) == [("queued", "waiting_for_contact")], "the window is over"
    await resume(store)
    assert await taken(store, at + 300) == []
    await single(store.contacts.release([Contact("A", at + 400, at + 500)]))
    assert await taken(store, at + 450) == [message.id]


async def test_a_contact_whose_window_is_open_when_its_device_is_resumed_counts(store: Store) -> None:
    at = now()
    message = queued(condition="contact", reason="waiting_for_contact")
    await add(store, message)
    await pause(store)
    await single(store.contacts.release([Contact("A", at + 10, at + 100_000)]))
    assert await taken(store, at + 20) == []
    await resume(store)
    assert await taken(store, at + 30) == [message.id]


async def test_a_lane_is_in_order_again_once_resumed(store: Store) -> None:
    lane = [queued(reply_within=1000) for _ in range(3)]
    await add(store, *lane)
    assert await standing(store, *lane) == [READY, ("queued", "waiting_for_reply"), ("queued", "waiting_for_reply")]
    await pause(store)
    assert await standing(store, lane[0]) == [PAUSED]
    await resume(store)
    assert await standing(store, *lane) == [READY, ("queued", "waiting_for_reply"), ("queued", "waiting_for_reply")]
    assert await taken(store) == [lane[0].id]


async def test_what_a_process_has_on_its_way_is_named(store: Store) -> None:
    direct, waiting = new_message("A"), queued()
    await add(store, direct, waiting, new_message("B"))
    await pause(store)
    assert (await take(store)).paused == ["A"]
    state = await store.devices.queue("A", EVERYWHERE)
    assert state.in_flight == [direct.id]
    assert (state.queue.depth, state.queue.oldest) == (2, direct.created_at)
    await resume(store)
    assert (await take(store, limit=1)).paused == []


async def test_pieces_of_a_long_queue_leave_at_the_same_moment(
    store: Store, shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pausing and resuming go through a queue in pieces; until the last of them nothing leaves."""
    monkeypatch.setattr(pauses, "_AT_ONCE", 4)
    waiting = [queued() for _ in range(10)]
    await store.messages.add([Addition(message) for message in waiting])
    with other_process(shared_url, Role.ADMINISTRATOR) as connection:
        asked: PauseQueue | None = pausing()
        pieces = []
        while asked is not None:
            [parked] = PAUSE_QUEUE.run(connection, [asked])
            assert parked is not None
            pieces.append(parked.behind is None)
            asked = None if parked.behind is None else asked._replace(behind=parked.behind)
        assert pieces == [False, False, True]
        assert RESUME_QUEUE.run(connection, [entry_about("A", Action.QUEUE_RESUMED)]) == [True]
        added = ADD.run(connection, [Addition(direct := new_message("A"))])
        assert added == [Placement(Status.QUEUED, None)], "it is behind those that wait"
        found = [TAKE.run(connection, [Take(f"{PROCESS}.{next(CLAIMS)}", 100, now())])[0] for _ in range(3)]
    assert [len(each.messages) for each in found] == [0, 11, 0]
    assert [each.next_at is not None for each in found] == [True, False, False], "there is more to do at once"
    assert [message.id for message in found[1].messages] == [message.id for message in [*waiting, direct]]


async def test_a_device_paused_again_before_it_was_resumed_wholly(
    store: Store, shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "_AT_ONCE", 4)
    waiting = [queued() for _ in range(6)]
    await store.messages.add([Addition(message) for message in waiting])
    with other_process(shared_url, Role.ADMINISTRATOR) as connection:
        PAUSE_QUEUE.run(connection, [pausing()])
        PAUSE_QUEUE.run(connection, [pausing()._replace(behind=1)])
        RESUME_QUEUE.run(connection, [entry_about("A", Action.QUEUE_RESUMED)])
        [parked] = PAUSE_QUEUE.run(connection, [pausing(note="again")])
        assert parked is not None
        assert parked.pause.note == "again"
        found = [TAKE.run(connection, [Take(f"{PROCESS}.{next(CLAIMS)}", 100, now())])[0] for _ in range(3)]
    assert not any(each.messages for each in found)
    assert await standing(store, *waiting) == [PAUSED] * 6
    await resume(store)
    while not (ids := await taken(store)):
        pass
    assert ids == [message.id for message in waiting]


async def test_a_pause_waits_for_a_process_that_has_not_read_it(store: Store, shared_url: str) -> None:
    """Another process has read that the device is not paused, and commits its message afterwards."""
    if shared_url.startswith("sqlite"):
        assert await store.pauses.is_in_force(0), "one writes at a time"
        return
    with other_process(shared_url) as connection:
        direct = new_message("A", claim=f"{OTHER}.1")
        assert ADD.run(connection, [Addition(direct)]) == [Placement(Status.PUBLISHING, direct.claim)]
        await pause(store, "A")
        assert not await store.pauses.is_in_force(asyncio.get_running_loop().time() + 0.05)
        assert (await store.devices.queue("A", EVERYWHERE)).in_flight == []
        in_force = asyncio.create_task(store.pauses.is_in_force(soon()))
        with other_process(shared_url) as later:
            [added] = ADD.run(later, [Addition(new_message("A", claim=f"{OTHER}.2"))])
            assert isinstance(added, Placement)
            assert added.reason == "paused"
            assert not in_force.done()
    assert await in_force
    assert (await store.devices.queue("A", EVERYWHERE)).in_flight == [direct.id]


async def test_nothing_leaves_before_what_is_being_marked_as_paused(store: Store, shared_url: str) -> None:
    """A process that takes passes over rows that another one has locked, and what is behind them would be first."""
    if shared_url.startswith("sqlite"):
        return
    await add(store, first := queued())
    with other_process(shared_url) as connection:
        PAUSE_QUEUE.run(connection, [pausing()])
        await add(store, second := queued())
        taking = asyncio.create_task(taken(store))
        await asyncio.sleep(0.05)
    assert await taking == []
    await resume(store)
    assert await taken(store) == [first.id, second.id]


async def test_a_device_is_not_resumed_while_a_message_is_marked_as_paused(store: Store, shared_url: str) -> None:
    """Else the mark would come behind, and nobody would remove it."""
    if shared_url.startswith("sqlite"):
        return
    await pause(store)
    with other_process(shared_url) as connection:
        [added] = ADD.run(connection, [Addition(message := new_message("A", claim=f"{OTHER}.1"))])
        assert isinstance(added, Placement)
        assert added.reason == "paused"
        resumed = asyncio.create_task(resume(store))
        await asyncio.sleep(0.05)
        assert not resumed.done()
    assert await resumed
    assert await taken(store) == [message.id]


async def test_what_comes_while_a_device_is_being_resumed_goes_through_the_queue(store: Store, shared_url: str) -> None:
    if shared_url.startswith("sqlite"):
        return
    await add(store, first := queued())
    await pause(store)
    with other_process(shared_url) as connection:
        assert RESUME_QUEUE.run(connection, [entry_about("A", Action.QUEUE_RESUMED)]) == [True]
        assert await add(store, new := new_message("A"), urgent := new_message("A", urgent=True)) == [READY, READY]
        assert await taken(store) == []
    assert await taken(store) == [urgent.id, first.id, new.id]


async def test_many_that_are_paused_make_nothing_slower(store: Store, shared_url: str) -> None:
    """What is taken from the queue is found without them, and what is added as well."""
    await store.messages.add([Addition(queued(f"P{number % 20}")) for number in range(2000)])
    for number in range(20):
        await pause(store, f"P{number}")
    await take(store)
    with open_engine(shared_url, Role.ADMINISTRATOR).connect() as connection, connection.begin() as undone:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("ANALYZE messages")
        plans = plans_on(connection)
        ADD.run(connection, [Addition(new_message("Z")), Addition(queued("Z"))])
        [found] = queue.TAKE.run(connection, [Take(f"{PROCESS}.{next(CLAIMS)}", 5, now(), 5)])
        undone.rollback()
    assert len(found.messages) == 1
    assert not any("Seq Scan on messages" in plan or "SCAN messages\n" in plan for plan in plans)
    [taking] = [plan for plan in plans if "picked" in plan]
    assert "ix_messages_ready" in taking
    assert CLAIM.startswith(PROCESS)


async def test_the_long_queue_of_one_device_is_not_read_whole_for_its_first(store: Store, shared_url: str) -> None:
    await store.queue.acquire_lease(Lease(PROCESS, "this", 60, alone=False))
    with open_engine(shared_url, Role.ADMINISTRATOR).connect() as connection, connection.begin() as undone:
        rows = (queued("A") for _ in range(30_000))
        connection.execute(insert(messages), [row._asdict() | {"status": row.status.value} for row in rows])
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("ANALYZE messages")
        plans = plans_on(connection)
        with counting(connection) as counted:
            [found] = TAKE.run(connection, [Take(f"{PROCESS}.long", 100, now())])
        undone.rollback()
    assert len(found.messages) == 100
    [taking] = [plan for plan in plans if "picked" in plan]
    assert "Seq Scan on messages" not in taking
    assert counted[0] < 30_000
