"""Who leaves next: each device in its order, the devices by turns, and none with more than its share."""

import asyncio
import time
from collections import Counter, defaultdict
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapar.link.answers import Answers
from chapar.link.line import Line, Outgoing
from chapar.link.window import Window
from support.links import Outcome, publication


def add(window: Window, device: str, text: str = "x", *, qos: int = 1) -> asyncio.Future[int]:
    outcome = Outcome()
    window.add(publication(text, qos=qos)._replace(topic=device), outcome)
    return outcome.future


def leaving(window: Window) -> list[tuple[str, str, int]]:
    """All that may leave now: device, text and packet id."""
    left = []
    while (following := window.next(0.0)) is not None:
        window.written(following)
        left.append((following.publication.topic, following.publication.payload.decode(), following.packet_id))
    return left


@pytest.mark.parametrize(("size", "share"), [(1, 1), (2, 2), (3, 3), (4, 3), (8, 6), (20, 15), (1024, 768)])
async def test_one_device_leaves_a_quarter_of_the_window_to_the_others(size: int, share: int) -> None:
    window = Window()
    window.size = size
    for _ in range(2 * size):
        add(window, "A")
    first = leaving(window)
    assert len(first) == share
    for number in range(size):
        add(window, f"B{number}")
    others = leaving(window)
    assert (len(others), window.in_flight) == (size - share, size)
    assert "A" not in {device for device, _, _ in others}
    window.acknowledged(first[0][2], 0)
    assert len(leaving(window)) == 1, "whose turn it is"


async def test_a_device_with_much_in_line_holds_up_no_other() -> None:
    window = Window()
    window.size = 4
    for number in range(200):
        add(window, "A", str(number))
    behind = leaving(window)
    add(window, "B")
    assert [device for device, _, _ in leaving(window)] == ["B"]
    for _, _, packet_id in behind:
        window.acknowledged(packet_id, 0)
    assert [text for _, text, _ in leaving(window)] == ["3", "4", "5"]
    assert window.waiting == 194


async def test_what_takes_no_place_takes_no_turn() -> None:
    """QoS 0, taken back, or expired: the next of its device follows at once."""
    window = Window()
    window.size = 1
    add(window, "A", "at most once", qos=0)
    window.add(publication("taken back")._replace(topic="A", message_id="gone"), Outcome())
    expired = Outcome()
    window.add(publication("expired")._replace(topic="A", deadline=0.0), expired)
    add(window, "A", "sent")
    add(window, "A", "behind")
    assert window.take_back("gone")
    assert [text for _, text, _ in leaving(window)] == ["at most once", "sent"]
    assert expired.future.exception() is not None
    assert window.waiting == 1


async def test_the_end_of_a_session_empties_the_line() -> None:
    window = Window()
    window.size = 4
    outcomes = [add(window, device) for device in "AAAAABB"]
    leaving(window)
    window.fail(None)
    assert all(outcome.exception() is not None for outcome in outcomes)
    assert (window.waiting, window.in_flight, leaving(window)) == (0, 0, [])


async def test_what_is_urgent_leaves_before_all_that_is_in_line_and_past_the_share_of_its_device() -> None:
    window = Window()
    window.size = 4
    behind = [add(window, "A", str(number)) for number in range(5)]
    sent = leaving(window)
    add(window, "B", "another's")
    for text in ("stop", "lights"):
        window.add(publication(text)._replace(topic="A", message_id=text, urgent=True), Outcome())
    assert window.take_back("lights")
    assert [text for _, text, _ in leaving(window)] == ["stop"], "there is one place"
    for _, _, packet_id in sent:
        window.acknowledged(packet_id, 0)
    assert [text for _, text, _ in leaving(window)] == ["another's", "3", "4"]
    window.add(publication()._replace(topic="A", urgent=True), Outcome())
    window.fail(None)
    assert all(each.done() for each in behind)
    assert (window.waiting, window.in_flight, leaving(window)) == (0, 0, [])


@given(
    st.lists(
        st.tuples(st.sampled_from("ABC"), st.sampled_from(["add", "add", "next", "answer", "remove"]), st.booleans())
    )
)
def test_nothing_is_lost_or_overtakes_and_no_share_is_exceeded(steps: list[tuple[str, str, bool]]) -> None:
    line, answers, numbers = Line(), Answers(0), count()
    line.share = 2
    waiting: defaultdict[str, list[str]] = defaultdict(list)
    in_flight = Counter[str]()
    for device, step, flag in steps:
        match step:
            case "add":
                number = str(next(numbers))
                waiting[device].append(number)
                line.append(Outgoing(publication()._replace(topic=device, message_id=number), answers))
            case "next":
                following = line.next()
                if following is None:
                    assert all(in_flight[each] == 2 for each in waiting if waiting[each])
                    continue
                topic = following.publication.topic
                assert waiting[topic].pop(0) == following.publication.message_id
                line.left(topic, in_flight=flag)
                in_flight[topic] += flag
                assert in_flight[topic] <= 2
            case "remove" if waiting[device]:
                number = waiting[device].pop(0 if flag else -1)
                outgoing = line.find(number)
                assert outgoing is not None
                line.remove(outgoing)
                assert line.find(number) is None
            case "answer" if in_flight[device]:
                in_flight[device] -= 1
                line.answered(device)
    assert len(line) == sum(map(len, waiting.values()))
    assert {topic: numbers for topic, numbers in waiting.items() if numbers} == {
        topic: [each.publication.message_id for each in line if each.publication.topic == topic]
        for topic in {each.publication.topic for each in line}
    }


async def test_what_is_taken_back_leaves_nothing_behind() -> None:
    """However much is published to a device that does not answer, and cancelled."""
    window = Window()
    window.size = 1
    add(window, "A")
    leaving(window)
    for number in range(1000):
        window.add(publication()._replace(topic="A", message_id=str(number)), Outcome())
        assert window.take_back(str(number))
    line = window._line
    assert (len(line), list(line), line._lines, line._turns, line._by_id) == (0, [], {}, {}, {})


async def test_what_is_taken_back_costs_no_look_at_all_that_waits() -> None:
    """Seen by the ratio of two lengths of the line."""
    seconds = []
    for length in (200, 20_000):
        window, answers = Window(), Answers(length)
        for number in range(length):
            window.add(publication()._replace(topic=f"{number % 2}", message_id=str(number)), answers)
        began = time.thread_time()
        assert all(window.take_back(str(number)) for number in range(length // 2 - 50, length // 2 + 50))
        seconds.append(time.thread_time() - began)
    assert seconds[1] < 20 * seconds[0], "where the line is a hundred times as long"
