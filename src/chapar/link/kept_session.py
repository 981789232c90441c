"""The session that brokers keep for one client id while we are away: whether they did, and what filters it has."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from chapar.errors import BrokerError, NoAnswer, Phrase, SessionTakenOver, UnsubscriptionRefused
from chapar.link.broker_access import BrokerAccess
from chapar.link.endpoints import Endpoint
from chapar.link.session import Session
from chapar.runtime.addresses import BrokerAddress
from chapar.runtime.metrics import Metrics

_UNSUBSCRIBE: Final = Phrase("link.step_unsubscribe")

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class KeptSession:
    """One session at each of several brokers, which know nothing of each other.

    Filters of an earlier configuration would hold in it for ever, so `obsolete` ones are unsubscribed at each broker.
    `on_filters` is called with those that hold, each time that the session was subscribed.
    """

    def __init__(
        self,
        topic_filter: str,
        access: BrokerAccess,
        on_filters: Callable[[tuple[str, ...]], None],
        metrics: Metrics,
    ) -> None:
        """`topic_filter` is the one that is subscribed to now."""
        self.lost = 0  #: sessions that a broker should have kept and did not
        self._filter = topic_filter
        self._access = access
        self._on_filters = on_filters
        self._metrics = metrics
        self._obsolete: tuple[str, ...] = ()
        self._untidy: set[BrokerAddress] = set()  # where obsolete filters may hold
        self._met: set[BrokerAddress] = set()
        self._is_expected = False  # of the first broker that is met
        self._is_ours: Callable[[], bool] = bool  # False, before `resume()`

    def resume(self, earlier: Sequence[str], is_ours: Callable[[], bool]) -> None:
        """Begin with the filters that held when the session was last used, as `on_filters` got them.

        `is_ours` says before each connection whether we may take the session from whoever has it.
        """
        self._is_ours = is_ours
        self._obsolete = tuple(each for each in dict.fromkeys(earlier) if each != self._filter)
        self._untidy = set(self._access.brokers) if self._obsolete else set()
        self._met.clear()
        self._is_expected = bool(earlier)

    def check(self, endpoint: Endpoint) -> None:
        """Raise SessionTakenOver where the session is not ours to take.

        A broker need not say that another client took it: Mosquitto 2.0.11 and the built-in one only hang up.
        """
        if not self._is_ours():
            raise SessionTakenOver(str(endpoint))

    def opened(self, session: Session, broker: BrokerAddress) -> None:
        """A session with this broker begins: say so where the broker has forgotten the one before."""
        is_expected = broker in self._met or (self._is_expected and broker.outlives_us)
        if is_expected and not session.session_present:
            self.lost += 1
            self._metrics.sessions_lost.inc()
            log.warning("broker_forgot_session", broker=session.endpoint, note="What it held for us is lost.")
        if not session.session_present:
            self._untidy.discard(broker)
        self._is_expected = False
        self._met.add(broker)

    async def tidy(self, session: Session, broker: BrokerAddress) -> None:
        """End the obsolete subscriptions at this broker; raises BrokerError or LinkDown where the session ends."""
        if broker in self._untidy:
            patience = self._access.connect_timeout
            try:
                async with asyncio.timeout(patience):
                    await session.unsubscribe(self._obsolete)
            except UnsubscriptionRefused as refusal:
                _log_kept(refusal)
            except TimeoutError:  # the built-in broker leaves it unanswered where there is no such subscription
                _log_kept(NoAnswer(session.endpoint, _UNSUBSCRIBE, patience))
            else:
                self._untidy.discard(broker)
        self._on_filters((self._filter, *(self._obsolete if self._untidy else ())))


def _log_kept(error: BrokerError) -> None:
    log.warning("broker_keeps_subscription", broker=error.endpoint, reason=str(error))
