"""Callers who do not wait for the answer: what was saved still comes to its end, and nothing is lost or left open."""

from collections.abc import Callable

import httpx
import pytest

from support.api import IMEI, client_of, settled
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.raw_http import JSON, RawRequest

HANG_UPS = 200


@pytest.mark.parametrize("paused", [False, True])
async def test_a_caller_who_hangs_up_stops_nothing(
    start_gateway: Callable[..., GatewayProcess], mosquitto: Mosquitto, *, paused: bool
) -> None:
    gateway = start_gateway({**mosquitto.settings_env, "CHAPAR_PUBLISH_TIMEOUT": "2"})
    with mosquitto.device(IMEI) as device:
        if paused:  # so that every caller is gone before the broker answers
            mosquitto.pause()
        for number in range(HANG_UPS):
            body = f'{{"imei": "{IMEI}", "micro_op": "operation-{number}"}}'.encode()
            RawRequest(gateway.port, *JSON, body=body).hang_up()
        if paused:
            mosquitto.resume()
        async with client_of(gateway.url) as client:
            assert (await client.get("/health/live")).status_code == 200
            rows = await settled(client)
        heard = device.wait_for(len(rows))
    operations = {row["micro_op"] for row in rows.values()}
    assert operations == {f"operation-{number}" for number in range(HANG_UPS)}
    assert {row["status"] for row in rows.values()} == {"published"}
    assert sorted(each.payload.decode() for each in heard) == sorted(operations)
    assert "Traceback" not in gateway.program.output


async def test_a_caller_who_hangs_up_in_the_middle_of_the_body_leaves_no_trace(
    start_gateway: Callable[..., GatewayProcess], mosquitto: Mosquitto
) -> None:
    gateway = start_gateway(mosquitto.settings_env)
    for _ in range(HANG_UPS // 4):
        RawRequest(gateway.port, *JSON, "Content-Length: 100").send([b'{"imei": "8612", ']).hang_up()
    async with client_of(gateway.url) as client:
        assert await settled(client) == {}
        assert (await client.get("/health/ready")).status_code == 200
    assert "Traceback" not in gateway.program.output


async def test_a_caller_who_hangs_up_on_a_report_ends_only_the_report(
    start_gateway: Callable[..., GatewayProcess], mosquitto: Mosquitto
) -> None:
    gateway = start_gateway({**mosquitto.settings_env, "CHAPAR_READERS": "1"})
    async with client_of(gateway.url) as client:
        for number in range(50):
            asked = {"imei": IMEI, "micro_op": f"{number}", "params": {"padding": "x" * 50_000}}
            assert (await client.post("/messaging/send", json=asked)).status_code == 201
        for _ in range(5):  # more than there are readers
            with RawRequest(gateway.port, method="GET", path="/reporting/all") as report:
                report.hang_up()
        assert len((await client.get("/reporting/all")).json()) == 50
        answers = [await client.get("/messaging/messages", params={"limit": 1}) for _ in range(5)]
        assert {answer.status_code for answer in answers} == {httpx.codes.OK}
    assert "Traceback" not in gateway.program.output
