"""`chapar simulate`: devices that print what they receive."""

import asyncio
import sys
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from chapar.app.brokers import broker_access
from chapar.cli.sentences import say
from chapar.cli.terminal import PATIENCE, check_output, local_time, show_progress
from chapar.devices.simulated import Fleet, ReceivedCommand
from chapar.errors import Language, LinkError, Phrase, Problem, UsageInvalid
from chapar.link.broker_access import BrokerAccess
from chapar.model.lines import plain
from chapar.model.message import check_device_id
from chapar.runtime.addresses import BrokerAddress
from chapar.runtime.settings import Settings, preferred_language

if sys.platform != "win32":
    import resource

MOST_DEVICES: Final = 10_000  # what the built-in broker takes
_OTHER_FILES: Final = 100  # open files that are no connection of a device
_SHOW_EVERY: Final = 0.2  # seconds between two lines of progress


def simulate(
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
) -> None:
    """Be devices: listen on a broker, and print each command with its time, device, payload and message id.

    Without any device there is one, `sim-1`. The built-in broker hands on no message id.

    Example: `chapar simulate 861234567890123`

    Example: `chapar simulate --count 1000 --broker mqtt://broker.example:1883`
    """
    if not devices and count is None:
        count = 1
    numbered = [f"{prefix}{number}" for number in range(1, (count or 0) + 1)]
    names = list(dict.fromkeys(check_device_id(name, "DEVICE") for name in [*(devices or []), *numbered]))
    _allow_open_files(len(names) + _OTHER_FILES)
    settings = Settings.load(broker_url=_checked(broker))
    simulation = _Simulation(broker_access(settings), settings.command_topic, names)
    try:
        asyncio.run(simulation.run())
    except KeyboardInterrupt:
        simulation.say("end")


class _Simulation:
    """A fleet, and what is printed about it."""

    def __init__(self, access: BrokerAccess, command_topic: str, devices: list[str]) -> None:
        self._brokers = tuple(map(str, access.brokers))
        self._devices = devices
        self._language: Language = preferred_language()
        self._fleet = Fleet(access, command_topic, devices, self._complain)
        self._received = 0

    async def run(self) -> None:
        """Until Ctrl-C."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._fleet.run(), name="fleet")
            tasks.create_task(self._announce(), name="announce")
            while True:
                command = await self._fleet.received()
                typer.echo(line(command, datetime.now(UTC), self._language))
                check_output()
                command.delivery.acknowledge()
                self._received += 1

    def say(self, name: str) -> None:
        """Print one of the sentences."""
        typer.echo(self._sentence(name))

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
        return say(f"simulate.{name}", self._language, count=len(self._devices), **facts)

    def _complain(self, error: LinkError) -> None:
        show_progress("")
        typer.echo(f"chapar: {plain(error.sentence(self._language))}", err=True)


def line(command: ReceivedCommand, at: datetime, language: Language) -> str:
    """Return what a device received, on one line that nothing in it can break."""
    delivery = command.delivery
    parts = [local_time(at, language), command.device, plain(delivery.payload.decode(errors="backslashreplace"))]
    message_id = _message_id(command)
    if message_id:
        parts.append(plain(message_id))
    if delivery.retain:
        parts.append(f"({say('simulate.retained', language)})")
    return "  ".join(parts)


def _message_id(command: ReceivedCommand) -> str | None:
    """The gateway sends it as correlation data and as a user property; other senders may not send it at all."""
    if command.delivery.correlation_data is not None:
        return command.delivery.correlation_data.decode(errors="backslashreplace")
    return dict(command.delivery.user_properties).get("message-id")


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
