"""Mosquitto stops answering without hanging up: the answer is 202, and the message still comes to its end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack

import httpx
import pytest

from support.api import IMEI, client_of, eventually, message, message_in, send
from support.devices import Device
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.promises import hearings

pytestmark = pytest.mark.usefixtures("mosquitto")  # for its skip


@pytest.fixture
def broker() -> Iterator[Mosquitto]:
    with Mosquitto(persistence=True) as broker:
        yield broker


@pytest.fixture
def gateway(start_gateway: Callable[..., GatewayProcess], broker: Mosquitto) -> GatewayProcess:
    return start_gateway({**broker.settings_env, "CHAPAR_PUBLISH_TIMEOUT": "0.3"})


@pytest.fixture
async def client(gateway: GatewayProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(gateway.url) as client:
        yield client


@pytest.fixture
async def device(broker: Mosquitto) -> AsyncIterator[Device]:
    """It hears again, after a restart of the broker, what was sent while it was away."""
    device = broker.device(IMEI, mqtt5=True, persistent=True)
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(device.start)
        stack.callback(device.stop)
        broker.save()
        yield device


async def accepted(client: httpx.AsyncClient, **fields: object) -> str:
    """Send into the silence; gives the id once 202 said where to look and the message is there."""
    answer = await send(client, **fields)
    assert answer.status_code == 202
    body = answer.json()
    assert answer.headers["location"] == f"/messaging/messages/{body['id']}"
    assert body == {
        "detail": f"Accepted `push_down` for topic `devices/{IMEI}`",
        "id": body["id"],
        "status": "publishing",
        "topic": f"devices/{IMEI}",
    }
    row = await message(client, body["id"])
    assert (row["status"], row["attempts"], row["published_at"]) == ("publishing", 1, None)
    message_id: str = body["id"]
    return message_id


async def test_what_a_paused_broker_got_is_published_when_it_goes_on(
    broker: Mosquitto, client: httpx.AsyncClient, device: Device
) -> None:
    broker.pause()
    message_id = await accepted(client)
    broker.resume()
    row = await message_in(client, message_id, "published")
    assert (row["attempts"], row["possible_duplicate"], row["reason_code"]) == (1, False, 0)
    assert (await send(client, micro_op="afterwards")).status_code == 201
    heard = await asyncio.to_thread(device.wait_for, 2)
    assert [each.payload for each in heard] == [b"push_down", b"afterwards"]


async def test_what_a_broker_took_to_its_grave_is_sent_again_under_the_same_id(
    broker: Mosquitto, client: httpx.AsyncClient, device: Device
) -> None:
    broker.pause()
    message_id = await accepted(client)
    await asyncio.to_thread(broker.kill)
    await asyncio.to_thread(broker.start)
    row = await message_in(client, message_id, "published")
    assert (row["attempts"], row["possible_duplicate"]) == (2, True)
    heard = await asyncio.to_thread(device.wait_for, 1)
    assert hearings(heard) == {message_id: [2]}


async def test_at_most_once_is_not_sent_again_and_ends_unconfirmed(
    broker: Mosquitto, client: httpx.AsyncClient, device: Device
) -> None:
    broker.pause()
    message_id = await accepted(client, at_most_once=True)
    await asyncio.to_thread(broker.kill)
    row = await message_in(client, message_id, "unconfirmed")
    assert (row["reason"], row["attempts"], row["possible_duplicate"]) == ("link_lost", 1, False)
    await asyncio.to_thread(broker.start)

    async def afterwards() -> httpx.Response | None:
        answer = await send(client, micro_op="afterwards")
        return answer if answer.status_code == 201 else None

    await eventually(afterwards)
    heard = await asyncio.to_thread(device.wait_for, 1)
    assert message_id not in hearings(heard)
    assert (await message(client, message_id))["status"] == "unconfirmed"


async def test_a_caller_may_be_more_patient_than_the_setting(
    broker: Mosquitto, client: httpx.AsyncClient, device: Device
) -> None:
    broker.pause()
    asking = asyncio.create_task(send(client, timeout=60))
    impatient = await accepted(client)
    assert not asking.done()
    broker.resume()
    assert (await asking).status_code == 201
    await message_in(client, impatient, "published")
    await asyncio.to_thread(device.wait_for, 2)
