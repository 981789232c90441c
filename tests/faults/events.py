"""Listeners to events that drop their connections and come back, while one of two gateways is killed in turns."""

import asyncio
import contextlib
import itertools
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from faults.load import Mix
from faults.run import Outcome, Surroundings, in_cycles, killing_in_turns, opened
from faults.stage import Stage
from faults.table import Logged, changes_of
from support.ports import LOOPBACK

_LEASE: Final = 2.0  # seconds
_LISTENERS: Final = 20
_LISTENERS_LONG: Final = 200
_LONGEST: Final = 400  # events on one connection …
_LONGEST_LONG: Final = 2000  # … and where there are many
_WITHIN: Final = 120.0  # seconds in which something that is missing has to come
_SHOWN: Final = 3
_EVENT: Final = re.compile(
    rb'data: \{"id":"[^"]*","type":"message\.([a-z_]+)","at":"[^"]*","imei":"([^"]*)","message":\{"id":"([^"]*)"'
)


class Wish(NamedTuple):
    """What a listener asks for, and which changes that means."""

    query: str
    fits: Callable[[Logged], bool]


_WISHES: Final = (
    Wish("", lambda _: True),
    Wish("?type=message.published", lambda each: each.after == "published"),
    Wish("?type=message.publishing&type=message.queued", lambda each: each.after in {"publishing", "queued"}),
    Wish("?imei=broker-0-0&imei=none-0-1&imei=once-0-2", lambda each: each.imei in _SOME_DEVICES),
)
_SOME_DEVICES: Final = frozenset({"broker-0-0", "none-0-1", "once-0-2"})


class _Listener:
    """One listener: each of its connections is to any of the gateways, behind the last event of the one before."""

    def __init__(self, ports: Sequence[int], wish: Wish, longest: int) -> None:
        """`longest`: events after which it has dropped each connection."""
        self.wish = wish
        self.received: list[tuple[str, str]] = []  #: messages and their new states
        self.connections = 0
        self.has_begun = asyncio.Event()
        self.wrong: str | None = None
        self._ports = ports
        self._longest = longest
        self._last = b""

    async def run(self) -> None:
        while True:
            with contextlib.suppress(OSError, EOFError):
                await self._connect()
            await asyncio.sleep(random.uniform(0.02, 0.3))

    async def _connect(self) -> None:
        reader, writer = await asyncio.open_connection(LOOPBACK, random.choice(self._ports), limit=1 << 22)
        try:
            head = f"GET /events{self.wish.query} HTTP/1.1\r\nHost: {LOOPBACK}\r\n"
            last = b"Last-Event-ID: %b\r\n" % self._last if self._last else b""
            writer.write(head.encode() + last + b"\r\n")
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200 "):
                self.wrong = answer.split(b"\r\n")[0].decode()
                return
            self.connections += 1
            ends_after = random.randrange(self._longest)
            rest = b""
            while ends_after > 0:
                while size := int(await reader.readuntil(b"\r\n"), 16):
                    rest += (await reader.readexactly(size + 2))[:-2]
                    *blocks, rest = rest.split(b"\n\n")
                    for block in blocks:
                        self._take(block)
                    ends_after -= len(blocks)
                    if ends_after <= 0 and random.random() < 0.5:
                        return
                return
        finally:
            writer.transport.abort()

    def _take(self, block: bytes) -> None:
        """Take what an empty line has ended; only then has it been received."""
        if (event := _EVENT.search(block)) is not None:
            self.received.append((event[3].decode(), event[1].decode()))
        if (cursor := re.search(rb"^id: (.*)$", block, re.MULTILINE)) is not None:
            self._last = cursor[1]
            self.has_begun.set()


async def run(cycles: int, surroundings: Surroundings) -> Outcome:
    """Two gateways on one PostgreSQL are killed in turns."""
    url = surroundings.postgres().create_database()
    async with opened(database_url=url, gateways=2, env={"CHAPAR_LEASE": str(_LEASE)}) as stage:
        count, longest = (_LISTENERS_LONG, _LONGEST_LONG) if surroundings.long else (_LISTENERS, _LONGEST)
        listeners = [_Listener(stage.ports, wish, longest) for wish, _ in zip(itertools.cycle(_WISHES), range(count))]
        tasks = [asyncio.create_task(listener.run()) for listener in listeners]
        await asyncio.gather(*(listener.has_begun.wait() for listener in listeners))
        wrong: list[str] = []

        async def at_end() -> None:
            await stage.settled()
            wrong.extend(await _judged(stage, listeners, surroundings))
            for task in tasks:
                task.cancel()

        outcome = await in_cycles(surroundings, cycles, killing_in_turns(), stage, Mix(pause=0.05), at_end=at_end)
    outcome.wrong += wrong
    received = sum(len(listener.received) for listener in listeners)
    connections = sum(listener.connections for listener in listeners)
    logged = await asyncio.to_thread(changes_of, url)
    outcome.said.append(
        f"{len(logged):,} changes; {count} listeners on {connections:,} connections received {received:,} events"
    )
    return outcome


async def _judged(stage: Stage, listeners: Sequence[_Listener], surroundings: Surroundings) -> list[str]:
    """What is wrong once everybody has had the time to receive everything."""
    logged = await asyncio.to_thread(changes_of, stage.database_url)
    expected = {wish: _by_message([each for each in logged if wish.fits(each)]) for wish in _WISHES}
    counts = {wish: sum(map(len, of_message.values())) for wish, of_message in expected.items()}
    missing = [each for each in listeners if len(each.received) < counts[each.wish]]
    awaited = sum(counts[each.wish] for each in listeners)
    # However many they are: 200 who receive everything are slower than the senders on two processors.
    deadline, received = time.monotonic() + _WITHIN, 0
    while missing and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        missing = [each for each in missing if len(each.received) < counts[each.wish]]
        if (now := sum(len(each.received) for each in missing)) != received:
            deadline, received = time.monotonic() + _WITHIN, now
        got = sum(len(each.received) for each in listeners)
        surroundings.say(f"{got:,} of {awaited:,} events received, {len(missing)} listeners behind")
    wrong = []
    for number, listener in enumerate(listeners):
        if listener.wrong is not None:
            wrong.append(f"listener {number} was answered {listener.wrong}")
        found: defaultdict[str, list[str]] = defaultdict(list)
        for id_, status in listener.received:
            found[id_].append(status)
        wanted = expected[listener.wish]
        differing = [id_ for id_ in {*found, *wanted} if found.get(id_) != wanted.get(id_)]
        for id_ in differing[:_SHOWN]:
            said = f"received {found.get(id_)} of {id_} in place of {wanted.get(id_)}"
            wrong.append(f"listener {number} ({listener.wish.query}) {said}")
    return wrong


def _by_message(logged: Sequence[Logged]) -> Mapping[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for each in logged:
        found[each.id].append(each.after)
    return found
