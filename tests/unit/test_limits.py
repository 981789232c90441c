"""How much one caller may ask."""

import re
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from limits import RateLimitItem

from chapar.app.wiring import limits_of
from chapar.errors import BodiesExhausted, Phrase, RateLimited
from chapar.model.principal import ANYBODY, EVERY_SCOPE, Caller, Principal
from chapar.runtime.settings import Settings
from chapar.web.http import rates as limits_module
from chapar.web.http.rates import MAX_MESSAGES, MESSAGE_SIZE, BodyBudget, Limits

BACKEND = Caller(Principal("key:backend", "backend", EVERY_SCOPE), "192.0.2.7")
OTHER = Caller(Principal("key:other", "other", EVERY_SCOPE), "192.0.2.7")


def limits(**settings: float) -> Limits:
    return limits_of(Settings.model_validate({"burst": 100, **settings}))


def test_nothing_is_limited_unless_asked_for() -> None:
    free = limits()
    for _ in range(1000):
        free.arrival("192.0.2.7")
        free.request(BACKEND)
        free.messages(BACKEND, 10_000)
    assert not free.has_headers
    assert free.headers(BACKEND) == []


def test_requests_are_counted_for_each_caller() -> None:
    bound = limits(requests_per_second=0.02)
    bound.request(BACKEND)
    bound.request(BACKEND)
    with pytest.raises(RateLimited) as caught:
        bound.request(BACKEND)
    assert (caught.value.setting, caught.value.limit) == (
        "CHAPAR_REQUESTS_PER_SECOND",
        Phrase("limit.requests", count=2, seconds=100),
    )
    assert "allows 2 requests in 100 s." in caught.value.sentence("en")
    assert "حداکثر ۲ درخواست در ۱۰۰ ثانیه" in caught.value.sentence("fa")
    assert 1 <= caught.value.retry_after <= 200
    bound.request(OTHER)


def test_messages_are_counted_and_too_many_at_once_count_nothing() -> None:
    bound = limits(messages_per_second=0.1)
    with pytest.raises(RateLimited):
        bound.messages(BACKEND, 11)
    bound.messages(BACKEND, 10)
    with pytest.raises(RateLimited):
        bound.messages(BACKEND, 1)


def test_what_is_left_is_told() -> None:
    bound = limits(requests_per_second=0.05, messages_per_second=1)
    bound.request(BACKEND)
    headers = bound.headers(BACKEND)
    assert bound.has_headers
    assert (b"ratelimit-policy", b'"requests";q=5;w=100') in headers
    assert (b"ratelimit-policy", b'"messages";q=100;w=100') in headers
    assert any(re.fullmatch(rb'"requests";r=4;t=\d+', value) for _, value in headers)


def test_an_address_is_counted_whoever_calls_and_a_network_of_ipv6_is_one() -> None:
    bound = limits(address_requests_per_second=0.01)
    bound.arrival("192.0.2.7")
    bound.arrival("192.0.2.8")
    bound.arrival("2001:db8::1")
    for again in ("192.0.2.7", "2001:db8::2"):
        with pytest.raises(RateLimited):
            bound.arrival(again)
    bound.arrival("2001:db8:0:1::1")
    bound.arrival("")


def test_while_access_is_open_each_address_is_a_caller() -> None:
    bound = limits(requests_per_second=0.01)
    bound.request(Caller(ANYBODY, "192.0.2.7"))
    bound.request(Caller(ANYBODY, "192.0.2.8"))
    with pytest.raises(RateLimited):
        bound.request(Caller(ANYBODY, "192.0.2.7"))


def test_waits_are_bounded_and_given_back() -> None:
    bound = limits(max_waits=2)
    with bound.waiting(BACKEND), bound.waiting(BACKEND):
        with pytest.raises(RateLimited, match="CHAPAR_MAX_WAITS"), bound.waiting(BACKEND):
            pass
        with bound.waiting(OTHER):
            pass
    with bound.waiting(BACKEND):
        pass
    with pytest.raises(ValueError, match="it failed"), bound.waiting(BACKEND):
        raise ValueError("it failed")
    assert not bound._waits


@pytest.fixture
def budget() -> BodyBudget:
    """Bodies of which each caller may have two of the largest, and all together three."""
    largest = 1024 + MAX_MESSAGES * MESSAGE_SIZE
    each, of_all = 2 * largest, 3 * largest
    sizes = {"max_bulk_bytes": 1024, "max_caller_bodies_bytes": each, "max_bodies_bytes": of_all}
    return limits_of(Settings.model_validate(sizes)).bodies


def test_bodies_are_bounded_for_each_caller_and_in_all(budget: BodyBudget) -> None:
    largest = 1024 + MAX_MESSAGES * MESSAGE_SIZE
    with closing(budget.share(BACKEND)) as first, closing(budget.share(OTHER)) as second:
        first.take(largest)
        first.take(largest)
        with pytest.raises(BodiesExhausted, match="CHAPAR_MAX_CALLER_BODIES_BYTES"):
            first.take(1)
        second.take(largest)
        with pytest.raises(BodiesExhausted, match="CHAPAR_MAX_BODIES_BYTES"):
            second.take(1)
    with closing(budget.share(OTHER)) as first, closing(budget.share(BACKEND)) as second:
        first.take(2 * largest)
        second.take(largest)


