"""A connection of the API without a network: what it reads is fed to it, what it writes is kept."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from chapar.app.wiring import bounds_of, limits_of
from chapar.errors import ChaparError
from chapar.runtime.settings import Settings
from chapar.web.http import connection
from chapar.web.http.connection import Connection

_TURNS = 12  # of the loop, until a request that waits for nothing is answered
_PATIENCE = 1000  # turns
_DEFAULTS = Settings()


class Wire(asyncio.Transport):
    """The transport of one connection; `written` is all that it was given, up to the close."""

    def __init__(self, peer: str = "192.0.2.7") -> None:
        super().__init__({"peername": (peer, 1234), "sockname": ("192.0.2.1", 80)})
        self.written = b""
        self.is_reading = True
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._is_closing:
            self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True

    abort = close


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers with what it was asked; a fault in the body is a 400."""
    body, more, status = b"", True, 200
    try:
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
    except ChaparError:
        status = 400
    text = json.dumps([scope["method"], scope["path"], body.decode("latin-1")]).encode()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text})


class Line:
    """A connection to `app`, from the client's side."""

    def __init__(self, app: Any = tell, settings: Settings = _DEFAULTS, *, peer: str = "192.0.2.7") -> None:
        self.budget = limits_of(settings).bodies
        made = connection.within(bounds_of(settings), self.budget)
        config = uvicorn.Config(app, interface="asgi3", lifespan="off", log_config=None, http=made, ws="none")
        self.connection: Connection = made(config, ServerState(), {}, asyncio.get_running_loop())
        self.wire = Wire(peer)
        self.connection.connection_made(self.wire)

    async def send(self, pieces: Iterable[bytes]) -> None:
        """Feed the pieces, each as soon as the connection reads on; gives up where it never does."""
        for piece in pieces:
            for _ in range(_PATIENCE):
                if self.wire.is_reading or self.wire.is_closing():
                    break
                await asyncio.sleep(0)
            if self.wire.is_closing() or not self.wire.is_reading:
                break
            self.connection.data_received(piece)
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    def close(self) -> None:
        self.connection.connection_lost(None)

    @property
    def answers(self) -> list[tuple[int, Any]]:
        """The status and the body of each answer."""
        answers = []
        rest = self.wire.written
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            length = next((int(line[16:]) for line in lines if line.lower().startswith(b"content-length: ")), 0)
            answers.append((int(lines[0].split()[1]), json.loads(rest[:length] or b"null")))
            rest = rest[length:]
        return answers
