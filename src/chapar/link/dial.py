"""Open one session: look the name up, connect, TLS, CONNECT. Every failure is one BrokerError with its sentence."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

from chapar.errors import ConnectionFailed, HostNotFound, TlsFailed
from chapar.link.publication import Delivery, SignOn
from chapar.link.session import Session
from chapar.link.tls import tls_cause, tls_context
from chapar.settings import BrokerAddress, Settings

STEP_TIMEOUT: Final = 5.0  # seconds for each of: the name, one TCP connection, TLS
_NO_ANSWER: Final = f"no answer within {STEP_TIMEOUT:.0f} s"

_Target = tuple[socket.AddressFamily, tuple[str | int | bytes, ...]]


async def dial(
    address: BrokerAddress,
    settings: Settings,
    sign_on: SignOn,
    on_delivery: Callable[[Delivery], None] | None = None,
) -> Session:
    """Answer an established session with the broker at `address`, or raise BrokerError."""
    endpoint = str(address)
    # Built afresh, so that certificates that were renewed on disk are used from the next session on.
    tls = tls_context(endpoint, settings) if address.tls else None
    connection = await _connected(address, await _looked_up(address))
    session = Session(endpoint, sign_on, on_delivery)
    try:
        await asyncio.get_running_loop().create_connection(
            lambda: session,
            sock=connection,
            ssl=tls,
            server_hostname=(settings.broker_server_name or address.host) if tls else None,
            ssl_handshake_timeout=STEP_TIMEOUT if tls else None,
        )
    except BaseException as error:
        connection.close()
        if isinstance(error, ssl.SSLError):
            raise TlsFailed(endpoint, tls_cause(error)) from error
        if isinstance(error, OSError | ValueError):  # ValueError: a server name that no certificate can have
            raise TlsFailed(endpoint, f"{getattr(error, 'strerror', None) or error}") from error
        raise
    try:
        await session.established()
    except BaseException:
        await session.close()
        raise
    return session


async def _looked_up(address: BrokerAddress) -> list[_Target]:
    try:
        async with asyncio.timeout(STEP_TIMEOUT):
            found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise HostNotFound(str(address), _NO_ANSWER) from None
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that IDNA cannot write
        raise HostNotFound(str(address), f"{getattr(error, 'strerror', None) or error}") from error
    return [(family, target) for family, _, _, _, target in found]


async def _connected(address: BrokerAddress, targets: list[_Target]) -> socket.socket:
    """Connect to the first target that answers, each with its own time: uvloop has no happy eyeballs."""
    cause = "the name has no address"
    for target in targets:
        try:
            return await _connected_to(target)
        except TimeoutError:
            cause = _NO_ANSWER
        except OSError as error:
            cause = f"{error.strerror or error}"
    raise ConnectionFailed(str(address), cause)


async def _connected_to(target: _Target) -> socket.socket:
    family, socket_address = target
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)  # noqa: FBT003 - its only form
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a command is small and waits for nobody
        async with asyncio.timeout(STEP_TIMEOUT):
            await asyncio.get_running_loop().sock_connect(connection, socket_address)
    except BaseException:
        connection.close()
        raise
    return connection
