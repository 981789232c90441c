"""Replies in the database: with their messages, in every order of events, within their bounds, and each once."""

import asyncio
import json
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import func, select, update

from chapar.errors import NotSaved
from chapar.model.change import Change, Move
from chapar.model.message import Message, Status
from chapar.model.principal import EVERYWHERE, Reach
from chapar.model.queue import Lease, Taken
from chapar.model.reply import Listed, MatchedBy, Receipt, ReceivedReply, Unmatched, read_reply, standing
from chapar.store import replies as replies_module
from chapar.store import schema
from chapar.store.database import Role, open_engine
from chapar.store.replies import MAX_OF_DEVICE, MAX_OF_MESSAGE
from chapar.store.retention import UNMATCHED_KEPT
from chapar.store.store import Store
from support.callers import cancelling
from support.stores import CLAIM, PROCESS, add_one, new_message, now, open_store, single

DEVICE, OTHER = "862000000000001", "862000000000002"
WITHIN = 10_000
pytestmark = pytest.mark.asyncio(loop_scope="module")

ACKNOWLEDGED, SUCCEEDED, FAILED = Status.ACKNOWLEDGED, Status.SUCCEEDED, Status.FAILED


@pytest_asyncio.fixture(loop_scope="module")
async def store(shared_store: Store) -> Store:
    await shared_store.queue.acquire_lease(Lease(PROCESS, "this", 60, alone=False))
    return shared_store


def received(text: str | bytes, to: Message | None = None, **facts: Any) -> ReceivedReply:
    """A reply of the device, with the correlation data of a message where it is `to` one."""
    payload = text.encode() if isinstance(text, str) else text
    correlation = None if to is None else to.id.encode()
    device = facts.pop("device", DEVICE)
    given = {"topic": f"devices/{device}/reply", "at": now()} | facts
    return read_reply(payload, correlation, (), device=device, **given)


async def reply(store: Store, *replies: ReceivedReply) -> list[Receipt]:
    receipts = await store.replies.receive(replies)
    assert not [each for each in receipts if isinstance(each, NotSaved)]
    return receipts  # type: ignore[return-value]


async def publishing(store: Store, **fields: Any) -> Message:
    """A message on its way."""
    # Urgent, so that it waits for no other that is to be answered first.
    given = {"reply_within": WITHIN, "claim": CLAIM, "urgent": True} | fields
    message = new_message(DEVICE, Status.PUBLISHING, **given)
    await add_one(store, message)
    return message


def acknowledged_by_broker(message: Message, **fields: Any) -> Message:
    at = now()
    reply_by = None if message.reply_within is None else at + message.reply_within
    return message.moved(
        Status.PUBLISHED, claim=None, published_at=at, reason_code=0x10, subscribers=False, reply_by=reply_by
    )._replace(finished_at=None if reply_by else at, **fields)


async def move(store: Store, before: Message, after: Message) -> bool | Message:
    return await single(store.messages.move([Move(before, after, now())]))


async def published(store: Store, **fields: Any) -> Message:
    """A message that the broker has, and its device, too."""
    message = await publishing(store, **fields)
    after = acknowledged_by_broker(message, reason_code=0, subscribers=True)
    assert await move(store, message, after) is True
    return after


async def found(store: Store, message: Message) -> Message:
    now_ = await store.messages.find(message.id)
    assert now_ is not None
    return now_


async def listed(store: Store, message: Message) -> list[tuple[Status | None, str, int, bool]]:
    return [
        (each.reply.status, json.loads(each.reply.payload), each.reply.times, each.reply.late)
        for each in await store.replies.of_message(message.id)
    ]


async def unmatched(store: Store, imei: str | None = None, reach: Reach = EVERYWHERE) -> list[Listed]:
    page, following = await store.replies.unmatched(imei, reach, before=None, limit=1000)
    assert following is None
    return page


async def take(store: Store, at: int) -> Taken:
    return await store.queue.take(f"{PROCESS}.t{at}", 100, at)


