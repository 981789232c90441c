"""Send what a form asks for: once, however often the form comes."""

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from chapar.delivery.idempotency import Replay, Use
from chapar.delivery.messages import Messaging
from chapar.errors import ChaparError, KeyInFlight, NotSent
from chapar.model.acceptance import check_key
from chapar.model.message import Command, Message
from chapar.model.principal import Caller

_AGAIN: Final = 0.2  # seconds until the first of two taps may have been answered
_PATIENCE: Final = 10.0  # seconds for which the second waits for that


class _Kept(NamedTuple):
    """The answer that is kept with a key: the message that it made."""

    status: int
    body: bytes


async def send_once(messaging: Messaging, caller: Caller, command: Command, key: str) -> str:
    """Send a message, and give its id: also of one that was not sent, which says so itself.

    `key` is the form's: where the form comes again, the id is that of the first message. Raises what
    `Messaging.send_once` raises.
    """
    [sent] = await send_all_once(messaging, caller, [command], key)
    if isinstance(sent, ChaparError):
        raise sent
    return sent


async def send_all_once(
    messaging: Messaging, caller: Caller, commands: Sequence[Command], key: str
) -> list[str | ChaparError]:
    """Send many messages, and give of each what `send_once` would have returned or raised, in their order."""
    check_key(key, "key")
    requests = [
        (command, Use(caller.principal.id, f"{key}/{number}", sha256(repr(command).encode()).hexdigest()))
        for number, command in enumerate(commands)
    ]
    deadline = asyncio.get_running_loop().time() + _PATIENCE
    while True:
        given = await messaging.send_all_once(caller, requests, _kept)
        in_flight = any(isinstance(each, KeyInFlight) for each in given)
        if not in_flight or asyncio.get_running_loop().time() > deadline:
            return [_id_of(each) for each in given]
        await asyncio.sleep(_AGAIN)


def _kept(sent: Message | NotSent) -> _Kept:
    return _Kept(406 if isinstance(sent, NotSent) else 201, sent.id.encode())


def _id_of(given: _Kept | Replay | ChaparError) -> str | ChaparError:
    match given:
        case Replay():
            return given.message_id
        case _Kept():
            return given.body.decode()
        case _:
            return given
