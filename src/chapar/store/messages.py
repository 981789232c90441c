"""The messages: add and move them, withdraw them, find them."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, bindparam, select

from chapar.model.acceptance import Added, Key, Sender
from chapar.model.audit import Entry
from chapar.model.message import Attempt, Message, Status
from chapar.store.acceptance import ADD, WITHDRAW, addition
from chapar.store.moves import CANCEL, MOVE, RECORD, move_row
from chapar.store.retained import TAKE_BACK, TakeBack
from chapar.store.schema import COLUMNS, attempts, messages, to_message, to_row

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.commits import Commits
    from chapar.store.readers import Readers

UNBOUNDED: Final = 2**31

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
        self,
        message: Message,
        deadline: float | None = None,
        *,
        max_depth: int = UNBOUNDED,
        key: Key | None = None,
        sender: Sender | None = None,
    ) -> asyncio.Future[Added]:
        """Save a new message, with `key` and what the audit trail says of `sender`; harmless where it is already there.

        A message that would be PUBLISHING is QUEUED instead where its device has something that must leave first.
        The future says where it stands; Full where its device has `max_depth` unfinished messages, on their way or
        waiting; the key's owner where the key was used for another message. The last two add nothing.

        It is tried until `deadline` (loop time; None: for ever). The future then raises NotSaved where certainly
        nothing was committed, OutcomeUnknown where it may have been. Cancelling the future does not stop the commit.
        """
        return self._commits.submit(ADD, addition(message, max_depth, key, sender), deadline)

    def move(self, before: Message, after: Message, deadline: float | None = None) -> asyncio.Future[bool]:
        """Make the message in the database, which is `before`, what `after` says.

        The future is True once it is so, False where the message no longer was in the state, at the attempt and
        under the claim of `before`: somebody else moved it. Ask for a move from a state only when the move to it
        was answered. Deadline, errors and cancelling are as with `add`.
        """
        return self._commits.submit(MOVE, move_row(before, after), deadline)

    def record(self, attempt: Attempt) -> asyncio.Future[None]:
        """Keep an attempt; ask before the move that ends it, so that the two are committed together."""
        return self._commits.submit(RECORD, attempt)

    async def cancel(self, entry: Entry, deadline: float) -> tuple[bool, Status | None]:
        """Withdraw the message that `entry` is about, if it waits, and keep `entry` then.

        Whether this withdrew it, and its status now; None where there is no such message.

        Raises NotSaved, OutcomeUnknown.
        """
        won, status = await self._commits.submit(CANCEL, entry, deadline)
        return won, None if status is None else Status(status)

    async def take_back(self, clearing: Message, entry: Entry | None, deadline: float) -> str | None:
        """Have the broker forget a retained message: add `clearing`, which makes it, and keep `entry` then.

        The id of what clears it, also where that is on its way already. None where the broker does not have it, or
        has or will have a newer one in its place. Raises NotSaved, OutcomeUnknown.
        """
        return await self._commits.submit(TAKE_BACK, TakeBack(to_row(clearing), entry), deadline)

    def withdraw(self, never: Message, claim: str | None, key: Key | None) -> asyncio.Future[bool]:
        """Take back an `add` whose outcome is unknown: `never` is the message as rejected, `claim` the one it had.

        The future is True where it is now certain never to be sent, and its key is free again; False where it was
        there and has been taken for delivery.
        """
        return self._commits.submit(WITHDRAW, (to_row(never), claim, key))

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
        found = await self._lookups.read(
            lambda connection: connection.execute(_ATTEMPTS, {"of_message": message_id}).all()
        )
        return [Attempt._make(row) for row in found]


def find(connection: Connection, message_id: str) -> Message | None:
    """The message with this id."""
    row = connection.execute(_FIND, {"of_message": message_id}).one_or_none()
    return None if row is None else to_message(tuple(row))