async def test_a_reply_is_stored_with_its_message(store: Store) -> None:
    message = await published(store)
    [receipt] = await reply(store, received('{"status":"ok","result":7}', message))

    after = await found(store, message)
    assert receipt == Receipt(Status.PUBLISHED, after, MatchedBy.CORRELATION, None, again=False)
    stands = standing(after)
    assert stands is not None
    assert (after.status, after.finished_at, json.loads(stands.payload)) == (
        SUCCEEDED,
        stands.at,
        {"status": "ok", "result": 7},
    )
    assert await listed(store, message) == [(SUCCEEDED, {"status": "ok", "result": 7}, 1, False)]


async def test_a_reply_may_come_before_its_puback_is_committed(store: Store) -> None:
    message = await publishing(store)
    await reply(store, received("ok", message))
    answered = await found(store, message)
    assert (answered.status, answered.claim, answered.published_at) == (SUCCEEDED, None, None)

    after = acknowledged_by_broker(message)
    moved = await move(store, message, after)

    stands = await found(store, message)
    assert moved == stands
    assert stands == answered._replace(
        published_at=after.published_at, reason_code=after.reason_code, subscribers=after.subscribers
    )
    assert await move(store, message, after) == stands  # its answer was lost


async def test_progress_before_the_puback_leaves_the_time_that_it_set(store: Store) -> None:
    message = await publishing(store)
    [receipt] = await reply(store, received("push_down running"))
    assert receipt.message is not None
    reply_by = receipt.message.reply_by

    moved = await move(store, message, acknowledged_by_broker(message))

    assert isinstance(moved, Message)
    assert (moved.status, moved.reply_by, moved.finished_at) == (ACKNOWLEDGED, reply_by, None)
    assert moved.published_at is not None


async def test_a_move_of_many_finds_the_one_that_was_answered(store: Store) -> None:
    several = [await publishing(store) for _ in range(4)]
    await reply(store, received("ok", several[2]))
    gone = several[1]._replace(id=new_message().id)

    moves = [Move(each, acknowledged_by_broker(each), now()) for each in (*several, gone)]
    moved = await store.messages.move(moves)

    assert moved[:2] == [True, True]
    assert moved[2] == await found(store, several[2])
    assert moved[3:] == [True, False]


@pytest.mark.parametrize(
    "after",
    [
        lambda message: message.moved(Status.QUEUED, claim=None, possible_duplicate=True),
        lambda message: message.moved(Status.QUEUED, claim=None, attempts=0),
        lambda message: message.moved(Status.UNCONFIRMED, claim=None, reason="link_lost", finished_at=1),
        lambda message: message.moved(Status.REJECTED, claim=None, reason="not_authorized", finished_at=1),
        lambda message: message.moved(Status.EXPIRED, claim=None, reason="expired", finished_at=1),
    ],
)
async def test_no_other_end_of_an_attempt_counts_behind_a_reply(store: Store, after: Any) -> None:
    message = await publishing(store)
    await reply(store, received("ok", message))
    answered = await found(store, message)

    assert await move(store, message, after(message)) == answered
    assert await found(store, message) == answered


async def test_a_reply_and_the_puback_meet_in_one_commit(store: Store) -> None:
    message = await publishing(store)
    after = acknowledged_by_broker(message)
    receiving = asyncio.ensure_future(store.replies.receive([received("ok", message)]))
    await asyncio.sleep(0)

    moved = await move(store, message, after)

    [receipt] = await receiving
    assert (moved, receipt.before) == (True, Status.PUBLISHED)  # type: ignore[union-attr]
    assert (await found(store, message)).published_at == after.published_at


async def test_a_reply_between_two_attempts_ends_the_message(store: Store) -> None:
    message = await publishing(store)
    waiting = message.moved(Status.QUEUED, claim=None, possible_duplicate=True)
    assert await move(store, message, waiting) is True

    await reply(store, received("ok", message))

    assert (await found(store, message)).status is SUCCEEDED
    assert not (await take(store, now())).messages


