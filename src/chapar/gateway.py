"""The use cases: send a message, find it, list, report, and say whether the gateway is ready."""

import asyncio
from collections.abc import AsyncIterator
from typing import Literal, NamedTuple, Protocol

from chapar.errors import BrokerRefused, BrokerUnreachable, MessageNotFound, NotSent, OutcomeUnknown, StoreUnavailable
from chapar.link.link import Link
from chapar.link.reason_codes import reason_name
from chapar.message import Message, Status, check_device_id, check_operation, new_id, now
from chapar.settings import Settings
from chapar.store.reports import Bucket, Filters, Ranking, Summary
from chapar.store.store import Store

__all__ = ["Bucket", "Deliver", "Filters", "Gateway", "Ranking", "Readiness", "Summary"]


class Deliver(Protocol):
    """Publishes a claimed message; the task's result is the message afterwards, committed."""

    def __call__(self, message: Message, *, may_queue: bool) -> asyncio.Task[Message]:
        """Begin it; `may_queue` says whether it waits for a broker or is rejected without one."""


class Readiness(NamedTuple):
    """What stands between the gateway and a delivery: one sentence each, None where all is well."""

    database: str | None
    broker: str | None


class Gateway:
    """What a caller may ask of Chapar. Knows neither HTTP nor the command line."""

    def __init__(self, settings: Settings, store: Store, link: Link, deliver: Deliver, process: str) -> None:
        self._settings = settings
        self._store = store
        self._link = link
        self._deliver = deliver
        self._claim = f"{process}.0"  # of what is sent as it comes; the dispatcher numbers its own from 1

    async def send(
        self,
        imei: str,
        micro_op: str,
        *,
        params: str | None = None,
        qos: Literal[0, 1, 2] = 1,
        retain: bool = False,
        at_most_once: bool = False,
        patience: float | None = None,
    ) -> Message:
        """Save a message, publish it, and return it as it stands when the broker has answered.

        Still `publishing` or `queued` where the broker did not answer within `patience` seconds (default: the setting
        `publish_timeout`): the delivery goes on, and `find` tells its end.

        Raises FieldInvalid, BrokerUnreachable, BrokerRefused, NotSaved, OutcomeUnknown.
        """
        deadline = asyncio.get_running_loop().time() + (patience or self._settings.publish_timeout)
        imei = check_device_id(imei)
        message = Message(
            id=new_id(),
            imei=imei,
            micro_op=check_operation(micro_op),
            params=params,
            topic=self._settings.command_topic.replace("{imei}", imei),
            qos=qos,
            retain=retain,
            at_most_once=at_most_once or qos == 0,
            status=Status.PUBLISHING,
            reason=None,
            reason_code=None,
            attempts=1,
            possible_duplicate=False,
            subscribers=None,
            claim=self._claim,
            created_at=now(),
            published_at=None,
            finished_at=None,
        )
        if not self._link.up:
            await self._store.add(_never_sent(message, "broker_unreachable"), deadline)
            raise BrokerUnreachable(message.id)
        await self._save(message, deadline)
        delivery = self._deliver(message, may_queue=False)
        try:
            async with asyncio.timeout_at(deadline):
                # Shielded: a caller who stops waiting, or hangs up, does not stop the delivery.
                message = await asyncio.shield(delivery)
        except TimeoutError:
            return message
        if message.status is Status.REJECTED:
            raise _why_rejected(message)
        return message

    async def _save(self, message: Message, deadline: float) -> None:
        try:
            await self._store.add(message, deadline)
        except OutcomeUnknown:
            # The row may be there, or still appear. It was never sent, so it must not be taken for an attempt.
            self._store.move(message, _never_sent(message, "outcome_unknown"))
            raise

    async def find(self, message_id: str) -> Message:
        """The message with this id; raises MessageNotFound, StoreUnavailable."""
        message = await self._store.find(message_id)
        if message is None:
            raise MessageNotFound(message_id)
        return message

    async def page(self, filters: Filters, *, before: str | None, limit: int) -> list[Message]:
        """At most `limit` messages older than the id `before`, newest first; raises StoreUnavailable."""
        return await self._store.page(filters, before=before, limit=limit)

    def report(self, filters: Filters) -> AsyncIterator[list[Message]]:
        """All messages, oldest first, in lists of bounded size; raises StoreUnavailable while it is read."""
        return self._store.pages(filters)

    async def summary(self, filters: Filters, bucket: Bucket) -> Summary:
        """Counts by status, device, operation and time; raises StoreUnavailable."""
        return await self._store.summary(filters, bucket)

    async def readiness(self) -> Readiness:
        """Whether database and broker are both there."""
        try:
            await self._store.check()
        except StoreUnavailable as error:
            database: str | None = str(error)
        else:
            database = None
        broker = None if self._link.up else str(self._link.last_error or "The broker has not answered yet.")
        return Readiness(database, broker)


def _never_sent(message: Message, reason: str) -> Message:
    return message.moved(Status.REJECTED)._replace(reason=reason, attempts=0, claim=None, finished_at=now())


def _why_rejected(message: Message) -> NotSent:
    if message.reason_code is None:
        return BrokerUnreachable(message.id)
    return BrokerRefused(message.id, reason_name(message.reason_code), message.reason_code)
