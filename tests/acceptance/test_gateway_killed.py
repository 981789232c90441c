"""The gateway is killed under load and started again: what it promised is kept, what it left behind is settled."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from support.api import client_of, message_in, send, settled
from support.devices import Device
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.processes import children, describe, kill
from support.promises import check_promises, hearings
from support.senders import Senders
from support.tables import rows_in

KILLS = [2, pytest.param(10, marks=pytest.mark.long)]
SENDERS = 40
LEASE = "2"  # seconds until a successor takes over what the dead one held; the default is longer than a test


@pytest.fixture
async def fleet(mosquitto: Mosquitto) -> AsyncIterator[Device]:
    """Every device there is, in one."""
    device = Device(mosquitto.port, "fleet", topics=["devices/#"], mqtt5=True, persistent=True)
    await asyncio.to_thread(device.start)
    yield device
    await asyncio.to_thread(device.stop)


@pytest.mark.parametrize("kills", KILLS)
async def test_no_promise_is_lost_when_the_gateway_is_killed_under_load(
    database_url: str,
    database_env: dict[str, str],
    mosquitto: Mosquitto,
    start_gateway: Callable[..., GatewayProcess],
    fleet: Device,
    figure: Callable[[str], None],
    kills: int,
) -> None:
    env = {**mosquitto.settings_env, **database_env, "CHAPAR_LEASE": LEASE}
    gateway = await asyncio.to_thread(start_gateway, env)
    left_behind = {}
    async with Senders(gateway.url, SENDERS, at_most_once=4) as senders:
        for _ in range(kills):
            await senders.answered(201, times=2 * SENDERS)
            await asyncio.to_thread(gateway.kill)
            rows = await asyncio.to_thread(rows_in, database_url)
            left_behind |= {row["id"]: row for row in rows.values() if row["status"] == "publishing"}
            await asyncio.to_thread(gateway.start)
        await senders.answered(201, times=SENDERS)
    async with client_of(gateway.url) as client:
        rows = await settled(client)
    published = {row["id"] for row in rows.values() if row["status"] == "published"}
    heard = await asyncio.to_thread(fleet.wait_for, lambda heard: published <= hearings(heard).keys())
    tally = check_promises(senders.answers, rows, hearings(heard))
    figure(f"gateway: {kills} kills left {len(left_behind)} messages publishing: {dict(tally)}")
    for message_id, before in left_behind.items():
        row = rows[message_id]
        if before["at_most_once"]:
            assert (row["status"], row["reason"], row["attempts"]) == (
                "unconfirmed",
                "process_died",
                before["attempts"],
            )
        else:
            assert (row["status"], row["possible_duplicate"]) == ("published", True)
            assert row["attempts"] > before["attempts"]
    marked = {row["id"] for row in rows.values() if row["possible_duplicate"]}
    assert marked <= left_behind.keys(), "only what was in doubt is a possible duplicate"


async def test_what_a_paused_broker_had_when_the_gateway_died_is_settled(
    database_url: str,
    database_env: dict[str, str],
    mosquitto: Mosquitto,
    start_gateway: Callable[..., GatewayProcess],
    fleet: Device,
) -> None:
    env = {**mosquitto.settings_env, **database_env, "CHAPAR_LEASE": LEASE}
    gateway = await asyncio.to_thread(start_gateway, {**env, "CHAPAR_PUBLISH_TIMEOUT": "0.2"})
    mosquitto.pause()
    async with client_of(gateway.url) as client:
        again, once = [(await send(client, at_most_once=at_most_once)).json()["id"] for at_most_once in (False, True)]
    await asyncio.to_thread(gateway.kill)
    assert [row["status"] for row in rows_in(database_url).values()] == ["publishing"] * 2
    mosquitto.resume()
    await asyncio.to_thread(gateway.start)
    async with client_of(gateway.url) as client:
        row = await message_in(client, again, "published")
        assert (row["attempts"], row["possible_duplicate"]) == (2, True)
        row = await message_in(client, once, "unconfirmed")
        assert (row["attempts"], row["possible_duplicate"], row["reason"]) == (1, False, "process_died")
    # The broker had read both before it was paused or has read them since: twice is fine, where it is marked.
    heard = hearings(await asyncio.to_thread(fleet.wait_for, lambda heard: 2 in hearings(heard).get(again, ())))
    assert heard[again][-1] == 2
    assert heard.get(once, [1]) == [1]


@pytest.mark.parametrize("kills", KILLS)
async def test_the_writer_is_killed_under_load_and_replaced(
    mosquitto: Mosquitto,
    start_gateway: Callable[..., GatewayProcess],
    fleet: Device,
    figure: Callable[[str], None],
    kills: int,
) -> None:
    gateway = await asyncio.to_thread(start_gateway, mosquitto.settings_env)
    async with Senders(gateway.url, SENDERS) as senders:
        for _ in range(kills):
            await senders.answered(201, times=2 * SENDERS)
            kill(pid for pid in children(gateway.pid) if "chapar.store.writer" in describe(pid))
        await senders.answered(201, times=2 * SENDERS)
    async with client_of(gateway.url) as client:
        rows = await settled(client)
    published = {row["id"] for row in rows.values() if row["status"] == "published"}
    heard = await asyncio.to_thread(fleet.wait_for, lambda heard: published <= hearings(heard).keys())
    tally = check_promises(senders.answers, rows, hearings(heard))
    figure(f"writer: {kills} kills: {dict(tally)}")
    assert tally["heard twice"] == 0, "the link never fell"