async def test_a_reply_outranks_a_cancellation(store: Store) -> None:
    message = await publishing(store)
    waiting = message.moved(Status.QUEUED, claim=None, possible_duplicate=True)
    assert await move(store, message, waiting) is True
    [cancelled] = await store.messages.cancel([cancelling(message.id, 1)], asyncio.get_running_loop().time() + 30)
    assert cancelled is not None

    await reply(store, received("done", message), received('{"status":"failed"}', message))

    after = await found(store, message)
    assert (after.status, after.reason) == (SUCCEEDED, None)
    assert await listed(store, message) == [(SUCCEEDED, "done", 1, True), (FAILED, {"status": "failed"}, 1, True)]


async def test_what_was_answered_is_not_cancelled(store: Store) -> None:
    message = await published(store)
    await reply(store, received("ok", message))
    [cancelled] = await store.messages.cancel([cancelling(message.id, 1)], asyncio.get_running_loop().time() + 30)

    assert cancelled is not None
    assert not cancelled.won  # type: ignore[union-attr]
    assert (await found(store, message)).status is SUCCEEDED


async def test_what_was_answered_is_not_taken_over(store: Store) -> None:
    message = await publishing(store, claim="feedfeedfeedfeed.1")
    await reply(store, received("ok", message))

    assert await store.queue.settle(PROCESS, now()) == 0
    assert (await found(store, message)).status is SUCCEEDED


async def test_a_reply_that_does_not_come_is_given_up(store: Store) -> None:
    awaited, open_, unasked = await published(store), await published(store), await published(store, reply_within=None)
    await reply(store, received('{"status":"running"}', open_))
    assert awaited.reply_by is not None
    early = await take(store, awaited.reply_by - 1)
    assert early.next_at == awaited.reply_by

    reply_by = (await found(store, open_)).reply_by
    assert reply_by is not None
    over = await take(store, reply_by)

    assert sorted((each.id, each.before, each.after, each.reason) for each in over.others) == sorted(
        (each.id, before, Status.TIMED_OUT, "no_reply")
        for each, before in [(awaited, Status.PUBLISHED), (open_, ACKNOWLEDGED)]
    )
    assert over.next_at is None
    given_up = await found(store, awaited)
    assert (given_up.status, given_up.reason, given_up.finished_at) == (Status.TIMED_OUT, "no_reply", reply_by)
    assert (await found(store, unasked)).status is Status.PUBLISHED
    assert not (await take(store, reply_by + 1)).others  # once


async def test_a_late_reply_outranks_a_time_out(store: Store) -> None:
    message = await published(store)
    assert message.reply_by is not None
    await take(store, message.reply_by)

    await reply(store, received("17 litres", message), received('{"status":"running"}', message))
    again = await found(store, message)
    assert again.status is SUCCEEDED  # text with correlation data

    other = await published(store)
    assert other.reply_by is not None
    await take(store, other.reply_by)
    await reply(store, received('{"status":"running"}', other, at=other.reply_by + 5))
    again = await found(store, other)
    assert (again.status, again.reason, again.finished_at) == (ACKNOWLEDGED, None, None)
    assert again.reply_by == other.reply_by + 5 + WITHIN
    await take(store, again.reply_by)
    assert (await found(store, other)).status is Status.TIMED_OUT
    await reply(store, received('{"status":"done"}', other, at=again.reply_by + 1))
    assert (await found(store, other)).status is SUCCEEDED
    assert await listed(store, other) == [
        (ACKNOWLEDGED, {"status": "running"}, 1, True),
        (SUCCEEDED, {"status": "done"}, 1, True),
    ]


async def test_the_same_reply_again_is_one(store: Store) -> None:
    message = await published(store)
    one = received('{"status":"ok"}', message)
    first = await reply(store, one, one)
    second = await reply(store, one._replace(at=one.at + 500))

    after = await found(store, message)
    assert [each.again for each in first + second] == [False, True, True]
    assert (after.status, after.finished_at) == (SUCCEEDED, one.at)
    assert await listed(store, message) == [(SUCCEEDED, {"status": "ok"}, 3, False)]


