"""Simulated devices for a test, played in a thread of their own, and what they did."""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from chapar.app.brokers import broker_access
from chapar.devices.firmware import Behaviour, Deed, Reply
from chapar.devices.simulated import Event, Fleet, Replied, Took, Topics
from chapar.link.publication import MQTT_5
from chapar.runtime.settings import Settings


class PlayedFleet:
    """Devices that take commands and reply as their `behaviour` says, from entering it until it is left.

    `settings_env` leads to the broker, as that of a broker here does. `events` is the log of all devices, oldest first:
    a device is the only one who knows what it did. Its methods block; in an async test call them through
    `asyncio.to_thread`.

    >>> with PlayedFleet(mosquitto.settings_env, ["pump-7"], Behaviour(failures=1)) as fleet:
    ...     send("pump-7", "push_down")
    ...     fleet.wait_for(lambda: fleet.replies("pump-7"))
    """

    def __init__(
        self,
        settings_env: Mapping[str, str],
        devices: Sequence[str],
        behaviour: Behaviour | None = None,
        *,
        version: int = MQTT_5,
        persistent: bool = False,
    ) -> None:
        self.events: list[Event] = []
        self.problems: list[str] = []  #: why there was no session, or no reply
        self._changed = threading.Condition()
        self._settings = Settings.load(
            **{name.removeprefix("CHAPAR_").lower(): value for name, value in settings_env.items()}
        )
        self._devices = devices
        self._behaviour = behaviour
        self._version = version
        self._persistent = persistent
        self._listening: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._play()), name="fleet", daemon=True)
        self._leave: Callable[[], object] = lambda: None

    def deeds(self, device: str) -> list[tuple[str | None, str | None, Deed]]:
        """What it did with what it received: id, operation and deed."""
        took = [event for event in self._log() if isinstance(event, Took) and event.device == device]
        return [(event.reaction.id, event.reaction.operation, event.reaction.deed) for event in took]

    def replies(self, device: str) -> list[Reply]:
        """Its replies that the broker acknowledged."""
        return [event.reply for event in self._log() if isinstance(event, Replied) and event.device == device]

    def wait_for(self, reached: Callable[[], object], timeout: float = 30.0) -> None:
        """Return once it holds; looked at after each event."""
        with self._changed:
            if not self._changed.wait_for(reached, timeout):
                raise AssertionError(f"the devices did only this in {timeout} s: {self.events} {self.problems}")

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.result(60.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        self._thread.join()

    def _log(self) -> list[Event]:
        with self._changed:
            return list(self.events)

    async def _play(self) -> None:
        loop, leaving = asyncio.get_running_loop(), asyncio.Event()
        self._leave = lambda: loop.call_soon_threadsafe(leaving.set)
        settings = self._settings
        fleet = Fleet(
            broker_access(settings, self._version),
            Topics(settings.command_topic, settings.reply_topic, settings.presence_topic),
            self._devices,
            lambda error: self._note(self.problems, str(error)),
            lambda event: self._note(self.events, event),
            behaviour=self._behaviour,
            version=self._version,
            persistent=self._persistent,
        )
        running = asyncio.create_task(fleet.run())
        await fleet.until(complete=True)
        self._listening.set_result(None)
        await leaving.wait()
        running.cancel()
        await asyncio.wait([running])

    def _note(self, log: list, what: object) -> None:
        with self._changed:
            log.append(what)
            self._changed.notify_all()