def test_a_body_gives_back_what_it_took_and_leaves_the_rest_of_its_caller(budget: BodyBudget) -> None:
    allowed = 2 * (1024 + MAX_MESSAGES * MESSAGE_SIZE)
    with closing(budget.share(BACKEND)) as first:
        first.take(100)
        with closing(budget.share(BACKEND)) as second:
            second.take(50)
        with closing(budget.share(BACKEND)) as third:
            third.take(allowed - 100)
            with pytest.raises(BodiesExhausted):
                third.take(1)
    with closing(budget.share(BACKEND)):
        pass
    with closing(budget.share(BACKEND)) as fourth:
        fourth.take(allowed)


def test_the_largest_bulk_call_fits_however_little_is_allowed() -> None:
    small = {"max_bulk_bytes": 4096, "max_caller_bodies_bytes": 1024, "max_bodies_bytes": 1024}
    with closing(limits_of(Settings.model_validate(small)).bodies.share(BACKEND)) as share:
        assert share.largest_bulk == 4096
        share.take(share.largest_bulk + MAX_MESSAGES * MESSAGE_SIZE)


def test_workers_share_what_is_allowed() -> None:
    bound = limits(requests_per_second=0.04, workers=2)
    bound.request(BACKEND)
    bound.request(BACKEND)
    with pytest.raises(RateLimited):
        bound.request(BACKEND)


class Window:
    """A limiter that says what a test says, and notes what it was asked."""

    reset_time, remaining = 1000.4, 3

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int]] = []

    def hit(self, _: object, name: str, who: str, cost: int = 1) -> bool:
        self.asked.append((name, who, cost))
        return False

    def get_window_stats(self, item: RateLimitItem, name: str, who: str) -> "Window":
        assert item.amount
        self.asked.append((name, who, 0))
        return self


@pytest.mark.parametrize(("now", "left"), [(990.0, 11), (1000.4, 0), (2000.0, 0), (999.9, 1)])
def test_when_there_is_room_again_is_told_in_whole_seconds_that_are_not_over(
    monkeypatch: pytest.MonkeyPatch, now: float, left: int
) -> None:
    monkeypatch.setattr(limits_module, "time", SimpleNamespace(time=lambda: now))
    window: Any = Window()
    monkeypatch.setattr(limits_module, "SlidingWindowCounterRateLimiter", lambda _: window)
    bound = limits(requests_per_second=1, messages_per_second=2, address_requests_per_second=3)
    assert bound.headers(BACKEND) == [
        (b"ratelimit-policy", b'"requests";q=100;w=100'),
        (b"ratelimit", f'"requests";r=3;t={left}'.encode()),
        (b"ratelimit-policy", b'"messages";q=200;w=100'),
        (b"ratelimit", f'"messages";r=3;t={left}'.encode()),
    ]
    assert window.asked == [("requests", "key:backend", 0), ("messages", "key:backend", 0)]
    for exceed, asked, setting, amount in (
        (lambda: bound.request(BACKEND), ("requests", "key:backend", 1), "REQUESTS", 100),
        (lambda: bound.messages(BACKEND, 7), ("messages", "key:backend", 7), "MESSAGES", 200),
        (lambda: bound.arrival("2001:db8::1"), ("address", "2001:db8::/64", 1), "ADDRESS_REQUESTS", 300),
    ):
        window.asked.clear()
        with pytest.raises(RateLimited) as caught:
            exceed()
        assert window.asked == [asked, (*asked[:2], 0)]
        assert caught.value.setting == f"CHAPAR_{setting}_PER_SECOND"
        assert caught.value.limit == Phrase(f"limit.{asked[0]}", count=amount, seconds=100)
        assert caught.value.retry_after == max(1, left)


def test_what_never_fits_is_not_told_to_wait() -> None:
    bound = limits(messages_per_second=0.1)
    with pytest.raises(RateLimited) as caught:
        bound.messages(BACKEND, 11)
    assert not caught.value.fits
    bound.messages(BACKEND, 10)
    with pytest.raises(RateLimited) as caught:
        bound.messages(BACKEND, 1)
    assert caught.value.fits


def test_at_least_one_may_come_however_little_is_allowed() -> None:
    bound = limits(requests_per_second=0.001, messages_per_second=0.019)
    bound.request(BACKEND)
    bound.messages(BACKEND, 1)
    with pytest.raises(RateLimited):
        bound.request(BACKEND)


@pytest.mark.parametrize(
    ("settings", "told"),
    [({}, False), ({"requests_per_second": 1}, True), ({"messages_per_second": 1}, True)],
)
def test_headers_are_told_where_something_of_the_caller_is_limited(settings: dict[str, float], *, told: bool) -> None:
    assert limits(address_requests_per_second=1, **settings).has_headers is told


def test_a_wait_too_many_says_how_many_there_may_be() -> None:
    bound = limits(max_waits=1)
    with bound.waiting(BACKEND), pytest.raises(RateLimited) as caught, bound.waiting(BACKEND):
        pass
    assert (caught.value.setting, caught.value.retry_after) == ("CHAPAR_MAX_WAITS", 1)
    assert "allows 1 waiting call at a time." in str(caught.value)
