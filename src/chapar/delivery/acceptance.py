"""Acceptance of messages: each is committed with its key and handed on to be delivered, and its caller is answered."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from chapar.delivery.capacity import Capacity
from chapar.delivery.dispatcher import Dispatcher
from chapar.delivery.idempotency import Sent
from chapar.delivery.outcomes import not_sent
from chapar.delivery.waiting import Waiters, Waiting
from chapar.errors import (
    ChaparError,
    FieldInvalid,
    NotSaved,
    OutcomeUnknown,
    OutOfReach,
    Phrase,
    QueueFull,
    ScopeMissing,
    StoreUnavailable,
)
from chapar.model.acceptance import Added, Addition, Full, IdempotencyKey, Placement, Sender, Withdrawal
from chapar.model.combinations import check_combination
from chapar.model.message import (
    DEFAULT_REPLY_WITHIN,
    LONGEST_WAIT,
    Command,
    Condition,
    Message,
    Profile,
    Status,
    Wait,
    new_id,
)
from chapar.model.principal import EVERYTHING, Caller, Principal, Reach, Scope
from chapar.model.reason import Reason
from chapar.model.times import rfc3339, span
from chapar.runtime.clock import Clock
from chapar.runtime.metrics import Metrics
from chapar.store.messages import Messages

_LATE = 60_000  # ms by which `deliver_at` may have passed: clocks differ, and a call takes its time
_IN_QUEUE = frozenset({Status.SCHEDULED, Status.QUEUED})
_ON_THE_WAY = frozenset({Status.QUEUED, Status.PUBLISHING})
_DEVICE_PATIENCE = 30  # seconds after which a device's full queue is worth another try


CheckParams = Callable[[str, str | None], bool]
"""Raises FieldInvalid where parameters, a JSON object as text or none, are not those of an operation. Gives whether
anything is said of the operation."""


class Rules(NamedTuple):
    """Rules that hold for every message."""

    command_topic: str  #: with `{imei}` for the device
    default_expiry: float  #: seconds
    max_expiry: float  #: seconds that a message may wait at most, and lie ahead
    publish_timeout: float  #: seconds that a caller waits who does not say how long
    max_device_queue: int  #: unfinished messages of one device
    default_profile: Profile  #: of a device that has none of its own
    contact_window: float  #: seconds after a device was there in which a message is sent that depends on it
    check_params: CheckParams | None = None  #: None: any parameters are taken


class Draft(NamedTuple):
    """A message that may be sent, before it is saved."""

    message: Message
    asked_for: int | None  #: the time at which it was to be delivered, ms since the epoch
    began: float  #: by `time.perf_counter`
    key: IdempotencyKey | None = None  #: of its request
    purges: bool = False  #: it withdraws all that waits for its device


@dataclass(eq=False, slots=True)
class _Call:
    """A send under way: its caller waits for one thing only, whatever happens on the way there."""

    reach: Reach  #: what the caller may see
    drafts: Sequence[Draft]  #: those to be saved
    sent: dict[str, Sent]  #: by message, as far as is known
    waiting: Waiting
    wait: Wait  #: what its caller waits for
    deadline: float  #: loop time until which it does


class Sending:
    """Takes messages in. What follows a commit follows it at once, also where the caller is gone by then."""

    def __init__(
        self,
        rules: Rules,
        messages: Messages,
        dispatcher: Dispatcher,
        waiters: Waiters,
        capacity: Capacity,
        clock: Clock,
        process: str,
        metrics: Metrics,
    ) -> None:
        self._rules = rules
        self._profile = rules.default_profile.value
        self._messages = messages
        self._dispatcher = dispatcher
        self._waiters = waiters
        self._capacity = capacity
        self._clock = clock
        self._direct_claim = f"{process}.0"  # the dispatcher numbers its own from 1
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._landing: dict[str, asyncio.Future[Any]] = {}  # commits under way, by each of their messages

    async def drain(self) -> None:
        """Wait until what is being saved has been handed on to be delivered."""
        while self._landing:
            await asyncio.wait(set(self._landing.values()))

    def when_landed(self, message_id: str, then: Callable[[], None]) -> None:
        """Call `then` once the database says what became of a message that is being saved, at once where it is not."""
        landing = self._landing.get(message_id)
        if landing is None:
            then()
        else:
            landing.add_done_callback(lambda _: self.when_landed(message_id, then))

    def draft(self, caller: Caller, command: Command) -> Draft:
        """The message that a command makes; raises FieldInvalid, OutOfReach, ScopeMissing."""
        began = time.perf_counter()
        check_combination(command)
        message = self._accepted(command)
        check_rights(caller.principal, command)
        return Draft(message, command.deliver_at, began, purges=command.purge)

    def check(self, draft: Draft) -> None:
        """Raise FieldInvalid for a draft that comes too late, or whose parameters are not as the catalog says.

        Not when it is made: what a key was accepted for before is answered, whatever holds now.
        """
        message = draft.message
        if draft.asked_for is not None and message.created_at - draft.asked_for > _LATE:
            raise _gone_by(message.created_at)
        if self._rules.check_params is not None:
            self._rules.check_params(message.micro_op, message.params)

    async def send(self, caller: Caller, drafts: Sequence[Draft], wait: Wait, patience: float | None) -> list[Sent]:
        """Save messages, deliver them, and say of each how it stands when what the caller waits for is there.

        `patience` is how long all of them may be waited for, in seconds; None: as the setting says.
        """
        sent: dict[str, Sent] = {}
        taken = await self._taken(drafts, caller.principal.reach, sent)
        if taken:
            waits = wait is not Wait.NONE
            awaited = [draft.message.id for draft in taken if waits and draft.message.status in _ON_THE_WAY]
            deadline = self._loop.time() + (patience or self.patience(wait, taken[0].message))
            call = _Call(caller.principal.reach, taken, sent, Waiting(awaited, wait), wait, deadline)
            self._add(call, Sender(caller.principal.id, caller.principal.name, caller.address))
            try:
                await call.waiting.done
            except asyncio.CancelledError:
                self._waiters.remove(call.waiting)
                raise
            sent.update(call.waiting.found)
            if wait is Wait.DEVICE and call.waiting.pending:
                sent.update(await self._as_they_stand(call.waiting.pending))
        return [self._said(draft, sent[draft.message.id]) for draft in drafts]

    def patience(self, wait: Wait, message: Message) -> float:
        """Return for how many seconds a caller waits for a message that does not say how long."""
        if wait is not Wait.DEVICE:
            return self._rules.publish_timeout
        reply_within = DEFAULT_REPLY_WITHIN if message.reply_within is None else message.reply_within / 1000
        return min(reply_within + self._rules.publish_timeout, LONGEST_WAIT)

    async def _as_they_stand(self, ids: Iterable[str]) -> dict[str, Message]:
        """Read how messages stand of which no end came in time; nothing where that is not possible."""
        try:
            return {message.id: message for message in await self._messages.find_all(list(ids))}
        except StoreUnavailable:
            return {}

    async def _taken(self, drafts: Sequence[Draft], reach: Reach, sent: dict[str, Sent]) -> list[Draft]:
        """Those of the drafts that may be taken, and for which there is room; why the others are not is `sent`."""
        taken: list[Draft] = []
        try:
            for draft in drafts:
                message = draft.message
                try:
                    self.check(draft)
                    if message.status in _IN_QUEUE:
                        await self._capacity.check(reach)
                except (FieldInvalid, QueueFull) as error:
                    sent[message.id] = error
                    continue
                taken.append(draft)
                if message.status in _IN_QUEUE:
                    self._capacity.joins(message.id)
        except BaseException:
            self._joined(taken)
            raise
        return taken

    def _joined(self, drafts: Sequence[Draft]) -> None:
        """These are in the queue, or will not be."""
        for draft in drafts:
            if draft.message.status in _IN_QUEUE:
                self._capacity.joined(draft.message.id)

    def _said(self, draft: Draft, sent: Sent) -> Sent:
        if isinstance(sent, Message):
            if (error := not_sent(sent)) is not None:
                return error
            self._metrics.whole.observe(time.perf_counter() - draft.began)
        return sent

    def _accepted(self, command: Command) -> Message:
        """The message that a command makes, not yet in a state of its own."""
        stamp = self._clock.now_ns()
        now = stamp // 1_000_000
        deliver_at = command.deliver_at if command.deliver_at is not None and command.deliver_at > now else None
        longest = self._rules.max_expiry
        expires_in = min(self._rules.default_expiry, longest) if command.expires_in is None else command.expires_in
        if expires_in > longest:
            raise _too_far("expires_in", longest)
        if command.condition is Condition.ONLINE:  # nor does it in the broker
            expires_in = min(expires_in, self._rules.contact_window)
        if deliver_at is not None and deliver_at - now > self._rules.max_expiry * 1000:
            raise _too_far("deliver_at", self._rules.max_expiry)
        status = self._first_status(command, deliver_at)
        awaited = command.reply_awaited
        is_claimed, is_over = status is Status.PUBLISHING, status is Status.REJECTED
        return Message(
            id=new_id(stamp),
            imei=command.imei,
            micro_op=command.micro_op,
            params=command.params,
            topic=self._rules.command_topic.replace("{imei}", command.imei),
            qos=command.qos,
            retain=command.retain,
            at_most_once=command.at_most_once or command.qos == 0,
            status=status,
            reason=Reason.BROKER_UNREACHABLE.value if is_over else None,
            attempts=1 if is_claimed else 0,
            possible_duplicate=False,
            claim=self._direct_claim if is_claimed else None,
            created_at=now,
            deliver_at=deliver_at,
            expires_at=(deliver_at or now) + round(expires_in * 1000),
            origin=command.origin,
            finished_at=now if is_over else None,
            reply_within=None if awaited is None else round(awaited * 1000),
            profile=self._profile,
            condition=None if command.condition is None else command.condition.value,
            collapse_key=command.collapse_key,
            urgent=command.urgent,
        )

    def _first_status(self, command: Command, deliver_at: int | None) -> Status:
        """Return a new message's first state: scheduled, in the queue, on its way, or rejected for want of a broker."""
        if deliver_at is not None:
            return Status.SCHEDULED
        if command.condition is Condition.CONTACT:
            return Status.QUEUED
        never_waits = command.condition is Condition.ONLINE
        if command.wait is Wait.NONE and not never_waits:
            return Status.QUEUED
        if self._dispatcher.takes_urgent if command.urgent else self._dispatcher.takes_direct:
            return Status.PUBLISHING
        return Status.QUEUED if self._dispatcher.reaches_broker and not never_waits else Status.REJECTED

    def _add(self, call: _Call, sender: Sender) -> None:
        """Save messages. What is saved is delivered, also where the caller is gone by then."""
        # However little the caller waits for the broker, and however long for the device, the database has its time.
        patience = self._loop.time() + self._rules.publish_timeout
        deadline = patience if call.wait is Wait.DEVICE else max(call.deadline, patience)
        depth = self._rules.max_device_queue
        self._waiters.add(call.waiting)
        added = self._messages.add(
            [Addition(draft.message, depth, draft.key, sender, draft.purges) for draft in call.drafts], deadline
        )
        self._landing.update((draft.message.id, added) for draft in call.drafts)
        added.add_done_callback(partial(self._landed, call))

    def _landed(self, call: _Call, added: asyncio.Future[list[Added | NotSaved]]) -> None:
        """Go on after a commit, at once and whoever still waits for it."""
        self._has_landed(call.drafts)
        self._joined(call.drafts)
        error = added.exception()
        if error is None:
            placed = zip(call.drafts, added.result(), strict=True)
            ended = [draft.message.id for draft, result in placed if not self._placed(call, draft, result)]
        else:
            ended = [draft.message.id for draft in call.drafts]
            if isinstance(error, ChaparError):
                if isinstance(error, OutcomeUnknown):
                    self._withdraw(call.drafts)
                call.sent.update(dict.fromkeys(ended, error))
            elif not call.waiting.done.done():  # else its caller is gone
                call.waiting.done.set_exception(error)
        self._waiters.time(call.waiting, call.deadline, without=ended)

    def _has_landed(self, drafts: Sequence[Draft]) -> None:
        for draft in drafts:
            del self._landing[draft.message.id]

    def _placed(self, call: _Call, draft: Draft, result: Added | NotSaved) -> bool:
        """Go on with a message where it stands; answer whether more is to come."""
        message = draft.message
        match result:
            case Placement() as place:
                placed = place.of(message)
                call.sent[message.id] = placed or place.moved_since(message)
                self._metrics.commit.observe(time.perf_counter() - draft.began)
                if placed is not None and placed.status is Status.PUBLISHING:
                    self._dispatcher.deliver_direct(placed, call.waiting if call.wait is not Wait.NONE else None)
                elif place.status in _IN_QUEUE:
                    self._capacity.queued()
                return place.status in _ON_THE_WAY and place.reason != Reason.PAUSED  # nobody knows how long that is
            case Full(oldest):
                shown = oldest if call.reach.operations == EVERYTHING else None
                bound = self._rules.max_device_queue
                call.sent[message.id] = QueueFull("CHAPAR_MAX_DEVICE_QUEUE", bound, shown, _DEVICE_PATIENCE)
                return False
            case owner_or_error:
                call.sent[message.id] = owner_or_error
                return False

    def _withdraw(self, drafts: Sequence[Draft]) -> None:
        """The rows may be there, or still appear. Unless one is on its way already, it must not go any more."""
        now = self._clock.now()
        reason = Reason.OUTCOME_UNKNOWN.value
        withdrawals = [
            Withdrawal(
                message._replace(status=Status.REJECTED, reason=reason, attempts=0, claim=None, finished_at=now),
                message.claim,
                key,
            )
            for message, _, _, key, _ in drafts
        ]
        withdrawal = self._messages.withdraw(withdrawals)
        self._landing.update((draft.message.id, withdrawal) for draft in drafts)
        withdrawal.add_done_callback(lambda _: self._has_landed(drafts))


def check_rights(principal: Principal, command: Command) -> None:
    """Raise OutOfReach or ScopeMissing where a command asks for more than its caller may.

    A purge withdraws what others sent, whatever operation that is.
    """
    if not principal.reach.covers(command.imei, command.micro_op):
        raise OutOfReach(command.imei, command.micro_op)
    if command.urgent:
        check_scope(principal, Scope.URGENT)
    if command.purge:
        check_scope(principal, Scope.CANCEL)
        if principal.reach.operations != EVERYTHING:
            raise OutOfReach(command.imei, "*")


def check_scope(principal: Principal, scope: Scope) -> None:
    """Raise ScopeMissing unless the principal has the scope."""
    if scope not in principal.scopes:
        raise ScopeMissing(scope.value)


def _gone_by(now: int) -> FieldInvalid:
    return FieldInvalid("deliver_at", Phrase("rule.passed", now=rfc3339(now)))


def _too_far(field: str, seconds: float) -> FieldInvalid:
    return FieldInvalid(field, Phrase("rule.too_far", longest=span(seconds)))
