"""Stay connected to the broker, and say whether we are."""

import asyncio
import logging
import secrets
from itertools import cycle
from typing import Final

import structlog

from chapar.errors import BrokerError, LinkDown
from chapar.link.backoff import gap
from chapar.link.dial import dial
from chapar.link.publication import Publication, SignOn
from chapar.link.session import Session
from chapar.settings import BrokerAddress, Settings

LIVED: Final = 1.0  # seconds after which a session counts as a recovery and not as part of the outage

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Link:
    """The gateway's one connection to the broker.

    `run()` owns the session and dials again until cancelled. Everybody else calls `publish()`, which raises
    `LinkDown` at once when there is no session, or awaits `connected()`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client_id = f"chapar-{secrets.token_hex(8)}"  # two processes with one id would take over each other
        self._session: Session | None = None
        self._came_up = asyncio.Condition()
        self._announcing: set[str] = set()
        self.last_error: BrokerError | None = None  #: why the last session ended or could not be had
        self.sessions = 0  #: sessions so far

    async def run(self) -> None:
        """Keep a session until cancelled; then it ends with DISCONNECT."""
        loop = asyncio.get_running_loop()
        brokers = self._settings.brokers()
        down_since = loop.time()
        for address in cycle(brokers):
            try:
                session = await dial(address, self._settings, self._sign_on(address))
                up_since = loop.time()
                error = await self._hold(session, address)
                if loop.time() - up_since >= LIVED:
                    down_since = loop.time()
            except BrokerError as failure:
                error = failure
            self._note(address, error)
            # A round over all brokers is one try. The gap also paces a broker that accepts us and hangs up at once.
            if address is brokers[-1]:
                await asyncio.sleep(gap(loop.time() - down_since))

    @property
    def up(self) -> bool:
        """Whether there is a session now."""
        return self._session is not None and self._session.up

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
    def announces_subscribers(self) -> bool:
        """Whether 0x00 from the connected broker means that somebody was subscribed.

        A broker may answer 0x10 where nobody is, and need not (MQTT 5.0 §3.4.2.1); nothing in CONNACK tells, and a
        probe would have to publish where an ACL may end the session. So it counts once this process has seen 0x10
        from this broker, and stays unknown before.
        """
        session = self._session
        if session is None:
            return False
        if session.met_no_subscribers:
            self._announcing.add(session.endpoint)
        return session.endpoint in self._announcing

    async def connected(self) -> None:
        """Wait until there is a session."""
        async with self._came_up:
            await self._came_up.wait_for(lambda: self.up)

    def publish(self, publication: Publication) -> asyncio.Future[int]:
        """Hand a publication to the session; see `Session.publish()`. Raises LinkDown where there is none."""
        if self._session is None:
            raise LinkDown
        return self._session.publish(publication)

    async def _hold(self, session: Session, address: BrokerAddress) -> BrokerError | None:
        """Be up until the session ends, and answer why it did."""
        self._session = session
        self.sessions += 1
        log.info("broker_link_up", broker=str(address), window=session.window)
        try:
            async with self._came_up:
                self._came_up.notify_all()
            return await session.ended()
        finally:
            if session.met_no_subscribers:
                self._announcing.add(session.endpoint)
            self._session = None
            await session.close()

    def _sign_on(self, address: BrokerAddress) -> SignOn:
        return SignOn(
            client_id=self._client_id,
            keep_alive=self._settings.keep_alive,
            username=address.username,
            password=address.password,
            properties=address.properties,
        )

    def _note(self, address: BrokerAddress, error: BrokerError | None) -> None:
        """Log why there is no session; the same reason again and again is for those who look closer."""
        repeated = str(error) == str(self.last_error)
        self.last_error = error
        level = logging.DEBUG if repeated else logging.WARNING
        log.log(level, "broker_link_down", broker=str(address), reason=str(error))
