"""Replies from the broker: read at once, committed in their order, and acknowledged only then."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from chapar.delivery import replies as replies_module
from chapar.delivery.replies import AT_ONCE, MAX_UNOWED, Incoming
from chapar.errors import NotSaved, OutcomeUnknown
from chapar.link.publication import Delivery
from chapar.link.topics import DeviceTopics
from chapar.model.message import Message, Status, new_id
from chapar.model.reply import Receipt, ReceivedReply, standing
from chapar.runtime.metrics import Metrics
from support.fakes import EPOCH, FakeClock, MemoryStore, until
from support.stores import measured, new_message

pytestmark = pytest.mark.asyncio


class Bench:
    """Incoming replies over a store in memory; what is acknowledged is known."""

    def __init__(self) -> None:
        self.store, self.clock, self.metrics = MemoryStore(), FakeClock(), Metrics()
        self.acknowledged: list[str] = []
        self.stored: list[list[ReceivedReply]] = []
        self.failures: list[BaseException | str] = []
        self.incoming = Incoming(self, DeviceTopics("devices/{imei}/reply"), self.clock, self.metrics)  # type: ignore[arg-type]

    async def receive(self, replies: Sequence[ReceivedReply]) -> list[Receipt | NotSaved]:
        """The store, as it is asked."""
        self.stored.append(list(replies))
        await asyncio.sleep(0)
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, str):
                return [NotSaved(failure)] * len(replies)
            raise failure
        return await self.store.replies.receive(replies)  # type: ignore[attr-defined, no-any-return]

    def published(self) -> Message:
        """What the broker acknowledged just now."""
        fields = {"id": new_id(self.clock.now_ns()), "claim": None, "reply_within": 1000, "created_at": EPOCH}
        return new_message("A", Status.PUBLISHED, **fields)

    def delivery(self, text: str, topic: str = "devices/A/reply", **fields: Any) -> Delivery:
        given: dict[str, Any] = {"qos": 1, "retain": False, "correlation_data": None, "user_properties": ()} | fields
        acknowledge = partial(self.acknowledged.append, json.dumps(text))
        return Delivery(topic=topic, payload=text.encode(), response_topic=None, acknowledge=acknowledge, **given)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.incoming.run())
        yield
        task.cancel()

    def counted(self, name: str) -> float:
        return measured(self.metrics, f"chapar_replies_{name}")


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_reply_is_acknowledged_once_it_is_committed(bench: Bench) -> None:
    message = bench.store.put(new_message("A", Status.PUBLISHED, claim=None, reply_within=1000, created_at=EPOCH))
    async with bench.running():
        bench.incoming.received([bench.delivery("push_down ok")])
        assert bench.acknowledged == []
        await until(lambda: bench.acknowledged)
    after = bench.store.now(message)
    assert (after.status, after.finished_at) == (Status.SUCCEEDED, EPOCH)
    assert bench.counted('matched_total{by="order"}') == 1


async def test_replies_are_committed_in_their_order_some_at_a_time(bench: Bench) -> None:
    texts = [str(number) for number in range(2 * AT_ONCE + 1)]
    bench.incoming.received([bench.delivery(text) for text in texts])
    async with bench.running():
        await until(lambda: len(bench.acknowledged) == len(texts))
    assert [len(batch) for batch in bench.stored] == [AT_ONCE, AT_ONCE, 1]
    assert bench.acknowledged == [json.dumps(text) for text in texts]
    assert bench.counted('unmatched_total{reason="no_candidate"}') == len(texts)


async def test_what_the_broker_had_retained_is_no_reply(bench: Bench) -> None:
    async with bench.running():
        bench.incoming.received([bench.delivery("push_down ok", retain=True)])
        assert bench.acknowledged == ['"push_down ok"']
    assert bench.stored == []
    assert bench.counted('ignored_total{why="retained"}') == 1


async def test_our_own_command_is_acknowledged_and_no_reply(bench: Bench) -> None:
    message = bench.store.put(new_message("A", Status.PUBLISHED, topic="devices/A/reply", created_at=EPOCH))
    async with bench.running():
        bench.incoming.received([bench.delivery("push_down")])
        await until(lambda: bench.acknowledged)
    assert bench.store.now(message) == message
    assert bench.counted('ignored_total{why="echo"}') == 1


@pytest.mark.parametrize("error", [NotSaved("a test says so."), OutcomeUnknown()])
async def test_nothing_is_acknowledged_that_is_not_committed(
    bench: Bench, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies_module, "_AGAIN", 0)
    bench.failures = [error] * 3
    async with bench.running():
        bench.incoming.received([bench.delivery("once")])
        await until(lambda: len(bench.stored) == 3)
        assert bench.acknowledged == []
        await until(lambda: bench.acknowledged)
    assert len(bench.stored) == 4


async def test_a_fault_in_between_loses_nothing_and_keeps_the_order(bench: Bench) -> None:
    bench.failures = [RuntimeError("a test says so.")]
    bench.incoming.received([bench.delivery("1"), bench.delivery("2"), bench.delivery("0", qos=0)])
    with pytest.raises(RuntimeError):
        await bench.incoming.run()
    bench.incoming.received([bench.delivery("3")])
    async with bench.running():  # as the guard of the loop begins it again
        await until(lambda: len(bench.acknowledged) == 4)
    assert bench.acknowledged == ['"1"', '"2"', '"3"', '"0"']


async def test_a_reply_that_no_database_takes_holds_nothing_up(bench: Bench) -> None:
    bench.failures = ["a test says so."]
    async with bench.running():
        bench.incoming.received([bench.delivery("poison")])
        await until(lambda: bench.acknowledged)
        bench.incoming.received([bench.delivery("good")])
        await until(lambda: len(bench.acknowledged) == 2)
    assert bench.counted('ignored_total{why="not_stored"}') == 1


async def test_no_more_wait_than_the_broker_may_send_ahead(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever sessions come and go while nothing can be committed: each sends again what was not acknowledged."""
    monkeypatch.setattr("chapar.delivery.replies.MAX_WAITING", 1000)
    for _ in range(3):
        bench.incoming.received([bench.delivery(str(number)) for number in range(1000)])
    async with bench.running():
        await until(lambda: len(bench.acknowledged) >= 1000)
    assert bench.acknowledged == [json.dumps(str(number)) for number in range(1000)]


