"""The session that brokers keep for one client id while we are away: whether they did, and what filters it has."""

from collections.abc import Callable, Sequence

import structlog

from chapar.errors import UnsubscriptionRefused
from chapar.link.session import Session
from chapar.runtime.addresses import BrokerAddress
from chapar.runtime.metrics import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class KeptSession:
    """One session at each of several brokers, which know nothing of each other.

    Filters of an earlier configuration would hold in it for ever, so `obsolete` ones are unsubscribed at each broker.
    `on_filters` is called with those that hold, each time that the session was subscribed.
    """

    def __init__(
        self,
        topic_filter: str,
        brokers: Sequence[BrokerAddress],
        on_filters: Callable[[tuple[str, ...]], None],
        metrics: Metrics,
    ) -> None:
        """`topic_filter` is the one that is subscribed to now."""
        self.lost = 0  #: sessions that a broker should have kept and did not
        self._filter = topic_filter
        self._brokers = brokers
        self._on_filters = on_filters
        self._metrics = metrics
        self._obsolete: tuple[str, ...] = ()
        self._untidy: set[BrokerAddress] = set()  # where obsolete filters may hold
        self._met: set[BrokerAddress] = set()
        self._is_expected = False  # of the first broker that is met

    def resume(self, earlier: Sequence[str]) -> None:
        """Begin with the filters that held when the session was last used, as `on_filters` got them."""
        self._obsolete = tuple(each for each in dict.fromkeys(earlier) if each != self._filter)
        self._untidy = set(self._brokers) if self._obsolete else set()
        self._met.clear()
        self._is_expected = bool(earlier)

    def opened(self, session: Session, broker: BrokerAddress) -> None:
        """A session with this broker begins: say so where the broker has forgotten the one before."""
        if not session.session_present and (broker in self._met or self._is_expected):
            self.lost += 1
            self._metrics.sessions_lost.inc()
            log.warning("broker_forgot_session", broker=session.endpoint, note="What it held for us is lost.")
        self._is_expected = False
        self._met.add(broker)

    async def tidy(self, session: Session, broker: BrokerAddress) -> None:
        """End the obsolete subscriptions at this broker; raises BrokerError or LinkDown where the session ends."""
        if broker in self._untidy:
            try:
                await session.unsubscribe(self._obsolete)
            except UnsubscriptionRefused as refusal:
                log.warning("broker_keeps_subscription", broker=session.endpoint, reason=str(refusal))
            else:
                self._untidy.discard(broker)
        self._on_filters((self._filter, *(self._obsolete if self._untidy else ())))
