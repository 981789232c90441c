"""What follows a send: it is accepted, committed with its key, handed on to be delivered, and its caller is told."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from chapar.delivery.capacity import Room
from chapar.delivery.dispatcher import Dispatcher
from chapar.delivery.outcomes import not_sent
from chapar.errors import BrokerUnreachable, FieldInvalid, NotSaved, OutcomeUnknown, OutOfReach, Phrase, QueueFull
from chapar.link.keeper import Link
from chapar.model.acceptance import Added, Addition, Full, Key, Place, Sender, Withdrawal
from chapar.model.change import Change
from chapar.model.message import Command, Message, Status, Wait, new_id
from chapar.model.principal import EVERYTHING, Caller, Reach
from chapar.model.reason import Reason
from chapar.model.times import rfc3339
from chapar.runtime.clock import Clock
from chapar.runtime.metrics import Metrics
from chapar.runtime.settings import Settings
from chapar.store.store import Store

_LATE = 60_000  # ms by which `deliver_at` may have passed: clocks differ, and a call takes its time
_DEVICE_PATIENCE = 30  # seconds after which a device's full queue is worth another try


class Draft(NamedTuple):
    """A message that may be sent, before it is saved."""

    message: Message
    caller: Caller
    command: Command
    began: float  #: by `time.perf_counter`


_Landing = asyncio.Future[list[Added | NotSaved]] | asyncio.Future[list[Change | NotSaved | None]]


@dataclass(eq=False, slots=True)
class _Call:
    """A send under way: its caller waits for one thing only, whatever happens on the way there."""

    message: Message  #: as it stands, as far as is known
    reach: Reach  #: what the caller may see
    key: Key | None
    deadline: float  #: loop time until which the caller waits for the broker
    waits: bool  #: whether it does at all
    began: float  #: by `time.perf_counter`
    told: asyncio.Future[Message | None]  #: what became of the message; None: nobody knows, or its key has an owner
    owner: Key | None = None  #: whose request was answered with another message


class Sending:
    """Takes messages in. What follows a commit follows it at once, also where the caller is gone by then."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        link: Link,
        dispatcher: Dispatcher,
        room: Room,
        clock: Clock,
        process: str,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._store = store
        self._link = link
        self._dispatcher = dispatcher
        self._room = room
        self._clock = clock
        self._direct_claim = f"{process}.0"  # the dispatcher numbers its own from 1
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._landing: dict[str, _Landing] = {}  # commits under way, by message

    async def quiet(self) -> None:
        """Wait until what is being saved has been handed on to be delivered."""
        while self._landing:
            await asyncio.wait(list(self._landing.values()))

    def when_landed(self, message_id: str, then: Callable[[], None]) -> None:
        """Call `then` once the database says what became of a message that is being saved, at once where it is not."""
        landing = self._landing.get(message_id)
        if landing is None:
            then()
        else:
            landing.add_done_callback(lambda _: self.when_landed(message_id, then))

    def draft(self, caller: Caller, command: Command, origin: str | None = None) -> Draft:
        """The message that a command makes; raises FieldInvalid, OutOfReach."""
        began = time.perf_counter()
        message = self._accepted(command, origin)
        if not caller.principal.reach.covers(message.imei, message.micro_op):
            raise OutOfReach(message.imei, message.micro_op)
        return Draft(message, caller, command, began)

    async def send(self, draft: Draft, key: Key | None = None) -> Message | Key:
        """Save a message, with the `key` of its request, and deliver it.

        Returns and raises what `Messaging.send` promises; or whose the key is, where it made another message before.
        """
        message, caller, command, began = draft
        if command.deliver_at is not None and message.created_at - command.deliver_at > _LATE:
            raise _gone_by(message.created_at)
        if message.status in {Status.SCHEDULED, Status.QUEUED}:
            await self._room.check(caller.principal.reach)
        patience = command.patience or self._settings.publish_timeout
        call = _Call(
            message=message,
            reach=caller.principal.reach,
            key=key,
            deadline=self._loop.time() + patience,
            waits=command.wait is Wait.BROKER,
            began=began,
            told=self._loop.create_future(),
        )
        self._add(call, Sender(caller.principal.id, caller.principal.name, caller.address))
        told = await call.told
        if call.owner is not None:
            return call.owner
        if told is not None and (error := not_sent(told)) is not None:
            raise error
        self._metrics.whole.observe(time.perf_counter() - began)
        return told or call.message

    def _accepted(self, command: Command, origin: str | None) -> Message:
        """The message that a command makes, not yet in a state of its own."""
        stamp = self._clock.now_ns()
        now = stamp // 1_000_000
        deliver_at = command.deliver_at if command.deliver_at is not None and command.deliver_at > now else None
        longest = self._settings.max_expiry
        expires_in = min(self._settings.default_expiry, longest) if command.expires_in is None else command.expires_in
        if expires_in > longest:
            raise _too_far("expires_in", longest)
        if deliver_at is not None and deliver_at - now > self._settings.max_expiry * 1000:
            raise _too_far("deliver_at", self._settings.max_expiry)
        status = self._first_status(command.wait, deliver_at)
        is_claimed, is_over = status is Status.PUBLISHING, status is Status.REJECTED
        return Message(
            id=new_id(stamp),
            imei=command.imei,
            micro_op=command.micro_op,
            params=command.params,
            topic=self._settings.command_topic.replace("{imei}", command.imei),
            qos=command.qos,
            retain=command.retain,
            at_most_once=command.at_most_once or command.qos == 0,
            status=status,
            reason=Reason.BROKER_UNREACHABLE.value if is_over else None,
            reason_code=None,
            attempts=1 if is_claimed else 0,
            possible_duplicate=False,
            subscribers=None,
            claim=self._direct_claim if is_claimed else None,
            created_at=now,
            deliver_at=deliver_at,
            expires_at=(deliver_at or now) + round(expires_in * 1000),
            not_before=None,
            origin=origin,
            published_at=None,
            finished_at=now if is_over else None,
        )

    def _first_status(self, wait: Wait, deliver_at: int | None) -> Status:
        """Where a new message begins: scheduled, in the queue, on its way, or rejected for want of a broker."""
        if deliver_at is not None:
            return Status.SCHEDULED
        if wait is Wait.BROKER and not self._link.up:
            return Status.REJECTED
        if wait is Wait.BROKER and self._dispatcher.takes_direct:
            return Status.PUBLISHING
        return Status.QUEUED

    def _add(self, call: _Call, sender: Sender) -> None:
        """Save the message. What is saved is delivered, also where the caller is gone by then."""
        message = call.message
        # However little the caller waits for the broker, the database has its time to commit.
        patience = self._loop.time() + self._settings.publish_timeout
        bound = self._settings.max_device_queue
        deadline = max(call.deadline, patience)
        added = self._store.messages.add([Addition(message, bound, call.key, sender)], deadline)
        if message.status in {Status.SCHEDULED, Status.QUEUED}:
            self._room.joins(message.id)
        self._landing[message.id] = added
        added.add_done_callback(partial(self._landed, call))

    def _landed(self, call: _Call, added: asyncio.Future[list[Added | NotSaved]]) -> None:
        """What follows from a commit, at once and whoever still waits for it."""
        self._landing.pop(call.message.id, None)
        self._room.joined(call.message.id)
        landed = added.exception() or added.result()[0]
        if not isinstance(landed, BaseException):
            self._metrics.commit.observe(time.perf_counter() - call.began)
        match landed:
            case Place() as place:
                self._placed(call, place)
            case Key() as owner:
                call.owner = owner
                _tell(call, None)
            case Full() as full:
                bound = self._settings.max_device_queue
                oldest = full.oldest if call.reach.operations == EVERYTHING else None
                _refuse(call, QueueFull("CHAPAR_MAX_DEVICE_QUEUE", bound, oldest, _DEVICE_PATIENCE))
            case error:
                if isinstance(error, OutcomeUnknown):
                    self._withdraw(call)
                _refuse(call, error)

    def _placed(self, call: _Call, place: Place) -> None:
        message = call.message
        self._metrics.accepted[place.status.value,].inc()
        is_as_asked = place == (message.status, message.claim)
        if not is_as_asked:
            attempts = min(message.attempts, place.claim is not None)
            call.message = message._replace(status=place.status, claim=place.claim, attempts=attempts)
        if place.status is Status.REJECTED:
            self._metrics.finished[place.status.value, message.reason or ""].inc()
            _refuse(call, BrokerUnreachable(message.id))
        elif not (call.waits and place.status in {Status.PUBLISHING, Status.QUEUED}):
            _tell(call, call.message)
        elif not call.told.done():
            self._dispatcher.await_outcome(message.id, call.told, call.deadline)
        if is_as_asked and place.status is Status.PUBLISHING:
            self._dispatcher.deliver_direct(message, call.told if call.waits else None)
        elif place.status in {Status.QUEUED, Status.SCHEDULED}:
            self._room.queued()
            self._dispatcher.wake()

    def _withdraw(self, call: _Call) -> None:
        """The row may be there, or still appear. Unless it is on its way already, it must not go any more."""
        message = call.message
        never = message._replace(
            status=Status.REJECTED,
            reason=Reason.OUTCOME_UNKNOWN.value,
            attempts=0,
            claim=None,
            finished_at=self._clock.now(),
        )
        withdrawal = self._store.messages.withdraw([Withdrawal(never, message.claim, call.key)])
        self._landing[message.id] = withdrawal
        withdrawal.add_done_callback(lambda _: self._landing.pop(message.id, None))


def _tell(call: _Call, message: Message | None) -> None:
    if not call.told.done():  # else its caller is gone
        call.told.set_result(message)


def _refuse(call: _Call, error: BaseException) -> None:
    if not call.told.done():
        call.told.set_exception(error)


def _gone_by(now: int) -> FieldInvalid:
    return FieldInvalid("deliver_at", Phrase("rule.passed", now=rfc3339(now)))


def _too_far(field: str, seconds: float) -> FieldInvalid:
    days = round(seconds / 86400, 1)
    return FieldInvalid(field, Phrase("rule.too_far", days=days))
