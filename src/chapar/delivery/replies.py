"""Replies of devices: taken from the broker, committed, and only then acknowledged; and shown."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import structlog

from chapar.delivery.messages import Messaging
from chapar.errors import NotSaved, OutcomeUnknown
from chapar.link.inbox import MOST_UNACKNOWLEDGED
from chapar.link.publication import Delivery
from chapar.link.topics import DeviceTopics
from chapar.model.principal import Caller
from chapar.model.reply import Listed, Receipt, ReceivedReply, read_reply
from chapar.runtime.clock import Clock
from chapar.runtime.metrics import Metrics
from chapar.store.replies import Replies

log = structlog.get_logger(__name__)

AT_ONCE: Final = 250  # replies in one commit, for which sends wait
MAX_WAITING: Final = MOST_UNACKNOWLEDGED
"""Replies that wait for their commit: as many as a broker can send ahead of our acknowledgements."""
MAX_UNOWED: Final = 1024  # likewise of QoS 0, which a broker sends without waiting for any

_AGAIN: Final = 0.5  # seconds until a commit is tried again that the gateway's end refused


class _Waiting(NamedTuple):
    """A reply that is not committed yet."""

    reply: ReceivedReply
    acknowledge: Callable[[], None]


class Incoming:
    """Takes the replies that the broker delivers, and acknowledges each once it is committed.

    `received()` reads and keeps them, bounded, at once; `run()` commits them in their order.
    """

    def __init__(self, replies: Replies, topics: DeviceTopics, clock: Clock, metrics: Metrics) -> None:
        self._replies = replies
        self._topics = topics
        self._clock = clock
        self._metrics = metrics
        self._owed = deque[_Waiting]()
        self._unowed = deque[_Waiting]()  # of QoS 0
        self._has_some = asyncio.Event()

    def received(self, deliveries: Sequence[Delivery]) -> None:
        """Take deliveries. What the broker had retained is no reply: nobody knows when it was said."""
        at = self._clock.now()
        for delivery in deliveries:
            if delivery.retain:
                self._metrics.replies_ignored["retained",].inc()
                delivery.acknowledge()
                continue
            reply = read_reply(
                delivery.payload,
                delivery.correlation_data,
                delivery.user_properties,
                device=self._topics.device(delivery.topic),
                topic=delivery.topic,
                at=at,
                packet_id=delivery.packet_id,
                is_repeated=delivery.duplicate,
            )
            self._take(_Waiting(reply, delivery.acknowledge), is_owed=delivery.qos > 0)
        self._has_some.set()

    def _take(self, waiting: _Waiting, *, is_owed: bool) -> None:
        if is_owed:
            self._owed.append(waiting)
            if len(self._owed) > MAX_WAITING:
                # It is of an earlier session, so it is not acknowledged, and has come once more since.
                self._owed.popleft()
        elif len(self._unowed) < MAX_UNOWED:
            self._unowed.append(waiting)
        else:
            self._metrics.replies_ignored["too_many",].inc()

    def forget(self) -> None:
        """Forget what is not committed: another process receives now, and the broker sends it there."""
        self._owed.clear()
        self._unowed.clear()

    async def run(self) -> None:
        """Commit what is received, until cancelled."""
        while True:
            await self._has_some.wait()
            self._has_some.clear()
            while self._owed or self._unowed:
                owed, unowed = _first(self._owed), _first(self._unowed)
                try:
                    await self._commit([*owed, *unowed])
                except BaseException:
                    # What is neither committed nor acknowledged would hold back the acknowledgements behind it.
                    self._owed.extendleft(reversed(owed))
                    self._unowed.extendleft(reversed(unowed))
                    self._has_some.set()
                    raise

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        """Commit replies, then acknowledge them."""
        receipts = await self._stored([waiting.reply for waiting in batch])
        now = self._clock.now()
        for (reply, acknowledge), receipt in zip(batch, receipts, strict=True):
            acknowledge()
            if isinstance(receipt, NotSaved):
                # It would fail again, for ever, and so would all behind it.
                log.error("reply_not_stored", imei=reply.imei, sha256=reply.sha256, cause=str(receipt))
                self._metrics.replies_ignored["not_stored",].inc()
                continue
            self._metrics.reply.observe(max(0, now - reply.at) / 1000)
            self._count(receipt)

    async def _stored(self, replies: Sequence[ReceivedReply]) -> Sequence[Receipt | NotSaved]:
        while True:
            try:
                return await self._replies.receive(replies)
            except (NotSaved, OutcomeUnknown):
                await asyncio.sleep(_AGAIN)

    def _count(self, receipt: Receipt) -> None:
        if receipt.by is not None:
            self._metrics.replies_matched[receipt.by.value,].inc()
        elif receipt.unmatched is not None:
            self._metrics.replies_unmatched[receipt.unmatched.value,].inc()
        else:
            self._metrics.replies_ignored["echo",].inc()


def _first(waiting: deque[_Waiting]) -> list[_Waiting]:
    return [waiting.popleft() for _ in range(min(len(waiting), AT_ONCE))]


class ReplyPage(NamedTuple):
    """Some of the replies that belong to no message, newest first."""

    replies: list[Listed]
    next: int | None  #: behind which the next page begins; None: nothing follows


class Replying:
    """Shows what devices replied, to callers within reach of them."""

    def __init__(self, replies: Replies, messaging: Messaging) -> None:
        self._replies = replies
        self._messaging = messaging

    async def of_message(self, caller: Caller, message_id: str) -> list[Listed]:
        """All replies of a message, in the order in which they came; raises MessageNotFound, StoreUnavailable."""
        message = await self._messaging.find(caller, message_id)
        return await self._replies.of_message(message.id)

    async def unmatched(self, caller: Caller, imei: str | None, *, before: int | None, limit: int) -> ReplyPage:
        """Up to `limit` replies that belong to no message, older than the one at `before`; raises StoreUnavailable.

        Those whose topic names no device are within reach of nobody whose devices are limited.
        """
        reach = caller.principal.reach
        return ReplyPage(*await self._replies.unmatched(imei, reach, before=before, limit=limit))
