"""What keeps a command from going stale: urgency, collapse keys, purges, contacts, replies that are awaited in turn."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest
import pytest_asyncio
from sqlalchemy import Connection, insert

from chapar.model.acceptance import UNBOUNDED, Added, Addition, Placement
from chapar.model.message import Message, Status
from chapar.model.queue import Lease, Taken
from chapar.store import queue
from chapar.store.acceptance import ADD
from chapar.store.database import Role, open_engine
from chapar.store.schema import messages as table
from chapar.store.store import Store
from support.plans import plans_on
from support.stores import PROCESS, add_one, new_message, now

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
    return await store.queue.take(f"{process}.{next(CLAIMS)}", limit, now() if at is None else at, urgent=limit)


async def taken(store: Store, limit: int = 100, at: int | None = None, process: str = PROCESS) -> list[str]:
    return [message.id for message in (await take(store, limit, at, process)).messages]


async def add(store: Store, *messages: Message, max_depth: int = UNBOUNDED) -> list[Added]:
    return [await add_one(store, message, max_depth=max_depth) for message in messages]


async def find(store: Store, message: Message) -> Message:
    found = await store.messages.find(message.id)
    assert found is not None
    return found


async def test_what_is_urgent_is_taken_before_all_else(store: Store) -> None:
    backlog, urgent = [queued("A"), queued("B"), queued("C")], [queued(imei, urgent=True) for imei in "CA"]
    await add(store, *backlog, *urgent)
    assert await taken(store) == [message.id for message in [*urgent, *backlog]]


async def test_what_is_urgent_is_taken_where_there_is_room_for_nothing_else(store: Store) -> None:
    urgent = queued("A", urgent=True)
    await add(store, queued("A"), urgent)
    alone = await store.queue.take(f"{PROCESS}.{next(CLAIMS)}", 0, now(), urgent=1)
    assert [message.id for message in alone.messages] == [urgent.id]


async def test_what_is_urgent_waits_for_nothing_of_its_device(store: Store) -> None:
    await store.queue.acquire_lease(Lease(OTHER, "other", 60, alone=False))
    await add(store, queued("A", not_before=now() + 60_000), new_message("B", claim=f"{OTHER}.1"))
    urgent, plain = [queued(imei, urgent=True) for imei in "AB"], [queued(imei) for imei in "AB"]
    await add(store, *plain, *urgent)
    assert await taken(store) == [message.id for message in urgent]
    direct = new_message("A", urgent=True)
    assert await add(store, direct) == [Placement(Status.PUBLISHING, direct.claim)]


async def test_what_is_urgent_and_put_off_keeps_its_device(store: Store) -> None:
    later = now() + 60_000
    plain, urgent = queued("A"), queued("A", urgent=True, not_before=later)
    await add(store, plain, urgent)
    assert await taken(store) == []
    assert await taken(store, at=later) == [urgent.id, plain.id]


async def test_what_comes_direct_goes_behind_what_is_urgent(store: Store) -> None:
    urgent, direct = queued("A", urgent=True), new_message("A")
    await add(store, urgent)
    assert await add(store, direct) == [Placement(Status.QUEUED, None)]
    assert await taken(store) == [urgent.id, direct.id]


@pytest.mark.parametrize("reason", ["waiting_for_contact", "held"])
async def test_what_waits_for_something_else_is_not_taken_and_keeps_nobody(store: Store, reason: str) -> None:
    await add(store, *(queued("A", reason=reason, urgent=urgent) for urgent in (False, True)))
    direct, behind = new_message("A"), queued("A")
    assert await add(store, direct) == [Placement(Status.PUBLISHING, direct.claim)]
    await add(store, behind)
    assert await taken(store) == [behind.id]


def fill_with_waiting(connection: Connection, messages: int) -> None:
    """Have many messages of many devices wait for a contact."""
    late = now() + 3_600_000
    rows = (queued(f"W{number % 1000}", reason="waiting_for_contact", expires_at=late) for number in range(messages))
    with connection.begin():
        connection.execute(insert(table), [row._asdict() | {"status": row.status.value} for row in rows])


_ROWS_READ = "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_user_tables WHERE relname = 'messages'"


@contextmanager
def counting(connection: Connection) -> Iterator[list[int]]:
    """Count what a database goes through: steps of SQLite, rows that PostgreSQL reads."""
    counted: list[int] = []
    if connection.dialect.name == "postgresql":
        before = connection.exec_driver_sql(_ROWS_READ).scalar_one()
        yield counted
        counted.append(int(connection.exec_driver_sql(_ROWS_READ).scalar_one() - before))
        return
    steps = count()
    driver = connection.connection.driver_connection
    driver.set_progress_handler(lambda: 0 * next(steps), 1)
    yield counted
    driver.set_progress_handler(None, 0)
    counted.append(next(steps))


def work(connection: Connection, imei: str) -> int:
    """What it is to add two messages and take them."""
    with counting(connection) as counted:
        ADD.run(connection, [Addition(new_message(imei))])
        ADD.run(connection, [Addition(queued(imei))])
        [found] = queue.TAKE.run(connection, [queue.Take(f"{PROCESS}.{next(CLAIMS)}", 5, now(), 5)])
    assert len(found.messages) == 1
    return counted[0]


@pytest.mark.usefixtures("store")
async def test_many_that_wait_for_a_contact_make_nothing_slower(shared_url: str) -> None:
    with open_engine(shared_url, Role.WRITER).connect() as connection:
        with connection.begin():
            work(connection, "W0")  # the caches are warm then
        with connection.begin() as undone:
            before = work(connection, "W1")
            undone.rollback()
        fill_with_waiting(connection, 20_000)
        with connection.begin() as undone:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("ANALYZE messages")
            plans = plans_on(connection)
            after = work(connection, "Z")
            undone.rollback()
    assert not any("Seq Scan on messages" in plan for plan in plans)
    [taking] = [plan for plan in plans if "picked" in plan]
    assert "ix_messages_ready" in taking
    assert "ix_messages_urgent" in taking
    assert after < before * 1.2 + 10
