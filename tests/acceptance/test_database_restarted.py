"""PostgreSQL restarts under load: a caller hears the truth, and the table and the devices bear it out."""

import asyncio
from collections.abc import Callable
from typing import Literal

import pytest

from support.api import client_of, problem_of, send, settled
from support.devices import Device
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.postgres import PostgresServer
from support.promises import check_promises, hearings
from support.senders import Senders

SENDERS = 30
TRUTHS = {"201", "202", "406 not_saved", "503 outcome_unknown"}


@pytest.mark.parametrize("mode", ["fast", "immediate"])
@pytest.mark.parametrize("restarts", [1, pytest.param(10, marks=pytest.mark.long)])
async def test_no_answer_is_wrong_when_the_database_restarts_under_load(
    postgres_server: PostgresServer,
    postgres_url: str,
    mosquitto: Mosquitto,
    start_gateway: Callable[..., GatewayProcess],
    figure: Callable[[str], None],
    mode: Literal["fast", "immediate"],
    restarts: int,
) -> None:
    env = {"CHAPAR_DATABASE_URL": postgres_url, "CHAPAR_AUTO_MIGRATE": "true", "CHAPAR_PUBLISH_TIMEOUT": "1"}
    gateway = await asyncio.to_thread(start_gateway, {**mosquitto.settings_env, **env})
    with Device(mosquitto.port, "fleet", topics=["devices/#"], mqtt5=True) as fleet:
        async with Senders(gateway.url, SENDERS) as senders:
            for _ in range(restarts):
                await senders.answered(201, times=2 * SENDERS)
                await asyncio.to_thread(postgres_server.stop, mode)
                await senders.answered(406, times=SENDERS)
                await asyncio.to_thread(postgres_server.start)
            await senders.answered(201, times=2 * SENDERS)
        async with client_of(gateway.url) as client:
            rows = await settled(client)
        published = {row["id"] for row in rows.values() if row["status"] == "published"}
        heard = await asyncio.to_thread(fleet.wait_for, lambda heard: published <= hearings(heard).keys())
    tally = check_promises(senders.answers, rows, hearings(heard))
    figure(f"PostgreSQL: {restarts} restarts ({mode}): {dict(tally)}")
    assert tally.keys() - {"heard twice"} <= TRUTHS
    assert tally["heard twice"] == 0, "the link never fell"
    not_saved = {answer.micro_op for answer in senders.answers if answer.status == 406}
    assert not not_saved & {row["micro_op"] for row in rows.values()}


async def test_reading_without_a_database_says_so_and_works_again_afterwards(
    postgres_server: PostgresServer,
    postgres_url: str,
    mosquitto: Mosquitto,
    start_gateway: Callable[..., GatewayProcess],
) -> None:
    env = {"CHAPAR_DATABASE_URL": postgres_url, "CHAPAR_AUTO_MIGRATE": "true", "CHAPAR_PUBLISH_TIMEOUT": "0.5"}
    gateway = await asyncio.to_thread(start_gateway, {**mosquitto.settings_env, **env})
    async with client_of(gateway.url) as client:
        sent = await send(client)
        await asyncio.to_thread(postgres_server.stop)
        for path in (
            "/messaging/messages",
            sent.headers["location"],
            "/reporting/all",
            "/reporting/all?format=csv",
            "/reporting/summary",
        ):
            answer = await client.get(path)
            assert (path, answer.status_code, problem_of(answer)["code"]) == (path, 503, "store_unavailable")
        refused = await send(client)
        assert (refused.status_code, problem_of(refused)["code"]) == (406, "not_saved")
        assert problem_of(refused)["detail"] == "Something went wrong"
        ready = await client.get("/health/ready")
        assert ready.status_code == 503
        assert (ready.json()["database"]["ready"], ready.json()["broker"]["ready"]) == (False, True)
        assert ready.json()["database"]["reason"]
        assert (await client.get("/health/live")).status_code == 200
        await asyncio.to_thread(postgres_server.start)
        await asyncio.to_thread(gateway.wait_until, "ready")
        assert (await send(client)).status_code == 201
        assert len((await client.get("/messaging/messages")).json()["messages"]) == 2
