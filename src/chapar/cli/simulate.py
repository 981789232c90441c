"""`chapar simulate`: devices that take commands, reply, and print both."""

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Final, TextIO

import typer

from chapar.app.brokers import broker_access
from chapar.cli.sentences import say
from chapar.cli.terminal import PATIENCE, check_output, local_time, show_progress
from chapar.devices.firmware import Behaviour
from chapar.devices.simulated import Announced, Event, FellSilent, Fleet, Replied, Took, Topics
from chapar.errors import Language, LinkError, Phrase, Problem, UsageInvalid
from chapar.model.lines import plain
from chapar.model.message import Profile, check_device_id
from chapar.model.times import milliseconds, rfc3339
from chapar.runtime.addresses import BrokerAddress
from chapar.runtime.settings import Settings, preferred_language

if sys.platform != "win32":
    import resource

MOST_DEVICES: Final = 10_000  # what the built-in broker takes
_OTHER_FILES: Final = 100  # open files that are no connection of a device
_SHOW_EVERY: Final = 0.2  # seconds between two lines of progress
_DAY: Final = 86_400  # seconds; nobody waits for longer


class Mqtt(StrEnum):
    """A version of MQTT."""

    THREE = "3"  #: 3.1.1
    FIVE = "5"


def simulate(  # noqa: PLR0913 - each is an option of the command
    devices: Annotated[
        list[str] | None, typer.Argument(metavar="DEVICE", help="Ids of devices.", show_default=False)
    ] = None,
    *,
    count: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_DEVICES, metavar="N", help="So many more, with numbered ids.", show_default=False),
    ] = None,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="What the numbered ids begin with.")] = "sim-",
    broker: Annotated[
        str | None,
        typer.Option(metavar="URL", help="[env CHAPAR_BROKER_URL, default: the built-in broker]", show_default=False),
    ] = None,
    mqtt: Annotated[Mqtt, typer.Option(help="The version of MQTT; 3 is 3.1.1.")] = Mqtt.FIVE,
    profile: Annotated[
        Profile | None,
        typer.Option(
            help="The form of replies: `text` is `push_down ok`, `chapar` is JSON with the id. "
            "[default: the setting CHAPAR_DEFAULT_PROFILE]",
            show_default=False,
        ),
    ] = None,
    silent: Annotated[bool, typer.Option("--silent", help="Take commands, and never reply.")] = False,
    delay: Annotated[
        float, typer.Option(min=0, max=_DAY, metavar="SECONDS", help="Time from a command to its final reply.")
    ] = 0.0,
    progress: Annotated[
        int, typer.Option(min=0, max=100, metavar="N", help="Replies `running` in that time, before the final one.")
    ] = 0,
    failures: Annotated[
        float, typer.Option(min=0, max=100, metavar="PERCENT", help="Share of the commands that fail.")
    ] = 0.0,
    duplicates: Annotated[
        float, typer.Option(min=0, max=100, metavar="PERCENT", help="Share of the final replies that come twice.")
    ] = 0.0,
    offline: Annotated[
        float,
        typer.Option(
            min=0,
            max=95,
            metavar="PERCENT",
            help="Share of the time that a device is away: it leaves without a word, the broker publishes its will.",
        ),
    ] = 0.0,
    spell: Annotated[
        float, typer.Option(min=0.1, max=_DAY, metavar="SECONDS", help="How long it is away at a time, on average.")
    ] = 30.0,
    persistent: Annotated[
        bool,
        typer.Option(
            "--persistent",
            help="Keep the sessions, so that the broker stores what comes meanwhile. The client id is the device id.",
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(metavar="N", help="The same number means the same failures, duplicates and spells.")
    ] = 0,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File for what each device received, did and replied, as lines of JSON.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Be devices: take commands from a broker and reply to each; print both with time, device and message id.

    Each device announces that it is `online`, and at the end that it is `offline`; the broker retains that.
    Without any device there is one, `sim-1`. The built-in broker hands on no message id.

    Example: `chapar simulate 861234567890123`

    Example: `chapar simulate --count 1000 --broker mqtt://broker.example:1883`

    Example: `chapar simulate --count 50 --mqtt 3 --persistent --offline 20 --failures 5 --delay 2 --log devices.log`
    """
    if not devices and count is None:
        count = 1
    numbered = [f"{prefix}{number}" for number in range(1, (count or 0) + 1)]
    names = list(dict.fromkeys(check_device_id(name, "DEVICE") for name in [*(devices or []), *numbered]))
    _allow_open_files(len(names) + _OTHER_FILES)
    settings = Settings.load(broker_url=_checked(broker))
    behaviour = Behaviour(
        profile=profile or settings.default_profile,
        silent=silent,
        delay=delay,
        progress=progress,
        failures=failures / 100,
        duplicates=duplicates / 100,
        away=offline / 100,
        spell=spell,
        seed=seed,
    )
    access = broker_access(settings, int(mqtt))
    topics = Topics(settings.command_topic, settings.reply_topic, settings.presence_topic)
    fleet = partial(Fleet, access, topics, names, behaviour=behaviour, version=int(mqtt), persistent=persistent)
    with _opened(log) as file:
        simulation = _Simulation(fleet, access.brokers, file)
        try:
            asyncio.run(simulation.run())
        except KeyboardInterrupt:
            simulation.say("end")


class _Simulation:
    """A fleet, and what is printed and logged about it."""

    def __init__(self, fleet: Callable[..., Fleet], brokers: Sequence[BrokerAddress], log: TextIO | None) -> None:
        self._brokers = tuple(map(str, brokers))
        self._log = log
        self._language: Language = preferred_language()
        self._events: asyncio.Queue[tuple[datetime, Event]] = asyncio.Queue()  # read at once
        self._fleet = fleet(on_problem=self._complain, on_event=self._take)
        self._received = 0

    async def run(self) -> None:
        """Until Ctrl-C."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._fleet.run(), name="fleet")
                tasks.create_task(self._announce(), name="announce")
                while True:
                    self._show(*await self._events.get())
                    check_output()
        finally:
            while not self._events.empty():  # the last words of the devices
                self._show(*self._events.get_nowait())

    def say(self, name: str) -> None:
        """Print one of the sentences."""
        typer.echo(self._sentence(name))

    def _take(self, event: Event) -> None:
        self._events.put_nowait((datetime.now(UTC), event))

    def _show(self, at: datetime, event: Event) -> None:
        if self._log is not None:
            try:
                self._log.write(entry(event, at) + "\n")
            except OSError as error:
                raise _unusable(self._log.name, error) from None
        self._received += isinstance(event, Took)
        if isinstance(event, Took | Replied):
            typer.echo(line(event, at, self._language))

    async def _announce(self) -> None:
        """Say that all are connected, each time that they are."""
        await self._show_progress()
        while True:
            await self._fleet.until(complete=True)
            self.say("connected")
            await self._fleet.until(complete=False)

    async def _show_progress(self) -> None:
        """Show it where it takes longer than a second, until all are connected for the first time."""
        wait = PATIENCE
        while not self._fleet.complete:
            try:
                async with asyncio.timeout(wait):
                    await self._fleet.until(complete=True)
            except TimeoutError:
                show_progress(self._sentence("connecting"))
                wait = _SHOW_EVERY
        show_progress("")

    def _sentence(self, name: str) -> str:
        facts = {"connected": self._fleet.connected, "received": self._received, "broker": self._brokers}
        return say(f"simulate.{name}", self._language, count=len(self._fleet.devices), **facts)

    def _complain(self, error: LinkError) -> None:
        show_progress("")
        typer.echo(f"chapar: {plain(error.sentence(self._language))}", err=True)


def line(event: Took | Replied, at: datetime, language: Language) -> str:
    """Return what a device received or replied, on one line that nothing in it can break."""
    payload = event.delivery.payload if isinstance(event, Took) else event.reply.payload
    parts = [local_time(at, language), event.device, plain(payload.decode(errors="backslashreplace"))]
    if message_id := _message_id(event):
        parts.append(plain(message_id))
    if isinstance(event, Replied):
        parts.append(f"({say('simulate.reply', language)})")
    elif event.delivery.retain:
        parts.append(f"({say('simulate.retained', language)})")
    return "  ".join(parts)


def entry(event: Event, at: datetime) -> str:
    """Return what happened to a device, as one line of JSON."""
    facts: dict[str, object] = {"at": rfc3339(milliseconds(at)), "device": event.device}
    match event:
        case Took(reaction=reaction):
            facts |= {"event": "received", "id": reaction.id, "micro_op": reaction.operation, "did": reaction.deed}
        case Replied(reply=reply):
            payload = reply.payload.decode(errors="backslashreplace")
            facts |= {"event": "replied", "id": reply.id, "word": reply.word, "payload": payload}
        case Announced(presence=presence):
            facts |= {"event": presence}
        case FellSilent(seconds=seconds):
            facts |= {"event": "away", "seconds": round(seconds, 3)}
    return json.dumps(facts, ensure_ascii=False)


def _message_id(event: Took | Replied) -> str | None:
    """The gateway sends it as correlation data and as a user property; other senders may not send it at all."""
    if isinstance(event, Replied):
        return event.reply.id
    if event.delivery.correlation_data is not None:
        return event.delivery.correlation_data.decode(errors="backslashreplace")
    return dict(event.delivery.user_properties).get("message-id")


@contextlib.contextmanager
def _opened(log: Path | None) -> Iterator[TextIO | None]:
    """The file, each line of which is there at once; raises UsageInvalid where it cannot be written."""
    if log is None:
        yield None
        return
    try:
        with log.open("w", encoding="utf-8", buffering=1) as file:
            yield file
    except OSError as error:
        raise _unusable(str(log), error) from None


def _unusable(file: str, error: OSError) -> UsageInvalid:
    return UsageInvalid(Phrase("usage.file", file=file, cause=error.strerror or str(error)))


def _checked(broker: str | None) -> str | None:
    """The broker's URL as it is; raises UsageInvalid."""
    try:
        if broker is not None:
            BrokerAddress.parse_list(broker)
    except Problem as problem:
        raise UsageInvalid(Phrase("usage.broker", problem=problem.phrase)) from None
    return broker


def _allow_open_files(count: int) -> None:
    """Raise this process's limit of open files to `count`, as far as the system lets it."""
    if sys.platform == "win32":  # it has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
