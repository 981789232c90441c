"""What keeps a command from going stale: urgency, collapse keys, purges, contacts, replies that are awaited in turn."""

import asyncio
from collections.abc import Iterator
from itertools import count

import pytest
import pytest_asyncio
from sqlalchemy import Connection, delete, event, func, insert, select, update

from chapar.model.acceptance import UNBOUNDED, Added, Addition, Full, IdempotencyKey, Placement, Sender, Withdrawal
from chapar.model.audit import Action
from chapar.model.change import Move
from chapar.model.message import Message, Status
from chapar.model.queue import Lease, Taken
from chapar.store import queue
from chapar.store.acceptance import ADD
from chapar.store.contacts import CONTACT, Contact
from chapar.store.database import Role, open_engine
from chapar.store.lanes import release
from chapar.store.schema import devices, presences, processes, receiver
from chapar.store.schema import messages as table
from chapar.store.store import Store
from support.callers import cancelling
from support.plans import counting, plans_on
from support.stores import PROCESS, add_one, entries, move_one, new_message, now, published, single

OTHER = "fedcba9876543210"
CLAIMS = count(1)
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def store(shared_store: Store) -> Store:
    await shared_store.queue.acquire_lease(Lease(PROCESS, "this", 60, alone=False))
    return shared_store


def queued(imei: str = "A", **fields: object) -> Message:
    return new_message(imei, **{"status": Status.QUEUED, "claim": None, "attempts": 0} | fields)


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


async def test_nothing_of_a_device_passes_what_is_urgent_and_has_no_room(store: Store) -> None:
    plain, urgent = [queued(imei) for imei in "AB"], [queued("A", urgent=True) for _ in range(3)]
    await add(store, *plain, *urgent)
    found = await store.queue.take(f"{PROCESS}.7", 10, now(), urgent=2)
    assert [message.id for message in found.messages] == [urgent[0].id, urgent[1].id, plain[1].id]


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


def work(connection: Connection, imei: str) -> int:
    """What it is to add two messages and take them."""
    with counting(connection) as counted:
        ADD.run(connection, [Addition(new_message(imei))])
        ADD.run(connection, [Addition(queued(imei))])
        [found] = queue.TAKE.run(connection, [queue.Take(f"{PROCESS}.{next(CLAIMS)}", 5, now(), 5)])
    assert found.messages
    return counted[0]


@pytest.mark.usefixtures("store")
async def test_many_that_wait_for_a_contact_make_nothing_slower(shared_url: str) -> None:
    with open_engine(shared_url, Role.ADMINISTRATOR).connect() as connection:
        with connection.begin() as undone:  # for a gateway whose database another one has moved on stops
            work(connection, "W0")  # the caches are warm then
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


def states(placed: list[Added]) -> list[tuple[str, str | None]]:
    return [(added.status.value, added.reason) for added in placed if isinstance(added, Placement)]


async def standing(store: Store, *messages: Message) -> list[tuple[str, str | None]]:
    found = [await find(store, message) for message in messages]
    return [(message.status.value, message.reason) for message in found]


READY, WAITS = ("queued", None), ("queued", "waiting_for_reply")
CANCELLED = ("cancelled", "superseded")


def asking(imei: str = "A", **fields: object) -> Message:
    """A message whose reply may have to be matched by its order."""
    return queued(imei, **{"reply_within": 30_000} | fields)


async def test_one_message_of_a_lane_is_ahead_and_what_is_behind_the_second_waits(store: Store) -> None:
    before, first, between, second, behind = queued(), asking(), queued(), asking(), queued()
    await add(store, before, first, between, second, behind)
    other = asking("B")
    await add(store, other)
    assert await standing(store, before, first, between, second, behind) == [READY, READY, READY, WAITS, WAITS]
    direct, urgent = new_message("A"), new_message("A", urgent=True, reply_within=30_000)
    assert states(await add(store, direct, urgent)) == [WAITS, ("publishing", None)]
    assert await taken(store) == [message.id for message in (before, first, between, other)]


