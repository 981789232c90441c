"""Raw bytes to the port: requests one behind the other, each framed in its own way, some in doubt or mangled."""

import contextlib
import json
import random
import socket
from typing import Final

from fuzz.campaign import Outcome
from fuzz.stage import open_stage
from fuzz.streams import chunks
from support.framing import DOUBTFUL, FRAMED, GOODBYE, to_messaging
from support.ports import LOOPBACK

_MOST: Final = 5  # requests on one connection
_IN_DOUBT: Final = 0.3  # of the streams hold a request in doubt
_MANGLED: Final = 0.3  # of the streams are mangled
_PATIENCE: Final = 20.0  # seconds
_MAX_FINDINGS: Final = 5
_WITH_BODY: Final = [to_messaging(stream) for stream in FRAMED.values() if b"POST / " in stream]
_DOUBTFUL: Final = [to_messaging(stream) for stream in DOUBTFUL.values()]
_HEADERS: Final = (
    b"Accept-Encoding: gzip",
    b"Connection: keep-alive",
    b"Cookie: a=b",
    b"Expect: 200-ok",
    b"Keep-Alive: timeout=5, max=100",
    b"TE: trailers, deflate;q=0.5",
    b"User-Agent: Transfer-Encoding: chunked",
    b"Via: 1.1 proxy",
    b"X-Empty:",
    b"X-Long: " + b"x" * 3000,
)


def run(wanted: int) -> Outcome:
    """`wanted` connections."""
    outcome = Outcome()
    source = random.Random(wanted)
    with open_stage() as stage:
        while outcome.cases < wanted and len(outcome.findings) < _MAX_FINDINGS:
            stream, expected = _stream(source)
            is_mangled = source.random() < _MANGLED
            if is_mangled:
                stream = _mangled(stream, source)
            answers = _ask(stage.gateway.port, stream, source, hang_up=is_mangled)
            outcome.cases += 1
            outcome.count("answers", len(answers))
            # A mangled length can make a request of a body, but there are no more of them than start lines. What is in
            # doubt behind a request that is not answered yet ends the connection behind that answer.
            fits = answers == expected or (expected[-1:] == ["head_malformed"] and answers == expected[:-1] != [])
            if len(answers) > stream.count(b"HTTP/") if is_mangled else not fits:
                outcome.findings.append(f"{stream!r} was answered with {answers}, and not with {expected}")
        stage.judge(outcome)
    return outcome


def _stream(source: random.Random) -> tuple[bytes, list[str]]:
    """Requests, and the code or the state in the answer to each."""
    count = source.randrange(_MOST)
    stream = b"".join(_decorated(source.choice(_WITH_BODY), source) for _ in range(count))
    expected = ["body_malformed"] * count
    if source.random() < _IN_DOUBT:
        return stream + source.choice(_DOUBTFUL) + GOODBYE, [*expected, "head_malformed"]
    return stream + GOODBYE, [*expected, "live"]


def _decorated(stream: bytes, source: random.Random) -> bytes:
    """With further headers, which say nothing of where its body ends."""
    start, end, rest = stream.partition(b" HTTP/1.1\r\n")
    headers = source.sample(_HEADERS, source.randrange(len(_HEADERS)))
    return start + end + b"".join(header + b"\r\n" for header in headers) + rest


def _mangled(stream: bytes, source: random.Random) -> bytes:
    mangled = bytearray(stream)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(mangled))
        match source.randrange(4):
            case 0:
                mangled[at] = source.choice(b"\r\n\0\t :;,\x7f\xff0123456789")
            case 1:
                del mangled[at : at + source.randint(1, 8)]
            case 2:
                mangled[at:at] = mangled[at : at + source.randint(1, 64)]
            case _:
                mangled[at:at] = source.choice((b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0"))
    return bytes(mangled) + GOODBYE


def _ask(port: int, stream: bytes, source: random.Random, *, hang_up: bool) -> list[str]:
    """The code, or the state, in each answer until the connection ends; whose end `hang_up` does not leave to it."""
    received = b""
    with socket.create_connection((LOOPBACK, port), timeout=_PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # it may be closed before all is sent
            for piece in chunks(stream, source.randrange(2**16)):
                connection.sendall(piece)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):  # also where nothing comes
            while data := connection.recv(65536):
                received += data
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        status, *headers = head.split(b"\r\n")
        length = next(int(line[16:]) for line in headers if line.lower().startswith(b"content-length: "))
        if len(received) < length:
            break
        body, received = json.loads(received[:length]), received[length:]
        found.append(body.get("code") or body.get("status") or str(status))
    return found
