"""Free TCP ports on the loopback address."""

import contextlib
import os
import random
import socket
import time

LOOPBACK = "127.0.0.1"
_LOOK_EVERY = 0.01  # seconds

# Below what Linux gives to outgoing connections (32768 and up): one of those would take the port of a server that is
# away for a moment. So would a server of another pytest-xdist worker, hence a range for each.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_SIZE = 22_000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_SERVERS = range(10_000 + _WORKER * _SIZE, 10_000 + (_WORKER + 1) * _SIZE)


def free_port() -> int:
    """A port nobody listens on now. Brief: take it soon."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of `count` free ports in a row."""
    while True:
        with contextlib.ExitStack() as held, contextlib.suppress(OSError, OverflowError):
            first = _bind(held, random.choice(_SERVERS))
            for port in range(first + 1, first + count):
                _bind(held, port)
            return first


def accepts(port: int) -> bool:
    """Whether somebody accepts connections on `port`."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def wait_until_accepts(port: int, timeout: float = 60.0) -> None:
    """Return once `port` accepts connections; raises TimeoutError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not accepts(port):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody accepts connections on port {port}")
        time.sleep(_LOOK_EVERY)


def _bind(held: contextlib.ExitStack, port: int) -> int:
    listener = held.enter_context(socket.socket())
    listener.bind((LOOPBACK, port))
    bound: int = listener.getsockname()[1]
    return bound