async def test_replies_of_qos_0_that_nobody_can_store_are_dropped_and_counted(bench: Bench) -> None:
    bench.incoming.received([bench.delivery(str(number), qos=0) for number in range(MAX_UNOWED + 3)])
    bench.incoming.received([bench.delivery("owed")])
    async with bench.running():
        await until(lambda: len(bench.acknowledged) == MAX_UNOWED + 1)
    assert '"owed"' in bench.acknowledged[: AT_ONCE + 1]
    assert bench.counted('ignored_total{why="too_many"}') == 3


async def test_what_another_process_receives_is_forgotten(bench: Bench) -> None:
    bench.incoming.received([bench.delivery("mine"), bench.delivery("mine", qos=0)])
    bench.incoming.forget()
    async with bench.running():
        bench.incoming.received([bench.delivery("later")])
        await until(lambda: bench.acknowledged)
    assert bench.acknowledged == ['"later"']


async def test_a_delivery_that_comes_again_is_known_by_its_packet_id(bench: Bench) -> None:
    first = bench.store.put(bench.published())
    async with bench.running():
        bench.incoming.received([bench.delivery("push_down ok", packet_id=7)])
        await until(lambda: len(bench.acknowledged) == 1)
        second = bench.store.put(bench.published())
        bench.incoming.received([bench.delivery("push_down ok", packet_id=7, duplicate=True)])
        await until(lambda: len(bench.acknowledged) == 2)
    assert bench.store.now(second).status is Status.PUBLISHED
    reply = standing(bench.store.now(first))
    assert reply is not None
    assert reply.times == 2
