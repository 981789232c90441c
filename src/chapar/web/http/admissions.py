"""Streams that end when their caller's credential counts no more."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import Scope

from chapar.access.door import Door
from chapar.errors import AccessError
from chapar.web.http.entrance import READMIT_EVERY

End = Callable[[str], None]
"""Called with the sentence that says why."""


class Admissions:
    """Checks again and again who is being sent a stream: each credential once, however many streams it has."""

    def __init__(self) -> None:
        self._watched: dict[str | None, dict[End, None]] = {}
        self._checks: dict[str | None, asyncio.Task[None]] = {}

    @contextmanager
    def watch(self, scope: Scope, end: End) -> Iterator[None]:
        """Have `end` called once the caller's key or token counts no more."""
        door, credential = scope["admission"]
        ends = self._watched.setdefault(credential, {})
        ends[end] = None
        if credential not in self._checks:
            self._checks[credential] = asyncio.create_task(self._check(door, credential))
        try:
            yield
        finally:
            ends.pop(end, None)
            if not ends and self._watched.get(credential) is ends:
                del self._watched[credential]
                self._checks.pop(credential).cancel()

    async def _check(self, door: Door, credential: str | None) -> None:
        while True:
            await asyncio.sleep(READMIT_EVERY)
            try:
                await door.readmit(credential)
            except AccessError as error:
                self._end(credential, str(error))
                return
            except Exception:
                self._end(credential, "whether its key or token counts cannot be found out.")
                raise

    def _end(self, credential: str | None, why: str) -> None:
        del self._checks[credential]
        for end in self._watched.pop(credential):
            end(why)