@pytest.mark.usefixtures("store")
async def test_a_lane_twice_as_long_is_twice_the_work_and_not_its_square(shared_url: str) -> None:
    counted = {}
    with open_engine(shared_url, Role.ADMINISTRATOR).connect() as connection:
        for length in (500, 1000):
            with connection.begin() as undone:
                rows = (asking(f"L{length}", reason="waiting_for_reply") for _ in range(length))
                connection.execute(insert(table), [row._asdict() | {"status": row.status.value} for row in rows])
                if connection.dialect.name == "postgresql":
                    connection.exec_driver_sql("ANALYZE messages")
                with counting(connection) as found:
                    release(connection, [f"L{length}"])
                counted[length] = found[0]
                ready = select(func.count()).where(table.c.imei == f"L{length}", table.c.reason.is_(None))
                assert connection.scalar(ready) == 1, "the first may leave"
                undone.rollback()
    assert counted[1000] < 3 * counted[500], counted


async def test_a_device_that_gives_ids_back_has_no_lane(store: Store) -> None:
    assert states(await add(store, *(asking(profile="chapar") for _ in range(2)))) == [READY, READY]


async def test_the_profile_of_a_device_is_that_of_its_messages(store: Store, shared_url: str) -> None:
    with open_engine(shared_url, Role.ADMINISTRATOR).begin() as connection:
        connection.execute(delete(devices))
        device = {"imei": "A", "profile": "chapar", "created_at": 0, "changed_at": 0}
        connection.execute(insert(devices), [device, device | {"imei": "B", "profile": None}])
    mine, direct, other = asking("A"), new_message("A"), asking("B")
    placed = await add(store, mine, direct, other)
    assert [added.profile for added in placed if isinstance(added, Placement)] == ["chapar", "chapar", "text"]
    assert (await find(store, direct)).payload.startswith(b"{")
    with open_engine(shared_url, Role.ADMINISTRATOR).begin() as connection:
        connection.execute(delete(devices))


async def test_what_is_answered_late_or_never_leaves_its_lane_to_the_next(store: Store) -> None:
    first, second, third = asking(), asking(), asking()
    await add(store, first, second, third)
    [at_device] = (await take(store)).messages
    awaited = at_device.moved(Status.PUBLISHED, claim=None, published_at=now(), reply_by=now() + 30_000)
    assert await move_one(store, at_device, awaited)
    assert await taken(store) == []
    direct = new_message("A", reply_within=30_000)
    assert states(await add(store, direct)) == [WAITS]
    assert await cancel(store, second)
    assert await standing(store, third, direct) == [WAITS, WAITS]
    with_word = await find(store, first)
    assert await move_one(store, with_word, with_word.moved(Status.TIMED_OUT, finished_at=now()))
    assert await taken(store) == [third.id]


@pytest.mark.parametrize("how", ["cancelled", "expired", "rejected", "withdrawn", "unconfirmed"])
async def test_whatever_ends_a_message_of_a_lane_lets_the_next_leave(store: Store, how: str) -> None:
    at = now()
    first, behind, second = asking(expires_at=at + 1000, at_most_once=True), asking(), asking()
    if how in {"rejected", "unconfirmed"}:
        first = new_message("A", reply_within=30_000, at_most_once=True)
    await add(store, first, behind, second)
    assert await standing(store, behind, second) == [WAITS, WAITS]
    match how:
        case "cancelled":
            assert await cancel(store, first)
        case "expired":
            await store.queue.take(f"{PROCESS}.{next(CLAIMS)}", 0, at + 1000)
        case "rejected":
            assert await move_one(store, first, first.moved(Status.REJECTED, claim=None, finished_at=at))
        case "withdrawn":
            never = first._replace(status=Status.REJECTED, reason="outcome_unknown", finished_at=at)
            assert await single(store.messages.withdraw([Withdrawal(never, None, None)]))
        case "unconfirmed":
            await store.queue.release_lease(PROCESS)
            assert await store.queue.settle(OTHER, at) == 1
    assert await standing(store, behind, second) == [READY, WAITS]


