"""Idempotency keys: one message a key, and one answer, however often its request comes."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Final, NamedTuple, Protocol, TypeVar

from chapar.delivery.outcomes import not_sent
from chapar.errors import (
    ChaparError,
    FieldInvalid,
    KeyInFlight,
    KeyMismatch,
    MessageNotFound,
    NotSaved,
    NotSent,
    OutcomeUnknown,
    QueueFull,
)
from chapar.model.acceptance import IdempotencyKey, KeptAnswer
from chapar.model.message import LONGEST_WAIT, UNFINISHED, Message
from chapar.runtime.clock import Clock
from chapar.store.store import Store

KEY_KEPT: Final = 24 * 3600 * 1000  # ms an idempotency key is kept at least, and in any case past its message's expiry

_ANSWERED: Final = LONGEST_WAIT * 1000 + 10_000  # ms after which a request was answered, or its caller is gone


class Use(NamedTuple):
    """The use of an idempotency key for a request."""

    principal: str  #: whose key it is
    key: str
    fingerprint: str  #: SHA-256 of the request, in hexadecimal


class Replay(NamedTuple):
    """The answer that the first request with this key was given."""

    message_id: str
    status: int
    body: str


class Given(Protocol):
    """An answer that can be kept."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def body(self) -> bytes:
        """A text in UTF-8."""


Answer = TypeVar("Answer", bound=Given)

_Now = Callable[[Message | NotSent], Given]
"""Makes the answer to a message as it stands."""

Sent = Message | IdempotencyKey | ChaparError
"""What came of a message that was to be saved: how it stands, whose its key is, or why it was not sent or not saved."""


