"""Receive what devices publish: their replies, kept by the broker while we are away, and their signs of life."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from chapar.errors import BrokerError, SessionTakenOver
from chapar.link.broker_access import BrokerAccess
from chapar.link.kept_session import KeptSession
from chapar.link.listener import Listener, ListenerState, Subscription
from chapar.link.publication import Delivery, SignOn
from chapar.link.topics import DeviceTopics
from chapar.runtime.metrics import Metrics
from chapar.runtime.supervision import supervised

SESSION_EXPIRY: Final = 7 * 24 * 3600
"""Seconds for which a broker keeps replies while no process of ours receives: a long weekend, and some."""

_MEASURE_EVERY: Final = 1.0  # seconds


class Receiver:
    """Two connections to the same brokers, for one process at a time.

    `replies` has a session that the broker keeps: given client id, QoS 1, the reply filter alone. `life` is clean, QoS
    0: the presence filter, with what is stored, and the reply filter. Both hand over lists, which hold what came in one
    turn of the event loop, and neither waits for its owner: a list must be taken at once, and its large payloads cut.

    The owner of `on_replies` acknowledges each delivery, in any order, once it is committed; the broker gets the
    acknowledgements in the order of the deliveries, and is asked to send at most MAX_UNACKNOWLEDGED ahead of them. What
    is stored (retained) comes from the presence topic only, and the probe not at all.

    Where another process receives now, `run()` raises SessionTakenOver, and the owner gives up its lease. It must not
    run again before the lease is its own again, or both would take the session from each other for ever. Not every
    broker says that another client has connected with the same client id, so the owner is asked before each connection
    whether its lease still holds (`is_ours`): by what it knows, without asking the database.

    >>> receiver = Receiver(access, DeviceTopics("devices/{imei}/reply"), DeviceTopics("devices/{imei}/presence"),
    ...     metrics, on_replies=…, on_life=…, on_filters=…)
    >>> await receiver.run("chapar-replies-1f0c", earlier_filters, lease.holds)
    """

    def __init__(
        self,
        access: BrokerAccess,
        replies: DeviceTopics,
        presences: DeviceTopics,
        metrics: Metrics,
        *,
        on_replies: Callable[[list[Delivery]], None],
        on_life: Callable[[list[Delivery]], None],
        on_filters: Callable[[tuple[str, ...]], None],
    ) -> None:
        """`on_filters` is called with the filters that hold in the kept session, see `run()`."""
        self._metrics = metrics
        self._keep_alive = access.keep_alive
        self._kept = KeptSession(replies.filter, access, on_filters, metrics)
        self._replies = Listener(
            "replies",
            access,
            [Subscription(replies.filter, qos=1, retained=False)],
            replies,
            on_replies,
            metrics,
        )
        # Two templates may be one filter, which is subscribed to once: whether stored messages come is its last word.
        signs = (
            Subscription(replies.filter, qos=0, retained=False),
            Subscription(presences.filter, qos=0, retained=True),
        )
        self._life = Listener(
            "life",
            access,
            [each for each in signs if each.retained or each.filter != presences.filter],
            replies,
            on_life,
            metrics,
        )

    async def run(self, client_id: str, earlier_filters: Sequence[str], is_ours: Callable[[], bool]) -> None:
        """Receive until cancelled; then both sessions end with DISCONNECT. Raises SessionTakenOver.

        `client_id` is the installation's. `earlier_filters` hold in its session: the owner stores what `on_filters` got
        last, and adds the current filter before `run()`, so that no crash leaves one behind that nobody knows. Empty
        means that no broker has had the session.
        """
        self._kept.resume(earlier_filters, is_ours)
        kept = SignOn(client_id, self._keep_alive, clean_start=False, session_expiry=SESSION_EXPIRY)
        # A broker need not take a client id of more than 23 characters (MQTT 5.0 §3.1.3.1).
        clean = SignOn(f"chapar-life-{secrets.token_hex(5)}", self._keep_alive)
        others = [
            asyncio.create_task(
                supervised("receiver_life", partial(self._life.run, clean), self._metrics), name="life"
            ),
            asyncio.create_task(supervised("receiver_measures", self._keep_measuring, self._metrics), name="measures"),
        ]
        try:
            replies = partial(self._replies.run, kept, self._kept)
            await supervised("receiver_replies", replies, self._metrics, SessionTakenOver)
        finally:
            for task in others:
                task.cancel()
            await asyncio.wait(others)
            self._measure()

    @property
    def replies_state(self) -> ListenerState:
        """State of the link for replies: up, down, mute or refused."""
        return self._replies.state

    @property
    def life_up(self) -> bool:
        """Return whether signs of life are subscribed to now."""
        return self._life.down_since is None

    @property
    def life_down_since(self) -> float | None:
        """Loop time since which signs of life have not been subscribed to; None while they are."""
        return self._life.down_since

    @property
    def trouble(self) -> BrokerError | None:
        """Return why not everything is received now; None where it is."""
        return self._replies.trouble or self._life.trouble

    @property
    def received(self) -> int:
        """Replies handed over so far."""
        return self._replies.received

    @property
    def undecodable(self) -> int:
        """Deliveries so far that could not be read, and were acknowledged in their turn."""
        return self._replies.undecodable + self._life.undecodable

    @property
    def sessions_lost(self) -> int:
        """Sessions so far that a broker should have kept and did not."""
        return self._kept.lost

    async def _keep_measuring(self) -> None:
        while True:
            self._measure()
            await asyncio.sleep(_MEASURE_EVERY)

    def _measure(self) -> None:
        self._replies.measure()
        self._life.measure()
