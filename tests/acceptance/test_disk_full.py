"""The disk under SQLite is full: nothing is sent that was not saved, and it goes on when there is room again."""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from support.api import IMEI, client_of, problem_of, report, send
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto

DISK = 2 * 1024 * 1024  # bytes
TRIES = 300  # messages; SQLite reuses what its log already has on the disk, so the first ones may still be saved


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that holds 2 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small disk is not allowed here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Take all the room there is."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return ballast


async def test_a_full_disk_is_answered_with_not_saved_until_there_is_room(
    start_gateway: Callable[..., GatewayProcess], mosquitto: Mosquitto, small_disk: Path
) -> None:
    database_url = f"sqlite:///{small_disk / 'chapar.db'}"
    gateway = await asyncio.to_thread(
        start_gateway,
        {**mosquitto.settings_env, "CHAPAR_DATABASE_URL": database_url, "CHAPAR_PUBLISH_TIMEOUT": "0.5"},
    )
    with mosquitto.device(IMEI) as device:
        async with client_of(gateway.url) as client:
            assert (await send(client, micro_op="before")).status_code == 201
            ballast = fill(small_disk)
            answers: dict[str, httpx.Response] = {}
            while not any(answer.status_code == 406 for answer in answers.values()) and len(answers) < TRIES:
                operation = f"full-{len(answers)}"
                answers[operation] = await send(client, micro_op=operation, params={"padding": "x" * 8000})
            for number in range(3):
                answers[f"still-full-{number}"] = await send(client, micro_op=f"still-full-{number}")
            refused = {operation for operation, answer in answers.items() if answer.status_code == 406}
            assert refused
            for operation in refused:
                problem = problem_of(answers[operation])
                assert (problem["code"], problem["detail"]) == ("not_saved", "Something went wrong")
                assert "full" in problem["reason"]
            ready = await client.get("/health/ready")
            assert (ready.status_code, ready.json()["broker"]["ready"]) == (503, True)
            assert "full" in ready.json()["database"]["reason"]

            ballast.unlink()
            await asyncio.to_thread(gateway.wait_until, "ready")
            answers["afterwards"] = await send(client, micro_op="afterwards")
            assert answers["afterwards"].status_code == 201
            rows = {row["micro_op"]: row["status"] for row in (await report(client)).values()}
        device.wait_for(lambda heard: b"afterwards" in heard[-1].payload)
    heard = [heard.payload for heard in device.heard]
    assert not any(operation.encode() in payload for operation in refused for payload in heard)
    assert not refused & rows.keys()
    kept = {operation for operation, answer in answers.items() if answer.status_code in {201, 202}}
    assert {"before", *kept} == rows.keys()
    assert set(rows.values()) == {"published"}