class IdempotencyKeys:
    """The keys whose first request this process has yet to answer, and what a repetition is answered.

    `when_landed` calls back once the database says what became of a message that is being saved.
    """

    def __init__(
        self, store: Store, clock: Clock, process: str, when_landed: Callable[[str, Callable[[], None]], None]
    ) -> None:
        self._store = store
        self._clock = clock
        self._process = process
        self._when_landed = when_landed
        self._answering: dict[tuple[str, str], IdempotencyKey] = {}  # keys whose first request has not been answered

    async def once(
        self,
        uses: Sequence[tuple[Use, Message]],
        send: Callable[[Sequence[IdempotencyKey]], Awaitable[Sequence[Sent]]],
        answer: Callable[[Message | NotSent], Answer],
        *,
        live: bool = False,
    ) -> list[Answer | Replay | ChaparError]:
        """Answer requests that are done once, however often they come: send their messages, and keep each `answer`.

        `send` saves the messages of these keys, and gives of each how it stands when its caller is to be answered, or
        whose the key is where it made another message before. That is answered as the first request was: a Replay.
        `live`: as the message stands now, and from when the broker has it on, also while the first request waits for
        the device. A caller who was cut off learns of the reply so.

        Of each what it is answered, or why it is not: what `send` says but for NotSent, which is answered, or
        KeyMismatch, KeyInFlight, MessageNotFound, StoreUnavailable, OutcomeUnknown.
        """
        taken = [self._take(use, message) for use, message in uses]
        unanswered = [key for key in taken if isinstance(key, IdempotencyKey)]
        now = answer if live else None
        try:
            sent = iter(await send(unanswered))
            said = [
                await self._settled(key, next(sent), now)
                if isinstance(key, IdempotencyKey)
                else await self._in_flight(use, key, now)
                for key, (use, _) in zip(taken, uses, strict=True)
            ]
            given = [answer(each) if isinstance(each, Message | NotSent) else each for each in said]
            keeping = self._keep(taken, given)
            unanswered = [
                key
                for key, each in zip(taken, given, strict=True)
                if isinstance(key, IdempotencyKey) and isinstance(each, Replay | ChaparError)
            ]
        finally:
            for key in unanswered:  # the next request with it comes through: this one is not going to be answered
                self._when_landed(key.message_id, partial(self._release, [key]))
        kept: Iterator[IdempotencyKey | ChaparError | None]
        try:
            kept = iter(await asyncio.shield(keeping))
        except ChaparError as error:
            kept = repeat(error)
        return [each if isinstance(each, Replay | ChaparError) else _answered(each, next(kept)) for each in given]

    def _take(self, use: Use, message: Message) -> IdempotencyKey | KeyMismatch | KeyInFlight:
        """The key under which a message is to be saved, or why it is not: it is taken."""
        key = IdempotencyKey(
            *use,
            message_id=message.id,
            process=self._process,
            answer_status=None,
            answer_body=None,
            kept_until=max(message.created_at + KEY_KEPT, message.expires_at or 0),
        )
        if (first := self._answering.setdefault(key[:2], key)) is not key:
            return KeyMismatch() if first.fingerprint != key.fingerprint else KeyInFlight()
        return key

    def _release(self, keys: Sequence[IdempotencyKey], *_: object) -> None:
        for key in keys:
            self._answering.pop(key[:2], None)

    async def _in_flight(self, use: Use, error: KeyMismatch | KeyInFlight, now: _Now | None) -> Replay | ChaparError:
        """Return the answer to a request whose key another one uses that has not been answered yet."""
        if now is None or isinstance(error, KeyMismatch):
            return error
        try:
            owner = await self._store.keys.owner(use[:2], self._clock.now())
            return (None if owner is None else await self._as_it_stands(owner, now)) or error
        except ChaparError as unknown:
            return unknown

    async def _settled(
        self, key: IdempotencyKey, sent: Sent, now: _Now | None
    ) -> Message | NotSent | Replay | ChaparError:
        """Return how the message stands, what the first request with its key was answered, or why neither is known."""
        try:
            match sent:
                case IdempotencyKey():
                    return await self._repeated(sent, key, now)
                case FieldInvalid() | QueueFull():
                    # What was accepted before was in time then, and takes no room now.
                    owner = await self._store.keys.owner(key[:2], self._clock.now())
                    return sent if owner is None else await self._repeated(owner, key, now)
                case NotSaved():
                    # Whether the key has made a message before, only the database could have said.
                    return OutcomeUnknown()
                case _:
                    return sent
        except ChaparError as error:
            return error

    async def _repeated(
        self, owner: IdempotencyKey, use: IdempotencyKey, now: _Now | None
    ) -> Message | NotSent | Replay:
        """Return the answer to a request whose key made another message before: the first answer, else that message."""
        if owner.fingerprint != use.fingerprint:
            raise KeyMismatch
        if now is not None:
            if (replay := await self._as_it_stands(owner, now)) is not None:
                return replay
        elif owner.answer_status is not None:
            return Replay(owner.message_id, owner.answer_status, owner.answer_body or "")
        message = await self._message_of(owner)
        is_recent = self._clock.now() - message.created_at < _ANSWERED
        if is_recent and (now is not None or await self._is_being_answered(owner)):
            raise KeyInFlight
        # The first request's process died, or its caller went away, before it was answered: this is the first answer.
        self._answering[owner[:2]] = owner
        return not_sent(message) or message

    async def _is_being_answered(self, owner: IdempotencyKey) -> bool:
        """Return whether another process is at work on the first request."""
        return owner.process != self._process and await self._store.queue.is_alive(owner.process)

    async def _as_it_stands(self, owner: IdempotencyKey, now: _Now) -> Replay | None:
        """Answer as the message stands; None until the broker has it, or the first request its answer."""
        message = await self._message_of(owner)
        if owner.answer_status is None and message.status in UNFINISHED:
            return None
        given = now(not_sent(message) or message)
        return Replay(message.id, given.status, given.body.decode())

    async def _message_of(self, owner: IdempotencyKey) -> Message:
        message = await self._store.messages.find(owner.message_id)
        if message is None:
            raise MessageNotFound(owner.message_id)
        return message

    def _keep(
        self, taken: Sequence[IdempotencyKey | ChaparError], given: Sequence[Given | Replay | ChaparError]
    ) -> asyncio.Future[list[IdempotencyKey | NotSaved | None]]:
        """Keep answers before they are given; whoever repeats the call until then finds the first one in flight."""
        answers = [
            KeptAnswer(self._answering[key[:2]], each.status, each.body.decode())
            for key, each in zip(taken, given, strict=True)
            if isinstance(key, IdempotencyKey) and not isinstance(each, Replay | ChaparError)
        ]
        keeping = self._store.keys.answer(answers)
        keeping.add_done_callback(partial(self._release, [answer.key for answer in answers]))
        return keeping


def _answered(given: Answer, kept: IdempotencyKey | ChaparError | None) -> Answer | Replay | ChaparError:
    """Return what is answered, where `kept` is the key as it is now, or why that is not known."""
    if isinstance(kept, NotSaved):  # the answer was not; the message was, and may have left
        return OutcomeUnknown()
    if isinstance(kept, ChaparError):
        return kept
    if kept is None:  # the process of the first request has withdrawn the message meanwhile
        return KeyInFlight()
    if kept.answer_status is None or (kept.answer_status, kept.answer_body) == (given.status, given.body.decode()):
        return given
    return Replay(kept.message_id, kept.answer_status, kept.answer_body or "")  # another process was first
