"""The core of it with each broker and each database: send, hear, find, report; refuse; say that the broker is away."""

import asyncio
import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from support import mosquitto as mosquitto_support
from support.api import problem_of
from support.builtin import BuiltinBroker
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.postgres import PostgresServer
from support.processes import children, describe, kill

PERSIAN = str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹")
ARABIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
_numbers = itertools.count(861_000_000_000_001)


@pytest.fixture(scope="module", params=["mosquitto", "builtin"])
def broker(request: pytest.FixtureRequest) -> Iterator[Mosquitto | BuiltinBroker]:
    if request.param == "builtin":
        yield BuiltinBroker()
    elif not mosquitto_support.installed():
        pytest.skip("Mosquitto is not installed")
    else:
        with Mosquitto() as mosquitto:
            yield mosquitto


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def gateway(
    request: pytest.FixtureRequest, broker: Mosquitto | BuiltinBroker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """One for all tests of this broker and database; each test leaves it ready."""
    folder: Path = tmp_path_factory.mktemp("gateway")
    env = {**broker.settings_env, "CHAPAR_AUTO_MIGRATE": "true"}
    with ExitStack() as stack:
        if request.param == "postgresql":
            server: PostgresServer = request.getfixturevalue("postgres_server")
            env["CHAPAR_DATABASE_URL"] = server.create_database()
            stack.callback(server.drop_database, env["CHAPAR_DATABASE_URL"])
        yield stack.enter_context(GatewayProcess(folder, env))


@pytest.fixture
def imei() -> str:
    """A device that no other test knows."""
    return str(next(_numbers))


def send(api: httpx.Client, imei: str, micro_op: str = "push_down", **fields: object) -> httpx.Response:
    return api.post("/messaging/send", json={"imei": imei, "micro_op": micro_op, **fields})


def test_what_is_sent_is_heard_found_and_reported(
    api: httpx.Client, broker: Mosquitto | BuiltinBroker, imei: str
) -> None:
    with broker.device(imei) as device:
        answer = send(api, imei)
        [heard] = device.wait_for(1)
    sent = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/messaging/messages/{sent['id']}"
    assert sent == {
        "detail": f"Send `push_down` to topic `devices/{imei}`",
        "id": sent["id"],
        "status": "published",
        "topic": f"devices/{imei}",
        "subscribers": sent["subscribers"],
    }
    assert sent["subscribers"] in ({None} if isinstance(broker, BuiltinBroker) else {None, True})
    assert (heard.topic, heard.payload, heard.qos, heard.retain) == (f"devices/{imei}", b"push_down", 1, False)
    found = api.get(answer.headers["location"]).json()
    assert found.items() >= {"imei": imei, "micro_op": "push_down", "status": "published", "attempts": 1}.items()
    assert found.items() >= {"params": None, "reason": None, "reason_code": 0, "possible_duplicate": False}.items()
    assert found["created_at"] <= found["published_at"] <= found["finished_at"]
    assert found.pop("history") == [], "the first attempt plainly succeeded"
    assert api.get("/messaging/messages", params={"imei": imei}).json() == {"messages": [found], "next": None}
    assert api.get("/reporting/all", params={"imei": imei}).json() == [found]
    assert api.get("/reporting/summary", params={"imei": imei}).json()["statuses"] == {"published": 1}


def test_parameters_travel_in_an_envelope_with_the_id(
    api: httpx.Client, broker: Mosquitto | BuiltinBroker, imei: str
) -> None:
    params = {"seconds": 30, "zone": "باغ شمالی", "valves": [1, 2.5, None, True]}
    with broker.device(imei) as device:
        sent = send(api, imei, params=params).json()
        [heard] = device.wait_for(1)
    assert json.loads(heard.payload) == {"id": sent["id"], "micro_op": "push_down", "params": params}
    assert api.get(f"/messaging/messages/{sent['id']}").json()["params"] == params


def test_persian_and_arabic_digits_of_a_device_id_are_read_as_ascii(
    api: httpx.Client, broker: Mosquitto | BuiltinBroker, imei: str
) -> None:
    with broker.device(imei) as device:
        answers = [send(api, imei.translate(digits)) for digits in (PERSIAN, ARABIC)]
        device.wait_for(2)
    assert [answer.json()["topic"] for answer in answers] == [f"devices/{imei}"] * 2
    found = api.get("/messaging/messages", params={"imei": imei.translate(PERSIAN)}).json()["messages"]
    assert [message["imei"] for message in found] == [imei] * 2


def test_persian_operations_reach_the_device_byte_for_byte(
    api: httpx.Client, broker: Mosquitto | BuiltinBroker, imei: str
) -> None:
    operation = "باز‌کردن شیر ۳"
    with broker.device(imei) as device:
        sent = send(api, imei, micro_op=operation).json()
        [heard] = device.wait_for(1)
    assert heard.payload == operation.encode()
    assert sent["detail"] == f"Send `{operation}` to topic `devices/{imei}`"


def test_the_longest_device_id_and_operation_are_taken(
    api: httpx.Client, broker: Mosquitto | BuiltinBroker, imei: str
) -> None:
    imei, operation = f"Az09._-{imei:x>57}", "پ" * 512
    with broker.device(imei) as device:
        assert send(api, imei, operation).status_code == 201
        [heard] = device.wait_for(1)
    assert heard.payload.decode() == operation


def test_one_caller_s_messages_are_heard_in_order(
    api: httpx.Client, broker: Mosquitto | BuiltinBroker, imei: str
) -> None:
    operations = [f"step-{number}" for number in range(30)]
    with broker.device(imei) as device:
        for operation in operations:
            assert send(api, imei, micro_op=operation).status_code == 201
        heard = device.wait_for(len(operations))
    assert [each.payload.decode() for each in heard] == operations


def test_a_retained_message_reaches_a_device_that_comes_later(
    api: httpx.Client, broker: Mosquitto | BuiltinBroker, imei: str
) -> None:
    assert send(api, imei, retain=True).status_code == 201
    with broker.device(imei) as device:
        [heard] = device.wait_for(1)
    assert (heard.payload, heard.retain) == (b"push_down", True)


def test_quality_of_service_0_is_never_confirmed(
    api: httpx.Client, broker: Mosquitto | BuiltinBroker, imei: str
) -> None:
    with broker.device(imei) as device:
        answer = send(api, imei, qos=0)
        device.wait_for(1)
    assert (answer.status_code, answer.json()["status"]) == (202, "unconfirmed")
    found = api.get(answer.headers["location"]).json()
    assert (found["reason"], found["published_at"], found["at_most_once"]) == ("qos_0", None, True)


def test_quality_of_service_2_is_heard_once(api: httpx.Client, broker: Mosquitto | BuiltinBroker, imei: str) -> None:
    with broker.device(imei) as device:
        assert [send(api, imei, micro_op=operation, qos=2).status_code for operation in ("first", "second")] == [
            201,
            201,
        ]
        assert [heard.payload for heard in device.wait_for(2)] == [b"first", b"second"]


def test_a_faulty_request_stores_and_sends_nothing(
    api: httpx.Client, broker: Mosquitto | BuiltinBroker, imei: str
) -> None:
    with broker.device(imei) as device:
        refused = send(api, f"{imei}/#")
        assert send(api, imei, micro_op="afterwards").status_code == 201
        assert [heard.payload for heard in device.wait_for(1)] == [b"afterwards"]
    assert refused.status_code == 422
    assert problem_of(refused)["errors"][0]["field"] == "imei"
    assert [message["micro_op"] for message in api.get("/reporting/all", params={"imei": imei}).json()] == [
        "afterwards"
    ]


@pytest.mark.parametrize("message_id", ["0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55", "nobody", "%00", "%FF"])
def test_a_message_that_is_not_there_is_not_found(api: httpx.Client, message_id: str) -> None:
    answer = api.get(f"/messaging/messages/{message_id}")
    assert (answer.status_code, problem_of(answer)["code"]) == (404, "message_not_found")


def test_with_the_broker_down_a_message_is_recorded_as_rejected_and_never_sent(
    gateway: GatewayProcess, api: httpx.Client, broker: Mosquitto | BuiltinBroker, imei: str
) -> None:
    if isinstance(broker, Mosquitto):
        broker.kill()
    else:
        kill(pid for pid in children(gateway.pid) if "embedded_program" in describe(pid))
    refused = []
    while not refused or refused[-1].status_code != 406:
        refused.append(send(api, imei, micro_op=f"while-down-{len(refused)}"))
        assert refused[-1].status_code in {201, 202, 406}
    problem = problem_of(refused[-1])
    assert (problem["code"], problem["detail"]) == ("broker_unreachable", "Something went wrong")
    assert (problem["type"], problem["title"]) == ("urn:chapar:problem:broker_unreachable", "Not Acceptable")
    rejected = api.get(f"/messaging/messages/{problem['id']}").json()
    assert (rejected["status"], rejected["reason"], rejected["published_at"]) == (
        "rejected",
        "broker_unreachable",
        None,
    )
    if isinstance(broker, Mosquitto):
        broker.start()
    gateway.wait_until("ready")
    with broker.device(imei) as device:
        assert send(api, imei, micro_op="afterwards").status_code == 201
        heard = device.wait_for(lambda heard: heard[-1:] != [] and heard[-1].payload == b"afterwards")
    assert rejected["micro_op"].encode() not in {each.payload for each in heard}


def test_messages_outlive_a_crash_of_the_gateway(gateway: GatewayProcess, api: httpx.Client, imei: str) -> None:
    sent = send(api, imei)
    assert sent.status_code == 201
    gateway.kill()
    gateway.start()
    [row] = api.get("/reporting/all", params={"imei": imei}).json()
    assert (row["id"], row["status"], row["attempts"]) == (sent.json()["id"], "published", 1)


def test_many_callers_at_once_are_all_answered_and_heard(
    gateway: GatewayProcess, broker: Mosquitto | BuiltinBroker, imei: str
) -> None:
    operations = {f"operation-{number}" for number in range(200)}

    async def send_all() -> list[int]:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=30.0) as client:
            calls = [
                client.post("/messaging/send", json={"imei": imei, "micro_op": operation}) for operation in operations
            ]
            return [answer.status_code for answer in await asyncio.gather(*calls)]

    with broker.device(imei) as device:
        assert asyncio.run(send_all()) == [201] * len(operations)
        heard = device.wait_for(len(operations))
    assert {each.payload.decode() for each in heard} == operations
    assert len(heard) == len(operations)
