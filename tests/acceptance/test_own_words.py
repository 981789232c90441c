"""What a fleet of devices says, and what is shown of it: the same, whoever is away when, and whatever fails."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.api import client_of, eventually, report
from support.gateway import GatewayProcess, find_command
from support.mosquitto import Mosquitto
from support.processes import Program

SIZES = [300, pytest.param(10_000, marks=pytest.mark.long)]
OPEN = ("scheduled", "queued", "publishing", "published", "acknowledged")
WORDS = {"ok": "succeeded", "failed": "failed"}
PATIENCE = 600.0  # seconds until the last device was there for long enough
KINDS = {
    "five": ["--mqtt", "5", "--profile", "chapar"],  # finds the message by its id
    "three": ["--mqtt", "3", "--profile", "text"],  # says the operation's name
}


@pytest.fixture
def broker() -> Iterator[Mosquitto]:
    """A broker that drops nothing of what is for devices that are away."""
    with Mosquitto("max_inflight_messages 0", "max_queued_messages 0", "log_type none") as mosquitto:
        yield mosquitto


@pytest.mark.parametrize("size", SIZES)
async def test_every_message_ends_as_its_device_says(
    broker: Mosquitto,
    start_gateway: Callable[..., GatewayProcess],
    tmp_path: Path,
    figure: Callable[[str], None],
    size: int,
) -> None:
    gateway = await asyncio.to_thread(start_gateway, broker.settings_env)
    logs = {kind: tmp_path / f"{kind}.log" for kind in KINDS}
    with ExitStack() as stack:
        for kind, options in KINDS.items():
            command = [find_command(), "simulate", "--count", str(size // 2), "--prefix", f"{kind}-", *options]
            # Longer spells where there are more devices: a broker takes so many connections a second.
            away = ["--persistent", "--offline", "20", "--spell", str(max(2, size // 300)), "--seed", "7"]
            faulty = ["--failures", "5", "--duplicates", "5", "--delay", "0.2", "--log", logs[kind]]
            env = {**broker.settings_env, "HOME": str(tmp_path)}
            program = Program([*command, *away, *faulty], folder=tmp_path, env=env)
            stack.callback(program.close)
        devices = [f"{kind}-{number + 1}" for kind in KINDS for number in range(size // 2)]
        await eventually(lambda: announced(logs, devices), PATIENCE)
        async with client_of(gateway.url) as client:
            messages = [
                {"imei": imei, "micro_op": "open_valve", "wait": "none", "reply_within": 3600} for imei in devices
            ]
            answer = await client.post("/messaging/bulk", json={"messages": messages})
            assert answer.json()["summary"] == {"202": size}

            async def is_over() -> bool:
                page = await client.get("/messaging/messages", params={"status": OPEN, "limit": 1})
                return not page.json()["messages"]

            await eventually(is_over, PATIENCE)
            rows = await report(client)
        # A device notes a reply once the broker has acknowledged it, which may come behind what the gateway commits.
        await eventually(lambda: has_said(logs, devices), PATIENCE)
    said = first_words_of_all(logs)
    shown = {row["imei"]: row["status"] for row in rows.values()}
    assert [(imei, shown.get(imei), said.get(imei)) for imei in devices if shown.get(imei) != said.get(imei)] == []
    figure(f"{size} devices: {dict(Counter(shown.values()))}, {spells(logs)} times away, 0 differences")


async def announced(logs: Mapping[str, Path], devices: list[str]) -> bool:
    """Whether each device was there once: from then on its broker keeps what comes for it."""
    return set(devices) <= {entry["device"] for entry in entries(logs) if entry["event"] == "online"}


async def has_said(logs: Mapping[str, Path], devices: list[str]) -> bool:
    """Whether each device has had its final word acknowledged."""
    return set(devices) <= first_words_of_all(logs).keys()


def first_words_of_all(logs: Mapping[str, Path]) -> dict[str, str]:
    return {imei: word for log in logs.values() for imei, word in first_words(log).items()}


def first_words(log: Path) -> dict[str, str]:
    """The status that each device's first final word makes, of those that the broker has acknowledged."""
    words: dict[str, str] = {}
    for entry in entries({"": log}):
        if entry["event"] == "replied" and entry["word"] in WORDS:
            words.setdefault(entry["device"], WORDS[entry["word"]])
    return words


def spells(logs: Mapping[str, Path]) -> int:
    return sum(entry["event"] == "away" for entry in entries(logs))


def entries(logs: Mapping[str, Path]) -> Iterator[dict[str, str]]:
    for log in logs.values():
        if log.exists():
            yield from map(json.loads, log.read_text().splitlines())
