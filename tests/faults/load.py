"""Callers of every kind who send at the same time, and write each answer into the ledger."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

from faults.connection import Connection, NoAnswer, Reply
from faults.ledger import Entry, Kind, Ledger, Wait

SEND: Final = "/messaging/send"
BULK: Final = "/messaging/bulk"
_PAUSE: Final = 0.05  # seconds after a refusal or no answer; as a caller does, and so that an outage fills no table
_A_MOMENT: Final = 0.2  # seconds until the same is asked again, by hundreds at once: the gateway needs the processor
_DEVICES: Final = 4
_LONGEST_WAIT_FOR_CONTACT: Final = 8.0  # seconds
REPLY_WITHIN: Final = 1.5  # seconds; devices that are late take longer
_ASK_AGAIN: Final = {409, 503}  # with the same key
_WAITS: Final[tuple[Wait, ...]] = ("none", "broker")


@dataclass(frozen=True, slots=True)
class Mix:
    """How many callers of each kind there are."""

    broker: int = 4
    none: int = 2
    bulk: int = 1
    once: int = 2
    brief: int = 2
    later: int = 1
    keyed: int = 2
    crowd: int = 4
    cut: int = 0
    device: int = 0
    reply: int = 0
    order: int = 0
    contact: int = 0
    online: int = 0
    collapse: int = 0
    urgent: int = 0
    bulk_size: int = 100  #: messages in one call
    bulk_devices: int = 10  #: of one bulk caller
    bulk_rate: float = 500  #: messages a second of each bulk caller, at most
    pause: float = 0.01  #: seconds between two calls of one caller


def devices_of(kind: Kind, callers: int) -> list[str]:
    """The devices of so many callers of a kind."""
    return [f"{kind}-{caller}-{number}" for caller in range(callers) for number in range(_DEVICES)]


class Load:
    """The callers; they send from `async with` to its end."""

    def __init__(self, ports: Sequence[int], ledger: Ledger, mix: Mix) -> None:
        self._ports = ports
        self._ledger = ledger
        self._mix = mix
        self._stopping = asyncio.Event()
        self._callers: list[asyncio.Task[None]] = []

    async def answers(self, count: int, within: float = 30.0) -> None:
        """Wait until `count` more messages were accepted; raises AssertionError where that takes too long."""
        wanted = self._ledger.accepted + count
        deadline = time.monotonic() + within
        while self._ledger.accepted < wanted:
            if time.monotonic() > deadline:
                raise AssertionError(f"{wanted - self._ledger.accepted} of {count} messages not accepted in {within} s")
            await self.check()
            await asyncio.sleep(0.005)

    async def refusals(self, count: int, within: float = 30.0) -> None:
        """Wait until `count` more messages were refused."""
        wanted = self._ledger.answered - self._ledger.accepted + count
        deadline = time.monotonic() + within
        while self._ledger.answered - self._ledger.accepted < wanted:
            if time.monotonic() > deadline:
                raise AssertionError(f"not {count} refusals in {within} s")
            await self.check()
            await asyncio.sleep(0.005)

    async def check(self) -> None:
        """Raise what ended a caller."""
        for caller in self._callers:
            if caller.done():
                await caller

    async def __aenter__(self) -> Self:
        callers: dict[Kind, Callable[[Connection, int], Awaitable[None]]] = {
            "broker": self._broker,
            "none": self._none,
            "bulk": self._bulk,
            "once": self._once,
            "brief": self._brief,
            "later": self._later,
            "keyed": self._keyed,
            "crowd": self._crowd,
            "cut": self._cut,
            "device": self._device,
            "reply": self._reply,
            "order": self._order,
            "contact": self._contact,
            "online": self._online,
            "collapse": self._collapse,
            "urgent": self._urgent,
        }
        for kind, call in callers.items():
            for caller in range(getattr(self._mix, kind)):
                self._callers.append(asyncio.create_task(self._repeat(call, caller), name=f"{kind} {caller}"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Every call under way still gets its answer."""
        self._stopping.set()
        outcomes = await asyncio.gather(*self._callers, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and error is None:
                raise outcome

    async def _repeat(self, call: Callable[[Connection, int], Awaitable[None]], caller: int) -> None:
        async with Connection(self._ports) as connection:
            while not self._stopping.is_set():
                pause = self._mix.pause
                if await connection.connected():
                    await call(connection, caller)
                else:  # there is nobody to ask
                    pause = _PAUSE
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))

    async def _broker(self, connection: Connection, caller: int) -> None:
        await self._send(connection, self._open("broker", caller))

    async def _crowd(self, connection: Connection, _caller: int) -> None:
        entry = self._ledger.open("crowd", "crowd", time.time(), in_turn=False)
        await self._send(connection, entry, wait=random.choice(_WAITS))

    async def _none(self, connection: Connection, caller: int) -> None:
        await self._send(connection, self._open("none", caller), wait="none")

    async def _once(self, connection: Connection, caller: int) -> None:
        entry = self._open("once", caller)
        entry.at_most_once = True
        await self._send(connection, entry, at_most_once=True, wait=random.choice(_WAITS))

    async def _brief(self, connection: Connection, caller: int) -> None:
        entry = self._open("brief", caller)
        entry.expires_in = round(random.uniform(0.2, 2.5), 3)
        await self._send(connection, entry, expires_in=entry.expires_in, wait=random.choice(_WAITS))

    async def _later(self, connection: Connection, caller: int) -> None:
        entry = self._open("later", caller)
        entry.deliver_at = round((time.time() + random.uniform(0.1, 2.0)) * 1000)
        at = datetime.fromtimestamp(entry.deliver_at / 1000, UTC).isoformat(timespec="milliseconds")
        await self._send(connection, entry, deliver_at=at, wait="none")

    async def _cut(self, connection: Connection, caller: int) -> None:
        """Somebody who hangs up behind the request; nothing is known of it but what the table and the device say."""
        entry = self._open("cut", caller)
        entry.wait = random.choice(_WAITS)
        body = _body(entry, wait=entry.wait)
        with contextlib.suppress(NoAnswer):
            await connection.post_and_hang_up(SEND, body, after=random.choice([0, 0, 0.001, 0.003]))

    async def _keyed(self, connection: Connection, caller: int) -> None:
        """Somebody who repeats until there is an answer, under one key."""
        entry = self._open("keyed", caller)
        await ask_until_answered(connection, entry, self._ledger, self._stopping)

    async def _bulk(self, connection: Connection, caller: int) -> None:
        entries = [self._open("bulk", caller, self._mix.bulk_devices) for _ in range(self._mix.bulk_size)]
        for entry in entries:
            entry.wait = random.choice(_WAITS)
        items = ",".join(_text(entry, wait=entry.wait) for entry in entries)
        try:
            reply = await connection.post(BULK, b'{"messages":[%s]}' % items.encode())
        except NoAnswer:
            await asyncio.sleep(_PAUSE)
            return
        told_at = time.time()
        body = json.loads(reply.body)
        # The call as a whole may be refused.
        answers = body.get("answers") or [{"status": reply.status, "body": body}] * len(entries)
        for entry, answer in zip(entries, answers, strict=True):
            self._ledger.tell(entry, told_at, answer["status"], answer["body"])
        await asyncio.sleep(self._mix.bulk_size / self._mix.bulk_rate)

    async def _device(self, connection: Connection, caller: int) -> None:
        """Somebody who waits for the device's word."""
        await self._send(connection, self._open("device", caller), wait="device", reply_within=REPLY_WITHIN)

    async def _reply(self, connection: Connection, caller: int) -> None:
        entry = self._open("reply", caller)
        await self._send(connection, entry, wait=random.choice(_WAITS), reply_within=REPLY_WITHIN)

    async def _order(self, connection: Connection, caller: int) -> None:
        entry = self._open("order", caller)
        await self._send(connection, entry, wait=random.choice(_WAITS), reply_within=REPLY_WITHIN)

    async def _contact(self, connection: Connection, caller: int) -> None:
        entry = self._open("contact", caller)
        entry.expires_in = _LONGEST_WAIT_FOR_CONTACT
        await self._send(connection, entry, wait="none", deliver="on_contact", expires_in=entry.expires_in)

    async def _online(self, connection: Connection, caller: int) -> None:
        entry = self._open("online", caller)
        entry.may_be_given_up = True
        await self._send(connection, entry, wait=random.choice(_WAITS), only_if_online=True)

    async def _collapse(self, connection: Connection, caller: int) -> None:
        """Somebody who sends one device the newest of each of two values, again and again."""
        entry = self._open("collapse", caller, devices=1)
        entry.collapse_key = random.choice(("position", "speed"))
        await self._send(connection, entry, wait=random.choice(_WAITS), collapse_key=entry.collapse_key)

    async def _urgent(self, connection: Connection, caller: int) -> None:
        """Somebody who passes those that wait for the same devices."""
        imei = f"none-{caller}-{random.randrange(_DEVICES)}"
        entry = self._ledger.open(imei, "urgent", time.time(), in_turn=False)
        await self._send(connection, entry, wait=random.choice(_WAITS), urgent=True)

    def _open(self, kind: Kind, caller: int, devices: int = _DEVICES) -> Entry:
        return self._ledger.open(f"{kind}-{caller}-{random.randrange(devices)}", kind, time.time())

    async def _send(self, connection: Connection, entry: Entry, *, wait: Wait = "broker", **fields: object) -> None:
        entry.wait = wait
        try:
            reply = await connection.post(SEND, _body(entry, wait=wait, **fields))
        except NoAnswer:
            await asyncio.sleep(_PAUSE)
            return
        tell(self._ledger, entry, reply)
        if entry.refused:
            await asyncio.sleep(_PAUSE)


async def ask_until_answered(
    connection: Connection, entry: Entry, ledger: Ledger, stopping: asyncio.Event
) -> Reply | None:
    """Repeat under one key until there is an answer that ends the matter; None where `stopping` came first."""
    headers = {"Idempotency-Key": f"key-{entry.number}"}
    while True:
        try:
            reply = await connection.post(SEND, _body(entry), headers)
        except NoAnswer:
            reply = None
        if reply is not None and reply.status not in _ASK_AGAIN:
            if entry.status is None:
                tell(ledger, entry, reply)
            return reply
        if stopping.is_set():
            return None
        await asyncio.sleep(_A_MOMENT * random.uniform(0.5, 1.5))


def tell(ledger: Ledger, entry: Entry, reply: Reply) -> None:
    """Write an answer to one message into the ledger."""
    ledger.tell(entry, time.time(), reply.status, json.loads(reply.body))


def _text(entry: Entry, **fields: object) -> str:
    return json.dumps({"imei": entry.imei, "micro_op": entry.micro_op, **fields})


def _body(entry: Entry, **fields: object) -> bytes:
    return _text(entry, **fields).encode()