async def test_a_lane_that_a_dead_process_left_waiting_goes_on(store: Store, shared_url: str) -> None:
    message = asking()
    await add(store, message)
    await store.queue.acquire_lease(Lease(OTHER, "host:1", 60, alone=False))
    with open_engine(shared_url, Role.ADMINISTRATOR).begin() as connection:
        connection.execute(update(table).where(table.c.id == message.id).values(reason="waiting_for_reply"))
    await store.queue.settle(PROCESS, now())
    assert await standing(store, message) == [WAITS]
    with open_engine(shared_url, Role.ADMINISTRATOR).begin() as connection:
        connection.execute(update(processes).where(processes.c.token == OTHER).values(lease_until=0))
    await store.queue.settle(PROCESS, now())
    assert await standing(store, message) == [READY]


async def test_what_becomes_due_waits_for_its_lane(store: Store) -> None:
    due = now() + 60_000
    first = asking()
    later = [asking(status=Status.SCHEDULED, deliver_at=due), queued(status=Status.SCHEDULED, deliver_at=due)]
    await add(store, first, *later)
    assert await taken(store, at=due) == [first.id]
    assert await standing(store, *later) == [WAITS, WAITS]


async def cancel(store: Store, message: Message) -> bool:
    deadline = asyncio.get_running_loop().time() + 30
    return (await single(store.messages.cancel([cancelling(message.id, now())], deadline))).won


def keyed(imei: str = "A", status: Status = Status.QUEUED, **fields: object) -> Message:
    return queued(imei, **{"status": status, "collapse_key": "valve"} | fields)


async def test_a_newer_message_withdraws_what_waits_with_its_key(store: Store) -> None:
    at = now()
    old = [keyed(), keyed(status=Status.SCHEDULED, deliver_at=at + 5000), keyed()]
    kept = [queued(), keyed(collapse_key="lamp"), keyed("B"), keyed(status=Status.SCHEDULED, deliver_at=at + 60_000)]
    await add(store, kept[3], old[1], old[0], *kept[:3], old[2])
    newest = keyed(created_at=at + 5000)
    [placed] = await add(store, newest)
    assert isinstance(placed, Placement)
    assert [(each.before, each.message.id) for each in placed.withdrawn] == [
        (Status.SCHEDULED, old[1].id),
        (Status.QUEUED, old[2].id),
    ]
    assert await standing(store, *old) == [CANCELLED] * 3
    ended = await find(store, old[1])
    assert (ended.superseded_by, ended.finished_at) == (newest.id, at + 5000)
    assert (await find(store, old[0])).superseded_by == old[2].id
    assert [status for status, _ in await standing(store, *kept)] == ["queued", "queued", "queued", "scheduled"]
    assert placed.withdrawn[0].message == ended
    later = keyed(status=Status.SCHEDULED, deliver_at=at + 60_000)
    await add(store, later)
    assert await standing(store, newest, kept[3]) == [CANCELLED] * 2


async def test_what_is_withdrawn_is_in_the_trail(store: Store) -> None:
    old, newest = keyed(), keyed()
    sender = Sender("me", "Me", "10.0.0.1")
    await add(store, old)
    await add_one(store, newest, sender=sender)
    [cancelled, sent] = await entries(store)
    assert (cancelled.action, cancelled.subject, cancelled.principal, cancelled.detail) == (
        Action.CANCELLED,
        old.id,
        "me",
        "superseded",
    )
    assert (sent.action, sent.subject) == (Action.SENT, newest.id)


async def test_what_is_withdrawn_takes_no_room_and_what_is_refused_withdraws_nothing(store: Store) -> None:
    old = keyed()
    await add(store, old)
    [full] = await add(store, keyed(collapse_key="lamp"), max_depth=1)
    assert isinstance(full, Full)
    key = IdempotencyKey("me", "k", "f", old.id, PROCESS, None, None, now() + 60_000)
    first, again = keyed(), keyed()
    await add_one(store, first, max_depth=1, key=key._replace(message_id=first.id))
    replay = await add_one(store, again, max_depth=1, key=key._replace(message_id=again.id))
    assert isinstance(replay, IdempotencyKey)
    rejected = keyed(status=Status.REJECTED, finished_at=now())
    await add(store, rejected)
    assert await standing(store, old, first) == [CANCELLED, READY]


