"""What a caller asks of a running gateway, and what it waits for."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import httpx

IMEI = "861234567890123"
UNFINISHED = ("scheduled", "queued", "publishing")
_FIRST_GAP, _LONGEST_GAP = 0.02, 0.1  # seconds; to look costs the gateway as much as any other request

Found = TypeVar("Found")
Row = Mapping[str, Any]


@contextlib.asynccontextmanager
async def client_of(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the gateway at `url` that keeps its connections."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=30.0, limits=limits, verify=False) as client:  # noqa: S501 - plain HTTP
        yield client


async def send(
    client: httpx.AsyncClient, imei: str = IMEI, micro_op: str = "push_down", **fields: Any
) -> httpx.Response:
    return await client.post("/messaging/send", json={"imei": imei, "micro_op": micro_op, **fields})


async def eventually(look: Callable[[], Awaitable[Found]], within: float = 20.0) -> Found:
    """The first answer of `look` that is true; raises AssertionError with the last one after `within` seconds."""
    deadline, gap = time.monotonic() + within, _FIRST_GAP
    while not (found := await look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not come about in {within} s; the last answer was {found!r}")
        await asyncio.sleep(gap)
        gap = min(1.5 * gap, _LONGEST_GAP)
    return found


async def message(client: httpx.AsyncClient, message_id: str) -> Row:
    """The message as the gateway shows it now."""
    answer = await client.get(f"/messaging/messages/{message_id}")
    answer.raise_for_status()
    row: Row = answer.json()
    return row


async def message_in(client: httpx.AsyncClient, message_id: str, *statuses: str, within: float = 20.0) -> Row:
    """The message once it is in one of these states."""

    async def look() -> Row | None:
        row = await message(client, message_id)
        return row if row["status"] in statuses else None

    return await eventually(look, within)


async def report(client: httpx.AsyncClient, **filters: str) -> dict[str, Row]:
    """Every message by its id, oldest first."""
    answer = await client.get("/reporting/all", params={"format": "ndjson", **filters})
    answer.raise_for_status()
    return {row["id"]: row for row in map(json.loads, answer.text.splitlines())}


async def settled(client: httpx.AsyncClient, within: float = 60.0) -> dict[str, Row]:
    """Every message by its id, once each is in a final state."""

    async def none_unfinished() -> bool:
        with contextlib.suppress(httpx.TransportError):
            answer = await client.get("/messaging/messages", params={"status": UNFINISHED, "limit": 1})
            return answer.is_success and not answer.json()["messages"]
        return False

    await eventually(none_unfinished, within)
    return await report(client)


def problem_of(answer: httpx.Response) -> Mapping[str, Any]:
    """The body of an answer that is a complete problem document (RFC 9457)."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem: Mapping[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "code", "reason"} <= set(problem)
    assert problem["status"] == answer.status_code
    assert problem["reason"]
    return problem
