"""One device does not keep the broker from the others, however much it is sent and whatever becomes of it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import mqtt5
import pytest

from support.faulty_broker import FaultyBroker, Peer
from support.gateway import GatewayProcess

WINDOW = 20  # as Mosquitto's
CALLERS = 30


@pytest.mark.parametrize("wait", ["broker", "none"])
def test_a_device_whose_messages_are_not_answered_holds_up_no_other(
    start_gateway: Callable[..., GatewayProcess], database_env: dict[str, str], wait: str
) -> None:
    def keeps_quiet(_: Peer, packet: mqtt5.Packet) -> bool:
        return isinstance(packet, mqtt5.PublishPacket) and packet.topic == "devices/stuck"

    connack = mqtt5.ConnAckPacket(receive_max=WINDOW).write()
    with FaultyBroker(keeps_quiet, connack=connack) as broker:
        gateway = start_gateway({"CHAPAR_BROKER_URL": broker.url} | database_env)

        def send(imei: str, micro_op: str, timeout: float, wait: str = "broker") -> int:
            asked = {"imei": imei, "micro_op": micro_op, "wait": wait, "timeout": timeout}
            return api.post("/messaging/send", json=asked).status_code

        with httpx.Client(base_url=gateway.url, timeout=60) as api, ThreadPoolExecutor(CALLERS) as callers:
            asked = [callers.submit(send, "stuck", str(number), 0.5, wait) for number in range(CALLERS)]
            assert {call.result() for call in asked} == {202}
            assert [send(f"free-{number}", "open", 30) for number in range(5)] == [201] * 5
        stuck = broker.operations("/stuck")
        assert len(stuck) == len(set(stuck)) < WINDOW
        assert broker.operations("/free-0") == ["open"]
