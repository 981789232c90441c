"""The messages: add and move them, withdraw them, find them."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection, bindparam, select

from chapar.errors import NotSaved
from chapar.model.acceptance import Added, Addition, Withdrawal
from chapar.model.audit import Entry
from chapar.model.change import Cancelled, Change, Move
from chapar.model.message import Attempt, Message
from chapar.store.acceptance import ADD
from chapar.store.moves import CANCEL, MOVE, RECORD
from chapar.store.retained import TAKE_BACK, TakeBack
from chapar.store.schema import COLUMNS, attempts, messages, to_message
from chapar.store.withdrawals import WITHDRAW

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.commits import Commits
    from chapar.store.readers import Readers

_FIND = select(*COLUMNS).where(messages.c.id == bindparam("of_message"))
_FIND_ALL = select(*COLUMNS).where(messages.c.id.in_(bindparam("ids", expanding=True)))
_ATTEMPTS = (
    select(attempts)
    .where(attempts.c.message_id == bindparam("of_message"))
    .order_by(attempts.c.attempt == 0, attempts.c.attempt)
)


class Messages:
    """The messages one by one. What is written is answered once it is committed."""

    def __init__(self, commits: "Commits", lookups: "Readers") -> None:
        self._commits = commits
        self._lookups = lookups

    def add(
        self, additions: Sequence[Addition], deadline: float | None = None
    ) -> asyncio.Future[list[Added | NotSaved]]:
        """Save new messages, each with its key and its entry in the audit trail; harmless where it is there already.

        A message that would be PUBLISHING is QUEUED instead where its device has something that must leave first.
        The future says where each stands; Full where its device has `max_depth` unfinished messages, on their way or
        waiting; the key's owner where the key was used for another message. The last two add nothing.

        Tried until `deadline` (loop time; None: for ever). The future then raises NotSaved where certainly nothing was
        committed, OutcomeUnknown where all may have been. What cannot be saved alone, for good, is a NotSaved in the
        list. Cancelling the future does not stop the commit.
        """
        return self._commits.submit(ADD, additions, deadline)

    def move(
        self, moves: Sequence[Move], deadline: float | None = None
    ) -> asyncio.Future[list[bool | Message | NotSaved]]:
        """Make messages in the database what they are moved to.

        Each is True once it is so, False where the message no longer was in the state, at the attempt and under the
        claim of `before`: somebody else moved it. Where its device had replied before, it is the message as it stands,
        with what the broker said of it beside the device's word. Ask for a move from a state only when the move to it
        was answered. Deadline, errors and cancelling are as with `add`.
        """
        return self._commits.submit(MOVE, moves, deadline)

    def record(self, attempts: Sequence[Attempt]) -> asyncio.Future[list[NotSaved | None]]:
        """Keep attempts; ask before the moves that end them, so that all are committed together."""
        return self._commits.submit(RECORD, attempts)

    async def cancel(self, entries: Sequence[Entry], deadline: float) -> list[Cancelled | NotSaved | None]:
        """Withdraw the messages that `entries` are about, where they wait, and keep those entries then.

        None where there is no such message. Raises NotSaved, OutcomeUnknown.
        """
        return await self._commits.submit(CANCEL, entries, deadline)

    async def take_back(self, clearing: Message, entry: Entry | None, deadline: float) -> str | None:
        """Have the broker forget a retained message: add `clearing`, which makes it, and keep `entry` then.

        The id of what clears it, also where that is on its way already. None where the broker does not have it, or
        has or will have a newer one in its place. Raises NotSaved, OutcomeUnknown.
        """
        return await self._commits.one(TAKE_BACK, TakeBack(clearing, entry), deadline)

    def withdraw(self, withdrawals: Sequence[Withdrawal]) -> asyncio.Future[list[Change | NotSaved | None]]:
        """Take back additions whose outcome is unknown.

        Each is how the message ended, certain never to be sent, its key free again; None where it had ended before, or
        was there and has been taken for delivery.
        """
        return self._commits.submit(WITHDRAW, withdrawals)

    async def find(self, message_id: str) -> Message | None:
        """The message with this id; raises StoreUnavailable."""
        return await self._lookups.read(lambda connection: find(connection, message_id))

    async def find_all(self, ids: Sequence[str]) -> list[Message]:
        """Those of the messages with these ids that there are; raises StoreUnavailable."""
        found = await self._lookups.read(lambda connection: connection.execute(_FIND_ALL, {"ids": ids}).all())
        return [to_message(tuple(row)) for row in found]

    async def attempts(self, message_id: str) -> list[Attempt]:
        """The attempts of a message that were not the plain first success, what took it back from the broker last.

        Raises StoreUnavailable.
        """
        return await self._lookups.read(lambda connection: attempts_of(connection, message_id))


def find(connection: Connection, message_id: str) -> Message | None:
    """The message with this id."""
    row = connection.execute(_FIND, {"of_message": message_id}).one_or_none()
    return None if row is None else to_message(tuple(row))


def attempts_of(connection: Connection, message_id: str) -> list[Attempt]:
    """The attempts kept of a message, in their order; last, what took it back from the broker."""
    return [Attempt._make(row) for row in connection.execute(_ATTEMPTS, {"of_message": message_id})]
