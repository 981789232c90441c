"""Mosquitto is killed and started again, over and over, while many send: every answer stays true."""

import asyncio
import time
from collections.abc import Callable

import pytest

from support.api import client_of, settled
from support.devices import Device
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.promises import check_promises, hearings
from support.senders import Senders

SENDERS = 50
# What Mosquitto does not hold back is in the device's socket before its PUBACK leaves: killed, it forgets nothing.
HOLDS_NOTHING_BACK = ("max_inflight_messages 0", "max_queued_messages 0")


@pytest.mark.usefixtures("mosquitto")  # for its skip
@pytest.mark.parametrize("devices", [SENDERS, 1])
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.long)])
async def test_no_answer_is_wrong_when_the_broker_is_killed_under_load(
    start_gateway: Callable[..., GatewayProcess],
    sqlite_url: str,
    figure: Callable[[str], None],
    devices: int,
    kills: int,
) -> None:
    with Mosquitto(*HOLDS_NOTHING_BACK, persistence=True) as broker:
        gateway = await asyncio.to_thread(
            start_gateway, {**broker.settings_env, "CHAPAR_DATABASE_URL": sqlite_url, "CHAPAR_PUBLISH_TIMEOUT": "1"}
        )
        fleet = Device(broker.port, "fleet", topics=["devices/#"], mqtt5=True, persistent=True)
        resumed = []
        with fleet:
            async with Senders(gateway.url, SENDERS, imei=lambda sender: f"86{sender % devices:013}") as senders:
                for _ in range(kills):
                    await senders.answered(201, times=2 * SENDERS)
                    await asyncio.to_thread(broker.kill)
                    await senders.answered(406, times=SENDERS // 2)
                    await asyncio.to_thread(broker.start)
                    back = time.monotonic()
                    resumed.append((await senders.answered(201, asked_since=back)).answered_at - back)
                    await asyncio.to_thread(fleet.wait_until_subscribed)
            async with client_of(gateway.url) as client:
                rows = await settled(client)
            published = {row["id"] for row in rows.values() if row["status"] == "published"}
            heard = await asyncio.to_thread(
                fleet.wait_for, lambda heard: published <= hearings(heard).keys(), timeout=20.0
            )
        tally = check_promises(senders.answers, rows, hearings(heard))
        figure(
            f"broker: {len(resumed)} kills, resumed within {max(resumed):.2f} s of the port being back: {dict(tally)}"
        )
        assert tally["201"] > 0
