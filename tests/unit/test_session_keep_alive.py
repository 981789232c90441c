from hypothesis import given
from hypothesis import strategies as st

from chapar.link.keep_alive import KeepAlive


def test_a_silent_broker_is_asked_after_half_an_interval() -> None:
    keep_alive = KeepAlive(10, heard_at=100, sent_at=100)
    assert keep_alive.look_at() == 105
    assert not keep_alive.should_ask(104.9)
    assert keep_alive.should_ask(105)


def test_sending_alone_does_not_put_the_question_off() -> None:
    keep_alive = KeepAlive(10, heard_at=100, sent_at=104)
    assert keep_alive.should_ask(105)


def test_a_broker_that_hears_nothing_of_us_is_told_that_we_live() -> None:
    keep_alive = KeepAlive(10, heard_at=104, sent_at=100)
    assert keep_alive.should_ask(105)


def test_no_answer_for_a_quarter_over_the_interval_is_the_end() -> None:
    keep_alive = KeepAlive(10, heard_at=100, sent_at=100)
    keep_alive.asked(105)
    assert keep_alive.look_at() == 112.5
    assert not keep_alive.is_silent(112.4)
    assert keep_alive.is_silent(112.5)


def test_any_byte_is_an_answer() -> None:
    keep_alive = KeepAlive(10, heard_at=100, sent_at=100)
    keep_alive.asked(105)
    keep_alive.received(112)
    assert not keep_alive.is_silent(112.5)


def test_after_our_own_standstill_the_broker_is_asked_before_it_is_given_up() -> None:
    keep_alive = KeepAlive(10, heard_at=100, sent_at=100)
    assert not keep_alive.is_silent(200)
    assert keep_alive.should_ask(200)
    keep_alive.asked(200)
    assert keep_alive.look_at() == 207.5


@given(
    interval=st.integers(1, 65_535),
    heard=st.lists(st.floats(0, 2), max_size=20),
    sent=st.lists(st.floats(0, 2), max_size=20),
)
def test_a_dead_connection_is_found_between_one_and_one_and_a_half_intervals(
    interval: int, heard: list[float], sent: list[float]
) -> None:
    """`heard` and `sent` are the times of traffic, in intervals, before the line goes dead."""
    keep_alive = KeepAlive(interval, heard_at=0, sent_at=0)
    traffic = sorted([(at * interval, "heard") for at in heard] + [(at * interval, "sent") for at in sent])
    now = 0.0
    while not keep_alive.is_silent(now):
        if keep_alive.should_ask(now):
            keep_alive.asked(now)
            keep_alive.sent_at = now
        if traffic and traffic[0][0] <= keep_alive.look_at():
            now, kind = traffic.pop(0)
            if kind == "heard":
                keep_alive.received(now)
            else:
                keep_alive.sent_at = now
        else:
            now = keep_alive.look_at()
    silence = now - keep_alive.heard_at
    assert interval <= silence <= 1.5 * interval