async def test_contradictory_replies_are_listed(store: Store) -> None:
    message = await published(store)
    for word in ("failed", "ok", "running", "ok", "failed"):
        await reply(store, received(json.dumps({"status": word}), message))

    assert (await found(store, message)).status is FAILED
    assert await listed(store, message) == [
        (FAILED, {"status": "failed"}, 2, False),
        (SUCCEEDED, {"status": "ok"}, 2, True),
        (ACKNOWLEDGED, {"status": "running"}, 1, True),
    ]


async def test_each_sign_of_progress_awaits_the_next(store: Store) -> None:
    message = await published(store)
    at = now()
    running = received('{"status":"running"}', message, at=at)
    await reply(store, received('{"status":"received"}', message, at=at), running)

    await reply(store, running._replace(at=at + 1000))
    assert (await found(store, message)).reply_by == at + 1000 + WITHIN
    await reply(store, received('{"status":"received"}', message, at=at + 1500))  # listed, and said again
    assert (await found(store, message)).reply_by == at + 1500 + WITHIN
    await reply(store, running._replace(at=at + 2000, is_repeated=True))  # the broker's repetition says nothing new
    assert (await found(store, message)).reply_by == at + 1500 + WITHIN
    assert await listed(store, message) == [
        (ACKNOWLEDGED, {"status": "received"}, 2, False),
        (ACKNOWLEDGED, {"status": "running"}, 3, False),
    ]


async def test_a_reply_in_order_finds_its_message(store: Store) -> None:
    await published(store, micro_op="push_up")
    message = await published(store, created_at=0, id="00000000-0000-7000-8000-000000000001")  # long ago, and open
    [receipt] = await reply(store, received("push_down failed: dry"))

    assert (receipt.by, receipt.before) == (MatchedBy.ORDER, Status.PUBLISHED)
    assert (await found(store, message)).status is FAILED


async def test_two_of_one_operation_are_told_apart_by_id_alone(store: Store) -> None:
    one, other = await published(store), await published(store)
    receipts = await reply(store, received("push_down ok"), received("ok", one), received("push_down ok"))

    assert [each.unmatched for each in receipts] == [Unmatched.AMBIGUOUS, None, None]
    assert {(await found(store, each)).status for each in (one, other)} == {SUCCEEDED}


async def test_order_says_nothing_behind_a_time_out(store: Store) -> None:
    message = await published(store)
    assert message.reply_by is not None
    await take(store, message.reply_by)

    soon, late = (received("push_down ok", at=message.reply_by + wait) for wait in (29_999, 30_000))

    assert [each.unmatched for each in await reply(store, soon, late)] == [Unmatched.ORDER_OFF, None]
    assert (await found(store, message)).status is SUCCEEDED


async def test_what_the_broker_repeats_does_not_answer_the_next_message(store: Store) -> None:
    first = await published(store)
    received_ = received("push_down ok", packet_id=7)
    done = received("push_down done", packet_id=9)
    await reply(store, received("push_down running", packet_id=6), received_)
    second = await published(store)

    again = received_._replace(is_repeated=True)
    progress = received("push_down running", packet_id=6, is_repeated=True)
    receipts = await reply(store, progress, again)

    assert [(each.message and each.message.id, each.again) for each in receipts] == [(first.id, True)] * 2
    assert (await found(store, second)).status is Status.PUBLISHED
    # It may be the same in another packet, which was not received before.
    await reply(store, again._replace(packet_id=8))
    assert (await found(store, second)).status is SUCCEEDED
    assert [each.unmatched for each in await reply(store, done)] == [Unmatched.NO_CANDIDATE]


async def test_our_own_commands_are_no_replies(store: Store) -> None:
    message = await published(store)
    answered = await published(store)
    await reply(store, received("ok", answered))
    echo = received("push_down", topic=message.topic)
    [nothing] = await reply(store, echo)
    [named] = await reply(store, received("push_down", message, topic=message.topic))

    assert nothing == named == Receipt(None, None, None, None, again=False)
    assert (await found(store, message)).status is Status.PUBLISHED
    assert await unmatched(store) == []


