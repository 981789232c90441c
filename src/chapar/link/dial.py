"""Open one session: look the name up, connect, TLS, CONNECT. Every failure is one BrokerError with its sentence."""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final

from chapar.certificates import tls_cause
from chapar.errors import ConnectionFailed, HostNotFound, TlsFailed
from chapar.link.publication import Delivery, SignOn
from chapar.link.session import Session
from chapar.link.tls import tls_context
from chapar.settings import BrokerAddress, Settings

STEP_TIMEOUT: Final = 5.0  # seconds for the name, and for one connection with its TLS
_NO_ANSWER: Final = f"no answer within {STEP_TIMEOUT:.0f} s"


async def dial(
    address: BrokerAddress,
    settings: Settings,
    sign_on: SignOn,
    on_delivery: Callable[[Delivery], None] | None = None,
) -> Session:
    """Answer an established session with the broker at `address`, or raise BrokerError."""
    session = await _connected(address, settings, lambda: Session(str(address), sign_on, on_delivery))
    try:
        await session.established()
    except BaseException:
        await session.close()
        raise
    return session


async def _connected(address: BrokerAddress, settings: Settings, session: Callable[[], Session]) -> Session:
    """Connect to the first IP address that answers, each with its own time: uvloop has no happy eyeballs."""
    endpoint = str(address)
    # Built afresh, so that certificates that were renewed on disk are used from the next session on.
    tls = tls_context(endpoint, settings) if address.tls else None
    server_name = (settings.broker_server_name or address.host) if tls else None
    cause = "the name has no address"
    for ip_address in await _ip_addresses(address):
        try:
            async with asyncio.timeout(STEP_TIMEOUT):
                # Both event loops set TCP_NODELAY: a command is small and waits for nobody.
                _, connected = await asyncio.get_running_loop().create_connection(
                    session, ip_address, address.port, ssl=tls, server_hostname=server_name
                )
        except ssl.SSLError as error:
            raise TlsFailed(endpoint, tls_cause(error)) from error
        except TimeoutError:
            cause = _NO_ANSWER
        except (ConnectionResetError, ConnectionAbortedError) as error:
            if tls is not None:
                raise TlsFailed(endpoint, "the broker hung up; it may not speak TLS on this port") from error
            cause = _text(error)
        except OSError as error:
            cause = _text(error)
        else:
            return connected
    raise ConnectionFailed(endpoint, cause)


async def _ip_addresses(address: BrokerAddress) -> list[str]:
    try:
        async with asyncio.timeout(STEP_TIMEOUT):
            found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise HostNotFound(str(address), _NO_ANSWER) from None
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that IDNA cannot write
        raise HostNotFound(str(address), getattr(error, "strerror", None) or str(error)) from error
    return [str(socket_address[0]) for *_, socket_address in found]


def _text(error: OSError) -> str:
    """The operating system's own words: asyncio's repeat the address."""
    return os.strerror(error.errno) if error.errno else str(error)