async def test_the_newest_of_a_batch_is_left(store: Store) -> None:
    batch = [Addition(keyed(created_at=now() + number)) for number in range(5)]
    await store.messages.add(batch)
    found = await store.messages.find_all([addition.message.id for addition in batch])
    assert [message.superseded_by for message in found] == [*(each.message.id for each in batch[1:]), None]
    assert await taken(store) == [batch[4].message.id]


async def test_an_older_message_that_is_added_again_withdraws_nothing_newer(store: Store) -> None:
    oldest, older, newest = keyed(), keyed(), keyed()
    await add(store, oldest)
    [placed] = await add(store, older)
    await add(store, newest)
    [again] = await add(store, older)
    assert (again.status, again.reason) == CANCELLED
    assert again.withdrawn == placed.withdrawn
    assert await standing(store, newest) == [READY]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ({"attempts": 0}, CANCELLED),
        ({"possible_duplicate": True}, ("unconfirmed", "superseded")),
        ("published", ("published", None)),
    ],
)
async def test_what_was_superseded_on_its_way_is_never_sent_again(
    store: Store, outcome: dict[str, object] | str, expected: tuple[str, str | None]
) -> None:
    message, newest = new_message("A", collapse_key="valve"), keyed()
    await add(store, message, queued())
    await add(store, newest)
    assert (await find(store, message)).superseded_by == newest.id
    assert await standing(store, message) == [("publishing", None)]
    after = published(message) if outcome == "published" else message.moved(Status.QUEUED, claim=None, **outcome)
    plain = new_message("B")
    await add(store, plain)
    moved = await store.messages.move([Move(message, after, now()), Move(plain, published(plain), now())])
    assert moved[1] is True
    assert await standing(store, message, plain) == [expected, ("published", None)]
    ended = await find(store, message)
    if outcome == "published":
        assert moved[0] is True
    else:
        assert moved[0] == ended
        assert (ended.claim, ended.finished_at is None, ended.possible_duplicate) == (None, False, False)
    assert message.id not in await taken(store)


async def test_what_a_dead_process_had_superseded_on_its_way_is_not_sent_again(store: Store) -> None:
    message = new_message("A", collapse_key="valve")
    await add(store, message, keyed())
    await store.queue.release_lease(PROCESS)
    assert await store.queue.settle(OTHER, now()) == 1
    assert await standing(store, message) == [("unconfirmed", "superseded")]


async def test_a_purge_withdraws_all_that_waits_for_its_device(store: Store) -> None:
    at = now()
    waiting = [queued(), queued(reason="waiting_for_contact"), queued(status=Status.SCHEDULED, deliver_at=at + 60_000)]
    kept, on_its_way = queued("B"), new_message("A")
    await add(store, on_its_way, *waiting, kept)
    stop = new_message("A", urgent=True)
    placed = await add_one(store, stop, purges=True, max_depth=2)
    assert (placed.status, len(placed.withdrawn)) == (Status.PUBLISHING, 3)
    later = queued()
    await add(store, later)
    again = await add_one(store, stop, purges=True, max_depth=2)
    assert {each.message.id for each in again.withdrawn} == {message.id for message in waiting}
    assert await standing(store, later) == [READY], "a repetition withdraws nothing"
    assert await standing(store, *waiting) == [("cancelled", "purged")] * 3
    assert await standing(store, kept, on_its_way) == [READY, ("publishing", None)]
    assert (await find(store, on_its_way)).superseded_by is None


async def test_a_purge_in_a_batch_withdraws_what_came_before_it(store: Store) -> None:
    first, stop, last = queued(), queued(), queued()
    await store.messages.add([Addition(first), Addition(stop, purges=True), Addition(last)])
    assert await standing(store, first, stop, last) == [("cancelled", "purged"), READY, READY]


def waiting_for_contact(imei: str = "A", **fields: object) -> Message:
    return queued(imei, **{"condition": "contact"} | fields)


FOR_CONTACT = ("queued", "waiting_for_contact")


async def contact(store: Store, at: int, *imeis: str) -> list[int]:
    return await store.contacts.release([Contact(imei, at + 500, at + 15_000) for imei in imeis])


