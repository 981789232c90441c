"""One place to try things at: a Mosquitto, a gateway, and between the two a line that a test can cut."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import pytest

from support import mosquitto as mosquitto_support
from support.api import UNFINISHED, Row
from support.devices import Device, Heard
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.ports import LOOPBACK
from support.tcp_proxy import TcpProxy

# What Mosquitto does not hold back it cannot drop: by default it forgets what is more than 1,000 messages ahead.
HOLDS_NOTHING_BACK = ("max_inflight_messages 0", "max_queued_messages 0")

_FIRST_GAP, _LONGEST_GAP = 0.01, 0.1  # seconds; to look costs the gateway as much as any other request

Found = TypeVar("Found")


def until(look: Callable[[], Found], within: float = 60.0) -> Found:
    """The first answer of `look` that is true; raises AssertionError with the last one after `within` seconds."""
    deadline, gap = time.monotonic() + within, _FIRST_GAP
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not come about in {within} s; the last answer was {found!r}")
        time.sleep(gap)
        gap = min(1.5 * gap, _LONGEST_GAP)
    return found


def seconds_of(written: str) -> float:
    """A time as the gateway writes it, in seconds since the epoch."""
    return datetime.fromisoformat(written).timestamp()


def written(seconds: float) -> str:
    """A time since the epoch as a caller writes it, to the millisecond."""
    return datetime.fromtimestamp(round(seconds, 3), UTC).isoformat(timespec="milliseconds")


def until_past(written_time: str) -> None:
    """Until this time is over, as it is for what expires then."""
    until(lambda: time.time() > seconds_of(written_time))


def operations(heard: list[Heard]) -> list[str]:
    """What was heard, as text."""
    return [each.payload.decode() for each in heard]


class Site:
    """A gateway that serves from `with` on; its tests share it, each with devices of its own, and leave it ready.

    `settings` are the gateway's variables without their prefix, `options` lines of mosquitto.conf.
    """

    def __init__(self, folder: Path, *options: str, **settings: object) -> None:
        if not mosquitto_support.installed():
            pytest.skip("Mosquitto is not installed")
        self.database_url = f"sqlite:///{folder / 'chapar.db'}"
        self.broker = Mosquitto(*options)
        self._numbers = itertools.count(861_000_000_000_001)
        self._folder = folder
        self._settings = {f"CHAPAR_{name.upper()}": str(value) for name, value in settings.items()}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.broker)
            self.line = stack.enter_context(TcpProxy(self.broker.port))
            env = {"CHAPAR_BROKER_URL": f"mqtt://{LOOPBACK}:{self.line.port}", "CHAPAR_DATABASE_URL": self.database_url}
            self.gateway = stack.enter_context(GatewayProcess(self._folder, env | self._settings))
            self.api = stack.enter_context(httpx.Client(base_url=self.gateway.url, timeout=90.0))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def new_imei(self) -> str:
        """A device that nobody has heard of."""
        return str(next(self._numbers))

    def device(self, *imeis: str, persistent: bool = False) -> Device:
        """These devices in one, not yet started; it hears MQTT 5."""
        topics = [f"devices/{imei}" for imei in imeis]
        return Device(self.broker.port, imeis[0], topics=topics, mqtt5=True, persistent=persistent)

    def send(
        self, imei: str, micro_op: str = "push_down", *, headers: Mapping[str, str] | None = None, **fields: object
    ) -> httpx.Response:
        asked = {"imei": imei, "micro_op": micro_op, **fields}
        return self.api.post("/messaging/send", json=asked, headers=headers)

    def accepted(self, imei: str, micro_op: str = "push_down", **fields: object) -> str:
        """Send without waiting; gives the id of what was accepted."""
        answer = self.send(imei, micro_op, wait="none", **fields)
        assert answer.status_code == 202, answer.text
        message_id: str = answer.json()["id"]
        return message_id

    def message(self, message_id: str) -> dict[str, Any]:
        """The message as it is shown now."""
        answer = self.api.get(f"/messaging/messages/{message_id}")
        assert answer.status_code == 200, answer.text
        row: dict[str, Any] = answer.json()
        return row

    def message_in(self, message_id: str, *statuses: str) -> dict[str, Any]:
        """The message once it is in one of these states."""
        return until(lambda: row if (row := self.message(message_id))["status"] in statuses else None)

    def messages_of(self, imei: str) -> list[Row]:
        """All that was ever accepted for this device, oldest first."""
        rows: list[Row] = self.api.get("/reporting/all", params={"imei": imei}).json()
        return rows

    def settled(self, imei: str) -> list[Row]:
        """The same, once each is in a final state."""
        until(lambda: not {row["status"] for row in self.messages_of(imei)}.intersection(UNFINISHED))
        return self.messages_of(imei)

    def cancel(self, message_id: str) -> httpx.Response:
        return self.api.post(f"/messaging/messages/{message_id}/cancel")

    def wait_until_received(self) -> None:
        """Until what devices say is received, which may begin some seconds after messages can be sent."""
        imei = self.new_imei()
        path = f"/devices/{imei}"

        def is_received() -> bool:
            device.publish(f"{path[1:]}/presence", "here I am")
            return self.api.get(path).is_success

        with self.device(imei) as device:
            until(is_received)

    def part(self) -> None:
        """The gateway's session ends and no new one begins; devices notice nothing."""
        self.line.stall()
        self.line.cut()
        until(lambda: self.api.get("/health/ready").status_code == 503)

    def rejoin(self) -> None:
        self.line.resume()
        self.gateway.wait_until("ready")

    @contextmanager
    def parted(self) -> Iterator[None]:
        """The gateway is without its broker meanwhile."""
        self.part()
        try:
            yield
        finally:
            self.rejoin()

    @contextmanager
    def silent_broker(self) -> Iterator[None]:
        """The session stays, and nothing on it is answered meanwhile."""
        self.line.stall()
        try:
            yield
        finally:
            self.line.resume()
