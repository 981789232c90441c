"""What a caller is answered who waits for the device: the table of answers, and how its key is answered again."""

import asyncio
import json
from collections.abc import Sequence
from itertools import product

import pytest

from chapar.delivery.idempotency import Replay, Use
from chapar.delivery.outcomes import not_sent
from chapar.errors import FieldInvalid, KeyInFlight, KeyMismatch, MessageNotFound, NotSent, OutOfReach, ScopeMissing
from chapar.model.acceptance import IdempotencyKey
from chapar.model.change import Change
from chapar.model.message import AT_BROKER, UNFINISHED, Command, Message, Status, Wait
from chapar.model.principal import Caller, Principal, Reach, Scope
from chapar.model.reply import MatchedBy, Reply, packed
from chapar.store.idempotency import keep_keys
from chapar.web.api.sending import Answer, answer_to
from support.benches import USE, Bench
from support.callers import CALLER
from support.fakes import EPOCH, PROCESS, until
from support.stores import new_message

ASKED = Command("A", "push_down", wait=Wait.DEVICE)


# For each state: what is answered to who does not wait or waits for the broker, and to who waits for the device. The
# third is for both where an earlier attempt may have arrived.
TABLE = {
    Status.SCHEDULED: (202, 202, 202),
    Status.QUEUED: (202, 202, 202),
    Status.PUBLISHING: (202, 202, 202),
    Status.PUBLISHED: (201, 202, None),
    Status.ACKNOWLEDGED: (201, 202, None),
    Status.SUCCEEDED: (201, 201, 201),
    Status.FAILED: (201, 201, 201),
    Status.TIMED_OUT: (201, 202, None),
    Status.REJECTED: (406, 406, 202),
    Status.UNCONFIRMED: (202, 202, 202),
    Status.EXPIRED: (406, 406, 202),
    Status.CANCELLED: (406, 406, 202),
}


def reply_of(status: Status) -> str:
    reply = Reply(EPOCH, status, "", '"dry"', 3, "", truncated=False, matched_by=MatchedBy.CORRELATION)
    return packed(reply)


def answer(message: Message, wait: Wait) -> Answer:
    return answer_to(wait, "en", not_sent(message) or message)


@pytest.mark.parametrize("status", sorted(Status))
@pytest.mark.parametrize("wait", sorted(Wait))
def test_the_table_of_answers(status: Status, wait: Wait) -> None:
    assert {*TABLE} == {*Status}
    expected = TABLE[status][wait is Wait.DEVICE]
    message = new_message(status=status)
    assert answer(message, wait).status == expected
    in_doubt = message._replace(possible_duplicate=True)
    assert answer(in_doubt, wait).status == (TABLE[status][2] or expected)


@pytest.mark.parametrize(("status", "wait"), [*product((Status.ACKNOWLEDGED, Status.SUCCEEDED, Status.FAILED), Wait)])
def test_an_answer_shows_the_reply_where_there_is_one(status: Status, wait: Wait) -> None:
    message = new_message(status=status, micro_op='say "reply":null', reply=reply_of(status))
    given = answer(message, wait)
    body = json.loads(given.body)
    assert body["reply"] == {
        "at": "2027-01-15T08:00:00.000Z",
        "status": status,
        "payload": "dry",
        "matched_by": "correlation",
        "late": False,
    }
    assert (body["status"], "subscribers" in body) == (status, given.status == 201)
    assert "reply" not in json.loads(answer(message._replace(reply=None), wait).body)


class DeviceBench(Bench):
    """A gateway whose devices a test plays."""

    def answered(self, message: Message, status: Status, **fields: object) -> Message:
        """A message is moved as a reply or the time moves it."""
        now = self.store.put(self.store.now(message)._replace(status=status, **fields))
        self.store.changes.announce([Change(now.id, now.imei, message.status, status, now.reason, EPOCH, now)])
        return now

    def keep(self, key: IdempotencyKey) -> None:
        """A key is there, whose first request was not answered."""
        with self.store.database._connection.begin():
            keep_keys(self.store.database._connection, [key])

    async def published(self) -> Message:
        """The one message, which the broker has."""
        await until(lambda: self.link.waiting)
        self.link.answer(self.link.ids[-1], 0x00)
        await until(lambda: self.stored()[-1].status is Status.PUBLISHED)
        return self.stored()[-1]

    async def keyed(self, use: Use = USE, command: Command = ASKED) -> Answer | Replay:
        return await self.messaging.send_once(CALLER, command, use, lambda sent: answer_to(Wait.DEVICE, "en", sent))


@pytest.fixture
async def bench() -> DeviceBench:
    return DeviceBench()


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED])
async def test_who_waits_for_the_device_goes_on_with_its_final_word(bench: DeviceBench, status: Status) -> None:
    sending = bench.in_flight(ASKED)
    message = await bench.published()
    assert message.reply_within == 30_000
    bench.answered(message, Status.ACKNOWLEDGED)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not sending.done()
    bench.answered(message, status, reply=reply_of(status))
    assert (await sending).reply == reply_of(status)


