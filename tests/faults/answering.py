"""Devices that answer, come and go, while the gateway that receives from them breaks."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Final

from faults.connection import Connection
from faults.fleet import Saying
from faults.load import Load, Mix, devices_of
from faults.run import Outcome, Surroundings, in_cycles, opened
from faults.stage import Stage, new_broker
from faults.table import rows_of
from faults.words import Contacts
from support.gateway import GatewayProcess
from support.tcp_proxy import TcpProxy

_LEASE: Final = 2.0  # seconds
_FEW: Final = Mix(broker=1, none=1, bulk=0, once=1, brief=0, later=0, keyed=0, crowd=0)
_REPLIES: Final = replace(_FEW, brief=1, keyed=1, device=6, reply=3, order=2, collapse=2, urgent=1)
_PRESENCES: Final = replace(_FEW, broker=2, device=1, online=4)
_CONTACTS: Final = replace(_FEW, reply=1, contact=6)
_STORM: Final = 4000  # words
_STORM_DEVICES: Final = 1500
_SHORT_WINDOW: Final = {"CHAPAR_CONTACT_WINDOW": "2", "CHAPAR_CONTACT_DELAY": "0.2"}
_UNKNOWN: Final = {"presence": {"state": "unknown"}}
_WITHIN: Final = 30.0  # seconds until another gateway receives


async def replies(cycles: int, surroundings: Surroundings) -> Outcome:
    """The gateway is killed, or its line to the broker breaks."""
    async with AsyncExitStack() as stack:
        broker = stack.enter_context(new_broker())
        proxy = stack.enter_context(TcpProxy(broker.port))

        async def fail(stage: Stage, load: Load) -> None:
            if random.random() < 0.5:
                await stage.kill(stage.gateway)
                await asyncio.sleep(random.uniform(0, 1))
                await stage.start(stage.gateway)
            else:
                await stage.break_line(proxy)
            await load.answers(20)

        opening = opened(broker=broker, broker_port=proxy.port, answering=True)
        stage = await stack.enter_async_context(opening)
        await _let_half_take_envelopes(stage)
        return await in_cycles(surroundings, cycles, fail, stage, surroundings.scaled(_REPLIES))


async def _let_half_take_envelopes(stage: Stage) -> None:
    """Let every other device that answers take its commands in the envelope."""
    async with Connection(stage.ports) as connection:
        for imei in devices_of("device", _REPLIES.device)[::2] + devices_of("reply", _REPLIES.reply)[::2]:
            reply = await connection.put(f"/devices/{imei}", b'{"profile": "chapar"}')
            assert reply.status in {200, 201}, reply


async def receiver(cycles: int, surroundings: Surroundings) -> Outcome:
    """The gateway that receives is killed, or stands still for longer than its lease."""
    url = surroundings.postgres().create_database()
    numbers = itertools.count(1)

    async def fail(stage: Stage, load: Load) -> None:
        victim = await _receiver_of(stage)
        if next(numbers) % 3:
            await stage.kill(victim)
            await load.answers(10)
            await stage.start(victim)
        else:
            await stage.pause(victim, random.uniform(0.1, 2 * _LEASE))

    env = {"CHAPAR_LEASE": str(_LEASE)}
    async with opened(database_url=url, gateways=3, env=env, answering=True) as stage:
        return await in_cycles(surroundings, cycles, fail, stage, surroundings.scaled(_REPLIES))


async def _receiver_of(stage: Stage) -> GatewayProcess:
    """The gateway that receives now, as its metrics say."""
    deadline = time.monotonic() + _WITHIN
    while time.monotonic() < deadline:
        for gateway in stage.gateways:
            async with Connection([gateway.port]) as connection:
                text = (await connection.get("/metrics")).body.decode()
            if 'chapar_receiver_links_up{link="replies"} 1' in text:
                return gateway
        await asyncio.sleep(0.1)
    raise AssertionError("no gateway receives")


async def storm(cycles: int, surroundings: Surroundings) -> Outcome:
    """Thousands of devices announce themselves within a second, some while the gateway is killed."""
    killed_at = 0.0
    async with opened(answering=True) as stage:

        async def fail(stage: Stage, load: Load) -> None:
            nonlocal killed_at
            await stage.say(_words(_STORM))
            if random.random() < 0.3:
                await asyncio.sleep(random.uniform(0, 0.5))
                await stage.kill(stage.gateway)
                killed_at = time.time()
                await stage.start(stage.gateway)
            await load.answers(30)

        wrong: list[str] = []

        async def look() -> None:
            await stage.replies_arrive()
            wrong.extend(await _presences_that_differ(stage, killed_at))

        mix = surroundings.scaled(_PRESENCES)
        outcome = await in_cycles(surroundings, cycles, fail, stage, mix, at_end=look)
        outcome.wrong += wrong
        return outcome


def _words(count: int) -> Sequence[Saying]:
    """Words of devices of the storm, and of some that are sent what is only for who is there."""
    reachable = devices_of("online", _PRESENCES.online)[::2]
    others = [f"storm-{number}" for number in range(_STORM_DEVICES)]
    words = [("online", 5), ("offline", 3), (" OnLine\r\n", 1), ("hello", 1), ("", 1)]
    chosen = random.choices([word for word, _ in words], [weight for _, weight in words], k=count)
    return [
        Saying(random.choice(reachable if random.random() < 0.05 else others), "presence", word, retain=word != "hello")
        for word in chosen
    ]


async def _presences_that_differ(stage: Stage, killed_at: float) -> list[str]:
    """Devices whose last word was `online`, and that the gateway does not show so.

    What is retained it reads again after a kill; but a device that it met only just before is a stranger then.
    """
    assert stage.utterances is not None
    words = [each for each in stage.utterances.read().all if each.topic == "presence" and each.status != "hello"]
    last = {each.imei: each for each in words}
    shown = {device["imei"]: device async for device in _devices(stage)}
    return [
        f"{said} and {shown.get(imei)}"
        for imei, said in last.items()
        if said.status.strip().lower() == "online"
        and (imei in shown or said.at > killed_at)
        and shown.get(imei, _UNKNOWN)["presence"]["state"] != "online"
    ]


async def _devices(stage: Stage) -> AsyncIterator[dict[str, Any]]:
    """Every device that the gateway knows."""
    cursor = ""
    async with Connection(stage.ports) as connection:
        while True:
            page = json.loads((await connection.get(f"/devices?limit=1000{cursor}")).body)
            for device in page["devices"]:
                yield device
            if page["next"] is None:
                return
            cursor = f"&cursor={page['next']}"


async def contacts(cycles: int, surroundings: Surroundings) -> Outcome:
    """Devices speak all at once, and the gateway is killed at some moment behind that."""
    async with opened(env=_SHORT_WINDOW, answering=True) as stage:
        imeis = devices_of("contact", _CONTACTS.contact)
        spoke_at = 0.0

        async def fail(stage: Stage, load: Load) -> None:
            await stage.say([_sign_of_life(imei) for imei in random.sample(imeis, len(imeis) // 2)])
            if random.random() < 0.7:
                await asyncio.sleep(random.uniform(0, 0.8))
                await stage.kill(stage.gateway)
                await stage.start(stage.gateway)
            else:
                await asyncio.sleep(random.uniform(0, 3))
            await load.answers(20)

        async def let_all_leave() -> None:
            nonlocal spoke_at
            await stage.replies_arrive()
            spoke_at = time.time()
            await stage.say([Saying(imei, "presence", "hello") for imei in imeis])

        mix = surroundings.scaled(_CONTACTS)
        outcome = await in_cycles(surroundings, cycles, fail, stage, mix, at_end=let_all_leave)
        window = Contacts.of(stage.gateway.env).window
        for row in await asyncio.to_thread(rows_of, stage.database_url):
            if row.condition and row.status == "expired" and (row.expires_at or 0) / 1000 > spoke_at + window:
                outcome.wrong.append(f"its device spoke at {spoke_at:.3f}, and it did not leave: {row}")
        return outcome


def _sign_of_life(imei: str) -> Saying:
    """A word of a device that speaks, or of its will, which is none."""
    return random.choice(
        [
            Saying(imei, "presence", "online", retain=True),
            Saying(imei, "presence", "here"),
            Saying(imei, "reply", f"here {random.random()}"),
            Saying(imei, "presence", "offline", retain=True),
        ]
    )
