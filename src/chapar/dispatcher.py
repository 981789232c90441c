"""What is due goes over the link, and what came of it goes into the store."""

import asyncio
from collections.abc import Coroutine
from itertools import count

import structlog

from chapar.errors import LinkDown, LinkLost, PublicationInvalid
from chapar.link.link import Link
from chapar.link.publication import Publication
from chapar.link.reason_codes import FIRST_FAILURE, NO_MATCHING_SUBSCRIBERS, reason_slug
from chapar.message import Message, Status, now
from chapar.store.store import Store

log = structlog.get_logger(__name__)

_PAGE = 500  # messages claimed at a time: bounds memory, yet keeps the broker's window full between two commits


class Dispatcher:
    """Delivers messages that this process has claimed.

    A message comes here committed as `publishing`, its attempt counted: whatever happens to the process next, its
    row says that a PUBLISH may have left.
    """

    def __init__(self, store: Store, link: Link, process: str) -> None:
        self._store = store
        self._link = link
        self._process = process
        self._claims = count(1)
        self._queued = asyncio.Event()
        self._deliveries: set[asyncio.Task[Message]] = set()

    async def run(self) -> None:
        """Settle what dead processes left, then deliver what is queued, until cancelled."""
        settled = await self._store.settle(self._process)
        if settled:
            log.warning("left_behind_by_dead_process", messages=settled)
        while True:
            await self._link.connected()
            self._queued.clear()
            page = await self._store.claim(f"{self._process}.{next(self._claims)}", _PAGE)
            if page:
                await asyncio.wait([self.deliver(message, may_queue=True) for message in page])
            else:
                await self._queued.wait()

    def deliver(self, message: Message, *, may_queue: bool) -> asyncio.Task[Message]:
        """Publish a claimed message; the task's result is the message as it stands afterwards, committed.

        Where the link is down and nothing left, `may_queue` says whether the message waits or is rejected. The task
        is the dispatcher's own: a caller that stops waiting does not stop it.
        """
        return self._own(self._deliver(message, may_queue=may_queue))

    async def drained(self) -> None:
        """Wait until every delivery under way has come to an end."""
        while self._deliveries:
            await asyncio.wait(self._deliveries)

    async def _deliver(self, message: Message, *, may_queue: bool) -> Message:
        try:
            reason_code = await self._link.publish(
                Publication(
                    topic=message.topic,
                    payload=message.payload,
                    qos=message.qos,
                    retain=message.retain,
                    message_id=message.id,
                    attempt=message.attempts,
                )
            )
        except LinkDown:
            after = _given_back(message) if may_queue else ended(message, Status.REJECTED, "broker_unreachable")
        except LinkLost:
            after = _outcome_unknown(message)
        except PublicationInvalid as error:
            after = _refused(message, error.reason_code)
        else:
            after = self._answered(message, reason_code)
        if not await self._store.move(message, after):
            log.warning("moved_by_another_process", id=message.id)
            return await self._store.find(message.id) or message
        if after.status is Status.QUEUED:
            self._queued.set()
        return after

    def _answered(self, message: Message, reason_code: int) -> Message:
        """The message after its PUBACK."""
        if reason_code >= FIRST_FAILURE:
            return _refused(message, reason_code)
        if message.qos == 0:  # there was no PUBACK: it left, and that is all anybody knows
            return ended(message, Status.UNCONFIRMED, "qos_0")
        heard = reason_code != NO_MATCHING_SUBSCRIBERS
        return ended(message, Status.PUBLISHED)._replace(
            reason_code=reason_code,
            subscribers=False if not heard else self._link.reports_subscribers or None,
            published_at=now(),
        )

    def _own(self, delivery: Coroutine[None, None, Message]) -> asyncio.Task[Message]:
        task = asyncio.create_task(delivery)
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)
        return task


def ended(message: Message, status: Status, reason: str | None = None) -> Message:
    """The message in a final state: no process claims it any longer."""
    return message.moved(status)._replace(reason=reason, claim=None, finished_at=now())


def _refused(message: Message, reason_code: int) -> Message:
    return ended(message, Status.REJECTED, reason_slug(reason_code))._replace(reason_code=reason_code)


def _given_back(message: Message) -> Message:
    """Nothing of it left, so the attempt does not count."""
    return message.moved(Status.QUEUED)._replace(attempts=message.attempts - 1, claim=None)


def _outcome_unknown(message: Message) -> Message:
    """The link fell between PUBLISH and PUBACK."""
    if message.at_most_once:
        return ended(message, Status.UNCONFIRMED, "link_lost")
    return message.moved(Status.QUEUED)._replace(possible_duplicate=True, claim=None)