async def test_what_is_for_a_contact_waits_for_one_and_leaves_a_while_after(store: Store) -> None:
    at = now()
    first, second, other, plain = waiting_for_contact(), waiting_for_contact(), waiting_for_contact("B"), queued("C")
    direct = new_message("A", condition="contact")
    assert states(await add(store, first, second, other, plain, direct)) == [FOR_CONTACT] * 3 + [READY, FOR_CONTACT]
    assert await taken(store, at=at) == [plain.id]
    assert await contact(store, at, "A", "C") == [3, 0]
    assert await contact(store, at + 100, "A") == [0], "the first contact counts"
    assert await taken(store, at=at + 499) == []
    passing = new_message("A")
    assert states(await add(store, passing)) == [("publishing", None)], "what still waits is in nobody's way"
    assert await move_one(store, passing, published(passing))
    assert (await take(store, limit=0, at=at + 499)).next_at == at + 500
    assert await taken(store, at=at + 500) == [first.id, second.id, direct.id]
    assert await standing(store, other) == [FOR_CONTACT]


async def test_what_did_not_leave_in_its_window_waits_for_the_next_one(store: Store) -> None:
    at = now()
    message = waiting_for_contact(expires_at=at + 100_000)
    await add(store, message)
    await contact(store, at, "A")
    ended = await take(store, limit=0, at=at + 15_000)
    assert ended.next_at == at + 100_000
    assert await standing(store, message) == [FOR_CONTACT]
    assert (await find(store, message)).contact_until is None
    assert await contact(store, at + 20_000, "A") == [1]
    [sent] = (await take(store, at=at + 20_500)).messages
    assert (sent.contact_until, sent.attempts) == (at + 35_000, 1)
    in_doubt = sent.moved(Status.QUEUED, claim=None, possible_duplicate=True)
    assert await move_one(store, sent, in_doubt)
    assert await taken(store, at=at + 36_000) == []
    assert await standing(store, message) == [FOR_CONTACT]
    expired = await take(store, at=at + 100_000)
    assert [(change.id, change.after) for change in expired.others] == [(message.id, Status.EXPIRED)]


async def test_what_is_scheduled_for_a_contact_waits_for_one_when_it_is_due(store: Store) -> None:
    due = now() + 60_000
    message = waiting_for_contact(status=Status.SCHEDULED, deliver_at=due)
    await add(store, message)
    assert await contact(store, now(), "A") == [0]
    woken = await take(store, at=due)
    assert [(change.after, change.reason) for change in woken.others] == [(Status.QUEUED, "waiting_for_contact")]
    assert woken.messages == []
    assert await contact(store, due, "A") == [1]
    assert await taken(store, at=due + 500) == [message.id]


async def test_contacts_wait_for_their_lane_too(store: Store) -> None:
    at = now()
    first, second = waiting_for_contact(reply_within=30_000), waiting_for_contact(reply_within=30_000)
    await add(store, first, second)
    await contact(store, at, "A")
    assert await taken(store, at=at + 500) == [first.id]
    assert await standing(store, second) == [WAITS]
    assert await taken(store, at=at + 15_000) == []
    assert await standing(store, second) == [FOR_CONTACT]


@pytest.mark.usefixtures("store")
async def test_a_thousand_contacts_are_one_look(shared_url: str) -> None:
    at = now()
    contacts = [Contact(f"D{number}", at, at + 15_000) for number in range(500)]
    statements: list[str] = []
    with open_engine(shared_url, Role.ADMINISTRATOR).connect() as connection:
        fill_with_waiting(connection, 5000)
        with connection.begin(), counting(connection) as counted:
            event.listen(connection, "before_cursor_execute", lambda *each: statements.append(each[2]))
            assert sum(CONTACT.run(connection, contacts)) == 0
        assert counted[0] < 100 * len(contacts)
        assert not any("UPDATE" in statement for statement in statements)
        with connection.begin():
            assert CONTACT.run(connection, [Contact("W7", at, at + 15_000)]) == [5]


def online(imei: str, status: Status = Status.PUBLISHING, **fields: object) -> Message:
    direct = {"status": status, "condition": "online"} if status is not Status.PUBLISHING else {"condition": "online"}
    return (new_message if status is Status.PUBLISHING else queued)(imei, **direct | fields)


