"""The gateway's side of the link, ready to use in a test."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from itertools import count

from chapar.app.brokers import broker_access
from chapar.link.answers import Answers
from chapar.link.dial import dial
from chapar.link.endpoints import look_up
from chapar.link.keeper import Link
from chapar.link.publication import Delivery, Publication, SignOn
from chapar.link.session import Session
from chapar.runtime.addresses import BrokerAddress
from chapar.runtime.metrics import Metrics
from chapar.runtime.settings import Settings
from support.fake_broker import CONNACK

_numbers = count(1)


class Outcome(Answers):
    """The answer to one publication, as a future."""

    def __init__(self) -> None:
        super().__init__(1)
        self.future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def add(self, publication: Publication, outcome: int | Exception) -> None:
        super().add(publication, outcome)
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


def published(link: Link | Session, publication: Publication) -> asyncio.Task[int]:
    """Publish one, and wait for its answer: the reason code, or the exception raised."""
    return asyncio.create_task(_outcome(publication, link.publish([publication])))


async def _outcome(publication: Publication, answers: Answers) -> int:
    [[answer]] = [come async for come in answers]
    assert answer.publication is publication
    if isinstance(answer.outcome, Exception):
        raise answer.outcome
    return answer.outcome


def publication(payload: bytes | str = b"push_down", topic: str = "devices/1", *, qos: int = 1) -> Publication:
    """A publication whose other facts do not matter to the test, of a message of its own."""
    text = payload if isinstance(payload, bytes) else payload.encode()
    return Publication(topic, text, qos, retain=False, message_id=f"0190a7e0-0000-7000-8000-{next(_numbers):012}")


@contextlib.asynccontextmanager
async def running_link(settings: Settings) -> AsyncIterator[Link]:
    """A link whose `run()` is under way; it is cancelled at the end."""
    link = Link(broker_access(settings), Metrics())
    task = asyncio.create_task(link.run(), name="link")
    try:
        yield link
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


@contextlib.asynccontextmanager
async def open_session(
    url: str,
    *,
    settings: Settings | None = None,
    sign_on: SignOn | None = None,
    on_delivery: Callable[[Delivery], None] | None = None,
) -> AsyncIterator[Session]:
    """An established session with the broker at `url`, as its user; closed at the end."""
    address = BrokerAddress.parse(url)
    sign_on = sign_on or SignOn("test", keep_alive=10, username=address.username, password=address.password)
    settings = settings or Settings()
    endpoint, *_ = await look_up(address, settings.connect_timeout)
    session = await dial(endpoint, broker_access(settings), sign_on, on_delivery)
    try:
        yield session
    finally:
        await session.close()


class RecordingTransport(asyncio.Transport):
    """Takes what is written, and pauses the protocol where told to."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.written: list[bytes] = []
        self.pause_at_next_write = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))
        if self.pause_at_next_write:
            self._session.pause_writing()

    def close(self) -> None:
        asyncio.get_running_loop().call_soon(self._session.connection_lost, None)

    def abort(self) -> None:
        self.close()


def connected(
    deliveries: list[Delivery] | None = None, connack: bytes = CONNACK, keep_alive: int = 10
) -> tuple[Session, RecordingTransport]:
    """A session without a socket, and what was written on it behind CONNECT; established unless `connack` refuses."""
    session = Session("mqtt://test", SignOn("test", keep_alive), None if deliveries is None else deliveries.append)
    transport = RecordingTransport(session)
    session.connection_made(transport)
    session.data_received(connack)
    transport.written.clear()
    return session, transport
