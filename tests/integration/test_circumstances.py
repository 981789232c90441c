"""What the database knows of why a message stands where it does, read at once."""

import asyncio

import pytest

from chapar.delivery.causes import Cause
from chapar.delivery.verdicts import LinkState, explain
from chapar.model.audit import KEY_REVOKED
from chapar.model.device import Evidence, Ground, State
from chapar.model.message import Message, Status
from chapar.model.queue import Lease
from chapar.model.reply import read_reply
from chapar.store.circumstances import Circumstances
from chapar.store.outages import MOST_KEPT, Outage
from chapar.store.presences import Noted
from chapar.store.store import Store
from support.callers import cancelling
from support.stores import CLAIM, PROCESS, add_one, move_one, new_message, now, published, single

pytestmark = pytest.mark.asyncio(loop_scope="module")
UP = LinkState(PROCESS, up=True, since=0)


def queued(imei: str, **fields: object) -> Message:
    return new_message(imei, Status.QUEUED, **{"claim": None, "attempts": 0} | fields)


async def circumstances(store: Store, message: Message, *, with_presence: bool = True) -> Circumstances:
    found = await store.evidence.of_message(message.id, now(), with_presence=with_presence)
    assert found is not None
    return found


async def test_there_are_none_of_a_message_that_is_not_there(shared_store: Store) -> None:
    assert await shared_store.evidence.of_message("nothing", now(), with_presence=True) is None


async def test_what_is_before_a_message_is_found_in_its_order(shared_store: Store) -> None:
    first, second, mine = queued("A"), queued("A", micro_op="open"), queued("A")
    behind, urgent, foreign = queued("A"), queued("A", urgent=True), queued("B")
    for message in (foreign, first, second, mine, behind, urgent):
        await add_one(shared_store, message)
    found = await circumstances(shared_store, mine)
    assert [each.id for each in found.ahead] == [first.id, second.id, urgent.id]
    assert [each.micro_op for each in found.ahead][1] == "open"
    assert found.in_line == 4
    assert (await circumstances(shared_store, urgent)).in_line == 0
    assert explain(found, UP, now()).cause is Cause.BEHIND_QUEUED


async def test_who_has_it_on_its_way_lives_or_not(shared_store: Store) -> None:
    message = new_message("A", claim=CLAIM)
    await add_one(shared_store, message)
    assert (await circumstances(shared_store, message)).sender_lives is False
    await shared_store.queue.acquire_lease(Lease(PROCESS, "this", 60, alone=False))
    found = await circumstances(shared_store, message)
    assert (found.sender_lives, explain(found, UP, now()).cause) == (True, Cause.IN_FLIGHT)


async def test_what_expired_names_the_message_that_was_not_answered(shared_store: Store) -> None:
    first = new_message("A", claim=CLAIM, reply_within=600_000)
    await add_one(shared_store, first)
    await move_one(shared_store, first, published(first)._replace(finished_at=None, reply_by=now() + 600_000))
    at = now()
    mine = queued("A", reply_within=1000, expires_at=at + 10)
    await add_one(shared_store, mine)
    assert (await circumstances(shared_store, mine)).message.reason == "waiting_for_reply"
    await shared_store.queue.take(f"{PROCESS}.9", 10, at + 20)
    found = await circumstances(shared_store, mine)
    assert (found.message.status, found.held_up_by) == (Status.EXPIRED, (first.id, first.micro_op))
    plain = queued("A", expires_at=at + 30)
    await add_one(shared_store, plain)
    await shared_store.queue.take(f"{PROCESS}.10", 0, at + 40)
    assert (await circumstances(shared_store, plain)).held_up_by is None, "it waits for no reply"


async def test_the_trail_says_with_what_a_message_was_withdrawn(shared_store: Store) -> None:
    message, other = queued("A"), queued("A")
    for each in (message, other):
        await add_one(shared_store, each)
    deadline = asyncio.get_running_loop().time() + 30
    for each, detail in ((message, KEY_REVOKED), (other, None)):
        await single(shared_store.messages.cancel([cancelling(each.id, now())._replace(detail=detail)], deadline))
    causes = [explain(await circumstances(shared_store, each), UP, now()).cause for each in (message, other)]
    assert causes == [Cause.CANCELLED_WITH_KEY, Cause.CANCELLED]


async def test_the_device_is_known_to_those_who_may_see_it(shared_store: Store) -> None:
    message = queued("A")
    await add_one(shared_store, message)
    at = now()
    noted = Noted("A", Evidence(State.OFFLINE, at - 9, Ground.ANNOUNCED, None), at - 9, at, 100)
    assert await shared_store.presences.note([noted]) == [True]
    stray = read_reply(b"pump on", None, (), device="A", topic="devices/A/reply", at=at)
    await shared_store.replies.receive([stray])
    found = await circumstances(shared_store, message)
    assert found.presence is not None
    assert (found.presence.state, found.last_seen) == (State.OFFLINE, at - 9)
    assert [each.reply.at for each in found.unmatched] == [at]
    assert found.not_receiving_since is not None, "nobody holds the receiver's lease"
    found = await circumstances(shared_store, message, with_presence=False)
    assert (found.presence, found.last_seen) == (None, None)


async def test_outages_of_its_time_are_found_and_the_oldest_of_all_go(shared_store: Store) -> None:
    message = queued("A")
    await add_one(shared_store, message)
    at = message.created_at
    before, during = Outage("p", at - 900, at - 1, None), Outage("p", at - 900, at + 5000, "broker_closed")
    later = Outage("q", at + 10**9, at + 10**9 + 5, None)
    await shared_store.outages.keep([before, during._replace(process="r"), later])
    await shared_store.outages.keep([during._replace(process="r")])  # once more, as where its answer was lost
    assert (await circumstances(shared_store, message)).outages == [during._replace(process="r")]
    many = [later._replace(began_at=later.began_at + 1 + number) for number in range(MOST_KEPT)]
    await shared_store.outages.keep(many)
    assert len((await circumstances(shared_store, message)).outages) == 0, "what was kept first is gone"
