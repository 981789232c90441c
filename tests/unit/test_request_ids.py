"""A request's id is the caller's where it can be one, and it is known wherever something is logged."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from chapar.runtime.logs import REQUEST_ID
from chapar.web.http.request_ids import with_request_ids


async def echo(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answers with the id that the log would have, from a task of its own."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"server", b"x")]})
    seen = await asyncio.create_task(identity())
    await send({"type": "http.response.body", "body": seen})


async def identity() -> bytes:
    return REQUEST_ID.get() or b""


async def call(*given: bytes, kind: str = "http") -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError

    headers = [(b"host", b"x"), *((b"x-request-id", value) for value in given)]
    await asyncio.create_task(APP({"type": kind, "headers": headers}, receive, send))
    return sent


APP = with_request_ids(echo)


@pytest.mark.parametrize("given", [b"a", b"0190a7e0-0000-7000-8000-000000000001", b"A.b_c-" + b"9" * 58])
async def test_the_callers_id_is_kept(given: bytes) -> None:
    start, body = await call(given)
    assert start["headers"] == [(b"server", b"x"), (b"x-request-id", given)]
    assert body["body"] == given


@pytest.mark.parametrize("given", [b"", b"a" * 65, b"a b", b"a\n", b"a\x1b[2J", "شناسه".encode(), b"a;b"])
async def test_what_cannot_be_an_id_gets_a_new_one(given: bytes) -> None:
    ids = [dict((await call(given))[0]["headers"])[b"x-request-id"] for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(made != given and 1 <= len(made) <= 64 and made.isascii() for made in ids)


async def test_what_is_no_request_has_no_id() -> None:
    assert await call(kind="lifespan") == [{"type": "http.response.body", "body": b""}]
