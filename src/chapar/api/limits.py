"""How much one caller may ask, in this process: the rates and waits that the settings allow."""

import ipaddress
import math
import time
from functools import lru_cache
from typing import Final, NamedTuple

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from chapar.errors import RateLimited
from chapar.principal import Caller
from chapar.settings import Settings

_WAIT_AGAIN: Final = 1  # seconds until a wait may have ended
_IPV6_NETWORK: Final = 64  # bits; one customer has at least that many addresses of its own

Headers = list[tuple[bytes, bytes]]


class _Rate(NamedTuple):
    """A rate that is limited."""

    name: str  #: in the headers
    setting: str
    item: RateLimitItem  #: how many in how many seconds


class Limits:
    """Counts in memory what callers ask. With several processes each counts its own, of an equal share."""

    def __init__(self, settings: Settings) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

        def rate(name: str, setting: str, per_second: float | None) -> _Rate | None:
            if per_second is None:
                return None
            amount = max(1, math.floor(per_second * settings.burst / settings.workers))
            return _Rate(name, setting, RateLimitItemPerSecond(amount, settings.burst))

        self._requests = rate("requests", "CHAPAR_REQUESTS_PER_SECOND", settings.requests_per_second)
        self._messages = rate("messages", "CHAPAR_MESSAGES_PER_SECOND", settings.messages_per_second)
        self._address = rate("address", "CHAPAR_ADDRESS_REQUESTS_PER_SECOND", settings.address_requests_per_second)
        self._max_waits = settings.max_waits
        self._waits: dict[str, int] = {}

    def arrival(self, address: str) -> None:
        """Somebody calls from there; raises RateLimited."""
        if self._address is not None:
            self._hit(self._address, _network(address))

    def request(self, caller: Caller) -> None:
        """A caller asks for something; raises RateLimited."""
        if self._requests is not None:
            self._hit(self._requests, _who(caller))

    def messages(self, caller: Caller, count: int) -> None:
        """A caller sends so many messages; raises RateLimited where all of them are too many."""
        if self._messages is not None:
            self._hit(self._messages, _who(caller), count)

    def waiting(self, caller: Caller) -> "_Waiting":
        """A caller waits, inside the block, for the answer to a message; entering raises RateLimited."""
        return _Waiting(self._waits, _who(caller), self._max_waits)

    def headers(self, caller: Caller) -> Headers:
        """What is left for this caller (draft-ietf-httpapi-ratelimit-headers); none where nothing is limited."""
        found: Headers = []
        for rate in (self._requests, self._messages):
            if rate is not None:
                stats = self._limiter.get_window_stats(rate.item, rate.name, _who(caller))
                left = max(0, math.ceil(stats.reset_time - time.time()))
                policy = f'"{rate.name}";q={rate.item.amount};w={rate.item.get_expiry()}'
                found.append((b"ratelimit-policy", policy.encode()))
                found.append((b"ratelimit", f'"{rate.name}";r={stats.remaining};t={left}'.encode()))
        return found

    @property
    def has_headers(self) -> bool:
        """Whether `headers` ever gives any."""
        return self._requests is not None or self._messages is not None

    def _hit(self, rate: _Rate, who: str, cost: int = 1) -> None:
        if not self._limiter.hit(rate.item, rate.name, who, cost=cost):
            raise self._exceeded(rate, who)

    def _exceeded(self, rate: _Rate, who: str) -> RateLimited:
        stats = self._limiter.get_window_stats(rate.item, rate.name, who)
        allowed = f"{rate.item.amount} / {rate.item.get_expiry()} s"
        return RateLimited(rate.setting, allowed, max(1, math.ceil(stats.reset_time - time.time())))


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
            raise RateLimited("CHAPAR_MAX_WAITS", str(self._limit), _WAIT_AGAIN)
        self._waits[self._who] = count + 1

    def __exit__(self, *_: object) -> None:
        count = self._waits[self._who] - 1
        if count:
            self._waits[self._who] = count
        else:
            del self._waits[self._who]


def _who(caller: Caller) -> str:
    """Whose counts these are: where access is open, those of the address."""
    return caller.principal.id or _network(caller.address)


@lru_cache(maxsize=1024)
def _network(address: str) -> str:
    try:
        ip_address = ipaddress.ip_address(address)
    except ValueError:
        return address
    if ip_address.version == 4:  # noqa: PLR2004 - IPv4
        return address
    return str(ipaddress.ip_network((ip_address, _IPV6_NETWORK), strict=False))
