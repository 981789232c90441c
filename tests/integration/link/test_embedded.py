"""The built-in broker, from its start to its end."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from chapar.errors import EmbeddedBrokerFailed, PortTaken
from chapar.link import embedded
from chapar.link.embedded import EmbeddedBroker
from chapar.runtime.metrics import Metrics
from chapar.runtime.settings import Settings
from support.builtin import BuiltinBroker
from support.links import open_session, publication, published, running_link
from support.ports import LOOPBACK, accepts
from support.processes import Program, children, runs, wait_until_gone

WAIT = 10.0  # seconds, for what takes a moment on a busy machine


@pytest.fixture
def builtin() -> BuiltinBroker:
    """Two free ports; nothing runs on them yet."""
    return BuiltinBroker()


async def test_devices_of_both_protocols_hear_the_gateway_again_and_again(builtin: BuiltinBroker) -> None:
    """One property on a PUBLISH would end the 3.1.1 device's connection inside rumqttd."""
    async with EmbeddedBroker(builtin.port, Metrics()), running_link(Settings(embedded_port=builtin.port)) as link:
        await asyncio.wait_for(link.connected(), WAIT)
        with builtin.device("1") as old, builtin.device("1-new", mqtt5=True) as new:
            for number in range(20):
                for imei in ("1", "1-new"):
                    assert await published(link, publication(str(number), f"devices/{imei}")) == 0
            for device in (old, new):
                heard = await asyncio.to_thread(device.wait_for, 20)
                assert [one.payload for one in heard] == [str(number).encode() for number in range(20)]
        assert not link.reports_subscribers


async def test_a_burst_to_one_slow_device_is_kept_for_it(builtin: BuiltinBroker) -> None:
    async with EmbeddedBroker(builtin.port, Metrics()), running_link(Settings(embedded_port=builtin.port)) as link:
        await asyncio.wait_for(link.connected(), WAIT)
        with builtin.device("1") as device:
            outcomes = [published(link, publication(str(number))) for number in range(5000)]
            assert set(await asyncio.gather(*outcomes)) == {0}
            heard = await asyncio.to_thread(device.wait_for, 5000, 30.0)
        assert [one.payload for one in heard] == [str(number).encode() for number in range(5000)]


@pytest.mark.parametrize("which", [0, 1])
async def test_a_taken_port_is_named_before_anything_starts(builtin: BuiltinBroker, which: int) -> None:
    with socket.create_server((LOOPBACK, builtin.port + which)):
        with pytest.raises(PortTaken) as taken:
            async with EmbeddedBroker(builtin.port, Metrics()):
                pass
        assert str(taken.value).startswith(f"Port {builtin.port + which} on 127.0.0.1 is already in use.")
        assert taken.value.setting == "CHAPAR_EMBEDDED_PORT"
        assert str(taken.value).endswith(f"use that: CHAPAR_BROKER_URL=mqtt://127.0.0.1:{builtin.port + which}.")
        assert not accepts(builtin.port + 1 - which)


async def test_it_is_started_again_when_it_dies(builtin: BuiltinBroker) -> None:
    async with (
        EmbeddedBroker(builtin.port, Metrics()) as broker,
        running_link(Settings(embedded_port=builtin.port)) as link,
    ):
        await asyncio.wait_for(link.connected(), WAIT)
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGKILL)
        while link.sessions < 2:
            await asyncio.wait_for(link.connected(), WAIT)
            await asyncio.sleep(0)
        assert await published(link, publication()) == 0


async def test_leaving_it_leaves_nothing(builtin: BuiltinBroker) -> None:
    async with EmbeddedBroker(builtin.port, Metrics()) as broker:
        pid = broker.pid
        assert pid is not None
        folder = broker._config.parent
    assert not runs(pid)
    assert gone(folder)
    assert not accepts(builtin.port)
    async with EmbeddedBroker(builtin.port, Metrics()):  # the ports are free at once
        assert accepts(builtin.port)


async def test_signals_to_the_whole_group_are_the_gateways(builtin: BuiltinBroker) -> None:
    async with EmbeddedBroker(builtin.port, Metrics()) as broker:
        assert broker.pid is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(broker.pid, number)
        async with open_session(f"mqtt://{LOOPBACK}:{builtin.port + 1}") as session:
            assert await published(session, publication()) == 0


async def test_one_that_does_not_start_says_so(builtin: BuiltinBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_ROUTER", "not TOML")
    with pytest.raises(EmbeddedBrokerFailed, match="it ended at once"):
        async with EmbeddedBroker(builtin.port, Metrics()):
            pass


def gone(path: Path) -> bool:
    return not path.exists()


GATEWAY = """
import asyncio, sys
from chapar.link.embedded import EmbeddedBroker
from chapar.runtime.metrics import Metrics

async def main():
    async with EmbeddedBroker(int(sys.argv[1]), Metrics()):
        print("up", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def test_it_ends_with_a_gateway_that_was_killed_and_never_prints(builtin: BuiltinBroker, tmp_path: Path) -> None:
    gateway = Program([sys.executable, "-c", GATEWAY, str(builtin.port)], folder=tmp_path)
    try:
        gateway.wait_for_line("up")
        with builtin.device("1") as old, builtin.device("2", mqtt5=True) as new:
            new.publish("devices/1", "with a property", correlation_data=b"x")  # rumqttd panics
            old.stop()
        broker = children(gateway.pid)
        assert broker
        gateway.end(signal.SIGKILL)
        assert wait_until_gone(broker) == []
        assert gateway.lines == ["up"]
    finally:
        gateway.close()
