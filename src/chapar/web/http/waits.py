"""Long waits on behalf of a client: they end when it hangs up, so that they hold nothing for nobody."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Receive

Result = TypeVar("Result")


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client hangs up: then this raises ClientDisconnect.

    The work is done in the calling task: thousands wait at a time, and another task for each would be dear.
    """
    waiting = asyncio.current_task()
    assert waiting is not None  # noqa: S101 - a coroutine calls
    watch = asyncio.ensure_future(_hang_up(request.receive))

    def end(_: object) -> None:
        waiting.cancel()

    watch.add_done_callback(end)
    try:
        return await work
    except asyncio.CancelledError:
        if watch.done():
            waiting.uncancel()
            raise ClientDisconnect from None
        raise
    finally:
        watch.remove_done_callback(end)
        watch.cancel()


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
