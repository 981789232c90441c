"""What Mosquitto answers, and what a caller is told of it."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from support.api import IMEI, problem_of
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.ports import free_port

PATIENCE = 30  # seconds the gateway would wait for a broker that does not answer

pytestmark = pytest.mark.usefixtures("mosquitto")  # for its skip


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_the_broker_may_come_after_the_gateway(start_gateway: Callable[..., GatewayProcess], stack: ExitStack) -> None:
    port = free_port()
    gateway = start_gateway(
        {"CHAPAR_BROKER_URL": f"mqtt://127.0.0.1:{port}", "CHAPAR_PUBLISH_TIMEOUT": str(PATIENCE)}, until="live"
    )
    api = stack.enter_context(httpx.Client(base_url=gateway.url, timeout=PATIENCE / 2))  # it answers without waiting
    refused = api.post("/messaging/send", json={"imei": IMEI, "micro_op": "too_early"})
    problem = problem_of(refused)
    assert refused.status_code == 406
    assert (problem["code"], problem["detail"]) == ("broker_unreachable", "Something went wrong")
    rejected = api.get(f"/messaging/messages/{problem['id']}").json()
    assert (rejected["status"], rejected["reason"], rejected["attempts"]) == ("rejected", "broker_unreachable", 0)

    broker = stack.enter_context(Mosquitto(port=port))
    device = stack.enter_context(broker.device(IMEI, mqtt5=True))
    gateway.wait_until("ready")
    answer = api.post("/messaging/send", json={"imei": IMEI, "micro_op": "push_down"})
    [heard] = device.wait_for(1)
    assert answer.status_code == 201
    assert answer.json() == {
        "detail": f"Send `push_down` to topic `devices/{IMEI}`",
        "id": answer.json()["id"],
        "status": "published",
        "topic": f"devices/{IMEI}",
        "subscribers": None,
    }
    assert heard.payload == b"push_down"
    assert heard.correlation_data == answer.json()["id"].encode()
    assert heard.user_properties == (("message-id", answer.json()["id"]),)


def test_what_the_broker_refuses_says_so_with_its_reason(
    start_gateway: Callable[..., GatewayProcess], stack: ExitStack
) -> None:
    broker = stack.enter_context(Mosquitto(acl="topic deny devices/forbidden\ntopic readwrite devices/#\n"))
    gateway = start_gateway(broker.settings_env)
    api = stack.enter_context(httpx.Client(base_url=gateway.url, timeout=PATIENCE))
    device = stack.enter_context(broker.device(IMEI))

    refused = api.post("/messaging/send", json={"imei": "forbidden", "micro_op": "push_down"})
    problem = problem_of(refused)
    assert refused.status_code == 406
    assert (problem["code"], problem["detail"]) == ("broker_refused", "Something went wrong")
    assert "Not authorized" in problem["reason"]
    rejected = api.get(f"/messaging/messages/{problem['id']}").json()
    assert (rejected["status"], rejected["reason"], rejected["reason_code"]) == ("rejected", "not_authorized", 135)
    assert (rejected["published_at"], rejected["subscribers"]) == (None, None)

    persian = api.post(
        "/messaging/send", json={"imei": "forbidden", "micro_op": "push_down"}, headers={"Accept-Language": "fa"}
    )
    assert (persian.json()["detail"], persian.headers["content-language"]) == ("Something went wrong", "fa")
    assert "کارگزار" in persian.json()["reason"]

    assert api.post("/messaging/send", json={"imei": IMEI, "micro_op": "allowed"}).status_code == 201
    assert device.wait_for(1)[0].payload == b"allowed"


def test_subscribers_are_told_as_far_as_the_broker_shows_them(
    start_gateway: Callable[..., GatewayProcess], mosquitto: Mosquitto, stack: ExitStack
) -> None:
    gateway = start_gateway(mosquitto.settings_env)
    api = stack.enter_context(httpx.Client(base_url=gateway.url, timeout=PATIENCE))
    stack.enter_context(mosquitto.device(IMEI))

    def subscribers(imei: str) -> bool | None:
        answer = api.post("/messaging/send", json={"imei": imei, "micro_op": "push_down"})
        assert answer.status_code == 201
        told: bool | None = answer.json()["subscribers"]
        assert api.get(answer.headers["location"]).json()["subscribers"] is told
        return told

    assert subscribers(IMEI) is None, "somebody listens, but this broker has not shown that it would say otherwise"
    assert subscribers("nobody") is False
    assert subscribers(IMEI) is True
    nobody = api.get("/messaging/messages", params={"imei": "nobody"}).json()["messages"]
    assert [message["reason_code"] for message in nobody] == [16]


def test_a_message_larger_than_the_broker_takes_is_refused_and_the_session_stays(
    start_gateway: Callable[..., GatewayProcess], stack: ExitStack
) -> None:
    broker = stack.enter_context(Mosquitto("max_packet_size 2000"))
    gateway = start_gateway(broker.settings_env)
    api = stack.enter_context(httpx.Client(base_url=gateway.url, timeout=PATIENCE))
    connected = re.compile(r"New client connected from \S+ as chapar-[0-9a-f]{16} ")  # to publish
    connections = len(connected.findall(broker.program.output))

    refused = api.post("/messaging/send", json={"imei": IMEI, "micro_op": "a", "params": {"text": "x" * 4000}})
    problem = problem_of(refused)
    assert (refused.status_code, problem["code"]) == (406, "broker_refused")
    rejected = api.get(f"/messaging/messages/{problem['id']}").json()
    assert (rejected["status"], rejected["reason"]) == ("rejected", "packet_too_large")
    assert api.post("/messaging/send", json={"imei": IMEI, "micro_op": "push_down"}).status_code == 201
    assert len(connected.findall(broker.program.output)) == connections


def test_a_wrong_password_is_named_and_right_ones_are_tried_without_a_restart(
    start_gateway: Callable[..., GatewayProcess], stack: ExitStack
) -> None:
    broker = stack.enter_context(Mosquitto(users={"gateway": "right"}))
    env = broker.settings_env
    broker.users["gateway"] = "wrong"
    broker.restart()
    gateway = start_gateway(env, until="live")
    api = stack.enter_context(httpx.Client(base_url=gateway.url, timeout=PATIENCE))
    gateway.program.wait_for_line("Not authorized")
    ready = api.get("/health/ready")
    assert ready.status_code == 503
    assert "Not authorized" in ready.json()["broker"]["reason"]
    assert "right" not in gateway.program.output
    broker.users["gateway"] = "right"
    broker.restart()
    gateway.wait_until("ready")
    assert api.post("/messaging/send", json={"imei": IMEI, "micro_op": "push_down"}).status_code == 201


def test_two_gateways_share_a_broker_without_taking_over_each_other(
    start_gateway: Callable[..., GatewayProcess], mosquitto: Mosquitto, tmp_path: Path, stack: ExitStack
) -> None:
    gateways = [
        start_gateway({**mosquitto.settings_env, "CHAPAR_DATABASE_URL": f"sqlite:///{tmp_path / name}"})
        for name in ("one.db", "other.db")
    ]
    apis = [stack.enter_context(httpx.Client(base_url=gateway.url, timeout=PATIENCE)) for gateway in gateways]
    with mosquitto.device(IMEI) as device:
        for api in apis * 5:
            assert api.post("/messaging/send", json={"imei": IMEI, "micro_op": "push_down"}).status_code == 201
        device.wait_for(10)
    assert not any("broker_link_down" in line for gateway in gateways for line in gateway.lines)