@pytest.mark.parametrize("status", [Status.TIMED_OUT, Status.UNCONFIRMED])
async def test_who_waits_for_the_device_goes_on_when_no_word_is_awaited_any_more(
    bench: DeviceBench, status: Status
) -> None:
    sending = bench.in_flight(ASKED)
    message = await bench.published()
    bench.answered(message, status)
    assert (await sending).status is status


async def test_who_waits_for_the_device_does_not_wait_for_what_is_due_later(bench: DeviceBench) -> None:
    sent = await bench.send(ASKED._replace(deliver_at=EPOCH + 60_000))
    assert sent.status is Status.SCHEDULED
    assert sent.reply_within == 30_000


async def test_who_waits_for_the_device_is_refused_what_was_not_sent(bench: DeviceBench) -> None:
    bench.link.up = False
    with pytest.raises(NotSent):
        await bench.send(ASKED)


async def test_when_time_is_up_the_message_is_answered_as_it_stands(bench: DeviceBench) -> None:
    sending = bench.in_flight(ASKED._replace(patience=0.05))
    message = await bench.published()
    assert await sending == message
    bench.store.readers.failing = True
    sending = bench.in_flight(ASKED._replace(imei="another", patience=0.05))
    await bench.published()
    assert (await sending).status is Status.PUBLISHING, "as it was known last, where the database cannot be read"


@pytest.mark.parametrize(
    ("wait", "reply_within", "seconds"),
    [
        (Wait.BROKER, None, 5),
        (Wait.BROKER, 60_000, 5),
        (Wait.DEVICE, None, 35),
        (Wait.DEVICE, 1000, 6),
        (Wait.DEVICE, 295_000, 300),
        (Wait.DEVICE, 86_400_000, 300),
    ],
)
async def test_how_long_who_does_not_say_so_waits(
    bench: DeviceBench, wait: Wait, reply_within: int | None, seconds: float
) -> None:
    assert bench.sending.patience(wait, new_message(reply_within=reply_within)) == seconds


async def test_the_database_has_no_longer_where_the_device_is_waited_for(bench: DeviceBench) -> None:
    deadlines: list[float] = []
    submit = bench.store.commits.submit

    def submitting(kind: object, arguments: Sequence[object], deadline: float | None = None) -> object:
        deadlines.append(deadline or 0)
        return submit(kind, arguments, deadline)  # type: ignore[arg-type]

    bench.store.commits.submit = submitting  # type: ignore[method-assign,assignment]
    now = asyncio.get_running_loop().time()
    sending = bench.in_flight(ASKED._replace(patience=300))
    await until(lambda: bench.link.waiting)
    assert now + 4 < deadlines[0] < now + 60
    sending.cancel()


async def test_any_number_follow_a_message_and_leave_it_as_it_is(bench: DeviceBench) -> None:
    message = bench.store.put(new_message(status=Status.PUBLISHED, claim=None))
    follow = bench.messaging.follow
    waiting = [asyncio.create_task(follow(CALLER, message.id, Wait.DEVICE, 60)) for _ in range(5)]
    hung_up = asyncio.create_task(follow(CALLER, message.id, Wait.DEVICE, 60))
    assert await follow(CALLER, message.id, Wait.BROKER, 60) == message
    assert await follow(CALLER, message.id, Wait.NONE, 60) == message
    assert await follow(CALLER, message.id, Wait.DEVICE, 0.02) == message
    hung_up.cancel()
    await asyncio.gather(hung_up, return_exceptions=True)
    assert bench.stored() == [message]
    done = bench.answered(message, Status.SUCCEEDED)
    assert await asyncio.gather(*waiting) == [done] * 5
    assert not bench.waiters._waiting
    assert not bench.waiters._timed


