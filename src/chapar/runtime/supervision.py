"""The guard of every background loop: an exception that nobody expected ends one turn of it, not the process."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from chapar.runtime.backoff import Backoff
from chapar.runtime.metrics import Metrics

_DELIBERATE: Final = (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit)

log: structlog.stdlib.BoundLogger = structlog.get_logger()


async def supervised(name: str, loop: Callable[[], Awaitable[None]], metrics: Metrics, *ends: type[Exception]) -> None:
    """Run a loop until it returns or is cancelled; begin it again after a pause where an exception ended it.

    What is in `ends` is meant to end more than the loop and goes through.
    """
    backoff = Backoff()
    while True:
        with guarded(name, metrics, *ends), backoff.working():
            await loop()
            return
        await backoff.pause()


@contextmanager
def guarded(name: str, metrics: Metrics, *ends: type[Exception]) -> Iterator[None]:
    """Log and count what nobody expected in one turn of the loop `name`, and let what follows go on."""
    try:
        yield
    except BaseException as error:  # a library in Rust panics with one that is no Exception
        if isinstance(error, (*_DELIBERATE, *ends)):
            raise
        log.exception("loop_failed", loop=name, note="It goes on in a moment.")
        metrics.loop_failures[name,].inc()
