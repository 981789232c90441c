"""The service manager that started this process, such as systemd: what it is notified of (sd_notify(3))."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Self

import structlog

_MICROSECONDS: Final = 1_000_000
_PARTS: Final = 4  # of its patience: an answer that takes a whole part still comes long before the end

log = structlog.get_logger()


class ServiceManager:
    """Notifies whoever started this process; where nobody asked for it, nothing is sent.

    Example: `ServiceManager.of_environment().ready("Serving http://127.0.0.1:8000")`
    """

    def __init__(self, notify: Callable[[str], None] | None = None, patience: float | None = None) -> None:
        """`notify` takes lines like `READY=1`; `patience`: seconds of silence after which it ends this process."""
        self._notify = notify
        self.patience = patience if notify is not None else None

    @classmethod
    def of_environment(cls) -> Self:
        """Take what the environment says of it out of there, so that no child speaks for this process."""
        address, pid, microseconds = (
            os.environ.pop(name, None) for name in ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
        )
        if not address:
            return cls()
        patience = int(microseconds) / _MICROSECONDS if microseconds is not None and microseconds.isdecimal() else 0
        is_watched = patience and pid in {None, str(os.getpid())}
        return cls(partial(_send, address), patience if is_watched else None)

    def ready(self, status: str) -> None:
        """Notify that the start is over, with a line for whoever asks how the service is."""
        self._say(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """Notify that the end has begun."""
        self._say("STOPPING=1")

    async def watch(self, is_well: Callable[[float], Awaitable[bool]]) -> None:
        """Notify several times within its patience that all is well, as long as it is. Returns where nobody watches.

        `is_well` has as many seconds for its answer as it is given.
        """
        if self.patience is None:
            return
        clock = asyncio.get_running_loop().time
        part = self.patience / _PARTS
        while True:
            due = clock() + part
            if await is_well(part):
                self._say("WATCHDOG=1")
            await asyncio.sleep(due - clock())

    def _say(self, state: str) -> None:
        if self._notify is not None:
            self._notify(state)


def _send(address: str, state: str) -> None:
    """Send to the Unix socket, an abstract one where `@` is in front; it is lost where nobody takes it at once."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            name = f"\0{address[1:]}" if address.startswith("@") else address
            sender.sendto(state.encode(), socket.MSG_DONTWAIT, name)
    except OSError as error:
        log.warning("service_manager_not_notified", state=state.partition("\n")[0], cause=str(error))
