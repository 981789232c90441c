"""The address by which settings, rates and the audit trail know a caller."""

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from chapar.web.http.proxies import behind_proxies
from chapar.web.http.rates import network_of
from support.wire import Line, tell

REQUEST = b"GET / HTTP/1.1\r\nHost: gateway\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n"


async def client_of(peer: str, trusted: str | None) -> Any:
    """The client that the application sees behind `trusted` proxies, where `peer` calls."""
    seen = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["client"][0])
        await tell(scope, receive, send)

    line = Line(behind_proxies(note, trusted=trusted, root_path=""), peer=peer)
    await line.send([REQUEST])
    line.close()
    return seen[0]


@pytest.mark.parametrize(
    ("peer", "trusted", "client"),
    [
        ("10.1.2.3", None, "10.1.2.3"),
        ("::ffff:10.1.2.3", None, "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3", "203.0.113.9"),
        ("::ffff:10.1.2.3", "127.0.0.1, 10.0.0.0/8", "203.0.113.9"),
        ("::ffff:10.1.2.3", "192.0.2.0/24", "10.1.2.3"),
        ("fd00::7", "fd00::/8", "203.0.113.9"),
        ("2001:db8::ffff:1", None, "2001:db8::ffff:1"),
    ],
)
async def test_an_ipv4_caller_is_one_also_on_a_socket_for_both_versions(
    peer: str, trusted: str | None, client: str
) -> None:
    """With CHAPAR_HOST=:: the system shows it as an IPv6 address, which no IPv4 proxy in the settings would match."""
    assert await client_of(peer, trusted) == client


async def test_ipv4_callers_on_such_a_socket_do_not_share_one_rate() -> None:
    first, second = [network_of(await client_of(f"::ffff:10.1.2.{last}", None)) for last in (3, 4)]
    assert first != second
