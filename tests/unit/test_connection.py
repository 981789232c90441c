"""Where one request ends and the next begins, whatever comes and however it is cut."""

import asyncio
import hashlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn import Server
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from chapar.errors import BodiesExhausted
from chapar.runtime.settings import Settings
from chapar.web.http.connection import MAX_HEADERS
from chapar.web.http.rates import MAX_MESSAGES, MESSAGE_SIZE
from support.framing import DOUBTFUL, FRAMED, LAST, NEXT, SMUGGLED
from support.wire import Line, tell

PIPELINED = 1000
LEAST_BUDGET = 1024 + MAX_MESSAGES * MESSAGE_SIZE  # where a body may have 1 KiB


@pytest.fixture(params=[5, pytest.param(1, marks=pytest.mark.long)], ids=["some places", "every place"])
def step(request: pytest.FixtureRequest) -> int:
    """How many bytes lie between two places at which a stream is cut."""
    found: int = request.param
    return found


def cuts(stream: bytes, step: int) -> Iterator[list[bytes]]:
    """Every way to cut a stream that is tried: not at all, once at each place, and behind each byte.

    The places are other ones in a stream of another length, so that those of all streams together are every place.
    """
    yield [stream]
    for at in range(1 + len(stream) % step, len(stream), step):
        yield [stream[:at], stream[at:]]
    yield [bytes([byte]) for byte in stream]


@asynccontextmanager
async def a_line(*arguments: Any) -> AsyncIterator[Line]:
    line = Line(*arguments)
    yield line
    line.close()


async def hold_for_every_cut(stream: bytes, step: int, holds: Callable[[Line], None], *arguments: Any) -> None:
    """Send the stream cut in every way, each over a line of its own, and all of them in the same turns of the loop."""

    async def hold(pieces: list[bytes]) -> None:
        async with a_line(*arguments) as line:
            await line.send(pieces)
            try:
                holds(line)
            except AssertionError as error:
                error.add_note(f"cut into {pieces}")
                raise

    await asyncio.gather(*map(hold, cuts(stream, step)))


@pytest.mark.parametrize("stream", FRAMED.values(), ids=FRAMED.keys())
async def test_a_body_ends_where_its_length_says(stream: bytes, step: int) -> None:
    def holds(line: Line) -> None:
        first, second = line.answers
        assert (first[0], second) == (200, (200, ["GET", "/next", ""]))
        assert first[1][2] in {"", SMUGGLED.decode()}
        assert not line.wire.is_closing()

    await hold_for_every_cut(stream + NEXT, step, holds)


@pytest.mark.parametrize("stream", DOUBTFUL.values(), ids=DOUBTFUL.keys())
async def test_where_framing_is_in_doubt_nothing_further_is_parsed(stream: bytes, step: int) -> None:
    def holds(line: Line) -> None:
        assert [status for status, _ in line.answers] == [400]
        assert line.wire.is_closing()

    await hold_for_every_cut(stream + NEXT, step, holds)


@pytest.mark.parametrize("stream", LAST.values(), ids=LAST.keys())
async def test_behind_the_last_request_nothing_is_parsed(stream: bytes, step: int) -> None:
    def holds(line: Line) -> None:
        assert line.answers == [(200, ["POST", "/", SMUGGLED.decode()])]
        assert line.wire.is_closing()

    await hold_for_every_cut(stream + NEXT, step, holds)


async def answer_at_once(_scope: Scope, _receive: Receive, send: Send) -> None:
    """An application that has no use for a body."""
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


@pytest.mark.parametrize("name", ["a length", "chunks", "h2c", "h2c with chunks"])
async def test_a_body_that_nobody_reads_is_no_request_either(name: str, step: int) -> None:
    def holds(line: Line) -> None:
        assert [status for status, _ in line.answers] == [401, 401]

    await hold_for_every_cut(FRAMED[name] + NEXT, step, holds, answer_at_once)


