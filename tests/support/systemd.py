"""A service manager's end of the notify socket, as systemd has it (sd_notify(3))."""

import contextlib
import socket
from pathlib import Path

PATIENCE = 2.0  # seconds of the watchdog
ENDED = 60.0  # seconds in which everything happens, on the busiest machine


class Systemd:
    """Its end of the socket."""

    def __init__(self, folder: Path) -> None:
        self.address = folder / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.address))
        self.env = {"NOTIFY_SOCKET": str(self.address), "WATCHDOG_USEC": str(int(PATIENCE * 1e6))}

    def wait_for(self, state: str) -> str:
        """The next notification that begins so."""
        self.socket.settimeout(ENDED)
        while not (said := self.socket.recv(1024).decode()).startswith(state):
            pass
        return said

    def wait_for_silence(self) -> None:
        """Until nothing has come for so long that systemd ends the service."""
        self.socket.settimeout(PATIENCE)
        for _ in range(int(ENDED)):
            try:
                self.socket.recv(1024)
            except TimeoutError:
                return
        raise AssertionError("the watchdog is fed all the same")

    def forget(self) -> None:
        """Drop what has come until now."""
        self.socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.recv(1024)

    def close(self) -> None:
        self.socket.close()
