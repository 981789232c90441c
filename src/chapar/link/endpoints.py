"""Addresses of the brokers: every IP address of every one of them, in turn."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from chapar.errors import HostNotFound, Phrase
from chapar.runtime.addresses import BrokerAddress


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One of the IP addresses of a broker."""

    broker: BrokerAddress
    family: int
    socket_address: tuple[Any, ...]  #: as `socket.connect()` takes it

    def __str__(self) -> str:
        ip_address, port = self.socket_address[:2]
        if ip_address == self.broker.host:
            return str(self.broker)
        return f"{self.broker} ({f'[{ip_address}]' if ':' in ip_address else ip_address}:{port})"


class Rotation:
    """Turns of the addresses: each one once a round, in the order of the URLs and of the name server's answers.

    A session that was lost goes on with the address behind its own. A name is looked up again for each of its
    addresses, because a session may have lived for days since.
    """

    def __init__(
        self, brokers: Sequence[BrokerAddress], patience: float, on_problem: Callable[[HostNotFound], None]
    ) -> None:
        """`on_problem` is called with a name that has no address within `patience` seconds; the next broker follows."""
        self._brokers = brokers
        self._patience = patience
        self._on_problem = on_problem
        self._turn = 0  # of the broker with this index
        self._tried: set[Endpoint] = set()  # in its turn

    async def next(self) -> Endpoint | None:
        """The next address; None at the end of a round."""
        while self._turn < len(self._brokers):
            endpoint = await self._untried(self._brokers[self._turn])
            if endpoint is not None:
                self._tried.add(endpoint)
                return endpoint
            self._turn += 1
            self._tried.clear()
        self._turn = 0
        return None

    async def _untried(self, broker: BrokerAddress) -> Endpoint | None:
        try:
            found = await look_up(broker, self._patience)
        except HostNotFound as error:
            self._on_problem(error)
            return None
        if len(self._tried) >= len(found):  # as many as it has, also where each answer names others
            return None
        return next((endpoint for endpoint in found if endpoint not in self._tried), None)


async def look_up(broker: BrokerAddress, patience: float) -> list[Endpoint]:
    """The broker's IP addresses, at least one; raises HostNotFound."""
    try:
        async with asyncio.timeout(patience):
            found = await asyncio.get_running_loop().getaddrinfo(broker.host, broker.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        in_time = Phrase("link.no_answer_in_time", seconds=patience)
        raise HostNotFound(str(broker), in_time) from None
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that IDNA cannot write
        raise HostNotFound(str(broker), getattr(error, "strerror", None) or str(error)) from error
    endpoints = [Endpoint(broker, family, socket_address) for family, _, _, _, socket_address in found]
    return list(dict.fromkeys(endpoints))
