"""Answers to publications, as the link learns them."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Self

from chapar.errors import LinkDown, LinkLost, PublicationExpired, PublicationInvalid, TakenBack
from chapar.link.publication import Publication


class Answer(NamedTuple):
    """The answer to one publication: the reason code of its PUBACK or PUBREC, 0 at QoS 0, or why there is none.

    LinkLost means that it may have arrived. After every other exception nothing of it has left; one that is named
    here neither is a fault of ours.
    """

    publication: Publication
    outcome: int | LinkDown | LinkLost | PublicationInvalid | PublicationExpired | TakenBack | Exception


class Answers:
    """The answers to some publications, exactly one for each, in the order in which they come. For one reader.

    >>> async for answers in link.publish(publications):
    ...     for publication, outcome in answers:
    ...         ...

    Each list is everything that has come since the one before it. So all that one read of the socket acknowledged
    comes at once, and waking the reader costs as much for one answer as for a thousand. With `patience`, a list is all
    that is left, or what came in so many seconds.
    """

    def __init__(self, expected: int) -> None:
        self.patience = 0.0  #: seconds for which an answer may wait for the others
        self._expected = expected  # answers that the reader has not got
        self._come: list[Answer] = []
        self._reader: asyncio.Future[None] | None = None
        self._enough = 1  # answers for which the reader waits

    @classmethod
    def alike(cls, publications: Sequence[Publication], outcome: int | Exception) -> Self:
        """The same answer to all."""
        answers = cls(len(publications))
        for publication in publications:
            answers.add(publication, outcome)
        return answers

    def add(self, publication: Publication, outcome: int | Exception) -> None:
        """Add the answer to one of the publications."""
        self._come.append(Answer(publication, outcome))
        if self._reader is not None and len(self._come) >= self._enough and not self._reader.done():
            self._reader.set_result(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Answer]:
        if not self._expected:
            raise StopAsyncIteration
        if not self._come:
            await self._wait_for(1)
        if self.patience and len(self._come) < self._expected:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.patience):
                    await self._wait_for(self._expected)
        come, self._come = self._come, []
        self._expected -= len(come)
        return come

    async def _wait_for(self, count: int) -> None:
        self._enough, self._reader = count, asyncio.get_running_loop().create_future()
        await self._reader