@pytest.mark.parametrize(
    "name", ["a chunk longer than its size", "a length in a trailer", "a chunk that ends in a line feed"]
)
async def test_a_request_is_answered_once_whatever_comes_of_its_body(name: str) -> None:
    stream = DOUBTFUL[name]
    head, _, body = stream.partition(b"\r\n\r\n")
    async with a_line(answer_at_once) as line:
        await line.send([head + b"\r\n\r\n", body, NEXT])
        assert [status for status, _ in line.answers] == [401]
        assert line.wire.is_closing()


async def test_whoever_waits_for_100_may_send_the_body_or_not_so_an_early_answer_ends_the_connection() -> None:
    expecting = FRAMED["a length"].replace(b"\r\n", b"\r\nExpect: 100-continue\r\n", 1)
    head = expecting[: -len(SMUGGLED)]
    async with a_line(answer_at_once) as line:
        await line.send([head])
        await line.send([SMUGGLED, NEXT])
        assert [status for status, _ in line.answers] == [401]
        assert line.wire.is_closing()
    async with a_line() as line:
        await line.send([head])
        await line.send([SMUGGLED, NEXT])
        assert [status for status, _ in line.answers] == [100, 200, 200]
        assert not line.wire.is_closing()
    async with a_line() as line:
        await line.send([head.replace(b"/1.1", b"/1.0"), SMUGGLED])
        assert [status for status, _ in line.answers] == [200], "HTTP/1.0 knows no 100"


