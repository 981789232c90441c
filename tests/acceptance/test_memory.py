"""A report is streamed: memory stays small however many messages there are."""

import os
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from support.filling import fill
from support.gateway import GatewayProcess
from support.memory import forget_peak, peak_of

ROWS = int(os.environ.get("CHAPAR_TEST_ROWS", "1000000"))
LIMIT = 60 * 1024 * 1024  # bytes above those of the idle gateway


@pytest.mark.long
@pytest.mark.parametrize("form", ["json", "ndjson", "csv"])
def test_a_report_of_a_million_messages_takes_little_memory(
    start_gateway: Callable[..., GatewayProcess], tmp_path: Path, figure: Callable[[str], None], form: str
) -> None:
    gateway = start_gateway({"CHAPAR_BROKER_URL": "mqtt://127.0.0.1:1"}, until="live")
    gateway.terminate()  # the table is there now
    fill(f"sqlite:///{tmp_path / 'chapar.db'}", ROWS)
    gateway.start(until="live")
    assert httpx.get(f"{gateway.url}/messaging/messages").status_code == 200
    forget_peak(gateway.pid)
    idle = peak_of(gateway.pid)
    received = lines = 0
    with httpx.stream("GET", f"{gateway.url}/reporting/all", params={"format": form}, timeout=60.0) as answer:
        for piece in answer.iter_bytes():
            received += len(piece)
            lines += piece.count(b"\n")
    grown = peak_of(gateway.pid) - idle
    figure(f"report of {ROWS} messages as {form}: {received >> 20} MiB sent, {idle >> 20} MiB idle, +{grown >> 20} MiB")
    assert lines == ROWS + (form == "csv")
    assert grown < LIMIT
