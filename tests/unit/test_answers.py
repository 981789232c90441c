"""What became of publications comes in lists: each answer once, and all that came together in one."""

import asyncio
from collections.abc import Sequence

import mqtt5
import pytest

from chapar.errors import LinkDown, LinkLost, PublicationInvalid, TakenBack
from chapar.link.answers import Answer, Answers
from chapar.link.publication import Publication
from chapar.link.publisher import MAX_BATCH
from support.links import connected, publication


def publications(count: int, *, topics: int = 100) -> list[Publication]:
    return [publication(str(number), f"devices/{number % topics}") for number in range(count)]


def pubacks(numbers: Sequence[int]) -> bytes:
    return b"".join(bytes([0x40, 2, *number.to_bytes(2, "big")]) for number in numbers)


def reading(answers: Answers) -> tuple[list[list[Answer]], asyncio.Task[None]]:
    """The lists that a reader has got so far, and the reader."""
    lists: list[list[Answer]] = []

    async def read() -> None:
        async for come in answers:
            lists.append(come)  # noqa: PERF401 - as they come

    return lists, asyncio.create_task(read())


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_what_one_read_of_the_socket_acknowledges_comes_as_one_list() -> None:
    session, _ = connected()
    sent = publications(10)
    lists, reader = reading(session.publish(sent))
    await turn()
    assert lists == []
    session.data_received(pubacks([1, 2, 3, 4]))
    await turn()
    session.data_received(pubacks([6, 5]) + b"\x40\x03\x00\x07\x87")
    await turn()
    assert not reader.done()
    session.data_received(pubacks([8, 9, 10]))
    await reader
    assert [[answer.publication for answer in come] for come in lists] == [
        sent[:4],
        [sent[5], sent[4], sent[6]],
        sent[7:],
    ]
    assert [answer.outcome for come in lists for answer in come] == [0] * 6 + [0x87] + [0] * 3


async def test_every_publication_of_a_list_has_exactly_one_answer() -> None:
    connack = mqtt5.ConnAckPacket(receive_max=4, retain_available=False).write()
    session, _ = connected(connack=connack)
    good, kept, gone, at_most_once = (publication(topic=name) for name in ("good", "kept", "gone", "QoS 0"))
    sent = [
        good,
        publication()._replace(retain=True),
        kept,
        publication(topic="x" * 70_000),
        gone,
        at_most_once._replace(qos=0),
        *(publication(topic="good") for _ in range(4)),
    ]
    lists, reader = reading(session.publish(sent))
    assert session.take_back(gone.message_id)
    await turn()
    session.data_received(pubacks([1]))
    session.data_received(b"\xe0\x01\x8b")
    await reader
    outcomes = {answer.publication.message_id: answer.outcome for come in lists for answer in come}
    assert len(outcomes) == sum(map(len, lists)) == len(sent)
    assert [type(outcomes[each.message_id]) for each in sent] == [
        int,
        PublicationInvalid,
        LinkLost,
        ValueError,
        TakenBack,
        int,
        LinkLost,
        LinkLost,
        LinkDown,
        LinkDown,
    ]


async def test_answers_wait_for_the_others_with_patience_until_all_have_come() -> None:
    session, _ = connected()
    answers = session.publish(publications(4))
    answers.patience = 60
    lists, reader = reading(answers)
    await turn()
    for number in (1, 2, 3):
        session.data_received(pubacks([number]))
        await turn()
    assert lists == []
    session.data_received(pubacks([4]))
    await reader
    assert [len(come) for come in lists] == [4]


async def test_answers_do_not_wait_for_others_that_do_not_come() -> None:
    session, _ = connected()
    answers = session.publish(publications(3))
    answers.patience = 0.001
    await turn()
    session.data_received(pubacks([1, 2]))
    assert len(await anext(answers)) == 2
    session.data_received(pubacks([3]))
    assert [len(come) async for come in answers] == [1]


async def test_without_a_session_all_are_answered_at_once() -> None:
    session, _ = connected()
    await session.close()
    sent = publications(3)
    [come] = [come async for come in session.publish(sent)]
    assert [each for each, _ in come] == sent
    assert all(isinstance(outcome, LinkDown) for _, outcome in come)


async def test_no_publications_have_no_answers() -> None:
    session, _ = connected()
    assert [come async for come in session.publish([])] == []


async def test_a_reader_that_was_cancelled_has_lost_nothing() -> None:
    session, _ = connected()
    answers = session.publish(publications(2))
    lists, reader = reading(answers)
    await turn()
    reader.cancel()
    await asyncio.wait([reader])
    session.data_received(pubacks([1, 2]))
    assert lists == []
    assert [len(come) async for come in answers] == [2]


@pytest.mark.parametrize("batch", [1, 200])
async def test_a_list_is_encoded_once_each_and_leaves_in_few_writes(
    monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    session, transport = connected(connack=mqtt5.ConnAckPacket(receive_max=1000).write())
    encoded, real = [], session._publisher.encode

    def counted(sent: Publication, packet_id: int) -> bytes:
        encoded.append(sent)
        return real(sent, packet_id)

    monkeypatch.setattr(session._publisher, "encode", counted)
    sent = publications(batch)
    session.publish(sent)
    await asyncio.sleep(0)
    assert encoded == sent
    assert len(transport.written) == 1


async def test_much_that_leaves_at_once_does_not_hold_the_loop() -> None:
    """One batch in a turn of the loop, also of QoS 0, which no window bounds."""
    session, transport = connected()
    session.publish([publication(b"x" * 1000, qos=0) for _ in range(1000)])
    turns = 0
    while session.waiting:
        await asyncio.sleep(0)
        turns += 1
        assert len(transport.written) == turns
        assert all(len(batch) < MAX_BATCH + 2000 for batch in transport.written)
    assert turns > 10