async def test_an_end_between_the_look_and_the_wait_is_not_missed(
    bench: DeviceBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = bench.store.put(new_message(status=Status.PUBLISHED, claim=None))
    find = bench.store.messages.find

    async def finding(message_id: str) -> Message | None:
        found = await find(message_id)
        bench.answered(message, Status.FAILED)
        return found

    monkeypatch.setattr(bench.store.messages, "find", finding)
    assert (await bench.messaging.follow(CALLER, message.id, Wait.DEVICE, 60)).status is Status.FAILED


async def test_nobody_waits_for_what_is_out_of_reach(bench: DeviceBench) -> None:
    message = bench.store.put(new_message("A", Status.PUBLISHED, claim=None))
    caller = Caller(Principal("key:1", "one", frozenset({Scope.READ}), Reach(("B",))), "")
    with pytest.raises(MessageNotFound):
        await bench.messaging.follow(caller, message.id, Wait.DEVICE, 60)
    assert not bench.waiters._waiting


async def test_a_key_is_in_flight_until_the_broker_has_the_message(bench: DeviceBench) -> None:
    first = asyncio.create_task(bench.keyed())
    await asyncio.sleep(0)
    with pytest.raises(KeyInFlight):
        await bench.keyed()
    await until(lambda: bench.link.waiting)
    with pytest.raises(KeyInFlight):
        await bench.keyed()
    message = await bench.published()
    with pytest.raises(KeyMismatch):
        await bench.keyed(USE._replace(fingerprint="another"))
    again = await bench.keyed()
    assert (type(again), again.status) == (Replay, 202)
    assert not first.done()
    bench.answered(message, Status.SUCCEEDED, reply=reply_of(Status.SUCCEEDED))
    given = await first
    assert (type(given), given.status) == (Answer, 201)
    again = await bench.keyed()
    assert (type(again), again.status) == (Replay, 201)
    assert json.loads(again.body)["reply"]["status"] == "succeeded"
    assert len(bench.stored()) == 1


async def test_a_key_that_was_answered_in_time_learns_of_a_later_reply(bench: DeviceBench) -> None:
    sending = asyncio.create_task(bench.keyed(command=ASKED._replace(patience=0.02)))
    message = await bench.published()
    assert (await sending).status == 202
    assert [(await bench.keyed()).status for _ in range(2)] == [202, 202]
    bench.answered(message, Status.TIMED_OUT)
    assert json.loads((await bench.keyed()).body)["status"] == "timed_out"
    bench.answered(message, Status.FAILED)
    assert (await bench.keyed()).status == 201


async def test_a_key_that_was_answered_before_the_broker_has_the_message_gets_that_again(bench: DeviceBench) -> None:
    later = ASKED._replace(deliver_at=EPOCH + 60_000)
    assert (await bench.keyed(command=later)).status == 202
    assert type(await bench.keyed(command=later)) is Replay
    assert len(bench.stored()) == 1


async def test_a_key_whose_caller_hung_up_is_in_flight_until_the_broker_has_the_message(bench: DeviceBench) -> None:
    sending = asyncio.create_task(bench.keyed())
    await until(lambda: bench.link.waiting)
    sending.cancel()
    await bench.sending.drain()
    with pytest.raises(KeyInFlight):
        await bench.keyed()
    message = await bench.published()
    assert (await bench.keyed()).status == 202
    bench.answered(message, Status.SUCCEEDED)
    assert (await bench.keyed()).status == 201
    assert len(bench.stored()) == 1


@pytest.mark.parametrize("status", sorted(Status))
async def test_a_key_of_another_process_is_answered_as_its_message_stands(bench: DeviceBench, status: Status) -> None:
    message = bench.store.put(new_message("A", status, claim=None, created_at=EPOCH))
    key = IdempotencyKey(*USE, message.id, "another process", None, None, EPOCH + 1000)
    bench.keep(key)
    if status in UNFINISHED:
        with pytest.raises(KeyInFlight):
            await bench.keyed()
    else:
        given = await bench.keyed()
        assert (type(given), given.status) == (Replay, TABLE[status][1])
    assert bench.link.published == []


async def test_a_key_that_nobody_will_answer_is_answered_in_the_end(bench: DeviceBench) -> None:
    message = bench.store.put(new_message("A", Status.QUEUED, claim=None, created_at=EPOCH - 600_000))
    bench.keep(IdempotencyKey(*USE, message.id, PROCESS, None, None, EPOCH + 1000))
    assert (await bench.keyed()).status == 202


async def test_a_database_that_cannot_be_read_is_said(bench: DeviceBench) -> None:
    first = asyncio.create_task(bench.keyed())
    await until(lambda: bench.link.waiting)
    bench.store.readers.failing = True
    with pytest.raises(Exception, match="test"):
        await bench.keyed()
    first.cancel()


async def test_a_repetition_asks_for_what_the_first_asked_for(bench: DeviceBench) -> None:
    first = bench.store.put(
        new_message(
            "A", Status.TIMED_OUT, claim=None, reply_within=5000, condition="contact", collapse_key="valve", urgent=True
        )
    )
    again = await bench.messaging.repetition(CALLER, first.id, Wait.DEVICE, 7)
    assert again._replace(expires_in=None) == Command(
        "A",
        "push_down",
        wait=Wait.DEVICE,
        patience=7,
        origin=first.id,
        reply_within=5,
        condition=again.condition,
        collapse_key="valve",
        urgent=True,
    )
    assert again.condition == "contact"


async def test_a_retained_message_is_not_repeated_for_the_devices_word(bench: DeviceBench) -> None:
    first = bench.store.put(new_message("A", Status.PUBLISHED, claim=None, retain=True))
    again = await bench.messaging.repetition(CALLER, first.id, Wait.DEVICE, None)
    with pytest.raises(FieldInvalid):
        await bench.messaging.send(CALLER, again)


async def test_rights_are_asked_for_each_message_of_a_list(bench: DeviceBench) -> None:
    caller = Caller(Principal("key:1", "one", frozenset({Scope.SEND}), Reach(("A",))), "")
    plain = Command("A", "stop", wait=Wait.NONE)
    sent = await bench.messaging.send_all(
        caller, [plain, plain._replace(urgent=True), plain._replace(purge=True), plain._replace(imei="B")]
    )
    assert list(map(type, sent)) == [Message, ScopeMissing, ScopeMissing, OutOfReach]


def test_what_the_broker_has_is_proven_to_who_waits_for_it() -> None:
    assert {status for status in AT_BROKER if TABLE[status][0] == 202} == {Status.UNCONFIRMED}
