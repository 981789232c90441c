"""Reports of what was sent: lists, downloads and counts, narrowed to what the caller reaches."""

from collections.abc import AsyncIterator
from dataclasses import replace

from chapar.model.message import Message
from chapar.model.principal import Caller
from chapar.model.report import Bucket, Failure, Filters, Page, Position, Summary
from chapar.store.reports import Reports


class Reporting:
    """List, report and count messages."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    async def page(self, caller: Caller, filters: Filters, *, after: Position | None, limit: int) -> Page:
        """A page of at most `limit` messages, newest first, older than the one at `after`; raises StoreUnavailable."""
        return await self._reports.page(_within(caller, filters), after=after, limit=limit)

    def report(self, caller: Caller, filters: Filters) -> AsyncIterator[list[Message]]:
        """All messages, oldest first, in lists of bounded size; raises StoreUnavailable while it is read."""
        return self._reports.pages(_within(caller, filters))

    async def summary(self, caller: Caller, filters: Filters, bucket: Bucket) -> Summary:
        """Counts by status, device, operation and time; raises StoreUnavailable."""
        return await self._reports.summary(_within(caller, filters), bucket)

    async def oldest(self, caller: Caller, filters: Filters) -> Message | None:
        """The message that was accepted first; raises StoreUnavailable."""
        return await self._reports.oldest(_within(caller, filters))

    async def failures(self, caller: Caller, since: int) -> list[Failure]:
        """Count what failed of the messages accepted since, by how and why; raises StoreUnavailable."""
        return await self._reports.failures(_within(caller, Filters(since=since)))


def _within(caller: Caller, filters: Filters) -> Filters:
    """The filters, narrowed to what the caller may see."""
    return replace(filters, reach=caller.principal.reach)
