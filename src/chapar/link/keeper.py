"""Stay connected to the broker, and say whether we are."""

import asyncio
import logging
import math
import secrets
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, NamedTuple

import structlog

from chapar.errors import BrokerError, BrokerUnanswered, LinkDown
from chapar.link.answers import Answers
from chapar.link.broker_access import BrokerAccess
from chapar.link.dial import dial
from chapar.link.endpoints import Endpoint, Rotation
from chapar.link.publication import Publication, SignOn
from chapar.link.session import Session
from chapar.link.tls import watch_files
from chapar.runtime.addresses import BrokerAddress
from chapar.runtime.backoff import Backoff
from chapar.runtime.metrics import Metrics
from chapar.runtime.supervision import supervised

_MOST_OUTAGES: Final = 64  # kept until somebody takes them
_STARTED_WITHIN: Final = 1.0  # seconds until the first session, which are no outage

_A_MOMENT: Final = 0.1  # seconds by which a dial may take longer than another and both be at once

log: structlog.stdlib.BoundLogger = structlog.get_logger()


async def stay_connected(
    access: BrokerAccess,
    session: Callable[[Endpoint], AbstractAsyncContextManager[Session]],
    on_problem: Callable[[BrokerError], None],
) -> None:
    """Keep a session with one of the brokers until cancelled.

    `session` opens one and closes it; why there is none, or none any more, goes to `on_problem`.
    """
    rotation = Rotation(access.brokers, access.connect_timeout, on_problem)
    backoff = Backoff()
    while True:
        # A round over all addresses is one try. The gap also paces a broker that accepts us and hangs up at once.
        while (endpoint := await rotation.next()) is not None:
            try:
                async with session(endpoint) as opened:
                    with backoff.working():
                        await opened.ended()
            except BrokerError as error:
                on_problem(error)
        await backoff.pause()


class ProblemLog:
    """The log of why there is no session: each reason once an outage as a warning, then for those who debug."""

    def __init__(self, event: str, **facts: str) -> None:
        self._log = log.bind(**facts)
        self._event = event
        self._said: dict[str, str] = {}  # by endpoint

    def note(self, error: BrokerError) -> None:
        """Log a reason."""
        reason = str(error)
        level = logging.DEBUG if self._said.get(error.endpoint) == reason else logging.WARNING
        self._said[error.endpoint] = reason
        self._log.log(level, self._event, broker=error.endpoint, reason=reason)

    def clear(self) -> None:
        """The outage is over."""
        self._said.clear()


class Outage(NamedTuple):
    """A time without a session, by `time.monotonic`."""

    began: float
    ended: float
    cause: str | None  #: code of the first error in it; None: there was none


