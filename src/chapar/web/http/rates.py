"""Rates: how much one caller may ask, in this process, as the settings allow."""

import ipaddress
import math
import time
from functools import lru_cache
from typing import Final, NamedTuple

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from chapar.errors import BodiesExhausted, Phrase, RateLimited
from chapar.model.principal import Caller

MAX_MESSAGES: Final = 10_000  # of one bulk call
MESSAGE_SIZE: Final = 2 * 1024  # bytes that each of its messages holds until it is answered, beside the body

_WAIT_AGAIN: Final = 1  # seconds until a wait may have ended
_BODY_AGAIN: Final = 2  # seconds until a body may have come as a whole, or a bulk call have ended
_IPV6_NETWORK: Final = 64  # bits; one customer has at least that many addresses of its own

Headers = list[tuple[bytes, bytes]]


class Rates(NamedTuple):
    """The number that may come in a second on average; None: as many as come."""

    requests: float | None  #: of one key or token
    messages: float | None  #: likewise, in single and bulk calls
    addresses: float | None  #: requests from one address
    burst: int  #: seconds over which they are counted
    processes: int  #: that share them equally, each counting for itself


class _Rate(NamedTuple):
    """A rate that is limited."""

    name: str  #: in the headers
    setting: str
    item: RateLimitItem  #: how many in how many seconds


class Limits:
    """Counts in memory what callers ask."""

    def __init__(self, rates: Rates, max_waits: int, bodies: "BodyBudget") -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

        def rate(name: str, setting: str, per_second: float | None) -> _Rate | None:
            if per_second is None:
                return None
            amount = max(1, math.floor(per_second * rates.burst / rates.processes))
            return _Rate(name, setting, RateLimitItemPerSecond(amount, rates.burst))

        self._requests = rate("requests", "CHAPAR_REQUESTS_PER_SECOND", rates.requests)
        self._messages = rate("messages", "CHAPAR_MESSAGES_PER_SECOND", rates.messages)
        self._address = rate("address", "CHAPAR_ADDRESS_REQUESTS_PER_SECOND", rates.addresses)
        self._max_waits = max_waits
        self._waits: dict[str, int] = {}
        self.bodies = bodies

    def arrival(self, address: str) -> None:
        """Somebody calls from there; raises RateLimited."""
        if self._address is not None:
            self._hit(self._address, network_of(address))

    def request(self, caller: Caller) -> None:
        """A caller asks for something; raises RateLimited."""
        if self._requests is not None:
            self._hit(self._requests, who_of(caller))

    def messages(self, caller: Caller, count: int) -> None:
        """A caller sends so many messages; raises RateLimited where all of them are too many."""
        if self._messages is not None:
            self._hit(self._messages, who_of(caller), count)

    def waiting(self, caller: Caller) -> "_Waiting":
        """A caller waits, inside the block, for the answer to a message; entering raises RateLimited."""
        return _Waiting(self._waits, who_of(caller), self._max_waits)

    def headers(self, caller: Caller) -> Headers:
        """Return what is left for this caller (draft-ietf-httpapi-ratelimit-headers); none where nothing is limited."""
        found: Headers = []
        for rate in (self._requests, self._messages):
            if rate is not None:
                stats = self._limiter.get_window_stats(rate.item, rate.name, who_of(caller))
                left = max(0, math.ceil(stats.reset_time - time.time()))
                policy = f'"{rate.name}";q={rate.item.amount};w={rate.item.get_expiry()}'
                found.append((b"ratelimit-policy", policy.encode()))
                found.append((b"ratelimit", f'"{rate.name}";r={stats.remaining};t={left}'.encode()))
        return found

    @property
    def has_headers(self) -> bool:
        """Return whether `headers` ever gives any."""
        return self._requests is not None or self._messages is not None

    def _hit(self, rate: _Rate, who: str, cost: int = 1) -> None:
        if not self._limiter.hit(rate.item, rate.name, who, cost=cost):
            raise self._exceeded(rate, who, fits=cost <= rate.item.amount)

    def _exceeded(self, rate: _Rate, who: str, *, fits: bool) -> RateLimited:
        stats = self._limiter.get_window_stats(rate.item, rate.name, who)
        allowed = Phrase(f"limit.{rate.name}", count=rate.item.amount, seconds=rate.item.get_expiry())
        return RateLimited(rate.setting, allowed, max(1, math.ceil(stats.reset_time - time.time())), fits)


