"""Several addresses of one name: whatever is wrong with one of them, the others get their turn."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import mqtt5
import pytest
from structlog.testing import capture_logs

from chapar.link import endpoints
from chapar.link.endpoints import Endpoint
from chapar.runtime.addresses import BrokerAddress
from chapar.runtime.settings import Settings
from support.authorities import Authority
from support.faulty_broker import FaultyBroker, Peer
from support.links import publication, published, running_link
from support.ports import free_port

WAIT = 20.0  # seconds, for what takes a moment on a busy machine
NAME = "localhost"
BAD, GOOD = "127.0.0.2", "127.0.0.1"
REFUSAL = b"\x20\x03\x00\x87\x00"


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture(autouse=True)
def two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name server says `BAD`, `GOOD` for every name."""

    async def look_up(broker: BrokerAddress, _: float) -> list[Endpoint]:
        return [Endpoint(broker, socket.AF_INET, (ip_address, broker.port)) for ip_address in (BAD, GOOD)]

    monkeypatch.setattr(endpoints, "look_up", look_up)


def at_connect(act: Callable[[Peer], None]) -> Callable[[Peer, mqtt5.Packet], bool]:
    def script(peer: Peer, packet: mqtt5.Packet) -> bool:
        if isinstance(packet, mqtt5.ConnectPacket):
            act(peer)
            return True
        return False

    return script


def silence(_: Peer) -> None:
    """Nothing at all."""


FAULTS = {
    "refuses": (None, REFUSAL, "refused the session: Not authorized"),
    "hangs up": (at_connect(Peer.close), b"", "closed the connection on CONNECT"),
    "resets": (at_connect(Peer.reset), b"", "ended the session"),
    "is silent": (at_connect(silence), b"", "did not answer CONNECT within 1 s"),
    "speaks MQTT 3": (None, b"\x20\x02\x00\x01", "does not speak MQTT 5"),
    "speaks nothing known": (None, b"HTTP/1.1 400 Bad Request\r\n" + bytes(100), "not MQTT 5"),
}


async def reached(settings: Settings, port: int, scheme: str, reason: str) -> None:
    """A link ends at the good address, and has named the bad one with what is wrong with it."""
    with capture_logs() as logged:
        async with running_link(settings) as link:
            await asyncio.wait_for(link.connected(), WAIT)
            assert link.broker == f"{scheme}://{NAME}:{port} ({GOOD}:{port})"
            assert await published(link, publication()) == 0
    down = next(each for each in logged if each["event"] == "broker_link_down")
    assert down["broker"] == f"{scheme}://{NAME}:{port} ({BAD}:{port})"
    assert down["broker"] in down["reason"]
    assert reason in down["reason"]


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_address_that_answers_wrongly_is_passed_over(port: int, fault: str) -> None:
    script, connack, reason = FAULTS[fault]
    settings = Settings.load(broker_url=f"mqtt://{NAME}:{port}").model_copy(update={"connect_timeout": 1.0})
    with (
        FaultyBroker(script, connack=connack, host=BAD, port=port) as bad,
        FaultyBroker(host=GOOD, port=port),
    ):
        await reached(settings, port, "mqtt", reason)
        assert bad.connections == 1


async def test_an_address_where_nobody_listens_is_passed_over(port: int) -> None:
    with FaultyBroker(host=GOOD, port=port):
        await reached(Settings.load(broker_url=f"mqtt://{NAME}:{port}"), port, "mqtt", "Connection refused")


@pytest.mark.parametrize("fault", ["expired", "another authority", "another name", "refuses", "no TLS"])
async def test_an_address_with_a_tls_fault_is_passed_over(port: int, tmp_path: Path, fault: str) -> None:
    authority = Authority(tmp_path)
    match fault:
        case "expired":
            bad = FaultyBroker(host=BAD, port=port, tls=authority.server(NAME, days=(-9, -2)))
            reason = "its certificate, or its authority's, has expired"
        case "another authority":
            bad = FaultyBroker(host=BAD, port=port, tls=Authority(tmp_path, "other").server(NAME))
            reason = "not signed by an authority that is trusted here"
        case "another name":
            bad = FaultyBroker(host=BAD, port=port, tls=authority.server("other.example"))
            reason = f"its certificate is not for {NAME}"
        case "refuses":
            bad = FaultyBroker(connack=REFUSAL, host=BAD, port=port, tls=authority.server(NAME))
            reason = "Not authorized"
        case _:
            bad = FaultyBroker(host=BAD, port=port)
            reason = "TLS with "
    settings = Settings.load(broker_url=f"mqtts://{NAME}:{port}", broker_ca_file=str(authority.ca_file))
    with bad, FaultyBroker(host=GOOD, port=port, tls=authority.server(NAME)):
        await reached(settings, port, "mqtts", reason)