async def test_unmatched_replies_are_kept_with_their_reason(store: Store) -> None:
    message, unsent = await published(store), new_message(DEVICE, Status.QUEUED, attempts=0, claim=None)
    await add_one(store, unsent)
    foreign = received("ok", message, device=OTHER)
    await reply(
        store,
        foreign,
        received("ok", new_message()),
        received("ok", unsent),
        received("push_up ok"),
        received("ok", message, device=None, topic="devices//reply"),
        foreign,
    )

    kept = await unmatched(store)
    assert [(each.imei, each.reason, each.reply.times) for each in reversed(kept)] == [
        (OTHER, Unmatched.FOREIGN_DEVICE, 2),
        (DEVICE, Unmatched.UNKNOWN_MESSAGE, 1),
        (DEVICE, Unmatched.NOT_SENT, 1),
        (DEVICE, Unmatched.NO_CANDIDATE, 1),
        ("", Unmatched.NO_DEVICE, 1),
    ]
    assert {each.reply.matched_by for each in kept} == {None}
    assert await listed(store, message) == []
    assert [each.imei for each in await unmatched(store, OTHER)] == [OTHER]
    assert [each.imei for each in await unmatched(store, None, Reach(devices=(f"{DEVICE[:-1]}?",)))] == [DEVICE] * 3 + [
        OTHER
    ]
    assert [each.imei for each in await unmatched(store, None, Reach(devices=(OTHER,)))] == [OTHER]


async def test_unmatched_replies_come_in_pages(store: Store) -> None:
    await reply(store, *(received(f"{number}", device=None, topic=str(number)) for number in range(5)))
    texts: list[object] = []
    before: int | None = None
    for _ in range(3):
        page, before = await store.replies.unmatched(None, EVERYWHERE, before=before, limit=2)
        texts += [each.topic for each in page]

    assert (texts, before) == ([str(number) for number in (4, 3, 2, 1, 0)], None)


@pytest.mark.parametrize(
    "payload",
    [b"\0\x01\x1b[2J", "\u202e\u200f\ufeff".encode(), b"\xff" * 1_000_000, b"[" * 100_000, b'"\\ud800"', b'\\"{},NULL'],
)
async def test_hostile_payloads_are_stored_and_hurt_nobody(store: Store, payload: bytes) -> None:
    message, other = await published(store), await published(store)
    received_ = read_reply(
        payload, message.id.encode(), [("status", "o\u202ek\x1b")], device=DEVICE, topic="t", at=now()
    )
    nobody = read_reply(payload, None, [("status", "\x1b")], device=None, topic="\0t\x1b\u202e", at=now())
    await reply(store, received_, nobody, received("ok", other), received_._replace(sha256="0" * 64))

    assert (await found(store, other)).status is SUCCEEDED
    assert (await found(store, message)).status is ACKNOWLEDGED
    of_message = await store.replies.of_message(message.id)
    assert [each.reply.payload for each in of_message] == [received_.payload] * 2
    [kept] = await unmatched(store)
    assert (kept.reply.payload, kept.reply.size, kept.topic) == (nobody.payload, len(payload), r"\x00t\x1b\u202e")


async def test_the_replies_of_a_message_are_bounded(store: Store) -> None:
    message = await published(store)
    await reply(
        store, *(received(json.dumps({"status": "running", "n": n}), message) for n in range(MAX_OF_MESSAGE + 30))
    )

    kept = [json.loads(each.reply.payload)["n"] for each in await store.replies.of_message(message.id)]
    assert kept == list(range(30, MAX_OF_MESSAGE + 30))


