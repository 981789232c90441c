"""Single messages: send one, send it again, find it."""

import asyncio
from collections.abc import Callable, Sequence

from chapar.delivery.acceptance import Draft, Sending
from chapar.delivery.idempotency import Answer, IdempotencyKeys, Replay, Sent, Use
from chapar.delivery.waiting import Waiters, Waiting, is_over
from chapar.errors import ChaparError, FieldInvalid, MessageNotFound, NotRepeatable, NotSent, OutOfReach, ScopeMissing
from chapar.model.acceptance import IdempotencyKey
from chapar.model.message import Attempt, Command, Condition, Message, Wait
from chapar.model.principal import Caller
from chapar.store.messages import Messages


class Messaging:
    """Send messages and find them again, as far as the caller reaches."""

    def __init__(self, messages: Messages, sending: Sending, keys: IdempotencyKeys, waiters: Waiters) -> None:
        self._messages = messages
        self._sending = sending
        self._keys = keys
        self._waiters = waiters

    async def send(self, caller: Caller, command: Command) -> Message:
        """Save a message, deliver it, and return it as it stands when what the caller waits for is there.

        Still `scheduled`, `queued` or `publishing` where the caller does not wait, or not long enough: the delivery
        goes on, and `find` tells its end.

        Raises FieldInvalid, OutOfReach, ScopeMissing, NotSent, QueueFull, NotSaved, OutcomeUnknown, StoreUnavailable.
        """
        draft = self._sending.draft(caller, command)
        [sent] = await self._sending.send(caller, [draft], command.wait, command.patience)
        if isinstance(sent, ChaparError):
            raise sent
        assert isinstance(sent, Message)  # noqa: S101 - there is no key that another request may have
        return sent

    async def send_all(self, caller: Caller, commands: Sequence[Command]) -> list[Message | ChaparError]:
        """Send many messages, and give of each what `send` would have returned or raised, in their order.

        Those of one device leave in that order. All wait for the same, and equally long: as the first command says.
        """
        drafts = self._drafts(caller, commands)
        accepted = [draft for draft in drafts if isinstance(draft, Draft)]
        sent = iter(await self._sending.send(caller, accepted, commands[0].wait, commands[0].patience))
        said = [next(sent) if isinstance(draft, Draft) else draft for draft in drafts]
        return [each for each in said if not isinstance(each, IdempotencyKey)]  # there are no keys that others may have

    async def send_once(
        self, caller: Caller, command: Command, use: Use, answer: Callable[[Message | NotSent], Answer]
    ) -> Answer | Replay:
        """Send a message unless the key that is used has made one before, and keep the `answer` before it is given.

        A Replay is what the first request with this key was answered. Raises what `send` raises but for NotSent, which
        is answered, and KeyMismatch, KeyInFlight, MessageNotFound.
        """
        [given] = await self.send_all_once(caller, [(command, use)], answer)
        if isinstance(given, ChaparError):
            raise given
        return given

    async def send_all_once(
        self, caller: Caller, requests: Sequence[tuple[Command, Use]], answer: Callable[[Message | NotSent], Answer]
    ) -> list[Answer | Replay | ChaparError]:
        """Send many messages, and give of each what `send_once` would have returned or raised, in their order.

        Those of one device leave in that order. All wait for the same, and equally long: as the first command says.
        """
        drafts = self._drafts(caller, [command for command, _ in requests])
        accepted = [(draft, use) for draft, (_, use) in zip(drafts, requests, strict=True) if isinstance(draft, Draft)]
        by_id = {draft.message.id: draft for draft, _ in accepted}
        wait, patience = requests[0][0].wait, requests[0][0].patience

        async def send(keys: Sequence[IdempotencyKey]) -> list[Sent]:
            keyed = [by_id[key.message_id]._replace(key=key) for key in keys]
            return await self._sending.send(caller, keyed, wait, patience)

        uses = [(use, draft.message) for draft, use in accepted]
        given = iter(await self._keys.once(uses, send, answer, live=wait is Wait.DEVICE))
        return [next(given) if isinstance(draft, Draft) else draft for draft in drafts]

    def refusals(self, caller: Caller, commands: Sequence[Command]) -> list[ChaparError | None]:
        """Find why each of these would be refused before anything is saved; None: it would not. Nothing is sent."""
        return [self._refusal(draft) for draft in self._drafts(caller, commands)]

    def _refusal(self, draft: Draft | ChaparError) -> ChaparError | None:
        if isinstance(draft, ChaparError):
            return draft
        try:
            self._sending.check(draft)
        except FieldInvalid as error:
            return error
        return None

    def _drafts(self, caller: Caller, commands: Sequence[Command]) -> list[Draft | ChaparError]:
        """The messages that commands make, or why one makes none."""
        drafts: list[Draft | ChaparError] = []
        for command in commands:
            try:
                drafts.append(self._sending.draft(caller, command))
            except (FieldInvalid, OutOfReach, ScopeMissing) as error:
                drafts.append(error)
        return drafts

    async def repetition(self, caller: Caller, message_id: str, wait: Wait, patience: float | None) -> Command:
        """Return the command that sends the same operation once more, as a new message that names its origin.

        Raises what `find` raises, and NotRepeatable.
        """
        first = await self.find(caller, message_id)
        if first.clears:
            raise NotRepeatable(first.id)
        return Command(
            imei=first.imei,
            micro_op=first.micro_op,
            params=first.params,
            qos=first.qos,
            retain=first.retain,
            at_most_once=first.at_most_once,
            expires_in=None if first.expires_at is None else (first.expires_at - _due_at(first)) / 1000,
            wait=wait,
            patience=patience,
            origin=first.id,
            reply_within=None if first.reply_within is None else first.reply_within / 1000,
            condition=None if first.condition is None else Condition(first.condition),
            collapse_key=first.collapse_key,
            urgent=first.urgent,
        )

    async def find(self, caller: Caller, message_id: str) -> Message:
        """The message with this id; raises MessageNotFound, also for one out of reach, and StoreUnavailable."""
        message = await self.look_up(message_id)
        if not caller.principal.reach.covers(message.imei, message.micro_op):
            raise MessageNotFound(message_id)
        return message

    async def follow(self, caller: Caller, message_id: str, wait: Wait, patience: float | None) -> Message:
        """The message as it stands when what the caller waits for is there, or `patience` (seconds) has run out.

        That changes nothing about the message. Raises what `find` raises.
        """
        waiting = Waiting([message_id], wait)
        self._waiters.add(waiting)  # first, so that nothing which happens from now on is missed
        try:
            message = await self.find(caller, message_id)
            if wait is Wait.NONE or is_over(message, wait):
                return message
            patience = patience or self._sending.patience(wait, message)
            self._waiters.time(waiting, asyncio.get_running_loop().time() + patience)
            await waiting.done
        finally:
            self._waiters.remove(waiting)
        return waiting.found.get(message_id) or await self.look_up(message_id)

    async def look_up(self, message_id: str) -> Message:
        """The message with this id, whoever asks; raises MessageNotFound, StoreUnavailable."""
        if "\0" in message_id:  # PostgreSQL has no text for it
            raise MessageNotFound(message_id)
        message = await self._messages.find(message_id)
        if message is None:
            raise MessageNotFound(message_id)
        return message

    async def attempts(self, message_id: str) -> list[Attempt]:
        """The attempts of a message that were not the plain first success; raises StoreUnavailable."""
        return await self._messages.attempts(message_id)


def _due_at(message: Message) -> int:
    return message.deliver_at or message.created_at
