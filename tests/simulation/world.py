"""One small world, grown from a seed: gateways, a database, a broker, callers, and faults."""

import asyncio
import logging
import math
import random
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

import structlog
from pydantic import SecretStr

from chapar.app import wiring
from chapar.app.wiring import Running
from chapar.delivery import acceptance as sending
from chapar.delivery import dispatcher, outcomes
from chapar.delivery.idempotency import Use
from chapar.delivery.messages import Messaging
from chapar.devices.pausing import Pausing
from chapar.errors import ChaparError
from chapar.link import endpoints, listener, receiver
from chapar.link import keeper as link
from chapar.link.broker_access import BrokerAccess
from chapar.link.endpoints import Endpoint
from chapar.link.publication import Delivery, Publication, SignOn
from chapar.model.change import Change
from chapar.model.device import QueueState
from chapar.model.message import Attempt, Command, Condition, Message, Wait
from chapar.runtime import backoff
from chapar.runtime.addresses import BrokerAddress
from chapar.runtime.clock import Clock
from chapar.runtime.metrics import Metrics
from chapar.runtime.settings import Settings
from chapar.web.api.sending import Answer, send, sent_answer
from chapar.web.http.problems import status_of
from simulation.database import Database, SimulatedCommits, open_store
from simulation.devices import Devices
from simulation.network import Broker, SimulatedSession, reset, silence
from simulation.place import enter, here
from simulation.receiving import ReceivingSession
from simulation.virtual_time import Deadlock, VirtualLoop
from simulation.weather import Weather
from support.callers import CALLER

EPOCH: Final = 1_800_000_000_000  # ms; when every world begins
ACTIVE: Final = 3.0  # seconds in which things happen
QUIET_WITHIN: Final = 120.0  # seconds after which everything must have come to its end
TRIES: Final = 6
CONTACT_WINDOW: Final = 1.5  # seconds

OF_ID: Final = "00000000-0000-7000-8000-0000000000"  # the ids of a world differ at their end; it is shown alone

_KINDS: Final = ["refused", "poison", "silent poison", "too large"]


@dataclass(frozen=True, slots=True)
class Given:
    """An answer that a caller was given."""

    at: float
    status: int
    message_id: str | None
    body: str
    is_replay: bool


@dataclass(eq=False, slots=True)
class Request:
    """What one caller wants, and what came of it."""

    name: str  #: also its `micro_op`
    at: float
    kind: str  #: what the broker makes of it
    command: Command
    due_in: int | None  #: ms
    key: str | None
    hangs_up_after: float | None
    asks_again: int  #: how often it is repeated although it was answered
    given: list[Given] = field(default_factory=list)
    lost: int = 0  #: calls without an answer


@dataclass(eq=False, slots=True)
class Pause:
    """A device that is paused, as whoever paused it knows."""

    imei: str
    since: float  #: loop time of the answer
    in_flight: frozenset[str]  #: what may leave all the same: the answer names it
    until: float = math.inf  #: loop time at which somebody first asked to resume it
    over: float = math.inf  #: … and was answered


class VirtualClock(Clock):
    """The gateway's clock: it adopts the wall's at start, and goes on from there."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.offset = world.wall_offset

    def now_ns(self) -> int:
        return (EPOCH + self.offset) * 1_000_000 + int(self._world.loop.time() * 1_000_000_000)

    def drift(self) -> int:
        return self._world.wall_offset - self.offset


class Process:
    """A gateway process, from its start to its stop or its sudden end."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.name = f"P{number}"
        self.token = f"{number:016x}"
        self.clock = VirtualClock(world)
        self.dead = False
        self.stopping = asyncio.Event()
        self.commits: SimulatedCommits | None = None
        self.gateway: Running | None = None
        self.calls: dict[asyncio.Task[Any], None] = {}  # in their order
        self.task = world.loop.create_task(self._main(), name=self.name)
        world.trace(self.name, "starts")

    @property
    def serves(self) -> bool:
        return self.gateway is not None and not self.dead and not self.stopping.is_set()

    async def _main(self) -> None:
        enter(self)
        try:
            async with wiring.lifespan(self.world.settings) as running:
                self.gateway = running
                await self.stopping.wait()
                self.world.trace(self.name, "stops")
                for call in [*self.calls]:
                    call.cancel()
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 - any is a finding
            self.world.fails(f"{self.name} came down: {_described(error)}")
        finally:
            self.dead = True
            for call in [*self.calls]:
                call.cancel()

    def kill(self) -> None:
        """End without another word."""
        if self.dead:
            return
        self.world.trace(self.name, "is killed")
        self.dead = True
        if self.commits is not None:
            self.commits.writer.die()
        for session in [session for session in self.world.broker.sessions if session.process is self]:
            session.end(None)
        for task in (self.task, *self.calls):
            task.cancel()

    @property
    def under_way(self) -> int:
        return 0 if self.gateway is None else len(self.gateway.dispatcher._under_way)


