"""The socket of the API."""

import contextlib
import socket

from chapar.app.server import listen
from chapar.runtime.settings import Settings
from support.ports import LOOPBACK, free_port

# Bytes. An untouched socket of Linux takes several times as many for a client who sleeps.
ENOUGH = 1024 * 1024


def test_the_kernel_takes_little_of_an_answer_that_nobody_reads() -> None:
    port = free_port()
    with contextlib.closing(listen(Settings(host=LOOPBACK, port=port))) as listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        client.connect((LOOPBACK, port))
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(0.5)
            taken = 0
            with contextlib.suppress(TimeoutError):
                while taken < ENOUGH:
                    taken += connection.send(bytes(ENOUGH))
    assert 0 < taken < ENOUGH