class BodyBudget:
    """The bytes of requests that are in memory, for each caller and for all together; the largest bulk call fits in."""

    def __init__(self, *, largest: int, largest_bulk: int, each: int, together: int) -> None:
        self.largest = largest  #: of one body, where its route does not say otherwise
        self.largest_bulk = largest_bulk  #: of the body of a bulk call
        self._each = max(each, largest_bulk + MAX_MESSAGES * MESSAGE_SIZE)
        self._all = max(together, self._each)
        self._held: dict[str, int] = {}
        self._total = 0

    def take(self, who: str, size: int) -> None:
        """Count so much more; raises BodiesExhausted, and then it is not counted."""
        held = self._held.get(who, 0) + size
        if held > self._each:
            raise BodiesExhausted("CHAPAR_MAX_CALLER_BODIES_BYTES", self._each, _BODY_AGAIN)
        if self._total + size > self._all:
            raise BodiesExhausted("CHAPAR_MAX_BODIES_BYTES", self._all, _BODY_AGAIN)
        self._held[who] = held
        self._total += size

    def give_back(self, who: str, size: int) -> None:
        """Count so much less."""
        self._total -= size
        held = self._held[who] - size
        if held:
            self._held[who] = held
        else:
            del self._held[who]

    def share(self, caller: Caller) -> "BodyShare":
        """Open the share that the body of one request takes of it, until it is closed."""
        return BodyShare(self, who_of(caller))


class BodyShare:
    """The share of one request in the budget."""

    __slots__ = ("_budget", "_size", "_who")

    def __init__(self, budget: BodyBudget, who: str) -> None:
        self._budget = budget
        self._who = who
        self._size = 0

    @property
    def largest(self) -> int:
        """Bytes of one body, where its route does not say otherwise."""
        return self._budget.largest

    @property
    def largest_bulk(self) -> int:
        """Bytes of the body of a bulk call, or of a file."""
        return self._budget.largest_bulk

    def take(self, size: int) -> None:
        """Count so much more that has come, or is held for what has come; raises BodiesExhausted."""
        self._budget.take(self._who, size)
        self._size += size

    def close(self) -> None:
        """Give it all back."""
        if self._size:
            self._budget.give_back(self._who, self._size)


class _Waiting:
    """One wait among those of its caller. Every send passes here, so it is no generator's frame."""

    __slots__ = ("_limit", "_waits", "_who")

    def __init__(self, waits: dict[str, int], who: str, limit: int) -> None:
        self._waits = waits
        self._who = who
        self._limit = limit

    def __enter__(self) -> None:
        count = self._waits.get(self._who, 0)
        if count >= self._limit:
            raise RateLimited("CHAPAR_MAX_WAITS", Phrase("limit.waits", count=self._limit), _WAIT_AGAIN)
        self._waits[self._who] = count + 1

    def __exit__(self, *_: object) -> None:
        count = self._waits[self._who] - 1
        if count:
            self._waits[self._who] = count
        else:
            del self._waits[self._who]


def who_of(caller: Caller) -> str:
    """Whose counts these are: where access is open, those of the address."""
    return caller.principal.id or network_of(caller.address)


@lru_cache(maxsize=1024)
def network_of(address: str) -> str:
    """The address, or the network that stands for all addresses of one customer."""
    try:
        ip_address = ipaddress.ip_address(address)
    except ValueError:
        return address
    if ip_address.version == 4:  # noqa: PLR2004 - IPv4
        return address
    return str(ipaddress.ip_network((ip_address, _IPV6_NETWORK), strict=False))
