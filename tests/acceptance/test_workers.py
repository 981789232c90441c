"""Several gateway processes behind one port, and what is measured of all of them together."""

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable

import httpx
import pytest

from support.devices import Device
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.processes import children, describe

WORKERS = 3


def environment(database_url: str, mosquitto: Mosquitto) -> dict[str, str]:
    return mosquitto.settings_env | {
        "CHAPAR_DATABASE_URL": database_url,
        "CHAPAR_AUTO_MIGRATE": "true",
        "CHAPAR_LEASE": "1",
    }


def workers_of(gateway: GatewayProcess) -> list[int]:
    return [pid for pid in children(gateway.pid) if "chapar.app.workers" in describe(pid)]


def samples(text: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


async def send_all(url: str, count: int, **fields: object) -> list[httpx.Response]:
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=httpx.Limits(max_connections=20)) as client:
        calls = [
            client.post("/messaging/send", json={"imei": f"device-{number % 7}", "micro_op": f"op-{number}", **fields})
            for number in range(count)
        ]
        return await asyncio.gather(*calls)


async def test_workers_share_the_queue_and_each_message_is_heard_once_in_order(
    start_gateway: Callable[..., GatewayProcess], postgres_url: str, mosquitto: Mosquitto
) -> None:
    with mosquitto.device("#", mqtt5=True) as device:
        gateway = start_gateway(environment(postgres_url, mosquitto), "--workers", str(WORKERS))
        assert len(workers_of(gateway)) == WORKERS
        await until(lambda: samples(metrics(gateway), "chapar_link_up") == WORKERS)
        answers = await send_all(gateway.url, 300) + await send_all(gateway.url, 100, wait="none")
        assert {answer.status_code for answer in answers} <= {201, 202}
        heard = await asyncio.to_thread(device.wait_for, 400)
        assert len({each.correlation_data for each in heard}) == 400
    measured = await asyncio.to_thread(metrics, gateway)
    assert samples(measured, "chapar_messages_accepted_total") == 400
    await until(lambda: samples(metrics(gateway), "chapar_stage_seconds_count") > 400)


async def test_a_worker_that_is_killed_is_replaced_and_what_it_held_is_taken_over(
    start_gateway: Callable[..., GatewayProcess], postgres_url: str, mosquitto: Mosquitto
) -> None:
    gateway = start_gateway(environment(postgres_url, mosquitto), "--workers", str(WORKERS))
    mosquitto.pause()
    accepted = await send_all(gateway.url, 60, timeout=0.2)
    promised = [answer.json()["id"] for answer in accepted if answer.status_code == 202]
    assert promised
    os.kill(workers_of(gateway)[0], signal.SIGKILL)
    mosquitto.resume()
    await until(lambda: all(status(gateway, message_id) == "published" for message_id in promised))
    await until(lambda: len(workers_of(gateway)) == WORKERS)


@pytest.mark.parametrize("count", [30, pytest.param(500, marks=pytest.mark.long)])
async def test_who_waits_at_one_worker_is_answered_what_another_has_received(
    start_gateway: Callable[..., GatewayProcess],
    postgres_url: str,
    mosquitto: Mosquitto,
    figure: Callable[[str], None],
    count: int,
) -> None:
    """One of them receives; whoever waits may do so at any. The device gives ids back, so nothing waits its turn."""
    env = environment(postgres_url, mosquitto) | {"CHAPAR_DEFAULT_PROFILE": "chapar"}
    gateway = start_gateway(env, "--workers", str(WORKERS))
    await until(lambda: samples(metrics(gateway), "chapar_link_up") == WORKERS)
    await until(lambda: httpx.get(f"{gateway.url}/health/ready").json()["replies"] == "up")
    replied: dict[str, float] = {}
    with Device(mosquitto.port, "any", topics=["devices/+"], mqtt5=True) as device:

        async def send(number: int) -> float:
            # A connection each, so that they are spread over the workers.
            async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
                asked = {"imei": f"device-{number}", "micro_op": "push_down", "wait": "device"}
                answer = await client.post("/messaging/send", json=asked)
                answered = time.monotonic()
            assert (answer.status_code, answer.json()["status"]) == (201, "succeeded"), answer.text
            return answered - replied[answer.json()["id"]]

        def reply() -> None:
            for heard in device.wait_for(count)[:count]:
                id_ = (heard.correlation_data or b"").decode()
                replied[id_] = time.monotonic()
                device.publish(f"{heard.topic}/reply", "ok", correlation_data=heard.correlation_data)
                time.sleep(0.01)

        sends = asyncio.gather(*(send(number) for number in range(count)))
        await asyncio.to_thread(reply)
        took = sorted(await sends)
    p50, p99 = took[count // 2], took[count * 99 // 100]
    figure(
        f"{count} replies to their answers, {WORKERS} workers: p50 {p50:.3f} s, p99 {p99:.3f} s, worst {took[-1]:.3f} s"
    )
    assert took[-1] < 20


def metrics(gateway: GatewayProcess) -> str:
    return httpx.get(f"{gateway.url}/metrics").text


def status(gateway: GatewayProcess, message_id: str) -> str | None:
    """Of a message, as whichever worker answers says; None where it was killed meanwhile."""
    try:
        found: dict[str, str] = httpx.get(f"{gateway.url}/messaging/messages/{message_id}", timeout=30).json()
    except httpx.TransportError:
        return None
    return found["status"]


async def until(holds: Callable[[], bool]) -> None:
    """Look again and again; the test's own time limit ends it."""
    await asyncio.to_thread(_until, holds)


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_options_count_in_every_worker(start_gateway: Callable[..., GatewayProcess], postgres_url: str) -> None:
    """Each worker judges by its own settings whether the address is safe, and how many share a rate."""
    env = {
        "CHAPAR_BROKER_URL": "mqtt://127.0.0.1:1",
        "CHAPAR_DATABASE_URL": postgres_url,
        "CHAPAR_AUTO_MIGRATE": "true",
    }
    options = ("--workers", "2", "--host", "0.0.0.0")  # noqa: S104 - refused
    gateway = start_gateway(env, *options, until=None)
    gateway.program.wait_for_line("CHAPAR_HOST cannot be used: 0.0.0.0 can be reached from other machines")
    assert gateway.program.wait() == 1
