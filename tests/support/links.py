"""The gateway's side of the link, ready to use in a test."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from chapar.link.dial import dial
from chapar.link.endpoints import look_up
from chapar.link.link import Link
from chapar.link.session import Delivery, Publication, Session, SignOn
from chapar.settings import BrokerAddress, Settings


def publication(payload: bytes | str = b"push_down", topic: str = "devices/1", *, qos: int = 1) -> Publication:
    """A publication whose other facts do not matter to the test."""
    text = payload if isinstance(payload, bytes) else payload.encode()
    return Publication(topic, text, qos, retain=False, message_id="0190a7e0-0000-7000-8000-000000000001")


@contextlib.asynccontextmanager
async def running_link(settings: Settings) -> AsyncIterator[Link]:
    """A link whose `run()` is under way; it is cancelled at the end."""
    link = Link(settings)
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
    session = await dial(endpoint, settings, sign_on, on_delivery)
    try:
        yield session
    finally:
        await session.close()
