"""Idempotency keys: one message a key, and one answer, however often its request comes."""

import asyncio
from typing import Final, NamedTuple

from chapar.errors import KeyInFlight, KeyMismatch, MessageNotFound
from chapar.model.acceptance import Key
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


class IdempotencyKeys:
    """The keys whose first request this process has yet to answer, and what a repetition is told."""

    def __init__(self, store: Store, clock: Clock, process: str) -> None:
        self._store = store
        self._clock = clock
        self._process = process
        self._answering: dict[tuple[str, str], Key] = {}  # keys whose first request has not been answered

    def take(self, use: Use, message: Message) -> Key:
        """The key under which a message is to be saved, taken until it is answered or released.

        Raises KeyMismatch and KeyInFlight where another request has it.
        """
        key = Key(
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

    def release(self, key: Key) -> None:
        """Let the next request with this key come through: this one is not going to be answered."""
        if self._answering.get(key[:2]) is key:
            del self._answering[key[:2]]

    async def repeated(self, owner: Key, *, use: Key) -> Message | Replay:
        """What to answer a request whose key made another message before: what it was answered, else that message.

        Raises KeyMismatch, KeyInFlight, MessageNotFound, StoreUnavailable.
        """
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
        return message

    async def answered(self, use: Use, status: int, body: str) -> Replay | None:
        """Keep the answer to the first request with a key, before it is given: repetitions get the same.

        A Replay where another process has answered meanwhile: its answer is the one to give. Raises KeyInFlight where
        the process of the first request has withdrawn the message meanwhile.
        """
        key = self._answering.get(use[:2])
        if key is None:
            return None
        keeping = self._store.keys.answer(key, status, body)
        # Not before: whoever repeats the call until then is told that the first one is in flight.
        keeping.add_done_callback(lambda _: self._answering.pop(use[:2], None))
        kept = await asyncio.shield(keeping)
        if kept is None:
            raise KeyInFlight
        if kept.answer_status is None or (kept.answer_status, kept.answer_body) == (status, body):
            return None
        return Replay(kept.message_id, kept.answer_status, kept.answer_body or "")