@pytest.fixture
def who_is_there(store: Store, shared_url: str) -> Iterator[None]:  # noqa: ARG001 - which is empty then
    """A and B are online, C is offline, and nothing is known of D; the gateway listens."""
    engine = open_engine(shared_url, Role.ADMINISTRATOR)
    with engine.begin() as connection:
        known = {"since": 1, "evidence": "announced", "offline_at": None}
        states = {"A": "online", "B": "online", "C": "offline"}
        connection.execute(insert(presences), [known | {"imei": imei, "state": each} for imei, each in states.items()])
        connection.execute(update(receiver).values(process=PROCESS, lease_until=now() + 600_000, life_down_since=None))
    yield
    with engine.begin() as connection:
        connection.execute(delete(presences))


@pytest.mark.usefixtures("who_is_there")
async def test_only_who_is_online_is_sent_what_is_for_who_is_online(store: Store, shared_url: str) -> None:
    there, offline, unknown = online("A"), online("C"), online("D")
    assert states(await add(store, there, offline, unknown)) == [
        ("publishing", None),
        ("rejected", "device_offline"),
        ("rejected", "presence_unknown"),
    ]
    rejected = await find(store, offline)
    assert (rejected.attempts, rejected.claim, rejected.finished_at) == (0, None, offline.created_at)
    with open_engine(shared_url, Role.ADMINISTRATOR).begin() as connection:
        connection.execute(update(receiver).values(life_down_since=now() - 31_000))
    assert states(await add(store, online("A"), online("C"))) == [("rejected", "presence_unknown")] * 2


@pytest.mark.usefixtures("who_is_there")
async def test_what_is_for_who_is_online_never_waits(store: Store) -> None:
    await add(store, queued("A"), asking("B"))
    old = keyed("A", reason="waiting_for_contact")
    await add(store, old)
    busy, lane = online("A", collapse_key="valve"), online("B", reply_within=30_000)
    assert states(await add(store, busy, lane)) == [("rejected", "device_busy")] * 2
    assert await standing(store, old) == [FOR_CONTACT], "what is rejected withdraws nothing"
    assert states(await add(store, online("A", urgent=True, collapse_key="valve"))) == [("publishing", None)]
    assert await standing(store, old) == [CANCELLED]


@pytest.mark.usefixtures("who_is_there")
async def test_what_is_due_for_who_is_online_leaves_then_or_never(store: Store) -> None:
    due = now() + 1000
    scheduled = [online(imei, Status.SCHEDULED, deliver_at=due, expires_at=due + 15_000) for imei in "ABC"]
    await add(store, new_message("B", claim=f"{OTHER}.1"), *scheduled)
    await store.queue.acquire_lease(Lease(OTHER, "other", 60, alone=False))
    found = await take(store, at=due)
    assert [message.id for message in found.messages] == [scheduled[0].id]
    assert await standing(store, *scheduled[1:]) == [("rejected", "device_busy"), ("rejected", "device_offline")]
    announced = [(change.id, change.after) for change in found.others if change.after is Status.REJECTED]
    assert announced == [(scheduled[2].id, Status.REJECTED), (scheduled[1].id, Status.REJECTED)]


@pytest.mark.usefixtures("who_is_there")
async def test_what_is_due_for_who_is_online_does_not_wait_for_the_broker(store: Store) -> None:
    due = now() + 1000
    scheduled = online("A", Status.SCHEDULED, deliver_at=due)
    await add(store, scheduled)
    await store.queue.take(f"{PROCESS}.{next(CLAIMS)}", 0, due, reaches_broker=False)
    assert await standing(store, scheduled) == [("rejected", "broker_unreachable")]


@pytest.mark.usefixtures("who_is_there")
async def test_a_second_attempt_is_made_only_where_the_device_is_online_still(store: Store, shared_url: str) -> None:
    message = online("A")
    await add(store, message)
    assert await move_one(store, message, message.moved(Status.QUEUED, claim=None, possible_duplicate=True))
    with open_engine(shared_url, Role.ADMINISTRATOR).begin() as connection:
        connection.execute(update(presences).values(state="offline"))
    assert await taken(store) == []
    assert await standing(store, message) == [("unconfirmed", "device_offline")]
    assert (await find(store, message)).attempts == 1
