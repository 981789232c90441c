"""The database answers nothing for a while: nothing leaves unsaved, and no answer claims what is not committed."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from support.api import IMEI, client_of, eventually, message_in, problem_of, report, send, settled
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.processes import children, describe


@pytest.fixture
def gateway(start_gateway: Callable[..., GatewayProcess], mosquitto: Mosquitto, sqlite_url: str) -> GatewayProcess:
    env = {"CHAPAR_DATABASE_URL": sqlite_url, "CHAPAR_PUBLISH_TIMEOUT": "0.5"}
    return start_gateway({**mosquitto.settings_env, **env})


@pytest.fixture
async def client(gateway: GatewayProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(gateway.url) as client:
        yield client


def tell_writer(gateway: GatewayProcess, number: signal.Signals) -> None:
    [writer] = [pid for pid in children(gateway.pid) if "chapar.store.writer" in describe(pid)]
    os.kill(writer, number)


async def test_what_may_not_be_saved_is_not_sent(
    gateway: GatewayProcess, client: httpx.AsyncClient, mosquitto: Mosquitto
) -> None:
    with mosquitto.device(IMEI) as device:
        for _ in range(5):
            tell_writer(gateway, signal.SIGSTOP)
            first = await send(client, micro_op="first")  # handed over, and nobody knows
            if first.status_code == 503:
                break
            tell_writer(gateway, signal.SIGCONT)  # a commit of the gateway's own was under way, and it was behind that
            await asyncio.to_thread(gateway.wait_until, "ready")
        assert (first.status_code, problem_of(first)["code"]) == (503, "outcome_unknown")
        second = await send(client, micro_op="second")  # still behind it
        assert (second.status_code, problem_of(second)["code"]) == (406, "not_saved")
        assert problem_of(second)["detail"] == "Something went wrong"
        tell_writer(gateway, signal.SIGCONT)
        await asyncio.to_thread(gateway.wait_until, "ready")
        assert (await send(client, micro_op="third")).status_code == 201
        rows = {row["micro_op"]: row for row in (await settled(client)).values()}
        await asyncio.to_thread(device.wait_for, 1)
    assert [heard.payload for heard in device.heard] == [b"third"]
    assert "second" not in rows
    assert rows["third"]["status"] == "published"
    assert (rows["first"]["status"], rows["first"]["reason"], rows["first"]["attempts"]) == (
        "rejected",
        "outcome_unknown",
        0,
    )


async def test_an_acknowledgement_is_not_claimed_before_it_is_committed(
    gateway: GatewayProcess, client: httpx.AsyncClient, mosquitto: Mosquitto
) -> None:
    with mosquitto.device(IMEI) as device:
        mosquitto.pause()
        asking = asyncio.create_task(send(client, timeout=3))

        async def saved() -> bool:
            return [row["status"] for row in (await report(client)).values()] == ["publishing"]

        await eventually(saved)
        tell_writer(gateway, signal.SIGSTOP)
        mosquitto.resume()
        await asyncio.to_thread(device.wait_for, 1)  # so the broker has it, and acknowledges it
        answer = await asking
        assert (answer.status_code, answer.json()["status"]) == (202, "publishing")
        tell_writer(gateway, signal.SIGCONT)
        row = await message_in(client, answer.json()["id"], "published")
    assert (row["attempts"], row["possible_duplicate"]) == (1, False)
    assert len(device.heard) == 1