async def test_unmatched_replies_are_bounded(store: Store, shared_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await reply(store, *(received(f"{n}") for n in range(MAX_OF_DEVICE + 5)), received("mine", device=OTHER))
    assert len(await unmatched(store, DEVICE)) == MAX_OF_DEVICE
    assert [json.loads(each.reply.payload) for each in await unmatched(store, OTHER)] == ["mine"]
    # In this process, as the bounds of the writer's cannot be changed.
    monkeypatch.setattr(replies_module, "MAX_UNMATCHED", 50)
    with open_engine(shared_url, Role.ADMINISTRATOR).begin() as connection:
        replies_module.RECEIVE.run(connection, [received("new", device=OTHER)])
        left = connection.execute(select(schema.replies.c.seq).order_by(schema.replies.c.seq)).scalars().all()
        assert len(left) == 50
        monkeypatch.setattr(replies_module, "MAX_UNMATCHED_BYTES", 100_000)
        monkeypatch.setattr(replies_module, "_FREED", 10_000)
        for number in range(10):
            replies_module.RECEIVE.run(connection, [received(str(number) * 30_000, device=OTHER)])
            size = connection.execute(select(func.sum(func.octet_length(schema.replies.c.payload)))).scalar_one()
            assert size <= 100_000
        newest = connection.execute(select(schema.replies.c.payload).order_by(schema.replies.c.seq.desc())).scalars()
        assert json.loads(newest.first() or "")[0] == "9"


async def test_replies_are_forgotten_with_their_message_and_unmatched_ones_after_a_week(store: Store) -> None:
    old, awaited = await published(store), await published(store)
    for word in ("received", "ok"):
        await reply(store, received(json.dumps({"status": word}), old))
    at = now() + UNMATCHED_KEPT
    await reply(store, received("a week old", at=at - UNMATCHED_KEPT), received("newer", at=at - UNMATCHED_KEPT + 1))

    assert [removed async for removed in store.retention.prune(at, at)] == [1]

    assert await listed(store, old) == []
    assert [json.loads(each.reply.payload) for each in await unmatched(store)] == ["newer"]
    assert (await found(store, awaited)).status is Status.PUBLISHED


async def test_a_reply_is_announced_also_where_its_message_has_it(store: Store) -> None:
    changes: list[Change] = []
    message = await published(store)
    store.changes.listen(changes.extend)
    one = received("ok", message)
    await reply(store, one)
    await reply(store, one)
    await reply(store, received("nobody's"))
    await asyncio.sleep(0)

    assert [(each.id, each.before, each.after, each.at) for each in changes if each.id == message.id] == [
        (message.id, Status.PUBLISHED, SUCCEEDED, one.at),
        (message.id, SUCCEEDED, SUCCEEDED, one.at),
    ]
    assert changes[-1].message == await found(store, message)


async def test_two_processes_write_the_same_messages_and_neither_fails(store: Store, shared_url: str) -> None:
    """PostgreSQL: moves of one writer and replies of another lock the same rows, in whatever order they were asked."""
    if shared_url.startswith("sqlite"):
        pytest.skip("SQLite has one writer")
    async with open_store(shared_url) as other:
        for _ in range(10):
            messages = [await publishing(store) for _ in range(20)]
            moves = [Move(each, acknowledged_by_broker(each), now()) for each in messages]
            moved, receipts = await asyncio.gather(
                store.messages.move(list(reversed(moves))),
                other.replies.receive([received("ok", each) for each in messages]),
            )
            assert not [each for each in (*moved, *receipts) if each is False or isinstance(each, NotSaved)]
            for each in messages:
                after = await found(store, each)
                assert (after.status, after.published_at is None) == (SUCCEEDED, False)


async def test_what_one_process_holds_is_timed_out_by_it_alone(store: Store, shared_url: str) -> None:
    message = await published(store)
    if shared_url.startswith("postgresql"):
        locked = select(schema.messages.c.seq).where(schema.messages.c.id == message.id).with_for_update()
        with open_engine(shared_url, Role.ADMINISTRATOR).begin() as connection:
            connection.execute(locked)
            assert not (await take(store, now() + WITHIN)).others
            connection.execute(update(schema.messages).values(status="succeeded", finished_at=now()))
    assert message.reply_by is not None
    timed_out = (await take(store, message.reply_by + 1)).others
    assert len(timed_out) == int(shared_url.startswith("sqlite"))
