import asyncio
from itertools import pairwise

import pytest

from chapar.errors import BrokerClosed, LinkDown, LinkLost, PublicationExpired, ReleaseRefused, TakenBack
from chapar.link.line import Outgoing
from chapar.link.window import LAST_PACKET_ID, Window
from support.links import Outcome, publication


def add(window: Window, *, qos: int = 1, payload: str = "x") -> asyncio.Future[int]:
    outcome = Outcome()
    window.add(publication(payload, qos=qos), outcome)
    return outcome.future


def leaving(window: Window, now: float = 0.0) -> Outgoing:
    following = window.next(now)
    assert following is not None
    window.written(following)
    return following


def send(window: Window) -> int:
    return leaving(window).packet_id


async def test_no_more_leave_than_the_window_holds() -> None:
    window = Window()
    window.size = 2
    outcomes = [add(window) for _ in range(3)]
    first, _ = send(window), send(window)
    assert window.next(0.0) is None
    assert (window.in_flight, window.waiting) == (2, 1)
    window.acknowledged(first, 0x10)
    assert window.met_no_subscribers
    assert await outcomes[0] == 0x10
    assert window.next(0.0) is not None


async def test_the_line_keeps_its_order_across_qualities_of_service() -> None:
    window = Window()
    window.size = 1
    for name, qos in (("first", 1), ("second", 0), ("third", 2)):
        add(window, payload=name, qos=qos)
    packet_id = send(window)
    assert window.next(0.0) is None  # QoS 0 does not overtake
    window.acknowledged(packet_id, 0)
    assert leaving(window).publication.payload == b"second"


async def test_quality_0_has_its_outcome_when_it_leaves() -> None:
    window = Window()
    window.size = 1
    outcome = add(window, qos=0)
    send(window)
    assert outcome.result() == 0
    assert window.in_flight == 0


async def test_quality_2_holds_its_place_and_its_outcome_until_pubcomp() -> None:
    window = Window()
    window.size = 1
    outcome = add(window, qos=2)
    add(window)
    packet_id = send(window)
    assert window.received(packet_id, 0x10)
    assert not outcome.done()
    assert window.next(0.0) is None
    window.completed(packet_id)
    assert outcome.result() == 0x10
    assert window.next(0.0) is not None


async def test_quality_2_that_is_refused_gives_its_place_back_at_once() -> None:
    window = Window()
    window.size = 1
    outcome = add(window, qos=2)
    packet_id = send(window)
    assert window.received(packet_id, 0x97)
    assert not window.is_received(packet_id)
    assert outcome.result() == 0x97
    assert window.in_flight == 0


async def test_what_is_past_its_deadline_never_leaves() -> None:
    window = Window()
    window.size = 1
    late = Outcome()
    window.add(publication("late")._replace(deadline=5.0), late)
    window.add(publication("in time")._replace(deadline=5.1), Outcome())
    assert leaving(window, 5.0).publication.payload == b"in time"
    with pytest.raises(PublicationExpired):
        await late.future


async def test_what_was_taken_back_in_time_never_leaves() -> None:
    window = Window()
    window.size = 1
    sent, gone = Outcome(), Outcome()
    window.add(publication()._replace(message_id="sent"), sent)
    packet_id = send(window)
    window.add(publication()._replace(message_id="gone"), gone)
    add(window, payload="next")
    assert window.take_back("gone")
    assert not window.take_back("gone")
    assert not window.take_back("sent"), "it left, and its answer is still expected"
    assert window.waiting == 1
    with pytest.raises(TakenBack):
        await gone.future
    window.acknowledged(packet_id, 0)
    assert await sent.future == 0
    assert leaving(window).publication.payload == b"next"


async def test_the_end_tells_doubt_from_certainty() -> None:
    window = Window()
    window.size = 2
    cause = BrokerClosed("mqtt://broker:1883", "Server busy", 0x89)
    outcomes = [add(window) for _ in range(4)]
    send(window)
    send(window)
    window.fail(cause)
    for outcome in outcomes[:2]:
        with pytest.raises(LinkLost) as lost:
            await outcome
        assert lost.value.cause is cause
    for outcome in outcomes[2:]:
        with pytest.raises(LinkDown):
            await outcome
    assert (window.in_flight, window.waiting) == (0, 0)


async def test_packet_ids_go_round_and_step_over_those_in_flight() -> None:
    window = Window()
    window.size = 2
    add(window)
    stuck = send(window)
    drawn = []
    for _ in range(LAST_PACKET_ID + 5):
        add(window)
        drawn.append(send(window))
        window.acknowledged(drawn[-1], 0)
    assert stuck not in drawn
    assert all(before != after for before, after in pairwise(drawn))
    assert max(drawn) == LAST_PACKET_ID


@pytest.mark.parametrize("qos", [1, 2])
async def test_an_answer_to_nothing_changes_nothing(qos: int) -> None:
    window = Window()
    window.size = 3
    outcome = add(window, qos=qos)
    packet_id = send(window)
    assert not window.acknowledged(packet_id + 1, 0)
    assert not window.received(packet_id + 1, 0)
    assert not window.completed(packet_id)
    assert not (window.received if qos == 1 else window.acknowledged)(packet_id, 0)
    assert (window.in_flight, outcome.done()) == (1, False)


async def test_what_the_broker_had_taken_and_does_not_know_any_more_is_in_doubt() -> None:
    window = Window()
    window.size = 1
    outcome, refusal = add(window, qos=2), ReleaseRefused("mqtt://broker:1883", "Packet Identifier not found", 0x92)
    packet_id = send(window)
    window.received(packet_id, 0)
    assert window.completed(packet_id, refusal)
    with pytest.raises(LinkLost) as lost:
        await outcome
    assert lost.value.cause is refusal
    assert window.in_flight == 0