async def test_no_more_than_two_requests_are_parsed_before_one_is_answered() -> None:
    asked = asyncio.Event()
    scopes = []

    async def answer_later(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await asked.wait()
        await tell(scope, receive, send)

    async with a_line(answer_later) as line:
        await line.send([NEXT * PIPELINED])
        assert (len(scopes), len(line.connection.pipeline)) == (1, 0)
        assert not line.wire.is_reading
        asked.set()
        for _ in range(20 * PIPELINED):
            if len(scopes) == PIPELINED and line.wire.is_reading:
                break
            await asyncio.sleep(0)
        assert line.answers == [(200, ["GET", "/next", ""])] * PIPELINED
        await line.send([NEXT])
        assert len(line.answers) == PIPELINED + 1


async def test_a_body_may_stand_before_the_next_head() -> None:
    """Its end is no end of a line, so that the parser meets the next head in the same piece."""
    stream = b"".join(
        b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (number, number, b"x" * number)
        for number in range(100)
    )
    for size in (1, 7, 50, 1000, len(stream)):
        async with a_line() as line:
            await line.send([stream[at : at + size] for at in range(0, len(stream), size)])
            for _ in range(2000):
                await asyncio.sleep(0)
            assert line.answers == [(200, ["POST", f"/{number}", "x" * number]) for number in range(100)], size


OFFER = b"Host: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"


async def test_two_offers_that_are_cut_between_the_heads_are_both_passed_over() -> None:
    async with a_line() as line:
        await line.send([b"GET /a HTTP/1.1\r\n" + OFFER, b"\r\nGET /b HTTP/1.1\r\n" + OFFER + b"\r\n"])
        assert line.answers == [(200, ["GET", "/a", ""]), (200, ["GET", "/b", ""])]


async def test_a_body_that_is_wrong_behind_an_offer_is_named_as_every_other() -> None:
    async with a_line() as line:
        head = b"POST /a HTTP/1.1\r\n" + OFFER + b"Transfer-Encoding: chunked\r\n\r\n"
        await line.send([head + b"nonsense\r\n"])
        assert [status for status, _ in line.answers] == [400]
        assert line.wire.is_closing()


@pytest.mark.parametrize("first", [b"GET /a HTTP/1.1\r\nHost: 127.0.0.1\r\n", b""])
async def test_every_head_is_measured_also_behind_the_end_of_another(first: bytes) -> None:
    large = b"GET /b HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Much: " + b"a" * 200_000 + b"\r\n\r\n"
    async with a_line() as line:
        await line.send([first, b"\r\n" + large] if first else [large])
        assert [status for status, _ in line.answers] == [200 if first else 431]
        assert line.wire.is_closing()


async def test_who_has_sent_enough_is_not_blamed_for_what_is_held_back() -> None:
    asked = asyncio.Event()

    async def answer_later(scope: Scope, receive: Receive, send: Send) -> None:
        await asked.wait()
        await tell(scope, receive, send)

    async with a_line(answer_later) as line:
        await line.send([NEXT + NEXT[:10]])
        for seconds in (0.0, 1000.0, 2000.0):
            line.connection.look_after(seconds)
        asked.set()
        await line.send([NEXT[10:]])
        assert line.answers == [(200, ["GET", "/next", ""])] * 2


async def test_an_absolute_form_may_name_the_host_alone() -> None:
    async with a_line() as line:
        await line.send([b"GET http://127.0.0.1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"])
        assert line.answers == [(200, ["GET", "/", ""])]


async def test_what_waits_is_counted_and_past_the_bound_the_connection_ends_behind_its_answer() -> None:
    settings = Settings(max_bodies_bytes=1024, max_caller_bodies_bytes=1024, max_bulk_bytes=1024)
    asked = asyncio.Event()

    async def answer_later(scope: Scope, receive: Receive, send: Send) -> None:
        await asked.wait()
        await tell(scope, receive, send)

    async with a_line(answer_later, settings) as line:
        await line.send([NEXT, NEXT])
        with pytest.raises(BodiesExhausted):
            line.budget.take("somebody", LEAST_BUDGET)
    line.budget.take("somebody", LEAST_BUDGET)
    line.budget.give_back("somebody", LEAST_BUDGET)
    async with a_line(answer_later, settings) as line:
        line.budget.take("somebody", LEAST_BUDGET - 1024)
        await line.send([NEXT * 100])
        asked.set()
        await line.send([])
        assert line.answers == [(200, ["GET", "/next", ""])]
        assert line.wire.is_closing()
        line.budget.take("somebody", 1024)


async def test_a_body_without_end_that_nobody_reads_ends_the_connection() -> None:
    async with a_line(answer_at_once, Settings(max_bulk_bytes=1024)) as line:
        await line.send([b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"])
        await line.send([b"100\r\n%b\r\n" % bytes(256)] * 4)
        assert not line.wire.is_closing()
        await line.send([b"1\r\nx\r\n"])
        assert line.wire.is_closing()
        assert [status for status, _ in line.answers] == [401]


async def test_a_body_that_nobody_read_is_not_kept() -> None:
    async with a_line(answer_at_once) as line:
        await line.send([FRAMED["a length"]])
        assert [status for status, _ in line.answers] == [401]
        assert not line.connection.cycle.body


@pytest.mark.parametrize("end", [b"", b"\r\n"])
async def test_headers_are_counted_as_they_come(end: bytes) -> None:
    async with a_line() as line:
        await line.send([b"GET / HTTP/1.1\r\n", b"X:\r\n" * 200 + end])
        assert len(line.connection.headers) == MAX_HEADERS
        assert [status for status, _ in line.answers] == [431]


@pytest.mark.parametrize(
    ("extended", "digest"),
    [
        (HttpToolsProtocol, "18fdf324b11bf160"),
        (RequestResponseCycle, "e67d470d435dcc1c"),
        (FlowControl, "126debcdaa894c83"),
        (Server, "06e799f7c58f8be6"),
    ],
)
def test_uvicorn_is_the_one_that_is_extended(extended: type, digest: str) -> None:
    """Connection, Exchange and app/server.py override parts that uvicorn promises nobody to keep.

    Where this fails after an upgrade: read what has changed in these classes, mend ours, and write the new digest.
    """
    assert hashlib.sha256(inspect.getsource(extended).encode()).hexdigest()[:16] == digest
