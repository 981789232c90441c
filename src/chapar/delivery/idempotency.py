"""Idempotency keys: one message a key, and one answer, however often its request comes."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple, Protocol, TypeVar

from chapar.delivery.outcomes import not_sent
from chapar.errors import (
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
from chapar.model.message import LONGEST_WAIT, Message
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


class IdempotencyKeys:
    """The keys whose first request this process has yet to answer, and what a repetition is told.

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
        use: Use,
        message: Message,
        send: Callable[[IdempotencyKey], Awaitable[Message | IdempotencyKey]],
        answer: Callable[[Message | NotSent], Answer],
    ) -> Answer | Replay:
        """Answer a request that is done once, however often it comes: send `message`, and keep the `answer`.

        `send` saves the message with its key, and gives how it stands when its caller is to be answered, or whose the
        key is where it made another message before. That is answered as the first request was: a Replay.

        Raises KeyMismatch, KeyInFlight, MessageNotFound, StoreUnavailable, OutcomeUnknown, and what `send` raises.
        """
        key = self._take(use, message)
        keeping: asyncio.Future[list[IdempotencyKey | NotSaved | None]] | None = None
        try:
            sent = await self._sent(key, send)
            if isinstance(sent, Replay):
                return sent
            given = answer(sent)
            keeping = self._keep(self._answering[key[:2]], given)
        finally:
            if keeping is None:  # the next request with this key comes through: this one is not going to be answered
                self._when_landed(key.message_id, partial(self._release, key))
        [kept] = await asyncio.shield(keeping)
        if isinstance(kept, NotSaved):
            raise kept
        if kept is None:  # the process of the first request has withdrawn the message meanwhile
            raise KeyInFlight
        if kept.answer_status is None or (kept.answer_status, kept.answer_body) == (given.status, given.body.decode()):
            return given
        return Replay(kept.message_id, kept.answer_status, kept.answer_body or "")  # another process was first

    def _take(self, use: Use, message: Message) -> IdempotencyKey:
        """The key under which a message is to be saved; raises KeyMismatch and KeyInFlight where it is taken."""
        key = IdempotencyKey(
            *use,
            message_id=message.id,
            process=self._process,
            answer_status=None,
            answer_body=None,
            kept_until=max(message.created_at + KEY_KEPT, message.expires_at or 0),
        )
        if (first := self._answering.setdefault(key[:2], key)) is not key:
            raise KeyMismatch if first.fingerprint != key.fingerprint else KeyInFlight
        return key

    def _release(self, key: IdempotencyKey, *_: object) -> None:
        self._answering.pop(key[:2], None)

    async def _sent(
        self, key: IdempotencyKey, send: Callable[[IdempotencyKey], Awaitable[Message | IdempotencyKey]]
    ) -> Message | NotSent | Replay:
        """Return what came of the message, or what the first request with its key was answered."""
        try:
            sent = await send(key)
        except NotSent as error:
            return error
        except (FieldInvalid, QueueFull):
            # What was accepted before was in time then, and takes no room now.
            owner = await self._store.keys.owner(key[:2], self._clock.now())
            if owner is None:
                raise
            return await self._repeated(owner, key)
        except NotSaved:
            # Whether the key has made a message before, only the database could have said.
            raise OutcomeUnknown from None
        return await self._repeated(sent, key) if isinstance(sent, IdempotencyKey) else sent

    async def _repeated(self, owner: IdempotencyKey, use: IdempotencyKey) -> Message | NotSent | Replay:
        """Return the answer to a request whose key made another message before: the first answer, else that message."""
        if owner.fingerprint != use.fingerprint:
            raise KeyMismatch
        if owner.answer_status is not None:
            return Replay(owner.message_id, owner.answer_status, owner.answer_body or "")
        message = await self._store.messages.find(owner.message_id)
        if message is None:
            raise MessageNotFound(owner.message_id)
        is_recent = self._clock.now() - message.created_at < _ANSWERED
        if owner.process != self._process and is_recent and await self._store.queue.is_alive(owner.process):
            raise KeyInFlight
        # The first request's process died, or its caller went away, before it was answered: this is the first answer.
        self._answering[owner[:2]] = owner
        return not_sent(message) or message

    def _keep(self, key: IdempotencyKey, given: Given) -> asyncio.Future[list[IdempotencyKey | NotSaved | None]]:
        """Keep an answer before it is given; whoever repeats the call until then finds the first one in flight."""
        keeping = self._store.keys.answer([KeptAnswer(key, given.status, given.body.decode())])
        keeping.add_done_callback(partial(self._release, key))
        return keeping