class World:
    """Everything that one seed makes."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.plan = random.Random(seed)
        self.chaos = random.Random(seed + 1)
        self.lines: list[tuple[float, tuple[object, ...]]] = []
        self.failures: list[str] = []
        self.loop = VirtualLoop()
        self.loop.set_exception_handler(self._on_exception)
        self.wall_offset = 0
        self.processes: list[Process] = []
        self.database = Database(self)
        self.log: list[tuple[str, list[Change]]] = []  # what each commit of a process has changed
        self.messages: dict[str, Message] = {}  # what is kept at the end
        self.attempts: list[Attempt] = []
        self.weather = Weather(self.plan, self.chaos)
        self.broker = Broker(self)
        self.devices = Devices(self)
        self.alone = self.plan.random() < 0.5
        self.settings = _settings(self.plan, alone=self.alone)
        self.page = self.plan.choice([2, 5, 500])
        self.requests = self._requests()
        self.by_name = {request.name: request for request in self.requests}
        self.cancelled: list[tuple[float, str, int]] = []  # when, id, answer
        self.resent: list[Given] = []
        self.pauses: list[Pause] = []
        self._ids = 0

    def run(self) -> None:
        """Let everything happen, and then let it come to rest."""
        random.seed(self.seed)
        asyncio.set_event_loop(self.loop)
        try:
            with patch.multiple(dispatcher, PAGE=self.page, MAX_TAKEN=2 * self.page, MAX_UNDER_WAY=3 * self.page):
                self.loop.run_until_complete(self._live())
                left = asyncio.all_tasks(self.loop)
                for task in left:
                    task.cancel()
                self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        except Deadlock:
            self.fails("nothing happens any more, and something is waited for")
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()
        self.messages = {message.id: message for message in self.database.messages()}
        self.attempts = self.database.attempts()
        self.database.close()

    def trace(self, *words: object) -> None:
        self.lines.append((self.loop.time(), words))

    def fails(self, failure: str) -> None:
        self.trace("FAILURE", failure)
        self.failures.append(failure)

    def wall_clock(self) -> int:
        return EPOCH + self.wall_offset + int(self.loop.time() * 1000)

    def new_id(self) -> str:
        self._ids += 1
        return f"{OF_ID}{self._ids:02}"

    def kind_of(self, publication: Publication) -> str:
        message = self.database.by_id.get(publication.message_id)
        return "good" if message is None else self.by_name[message.micro_op].kind

    def _requests(self) -> list[Request]:
        plan = self.plan
        devices = plan.choice([1, 2, 4])
        odd = plan.choice([0.0, 0.0, 0.15, 0.4])
        bursts = [plan.uniform(0.2, ACTIVE - 0.5) for _ in range(3)]
        requests = []
        for number in range(plan.choice([4, 8, 16])):
            qos = plan.choice([1, 1, 1, 1, 1, 1, 0, 2])
            command = Command(
                imei=f"D{plan.randrange(devices)}",
                micro_op=f"op{number:02}",
                qos=qos,
                at_most_once=plan.random() < 0.15,
                expires_in=plan.choice([None, None, plan.uniform(0.1, 4)]),
                wait=plan.choice([Wait.BROKER, Wait.BROKER, Wait.NONE]),
                patience=plan.choice([None, None, plan.uniform(0.02, 1.5)]),
                reply_within=plan.choice([None, None, plan.uniform(0.3, 3.0)]),
            )
            command = self._with_conditions(command)
            keyed = plan.random() < 0.4
            if command.reply_within is not None and not keyed and plan.random() < 0.5:
                command = command._replace(wait=Wait.DEVICE)
            requests.append(
                Request(
                    name=command.micro_op,
                    at=plan.choice([plan.uniform(0.0, ACTIVE - 0.2), plan.choice(bursts)]),
                    kind=plan.choice(_KINDS) if plan.random() < odd else "good",
                    command=command,
                    due_in=plan.randint(-500, 3000) if plan.random() < 0.15 else None,
                    key=f"key{number}" if keyed else None,
                    hangs_up_after=plan.uniform(0.0, 0.1) if plan.random() < 0.08 else None,
                    asks_again=plan.randint(0, 2) if keyed else 0,
                )
            )
        return requests

    def _with_conditions(self, command: Command) -> Command:
        """Now and then, more than its turn decides when it leaves."""
        plan = self.plan
        is_kept = command.qos > 0
        return command._replace(
            collapse_key=plan.choice(["valve", "pump"]) if is_kept and plan.random() < 0.25 else None,
            urgent=plan.random() < 0.1,
            purge=plan.random() < 0.03,
            condition=plan.choice([Condition.CONTACT, Condition.ONLINE]) if is_kept and plan.random() < 0.25 else None,
        )

    async def _live(self) -> None:
        for _ in range(1 if self.alone else self.plan.choice([2, 2, 3])):
            self._start()
        clients = [self.loop.create_task(self._client(request)) for request in self.requests]
        tasks = [self.loop.create_task(fault) for fault in self._faults()]
        speaking = [
            self.loop.create_task(self._speaks(device)) for device in {r.command.imei: None for r in self.requests}
        ]
        await asyncio.wait([*clients, *tasks])
        for task in (*clients, *tasks):
            task.result()
        await asyncio.sleep(max(0.0, ACTIVE - self.loop.time()))
        self.trace("calm")
        self.weather.calm = True
        if not any(process.serves for process in self.processes):
            self._start()
        until = self.loop.time() + QUIET_WITHIN
        await asyncio.sleep(0.5)
        while self._busy() and self.loop.time() < until:  # noqa: ASYNC110 - a look costs no time here
            await asyncio.sleep(0.5)
        for task in speaking:
            task.cancel()
        for process in self.processes:
            process.stopping.set()
        await asyncio.wait([process.task for process in self.processes], timeout=30)

    async def _speaks(self, imei: str) -> None:
        """A device says something now and then."""
        while True:
            await asyncio.sleep(self.chaos.uniform(0.2, 4.0))
            self.devices.speak(imei)

    def _busy(self) -> bool:
        committing = any(process.commits.under_way for process in self.processes if process.commits)
        kept = any(mailbox.parcels for mailbox in self.broker.mailboxes.values())
        return committing or kept or bool(self.devices.thinking or self.database.unfinished)

    def _start(self) -> None:
        self.processes.append(Process(self, len(self.processes) + 1))

    def _on_exception(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context["message"].startswith("Future exception was never retrieved"):
            return  # a commit that nobody waits for, at the end
        error = context.get("exception")
        self.fails(f"{context['message']}: {_described(error) if error else context}")

    def _serving(self) -> Process | None:
        serving = [process for process in self.processes if process.serves]
        return self.chaos.choice(serving) if serving else None

    async def _client(self, request: Request) -> None:
        await asyncio.sleep(request.at)
        again = request.asks_again
        for attempt in range(TRIES):
            status = None
            if (process := self._serving()) is not None:
                call = self.loop.create_task(self._call(process, request))
                process.calls[call] = None
                if request.hangs_up_after is not None and attempt == 0:
                    self.loop.call_later(request.hangs_up_after, call.cancel)
                await asyncio.wait([call])
                process.calls.pop(call, None)
                if call.cancelled():
                    self.trace(request.name, "hears no answer")
                    request.lost += 1
                else:
                    call.result()
                    status = request.given[-1].status
                if request.key is None:
                    return
                if status not in {None, 409, 429, 503}:
                    again -= 1
                    if again < 0:
                        return
            await asyncio.sleep(self.chaos.uniform(0.01, 0.6))

    async def _call(self, process: Process, request: Request) -> None:
        assert process.gateway is not None
        self.trace(request.name, "is asked of", process.name, request.command.wait, request.key or "")
        command = request.command
        if request.due_in is not None:
            command = command._replace(deliver_at=process.clock.now() + request.due_in)
        use = None if request.key is None else Use("me", request.key, request.name)
        given = await self._answered(send(process.gateway.messaging, CALLER, command, use, "en"))
        self.trace(request.name, "is answered", given.status, given.message_id or given.body)
        request.given.append(given)

    async def _answered(self, sent: Any) -> Given:
        try:
            answer = await sent
        except ChaparError as error:
            return Given(self.loop.time(), status_of(error), getattr(error, "id", None), error.code, is_replay=False)
        except Exception as error:  # noqa: BLE001 - any is a finding
            self.fails(f"a call raised {_described(error)}")
            return Given(self.loop.time(), 500, None, "", is_replay=False)
        return Given(
            self.loop.time(), answer.status, answer.message_id, answer.body.decode(), is_replay=answer.is_replay
        )

    def _faults(self) -> Iterator[Any]:
        plan = self.plan
        for _ in range(plan.choice([0, 0, 1, 3])):
            yield self._break_link(plan.uniform(0, ACTIVE), silent=plan.random() < 0.3)
        for _ in range(plan.choice([0, 0, 1])):
            yield self._broker_away(plan.uniform(0, ACTIVE), plan.choice([0.1, 0.5, 2.0]))
        for _ in range(plan.choice([0, 0, 1, 2])):
            yield self._restart(plan.uniform(0, ACTIVE), kill=plan.random() < 0.7, pause=plan.choice([0.05, 1.0]))
        for _ in range(plan.choice([0, 0, 0, 1])):
            yield self._step_clock(plan.uniform(0, ACTIVE), plan.choice([-5000, -100, 100, 5000]))
        for _ in range(plan.choice([0, 0, 1, 3])):
            yield self._cancel_one(plan.uniform(0, ACTIVE))
        for _ in range(plan.choice([0, 0, 0, 1])):
            yield self._resend_one(plan.uniform(0, ACTIVE))
        if plan.random() < 0.2:
            imei = plan.choice(sorted({request.command.imei for request in self.requests}))
            yield self._pause_one(imei, plan.uniform(0, ACTIVE / 2), plan.choice([0.3, 1.0, 2.0]))

    async def _break_link(self, at: float, *, silent: bool) -> None:
        await asyncio.sleep(at)
        if self.broker.sessions:
            self.chaos.choice(self.broker.sessions).end(silence() if silent else reset())

    async def _broker_away(self, at: float, seconds: float) -> None:
        await asyncio.sleep(at)
        self.trace("broker", "goes away")
        self.weather.broker_away = True
        for session in list(self.broker.sessions):
            session.end(reset())
        await asyncio.sleep(seconds)
        self.weather.broker_away = False
        self.trace("broker", "is back")

    async def _restart(self, at: float, *, kill: bool, pause: float) -> None:
        await asyncio.sleep(at)
        process = self._serving()
        if process is None:
            return
        if kill:
            process.kill()
        else:
            process.stopping.set()
        await asyncio.wait([process.task])
        await asyncio.sleep(pause)
        self._start()

    async def _step_clock(self, at: float, milliseconds: int) -> None:
        await asyncio.sleep(at)
        self.trace("the wall clock steps by", milliseconds)
        self.wall_offset += milliseconds

    async def _cancel_one(self, at: float) -> None:
        await asyncio.sleep(at)
        process = self._serving()
        waiting = self.database.unfinished or list(self.database.by_id)
        if process is None or process.gateway is None or not waiting:
            return
        id_ = self.chaos.choice(waiting)
        self.trace(id_, "is to be cancelled by", process.name)
        status = 200
        call = self.loop.create_task(process.gateway.cancellation.cancel(CALLER, id_))
        process.calls[call] = None
        try:
            await asyncio.wait([call])
            call.result()
        except ChaparError as error:
            status = status_of(error)
        except asyncio.CancelledError:
            return
        self.trace(id_, "cancel is answered", status)
        self.cancelled.append((self.loop.time(), id_, status))

    async def _pause_one(self, imei: str, at: float, seconds: float) -> None:
        """Pause a device, and resume it: both are asked for until somebody answers."""
        await asyncio.sleep(at)
        state = await self._asked_until_answered(lambda pausing: pausing.pause(CALLER, imei, None))
        pause = Pause(imei, self.loop.time(), frozenset(state.in_flight))
        self.trace(imei, "is paused", *sorted(pause.in_flight))
        self.pauses.append(pause)
        await asyncio.sleep(seconds)
        pause.until = self.loop.time()
        self.trace(imei, "is to be resumed")
        await self._asked_until_answered(lambda pausing: pausing.resume(CALLER, imei))
        pause.over = self.loop.time()
        self.trace(imei, "is resumed")

    async def _asked_until_answered(self, ask: Callable[[Pausing], Coroutine[Any, Any, QueueState]]) -> QueueState:
        while True:
            process = self._serving()
            if process is not None and process.gateway is not None:
                call = self.loop.create_task(ask(process.gateway.pausing))
                process.calls[call] = None
                await asyncio.wait([call])
                process.calls.pop(call, None)
                if not call.cancelled():
                    with suppress(ChaparError):
                        return call.result()
            await asyncio.sleep(self.chaos.uniform(0.01, 0.3))

    async def _resend_one(self, at: float) -> None:
        await asyncio.sleep(at)
        process = self._serving()
        if process is None or process.gateway is None or not self.database.by_id:
            return
        id_ = self.chaos.choice(list(self.database.by_id))
        self.trace(id_, "is to be sent again by", process.name)

        async def resend(messaging: Messaging) -> Answer:
            again = await messaging.repetition(CALLER, id_, Wait.BROKER, None)
            return sent_answer(await messaging.send(CALLER, again), again.wait)

        call = self.loop.create_task(self._answered(resend(process.gateway.messaging)))
        process.calls[call] = None
        with suppress(asyncio.CancelledError):
            await asyncio.wait([call])
            self.trace(id_, "resend is answered", call.result().status)
            self.resent.append(call.result())


def _described(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(map(_described, error.exceptions))
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = "" if place is None else f" at {place.tb_frame.f_code.co_name}:{place.tb_lineno}"
    return f"{type(error).__name__}: {error}{where}"


_SETTINGS: dict[bool, Settings] = {}


def _settings(plan: random.Random, *, alone: bool) -> Settings:
    if alone not in _SETTINGS:
        url = "sqlite:///simulated.db" if alone else "postgresql://simulated/chapar"
        broker = SecretStr("mqtt://simulated")
        _SETTINGS[alone] = Settings.model_construct(
            database_url=SecretStr(url),
            broker_url=broker,
            publish_timeout=1.0,
            default_expiry=20.0,
            lease=1.5,
            contact_window=CONTACT_WINDOW,
            contact_delay=0.1,
        )
    depth = plan.choice([2, 1000, 1000])
    return _SETTINGS[alone].model_copy(update={"max_device_queue": depth, "max_queue": plan.choice([3, 1000, 1000])})


_world: World


async def _look_up(broker: BrokerAddress, _: float) -> list[Endpoint]:
    return [Endpoint(broker, socket.AF_INET, (broker.host, broker.port))]


async def _dial(_endpoint: Endpoint, _access: BrokerAccess, _sign_on: SignOn) -> SimulatedSession:
    return await _world.broker.dial()


async def _dial_to_receive(
    _endpoint: Endpoint, _access: BrokerAccess, sign_on: SignOn, on_delivery: Callable[[Delivery], None]
) -> ReceivingSession:
    return await _world.broker.dial_to_receive(sign_on, on_delivery)


def _new_id(_: int) -> str:
    return _world.new_id()


@contextmanager
def simulated() -> Iterator[None]:
    """Put the simulated edges in place of the real ones, and make time pass faster where it only is waited for."""
    metrics = Metrics()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        with (
            patch.multiple(
                wiring,
                Clock=lambda: here().clock,
                Metrics=lambda: metrics,
                open_store=open_store,
                secrets=SimpleNamespace(token_hex=lambda _: here().token),
            ),
            patch.multiple(sending, new_id=_new_id),
            patch.multiple(link, dial=_dial),
            patch.multiple(listener, dial=_dial_to_receive, secrets=SimpleNamespace(token_hex=lambda _: "probe")),
            patch.multiple(receiver, secrets=SimpleNamespace(token_hex=lambda _: here().token)),
            patch.multiple(endpoints, look_up=_look_up),
            patch.multiple(backoff, LONGEST_GAP=0.5),
            patch.multiple(outcomes, _FIRST_BACKOFF=100, _LONGEST_BACKOFF=2000),
            patch.multiple(dispatcher, _POLL_SHARED=0.4),
        ):
            yield
    finally:
        structlog.reset_defaults()


def run(seed: int) -> World:
    """The world of a seed, come to rest. Call it within `simulated()`."""
    global _world  # noqa: PLW0603 - the edges are put in place once for all worlds
    _world = World(seed)
    _world.run()
    return _world


def as_text(world: World) -> str:
    """What happened, for people."""
    lines = [
        f"seed {world.seed}: {'alone' if world.alone else 'shared'}, window {world.weather.window}, page {world.page}"
    ]
    for at, words in world.lines:
        lines.append(f"{at:9.4f}  " + " ".join(_word(word) for word in words))
    return "\n".join(lines).replace(OF_ID, "m")


def _word(word: object) -> str:
    if isinstance(word, tuple) and hasattr(word, "micro_op"):
        flags = "dup" if word.possible_duplicate else ""
        return f"[{word.imei} {word.micro_op} n={word.attempts} {word.claim or '-'} {word.reason or ''} {flags}]"
    return str(word)
