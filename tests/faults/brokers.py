"""Brokers that are faulty at one message, and the promises to all others meanwhile."""

import asyncio
import json
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

import mqtt5

from faults.connection import Connection
from faults.ledger import Entry
from faults.load import SEND, Load, Mix, tell
from faults.run import Outcome, Surroundings, finish, opened
from faults.stage import Stage, new_broker
from faults.table import rows_of
from support.faulty_broker import acknowledgement
from support.faulty_line import PUBACK, PUBLISH, FaultyLine, Script, Way

_BAD: Final = "bad"  # the device at whose messages the broker is faulty
_UNLISTED: Final = (0x95, 0xA7, 0xC1, 0xFF)  # no code that the standard lists for PUBACK
_MOST_ATTEMPTS: Final = 2  # at a message: what one fault may cause
_WITHIN: Final = 60.0  # seconds until a bad message is over
_STRAYS: Final = (
    b"\x40\x02\xfa\x00",  # PUBACK of nothing
    b"\x50\x02\xfa\x01",  # PUBREC of nothing
    b"\x70\x02\xfa\x02",  # PUBCOMP of nothing
    b"\x62\x02\xfa\x03",  # PUBREL of nothing
    b"\x90\x04\xfa\x04\x00\x01",  # SUBACK
    b"\xb0\x04\xfa\x05\x00\x00",  # UNSUBACK
    b"\xd0\x00",  # PINGRESP
    b"\x30\x05\x00\x01n\x00!",  # PUBLISH of each QoS
    b"\x32\x07\x00\x01n\x00\x07\x00!",
    b"\x34\x07\x00\x01n\x00\x08\x00!",
)


def _at_bad(fault: Callable[[Way, mqtt5.PublishPacket], bool]) -> Script:
    def script(way: Way, packet: bytes) -> bool:
        if packet[0] >> 4 != PUBLISH:
            return False
        publish, _ = mqtt5.read(memoryview(packet))
        return isinstance(publish, mqtt5.PublishPacket) and publish.topic.endswith(f"/{_BAD}") and fault(way, publish)

    return script


def _refuse(way: Way, publish: mqtt5.PublishPacket) -> bool:
    way.to_gateway.write(acknowledgement(publish.packet_id or 0, random.choice(_UNLISTED)))
    return True


def _swallow(_way: Way, _publish: mqtt5.PublishPacket) -> bool:
    return True


def _fall_silent(way: Way, _publish: mqtt5.PublishPacket) -> bool:
    way.is_mute = True
    return True


async def _send_bad(stage: Stage, _load: Load) -> None:
    """Send one message that meets the fault, and wait until it is over."""
    entry: Entry = stage.ledger.open(_BAD, "none", time.time())
    entry.may_be_given_up = True
    deadline = time.monotonic() + _WITHIN
    async with Connection(stage.ports) as connection:
        body = json.dumps({"imei": _BAD, "micro_op": entry.micro_op, "wait": "none"})
        tell(stage.ledger, entry, await connection.post(SEND, body.encode()))
        while json.loads((await connection.get(f"/messaging/messages/{entry.id}")).body)["finished_at"] is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"{entry} is not over after {_WITHIN} s")
            await asyncio.sleep(0.05)


async def _run(cycles: int, surroundings: Surroundings, fault: Callable[[Way, mqtt5.PublishPacket], bool]) -> Outcome:
    async with AsyncExitStack() as stack:
        broker = stack.enter_context(new_broker())
        line = await stack.enter_async_context(FaultyLine(broker.port, _at_bad(fault)))
        env = {"CHAPAR_ACKNOWLEDGE_TIMEOUT": "1"}
        stage = await stack.enter_async_context(opened(broker=broker, broker_port=line.port, env=env))
        async with Load(stage.ports, stage.ledger, surroundings.scaled(Mix())) as load:
            for cycle in range(cycles):
                await load.answers(random.randrange(20, 200))
                await _send_bad(stage, load)
                surroundings.progress(cycle + 1, cycles, stage.ledger.answered)
            await load.answers(100)
        outcome = await finish(stage, cycles)
        rows = await asyncio.to_thread(rows_of, stage.database_url)
        outcome.wrong += [f"not given up: {row}" for row in rows if row.imei == _BAD and row.status != "rejected"]
        outcome.wrong += [f"sent too often: {row}" for row in rows if row.attempts > _MOST_ATTEMPTS]
        outcome.said.append(f"{line.connections} sessions")
        return outcome


async def refusals(cycles: int, surroundings: Surroundings) -> Outcome:
    """A message is refused with a code that the standard does not list."""
    return await _run(cycles, surroundings, _refuse)


async def unanswered(cycles: int, surroundings: Surroundings) -> Outcome:
    """A message is never acknowledged; everything else is."""
    return await _run(cycles, surroundings, _swallow)


async def silent(cycles: int, surroundings: Surroundings) -> Outcome:
    """From a message on the broker is dead for this connection."""
    return await _run(cycles, surroundings, _fall_silent)


async def strays(cycles: int, surroundings: Surroundings) -> Outcome:
    """Acknowledgements come twice, and packets that nobody asked for come between them."""

    def answer(way: Way, packet: bytes) -> bool:
        if packet[0] >> 4 == PUBACK and random.random() < 0.2:
            way.to_gateway.write(packet + random.choice(_STRAYS))
        return False

    def is_answer(_way: Way, packet: bytes) -> bool:
        return PUBACK <= packet[0] >> 4 <= PUBACK + 3  # to what the broker never sent

    async with AsyncExitStack() as stack:
        broker = stack.enter_context(new_broker())
        line = await stack.enter_async_context(FaultyLine(broker.port, is_answer, answer))
        stage = await stack.enter_async_context(opened(broker=broker, broker_port=line.port))
        async with Load(stage.ports, stage.ledger, surroundings.scaled(Mix())) as load:
            for cycle in range(cycles):
                await load.answers(random.randrange(50, 200))
                surroundings.progress(cycle + 1, cycles, stage.ledger.answered)
        outcome = await finish(stage, cycles)
        if line.connections > 1:
            outcome.wrong.append(f"{line.connections} sessions")
        return outcome
