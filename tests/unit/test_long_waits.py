"""Long waits end when their client hangs up, and only then."""

import asyncio
from collections.abc import Callable

import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect

from chapar.web.http.waits import while_connected


class Client:
    """A client of one request: what it sends comes when the test says so."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[str] = asyncio.Queue()
        self.request = Request({"type": "http"}, self._receive)

    async def _receive(self) -> dict[str, str]:
        return {"type": await self.sent.get()}


async def until(condition: Callable[[], object]) -> None:
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to be")


async def test_the_result_is_that_of_the_work() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    client = Client()
    assert await while_connected(client.request, work()) == 7
    client.sent.put_nowait("http.disconnect")
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_an_error_is_that_of_the_work() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await while_connected(Client().request, work())


async def test_a_client_that_hangs_up_ends_the_work() -> None:
    cancelled = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    client = Client()
    waiting = asyncio.create_task(while_connected(client.request, work()))
    await asyncio.sleep(0)
    client.sent.put_nowait("http.request")  # the end of a body
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    client.sent.put_nowait("http.disconnect")
    await until(waiting.done)
    with pytest.raises(ClientDisconnect):
        waiting.result()
    assert cancelled == [True]
    assert not waiting.cancelling()


async def test_being_cancelled_is_no_hang_up() -> None:
    client = Client()
    waiting = asyncio.create_task(while_connected(client.request, asyncio.sleep(3600)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
