"""The first page: whether the gateway can deliver, who is there, what waits, and what was sent in the last hour."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol

from fastapi import APIRouter, Request, Response

from chapar.delivery.recent_replies import MINUTE, RecentReplies, ReplyCounts
from chapar.delivery.reports import Reporting
from chapar.devices.registry import Registry
from chapar.errors import ChaparError, Phrase
from chapar.model.device import PresenceCounts
from chapar.model.message import UNFINISHED, Message, Status
from chapar.model.principal import Caller, Scope
from chapar.model.report import FAILURES, Failure, Filters, Summary
from chapar.web.console.routes import routes
from chapar.web.console.shared import Shared
from chapar.web.console.site import Site
from chapar.web.console.words import chosen_language
from chapar.web.http.entrance import allow, caller_of

MINUTES: Final = 60  # that the page counts


class Obstacles(Protocol):
    """Obstacles between the gateway and a delivery."""

    @property
    def database(self) -> ChaparError | Phrase | None:
        """Of the database; None where all is well."""

    @property
    def broker(self) -> ChaparError | Phrase | None:
        """Of the broker."""

    @property
    def held(self) -> int:
        """Messages that wait for `chapar queue release`."""

    @property
    def replies(self) -> str:
        """The state of the link for replies."""


class Figures(NamedTuple):
    """Counts of the last hour, and of what waits."""

    since: int  #: the beginning of that hour, ms since the epoch
    recent: Summary
    waiting: Summary
    oldest: Message | None  #: of those in the queue
    failures: Sequence[Failure]
    presences: PresenceCounts | None  #: None: not for those who look


def overview_router(
    site: Site,
    reporting: Reporting,
    replies: RecentReplies,
    registry: Registry,
    obstacles: Callable[[], Awaitable[Obstacles]],
) -> APIRouter:
    """The page of the whole."""
    router = routes()
    shared: Shared[Figures] = Shared()

    async def count(caller: Caller, now: int) -> Figures:
        since = now - now % MINUTE - (MINUTES - 1) * MINUTE
        recent = await reporting.summary(caller, Filters(since=since), "minute")
        waiting = await reporting.summary(caller, Filters(status=tuple(sorted(UNFINISHED))), "day")
        oldest = await reporting.oldest(caller, Filters(status=(Status.QUEUED,))) if waiting.total else None
        failures = await reporting.failures(caller, since) if recent.statuses.keys() & set(FAILURES) else []
        presences = await registry.counts(caller) if Scope.DEVICES_READ in caller.principal.scopes else None
        return Figures(since, recent, waiting, oldest, failures, presences)

    @router.get("/overview")
    @allow(Scope.READ)
    async def overview(request: Request) -> Response:
        """Show how the whole stands."""
        caller, language = caller_of(request), chosen_language(request)
        found = await obstacles()
        # All who see the same share what is counted: an hour may have millions of messages.
        sees = caller.principal.reach, Scope.DEVICES_READ in caller.principal.scopes
        figures = await shared.get(sees, lambda: count(caller, int(time.time() * 1000)))
        since, recent, waiting, oldest, failures, presences = figures
        minutes = per_minute(recent, since)
        counted = replies.counts(caller)
        return site.page(
            request,
            "overview.html",
            broker=None if found.broker is None else found.broker.sentence(language),
            database=None if found.database is None else found.database.sentence(language),
            replies=found.replies,
            held=found.held,
            waiting=[(status, waiting.statuses.get(status, 0)) for status in Status if status in UNFINISHED],
            oldest=oldest,
            recent=[(status, recent.statuses[status]) for status in Status if recent.statuses.get(status)],
            total=recent.total,
            failures=failures,
            presences=presences,
            devices=recent.devices.counts,
            operations=recent.operations.counts,
            times=[at // 1000 for at, _ in minutes],
            counts=[count for _, count in minutes],
            answered=None if counted is None else answered_per_minute(counted, since),
            counted_since=counted.since if counted is not None and counted.since > since else None,
        )

    return router


def per_minute(summary: Summary, since: int) -> list[tuple[int, int]]:
    """The messages of each minute from `since` on, those without any included."""
    counts = dict(summary.times.counts)
    return [(at, counts.get(at, 0)) for at in _minutes(since)]


def answered_per_minute(replies: ReplyCounts, since: int) -> list[int | None]:
    """The replies of each minute from `since` on; None for a minute that was over before they were counted."""
    return [replies.counts.get(at, 0) if at + MINUTE > replies.since else None for at in _minutes(since)]


def _minutes(since: int) -> range:
    return range(since, since + MINUTES * MINUTE, MINUTE)
