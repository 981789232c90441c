"""Open one session at one IP address: TCP, TLS, CONNECT. Every failure is one BrokerError with its sentence."""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final

from chapar.errors import (
    BrokerError,
    ConnectionFailed,
    NoAnswer,
    Phrase,
    SettingInvalid,
    TlsFailed,
    TlsFilesUnusable,
)
from chapar.link.broker_access import BrokerAccess
from chapar.link.endpoints import Endpoint
from chapar.link.mqtt3 import Mqtt3
from chapar.link.publication import MQTT_5, Delivery, SignOn
from chapar.link.session import Session
from chapar.link.tls import tls_context
from chapar.runtime.certificates import tls_problem

_TCP: Final = Phrase("link.step_tcp")
_TLS: Final = Phrase("link.step_tls")
_CONNECT: Final = Phrase("link.step_connect")


async def dial(
    endpoint: Endpoint,
    access: BrokerAccess,
    sign_on: SignOn,
    on_delivery: Callable[[Delivery], None] | None = None,
) -> Session:
    """Answer an established session with the broker at `endpoint`, or raise BrokerError.

    Each step has `access.connect_timeout` seconds.
    """
    session = Session(str(endpoint), sign_on, on_delivery, access.acknowledge_timeout)
    await _connect(endpoint, access, session if sign_on.version == MQTT_5 else Mqtt3(session))
    try:
        async with asyncio.timeout(access.connect_timeout):
            await session.established()
    except TimeoutError:
        await session.close()
        raise NoAnswer(str(endpoint), _CONNECT, access.connect_timeout) from None
    except BaseException:
        await session.close()
        raise
    return session


async def _connect(endpoint: Endpoint, access: BrokerAccess, protocol: asyncio.Protocol) -> None:
    """Connect with TCP and, where the URL says so, TLS."""
    loop, patience = asyncio.get_running_loop(), access.connect_timeout
    # Built afresh, so that certificates that were renewed on disk are used from the next session on.
    tls = await _tls_context(endpoint, access)
    connection = await _connected_socket(endpoint, patience)
    name = access.server_name or endpoint.broker.certificate_name
    try:
        async with asyncio.timeout(patience):
            await loop.create_connection(
                lambda: protocol, sock=connection, ssl=tls, server_hostname=None if tls is None else name
            )
    except TimeoutError:
        raise NoAnswer(str(endpoint), _TCP if tls is None else _TLS, patience) from None
    except OSError as error:
        if tls is None:
            raise _failed(endpoint, error) from error
        raise TlsFailed(str(endpoint), tls_problem(error, name)) from error


async def _tls_context(endpoint: Endpoint, access: BrokerAccess) -> ssl.SSLContext | None:
    if not endpoint.broker.tls:
        return None
    try:
        return await asyncio.to_thread(tls_context, access.tls_files)  # reading the system's authorities takes a while
    except SettingInvalid as error:
        raise TlsFilesUnusable(str(endpoint), error) from error


async def _connected_socket(endpoint: Endpoint, patience: float) -> socket.socket:
    try:
        # With the protocol named, both event loops set TCP_NODELAY: a command is small and waits for nobody.
        connection = socket.socket(endpoint.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:  # no descriptor left, or no IPv6 here
        raise _failed(endpoint, error) from error
    try:
        connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
        async with asyncio.timeout(patience):
            await asyncio.get_running_loop().sock_connect(connection, endpoint.socket_address)
    except TimeoutError:
        connection.close()
        raise NoAnswer(str(endpoint), _TCP, patience) from None
    except OSError as error:
        connection.close()
        raise _failed(endpoint, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _failed(endpoint: Endpoint, error: OSError) -> BrokerError:
    """Make the error, in the operating system's own words: asyncio's repeat the address."""
    return ConnectionFailed(str(endpoint), os.strerror(error.errno) if error.errno else str(error))
