"""A broker that is alive and leaves a publication unanswered, and what waits behind it."""

import asyncio
from collections.abc import Callable

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from chapar.errors import BrokerUnanswered, LinkDown, LinkLost, PublicationExpired, TakenBack
from chapar.link.patience import Patience, Step
from chapar.link.session import Session
from support.links import RecordingTransport, connected, publication, published

PINGRESP = b"\xd0\x00"
PINGREQ = b"\xc0\x00"


@pytest.mark.parametrize(
    ("now", "heard_at", "step", "look_at"),
    [
        (109.9, 109.9, Step.WAIT, 110),
        (110, 110, Step.WARN, 130),
        (130, 130, Step.HOLD, 131),
        (131, 130.9, Step.ASK, 131.1),
        (200, 100, Step.ASK, 200.1),
        (131, 131, Step.END, 131.1),
    ],
)
def test_each_step_has_its_time(now: float, heard_at: float, step: Step, look_at: float) -> None:
    patience = Patience(30)
    assert patience.step(100, heard_at, now) is step
    assert patience.look_at(100, now) == pytest.approx(look_at)


@given(timeout=st.floats(0.01, 3600), waits=st.floats(0, 10_000), silence=st.floats(0, 10_000))
def test_a_session_ends_only_where_the_broker_was_heard_after_the_time_was_over(
    timeout: float, waits: float, silence: float
) -> None:
    heard_at = waits - min(silence, waits)
    step = Patience(timeout).step(0, heard_at, waits)
    assert (step is Step.END) == (heard_at >= timeout + min(1, timeout / 3))
    assert Patience(timeout).look_at(0, waits) > waits


class Clock:
    """The loop's time for one session, moved by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self.at = loop.time()
        self._timers: list[tuple[asyncio.TimerHandle, Callable[[], object]]] = []
        monkeypatch.setattr(loop, "time", lambda: self.at)
        monkeypatch.setattr(loop, "call_at", self._call_at)

    @property
    def next(self) -> float:
        """When the next timer runs."""
        return min(timer.when() for timer, _ in self._timers if not timer.cancelled())

    async def passes(self, seconds: float) -> None:
        """The time is over, and whatever was due by then has run."""
        self.at += seconds
        while due := [each for each in self._timers if each[0].when() <= self.at]:
            self._timers = [each for each in self._timers if each not in due]
            for timer, callback in due:
                if not timer.cancelled():
                    callback()
        await asyncio.sleep(0)

    def _call_at(self, when: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, (), asyncio.get_running_loop())
        self._timers.append((timer, callback))
        return timer


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def stuck(*, window: int = 3) -> tuple[Session, RecordingTransport, list[asyncio.Future[int]]]:
    """A session with one publication that is never answered, and one behind it that is."""
    session, transport = connected(connack=mqtt5.ConnAckPacket(receive_max=window).write(), keep_alive=600)
    outcomes = [published(session, publication()) for _ in range(2)]
    await asyncio.sleep(0)
    session.data_received(b"\x40\x02\x00\x02")
    transport.written.clear()
    return session, transport, outcomes


async def test_a_broker_that_is_alive_and_does_not_answer_is_given_up(clock: Clock) -> None:
    session, transport, outcomes = await stuck()
    await clock.passes(9.9)
    assert session.unanswered_for is None
    with capture_logs() as logged:
        await clock.passes(0.2)
        await clock.passes(1)
    assert session.unanswered_for == pytest.approx(11.1)
    assert [entry["event"] for entry in logged] == ["broker_leaves_unanswered"]
    early = published(session, publication())
    await asyncio.sleep(0)
    await clock.passes(19)
    late = published(session, publication())
    await asyncio.sleep(0)
    assert (session.in_flight, session.waiting) == (2, 1), "nothing more leaves"
    session.data_received(b"\x40\x02\x00\x03")
    assert await early == 0
    await clock.passes(1)
    assert transport.written[-1] == PINGREQ
    await clock.passes(0.1)
    assert transport.written[-1] == PINGREQ
    assert session.up
    clock.at += 0.1
    session.data_received(PINGRESP)
    await clock.passes(0)
    with pytest.raises(BrokerUnanswered) as error:
        await session.ended()
    assert error.value.seconds == pytest.approx(31.3)
    with pytest.raises(LinkLost) as lost:
        await outcomes[0]
    assert (lost.value.cause, lost.value.singled_out) == (error.value, True)
    with pytest.raises(LinkDown):
        await late


async def test_answers_that_waited_to_be_read_after_our_own_standstill_count(clock: Clock) -> None:
    session, transport, outcomes = await stuck()
    await clock.passes(100)
    assert transport.written == [PINGREQ]
    late = published(session, publication())
    session.data_received(b"\x40\x02\x00\x01" + PINGRESP)
    await clock.passes(0.1)
    await asyncio.sleep(0)
    assert await outcomes[0] == 0
    assert (session.up, session.in_flight, session.unanswered_for) == (True, 1, None)
    assert not late.done()


async def test_what_waits_in_line_expires_on_time_and_can_be_taken_back(clock: Clock) -> None:
    session, transport, _ = await stuck(window=1)  # so the second waits in line too
    brief, gone, patient = (
        published(session, publication(name)._replace(message_id=name, deadline=clock.at + seconds))
        for name, seconds in (("brief", 2), ("gone", 9), ("patient", 9))
    )
    await asyncio.sleep(0)
    assert clock.next == clock.at + 2
    assert session.take_back("gone")
    assert not session.take_back("gone")
    await clock.passes(2)
    with pytest.raises(PublicationExpired):
        await brief
    assert clock.next == clock.at + 7
    for packet_id in (1, 2):
        session.data_received(bytes([0x40, 2, 0, packet_id]))
        await asyncio.sleep(0)
    assert not session.take_back("patient"), "it has left"
    assert b"patient" in transport.written[-1]
    with pytest.raises(TakenBack):
        await gone
    assert not patient.done()


@pytest.mark.parametrize(("sent", "answered", "singled_out"), [(1, [], True), (2, [], False), (3, [1], False)])
async def test_who_is_to_blame_is_said_only_where_it_is_certain(
    sent: int, answered: list[int], *, singled_out: bool
) -> None:
    session, _ = connected()
    outcomes = [published(session, publication()) for _ in range(sent)]
    await asyncio.sleep(0)
    for packet_id in answered:
        session.data_received(bytes([0x40, 2, 0, packet_id]))
    session.data_received(b"\xe0\x01\x81")
    for outcome in outcomes[len(answered) :]:
        with pytest.raises(LinkLost) as lost:
            await outcome
        assert lost.value.singled_out is singled_out
