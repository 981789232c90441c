"""Notices of changes, by which a page asks anew for what lives on it: no more often than it is useful."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Final

from fastapi import APIRouter, Request, Response

from chapar.errors import EventsGone, ListenersExhausted, ascii_digits
from chapar.events.feed import Feed
from chapar.events.wanted import Wanted
from chapar.model.event import Position
from chapar.web.console.routes import fields_of, routes
from chapar.web.http.entrance import AdmittedStream, Identity, allow, caller_of

_PAUSE: Final = 1.0  # seconds between two notices, at least: a reader sees no more …
_LONGEST_PAUSE: Final = 5.0  # … and where there is no end of changes
_A_SECOND: Final = 5  # notices to all consoles together: each makes one ask for a page, and senders come first
_HEARTBEAT: Final = 15.0  # seconds after which a proxy may take a stream for dead that says nothing
_FRESH: Final = 20_000  # ms; a page that was made so lately misses no more than can be read again
_MOMENT: Final = re.compile("[0-9]{1,15}")
_AGAIN: Final = b"retry: 5000\n\n"  # ms until a browser connects anew
_CHANGED: Final = b"event: changed\ndata: 1\n\n"
_STILL_HERE: Final = b":\n\n"


def changes_router(feed: Feed) -> APIRouter:
    """The stream of changes."""
    router = routes()
    notices = Notices(feed)

    @router.get("/changes")
    @allow(Identity.KNOWN)
    async def changes(request: Request) -> Response:
        """Notify of changes that the caller may see, of one device or of all, since the page was made."""
        since = _made_at(request)
        is_old = since is not None and abs(time.time_ns() // 1_000_000 - since) > _FRESH
        devices = frozenset(ascii_digits(imei) for name, imei in fields_of(request).items() if name == "imei")
        wanted = Wanted(caller_of(request).principal, devices)
        place = await feed.begin(None, None if is_old else since)
        headers = {"X-Accel-Buffering": "no"}  # nginx would keep them back until it has enough of them
        return AdmittedStream(notices.of(wanted, place, is_due=is_old), media_type="text/event-stream", headers=headers)

    return router


def _made_at(request: Request) -> int | None:
    """The time at which the page was made that listens, ms since the epoch; None where it does not say so."""
    since = request.query_params.get("since", "")
    return int(since) if _MOMENT.fullmatch(since) else None


class Notices:
    """Notifies every console that is open, the less often the more there are."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._consoles = 0

    async def of(self, wanted: Wanted, place: Position, *, is_due: bool = False) -> AsyncIterator[bytes]:
        """A notice to one console once something has changed, however much it is; `is_due`: it may have before."""
        loop = asyncio.get_running_loop()
        yield _AGAIN
        pause, next_at = 0.0, 0.0
        self._consoles += 1
        try:
            with self._feed.listening(wanted):
                while True:
                    if is_due:
                        is_busy = loop.time() < next_at
                        while (left := next_at - loop.time()) > _HEARTBEAT:
                            if not await self._feed.rest(_HEARTBEAT):
                                return
                            yield _STILL_HERE
                        if not await self._feed.rest(left):
                            return
                        place = self._feed.newest(place)  # what came meanwhile is on the page that is asked for now
                        yield _CHANGED
                        pause = pause_after(pause if is_busy else 0.0, self._consoles)
                        next_at = loop.time() + pause
                        is_due = False
                    try:
                        async with asyncio.timeout(_HEARTBEAT):
                            batch = await self._feed.following(place, wanted)
                    except TimeoutError:
                        yield _STILL_HERE
                        continue
                    if batch is None:
                        return
                    place = batch.end
                    is_due = any(map(wanted.covers, batch.events))
                    await asyncio.sleep(0)  # what is in memory comes without a wait
        except (EventsGone, ListenersExhausted):
            return  # the page asks every few seconds in any case
        finally:
            self._consoles -= 1


def pause_after(pause: float, consoles: int) -> float:
    """Seconds until the next notice, after a pause in which there was one too; 0: it was quiet before."""
    return max(_PAUSE, consoles / _A_SECOND, min(2 * pause, _LONGEST_PAUSE))
