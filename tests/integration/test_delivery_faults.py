"""A fault of ours at one message, over real databases: its row reaches a final state, and the others are delivered."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from chapar.model.message import Message, Status
from chapar.runtime.clock import Clock
from chapar.store.store import Store
from support.fakes import FakeLink, dispatcher_of
from support.stores import add_one, new_message, open_store

MESSAGES = 20


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with open_store(database_url) as store:
        yield store


async def delivered(store: Store, link: FakeLink, faulty: Message, others: int) -> list[Message]:
    """What became of one message among others, as the database says."""
    real: Any = (store, link, Clock())
    dispatcher, _, _ = dispatcher_of(*real)
    messages = [new_message() for _ in range(others)]
    messages.insert(others // 2, faulty)
    for message in messages:
        await add_one(store, message)
    link.answers.extend([0x00] * len(messages))
    for message in messages:
        dispatcher.deliver_direct(message, None)
    await dispatcher.drain()
    return await store.messages.find_all([message.id for message in messages])


async def test_a_text_that_cannot_be_encoded_is_rejected_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = Message.payload

    def encoded(message: Message) -> Any:
        if message.micro_op == "unspeakable":
            return "\ud800".encode()
        return payload.fget(message)  # type: ignore[attr-defined]

    monkeypatch.setattr(Message, "payload", property(encoded))
    faulty = new_message(micro_op="unspeakable")
    found = {message.id: message for message in await delivered(store, FakeLink(), faulty, MESSAGES)}
    after = found.pop(faulty.id)
    assert (after.status, after.reason, after.attempts) == (Status.REJECTED, "internal_error", 0)
    assert {message.status for message in found.values()} == {Status.PUBLISHED}
    assert [attempt.outcome for attempt in await store.messages.attempts(faulty.id)] == ["internal_error"]


async def test_an_end_that_no_column_takes_is_an_unknown_outcome(store: Store) -> None:
    faulty = new_message(at_most_once=True)

    class Answers(FakeLink):
        def answer(self, message_id: str, answer: int | Exception) -> None:
            super().answer(message_id, answer if message_id != faulty.id else 2**70)

    found = {message.id: message for message in await delivered(store, Answers(), faulty, MESSAGES)}
    after = found.pop(faulty.id)
    assert (after.status, after.reason) == (Status.UNCONFIRMED, "internal_error")
    assert {message.status for message in found.values()} == {Status.PUBLISHED}
