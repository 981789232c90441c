"""Whatever is logged, by whom and in which format: one line an event, and whole."""

import json
import os
import re
import subprocess
import sys

import pytest

from chapar.store.writer_process import PROGRAM

HOSTILE = "pump\r\n2026-11-24 [info] forged\x1b[2J\x9b31m\u2028\u202e\x85\x00\x7f"

EVENTS = f"""
import asyncio, gc, logging, sys, threading, warnings
from chapar.runtime import logs

logs.configure("info", sys.argv[1])
hostile = {HOSTILE!r}


def fail():
    raise ValueError(hostile)


class Odd:
    def __repr__(self):
        return hostile


class Falls:
    def __del__(self):
        fail()


async def forget():
    async def in_vain():
        fail()

    logs.REQUEST_ID.set(b"request-1")
    task = asyncio.create_task(in_vain())
    await asyncio.wait([task])
    logs.log.warning("with_ids", message_id="message-1")
    del task
    gc.collect()


logs.log.info("plain_event", imei=hostile, of={{hostile: [hostile]}}, odd=Odd(), bytes=hostile.encode(), number=3)
logs.log.info(hostile)
logs.log.debug("too_little")
try:
    fail()
except ValueError as error:
    logs.log.exception("caught")
    logging.getLogger("uvicorn.error").error("Exception in ASGI application\\n", exc_info=error)
logging.getLogger("sqlalchemy.pool").warning("%s", hostile)
logging.getLogger("sqlalchemy.pool").warning("two %s %s", hostile)
logging.getLogger("uvicorn.error").info("too_little")
logging.getLogger("uvicorn.error").log(35, "between_levels")
warnings.warn(hostile)
thread = threading.Thread(target=fail)
thread.start()
thread.join()
Falls()
asyncio.run(forget())
raise ExceptionGroup(hostile, [ValueError(hostile)])
"""
LOGGED = 13


def logged(log_format: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", EVENTS, log_format], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("\n")
    return done.stderr[:-1].split("\n")


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_every_event_is_one_line_of_what_a_terminal_prints(log_format: str) -> None:
    lines = logged(log_format)
    assert len(lines) == LOGGED, "\n".join(lines)
    for line in lines:
        assert line.isprintable(), line
        assert re.search(r"\d{4}-\d\d-\d\dT", line), line
    for line in lines:
        if "Traceback" in line:
            assert "in fail" in line or "ExceptionGroup" in line
    assert sum("Traceback" in line for line in lines) == 6


def test_json_loses_nothing() -> None:
    events = [json.loads(line) for line in logged("json")]
    assert {"event", "level", "timestamp"} <= set.intersection(*(set(event) for event in events))
    first, second, caught, uvicorn, *_ = events
    assert (first["event"], first["imei"], first["of"], first["number"]) == (
        "plain_event",
        HOSTILE,
        {HOSTILE: [HOSTILE]},
        3,
    )
    assert second["event"] == HOSTILE
    assert caught["traceback"].startswith("Traceback (most recent call last):\n  File ")
    assert caught["traceback"].endswith(f"ValueError: {HOSTILE.strip()}")
    assert (uvicorn["event"], uvicorn["logger"]) == ("Exception in ASGI application", "uvicorn.error")
    with_ids = next(event for event in events if event["event"] == "with_ids")
    assert (with_ids["request_id"], with_ids["message_id"]) == ("request-1", "message-1")
    forgotten = next(event for event in events if "never retrieved" in event["event"])
    assert forgotten["request_id"] == "request-1"


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_writer_that_crashes_says_so_in_one_line(log_format: str) -> None:
    crashed = subprocess.run(
        [sys.executable, "-c", PROGRAM, "999"],  # a descriptor that it has not
        env={**os.environ, "CHAPAR_LOG_FORMAT": log_format},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert crashed.returncode == 1
    assert crashed.stderr.count("\n") == 1
    assert "crashed" in crashed.stderr
    assert "Bad file descriptor" in crashed.stderr


def test_a_process_that_ends_at_once_has_written_its_lines() -> None:
    code = (
        "import structlog\n"
        "from chapar.app import server\n"
        "from chapar.runtime import logs\n"
        "logs.configure('info', 'json')\n"
        "for number in range(3000):\n"
        "    structlog.get_logger().info('line', number=number)\n"
        "server._exit_at_once()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert [json.loads(line)["number"] for line in done.stderr.splitlines()] == list(range(3000))