class Link:
    """The gateway's one connection to the broker.

    `run()` owns the session and dials again until cancelled. Everybody else calls `publish()`, which answers
    `LinkDown` at once when there is no session, or awaits `connected()`.
    """

    def __init__(self, access: BrokerAccess, metrics: Metrics) -> None:
        self._access = access
        self._metrics = metrics
        self._client_id = f"chapar-{secrets.token_hex(8)}"  # two processes with one id would take over each other
        self._session: Session | None = None
        self._came_up = asyncio.Condition()
        self._problems = ProblemLog("broker_link_down")
        self._reporting: set[str] = set()  # brokers seen to answer 0x10
        self._strays = Counter[str]()  # of the sessions before this one
        self._quickest = math.inf  # seconds that a dial took at best
        self._dials = 0  # since the last session
        self.broker_was_there = False  #: whether the first dial after the last session found the broker, and at once
        self.sessions = 0  #: sessions so far
        self.last_error: BrokerError | None = None  #: why there is no session, None while there is one
        self.outages = deque[Outage](maxlen=_MOST_OUTAGES)  #: those that are over, until somebody takes them
        self._cause: str | None = None  # of the outage that goes on
        self._changed = time.monotonic()  # when a session began or ended last, or this was made

    async def run(self) -> None:
        """Keep a session until cancelled; then it ends with DISCONNECT."""
        encrypted = any(address.tls for address in self._access.brokers)
        watching = [asyncio.create_task(self._watch_files(), name="files")] if encrypted else []
        try:
            await stay_connected(self._access, self._connected, self._note)
        finally:
            for task in watching:
                task.cancel()

    async def _watch_files(self) -> None:
        await supervised("broker_certificates", lambda: watch_files(self._access.tls_files), self._metrics)

    @property
    def up(self) -> bool:
        """Return whether there is a session now."""
        return self._session is not None and self._session.up

    @property
    def steady_for(self) -> float:
        """Seconds since a session began or ended last; where there was none yet, since this process has tried."""
        is_ending = self._session is not None and not self._session.up
        return 0.0 if is_ending else time.monotonic() - self._changed

    @property
    def broker(self) -> str | None:
        """The connected broker, without its secret; None while there is none."""
        return self._session.endpoint if self._session is not None and self._session.up else None

    @property
    def reconnects(self) -> int:
        """Sessions after the first."""
        return max(0, self.sessions - 1)

    @property
    def window(self) -> int:
        """Publications that may be unanswered at a time, 0 while there is no session."""
        return self._session.window if self._session is not None else 0

    @property
    def in_flight(self) -> int:
        """Publications that the broker has not answered."""
        return self._session.in_flight if self._session is not None else 0

    @property
    def waiting(self) -> int:
        """Publications that wait for room in the window, unsent."""
        return self._session.waiting if self._session is not None else 0

    @property
    def trouble(self) -> BrokerError | None:
        """Return why nothing, or not everything, can be delivered now; None where there is a session and it answers."""
        session = self._session
        if session is None or not session.up:
            return self.last_error
        seconds = session.unanswered_for
        return None if seconds is None else BrokerUnanswered(session.endpoint, seconds)

    @property
    def strays(self) -> Counter[str]:
        """Packets so far that nobody waited for, by type."""
        return self._strays + self._session.strays if self._session is not None else self._strays

    @property
    def reports_subscribers(self) -> bool:
        """Return whether 0x00 from the connected broker means that somebody was subscribed.

        A broker may answer 0x10 where nobody is, and need not (MQTT 5.0 §3.4.2.1); nothing in CONNACK tells, and a
        probe would have to publish where an ACL may end the session. So it counts once this process has seen 0x10
        from this broker, and stays unknown before.
        """
        session = self._session
        return session is not None and (session.met_no_subscribers or session.endpoint in self._reporting)

    async def connected(self) -> None:
        """Wait until there is a session."""
        async with self._came_up:
            await self._came_up.wait_for(lambda: self.up)

    def publish(self, publications: Sequence[Publication]) -> Answers:
        """Hand publications to the session, in this order; never raises, see `Answers`."""
        if self._session is None:
            return Answers.alike(publications, LinkDown())
        return self._session.publish(publications)

    def take_back(self, message_id: str) -> bool:
        """End the publication of a message with TakenBack where nothing of it was sent; answer whether that is so."""
        return self._session is not None and self._session.take_back(message_id)

    @asynccontextmanager
    async def _connected(self, endpoint: Endpoint) -> AsyncIterator[Session]:
        """Be up with a session of this endpoint, until it ends; raises BrokerError where there is none."""
        session = await self._dial(endpoint)
        self._session = session
        self._outage_is_over()
        self.sessions += 1
        self.last_error = None
        self._problems.clear()
        log.info("broker_link_up", broker=session.endpoint, window=session.window)
        try:
            async with self._came_up:
                self._came_up.notify_all()
            yield session
        finally:
            if session.met_no_subscribers:
                self._reporting.add(session.endpoint)
            self._strays += session.strays
            self._session = None
            self._changed = time.monotonic()
            await session.close()

    async def _dial(self, endpoint: Endpoint) -> Session:
        began = asyncio.get_running_loop().time()
        self._dials += 1
        session = await dial(endpoint, self._access, self._sign_on(endpoint.broker))
        took = asyncio.get_running_loop().time() - began
        self.broker_was_there = self._dials == 1 and took <= 2 * self._quickest + _A_MOMENT
        self._quickest = min(took, self._quickest)
        self._dials = 0
        return session

    def _sign_on(self, address: BrokerAddress) -> SignOn:
        return SignOn(
            client_id=self._client_id,
            keep_alive=self._access.keep_alive,
            username=address.username,
            password=address.password,
            max_packet_size=address.max_packet_size,
            properties=address.properties,
        )

    def _outage_is_over(self) -> None:
        began, self._changed = self._changed, time.monotonic()
        if self.sessions or self._changed - began > _STARTED_WITHIN:
            self.outages.append(Outage(began, self._changed, self._cause))
        self._cause = None

    def _note(self, error: BrokerError) -> None:
        self._cause = self._cause or error.code
        self.last_error = error
        self._problems.note(error)
