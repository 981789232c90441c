"""The fuzzer of the session's incoming bytes: `python -m fuzz.session_target [libFuzzer's options]`."""

import asyncio
import random
import sys
from typing import Any, Final

import atheris

with atheris.instrument_imports(include=["chapar.link"]):
    from chapar.link import session as session_module
    from chapar.link.answers import Answers
    from chapar.link.inbox import MOST_UNACKNOWLEDGED
    from chapar.link.publication import Delivery, Publication, SignOn
from chapar.errors import BrokerError, LinkDown, LinkLost, PublicationInvalid
from chapar.link.session import Session
from fuzz.streams import HEAD, chunks, mutated

_UNDELIVERED: Final = LinkLost, LinkDown, PublicationInvalid
_MOST_PUBLICATIONS: Final = 12
_TOPIC: Final = "devices/1"
_REPLY_BYTES: Final = 4  # of PUBACK and PUBREL: what a session may owe for each packet it was sent


class Transport(asyncio.Transport):
    """Counts what is written, and closes in the next turn of the loop."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._closing = False
        self.written = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += len(data)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._session.connection_lost, None)

    def abort(self) -> None:
        self.close()


async def _converse(data: bytes) -> None:
    """One session that hears these bytes; raises AssertionError where it does not bear them."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
    deliveries: list[Delivery] = []
    session = Session("mqtt://fuzz", SignOn("fuzz", 10), deliveries.append)
    transport = Transport(session)
    session.connection_made(transport)
    answers = Answers(0)
    is_published = False
    publications, cut = data[:HEAD].ljust(HEAD, b"\0")
    for chunk in chunks(data[HEAD:], cut):
        session.data_received(chunk)
        if session.up and not is_published:
            is_published = True
            answers = _publish(session, publications)
        await asyncio.sleep(0)
        for delivery in deliveries[:: 1 + publications % 3]:  # some stay unacknowledged
            delivery.acknowledge()
        deliveries.clear()
        _check_bounds(session, len(chunk))
        if transport.is_closing():
            break
    error = session._error
    await session.close()
    assert not failures, failures
    assert error is None or isinstance(error, BrokerError), error
    async with asyncio.timeout(0):  # they are all there
        outcomes = [answer.outcome async for come in answers for answer in come]
    assert all(outcome in range(256) for outcome in outcomes if not isinstance(outcome, _UNDELIVERED)), outcomes
    assert (session.in_flight, session.waiting, session._inbox.owed, session.up) == (0, 0, 0, False)


def _publish(session: Session, number: int) -> Answers:
    """Publications that wait for answers, of each quality of service; packet ids begin with 1."""
    return session.publish(
        [
            Publication(_TOPIC, b"x", 1 + each % 2, retain=False, message_id=f"m{each}")
            for each in range(number % _MOST_PUBLICATIONS)
        ]
    )


def _check_bounds(session: Session, received: int) -> None:
    assert session.in_flight <= session.window <= session_module.MAX_WINDOW
    assert session._inbox.owed <= MOST_UNACKNOWLEDGED
    assert len(session._frames._partial) <= session_module.MAX_INCOMING_PACKET + received
    assert len(session._replies) <= _REPLY_BYTES * (received + MOST_UNACKNOWLEDGED)


def _mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's own mutations, or those that know where packets begin."""
    source = random.Random(seed)
    if source.random() < 0.3:
        return atheris.Mutate(data, max_size)
    return mutated(data, source)[:max_size]


def main() -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    atheris.Setup(
        sys.argv,
        lambda data: loop.run_until_complete(_converse(data)),
        custom_mutator=_mutate,
        enable_python_coverage=True,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
