"""Messages to store, a store to put them in, and a grip on its writer process."""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from pydantic import SecretStr

from chapar.errors import NotSaved
from chapar.model.acceptance import Added, Addition
from chapar.model.audit import Action, AuditFilters, Entry
from chapar.model.change import Move
from chapar.model.message import Message, Status, new_id
from chapar.runtime.metrics import Metrics
from chapar.runtime.settings import Settings
from chapar.store import store
from chapar.store.store import Store
from support.processes import children, describe

PROCESS = "0123456789abcdef"
CLAIM = f"{PROCESS}.0"


def now() -> int:
    return time.time_ns() // 1_000_000


def settings_for(database_url: str) -> Settings:
    return Settings(database_url=SecretStr(database_url), auto_migrate=True)


@contextlib.asynccontextmanager
async def open_store(
    database_url: str, metrics: Metrics | None = None, process: str | None = None
) -> AsyncIterator[Store]:
    opened = store.open_store(
        database_url, metrics or Metrics(), readers=4, report_readers=4, auto_migrate=True, process=process
    )
    async with opened as found:
        yield found


def new_message(imei: str = "861230000000001", status: Status = Status.PUBLISHING, **fields: Any) -> Message:
    message = Message(
        id=new_id(time.time_ns()),
        imei=imei,
        micro_op="push_down",
        params=None,
        topic=f"devices/{imei}",
        qos=1,
        retain=False,
        at_most_once=False,
        status=status,
        reason=None,
        reason_code=None,
        attempts=1,
        possible_duplicate=False,
        subscribers=None,
        claim=CLAIM,
        created_at=now(),
        deliver_at=None,
        expires_at=None,
        not_before=None,
        origin=None,
        published_at=None,
        finished_at=None,
    )
    return message._replace(**fields)


async def _single(asked: Awaitable[list[Any]]) -> Any:
    [result] = await asked
    if isinstance(result, NotSaved):
        raise result
    return result


def single(asked: Awaitable[list[Any]]) -> asyncio.Future[Any]:
    """What came of the only item that was asked for."""
    return asyncio.ensure_future(_single(asked))


def add_one(store: Store, message: Message, deadline: float | None = None, **fields: Any) -> asyncio.Future[Added]:
    return single(store.messages.add([Addition(message, **fields)], deadline))


def move_one(store: Store, before: Message, after: Message) -> asyncio.Future[bool]:
    return single(store.messages.move([Move(before, after, now())]))


def entry_about(imei: str, action: Action = Action.DEVICE_PUT) -> Entry:
    """What the audit trail is to say of a device."""
    return Entry(now(), "key:anna", "Anna", "192.0.2.7", action.value, imei, imei)


def published(message: Message) -> Message:
    at = now()
    return message.moved(Status.PUBLISHED)._replace(claim=None, published_at=at, finished_at=at)


def measured(metrics: Metrics, sample: str) -> float:
    """The value of one sample, such as `chapar_writer_deaths_total`."""
    [value] = re.findall(rf"^{sample} (\S+)$", metrics.exposition().decode(), re.MULTILINE)
    return float(value)


def writer_processes() -> list[int]:
    """The writer processes that this process started and that still run."""
    return [pid for pid in children(os.getpid()) if "chapar.store.writer" in describe(pid)]


async def entries(store: Store, **filters: object) -> list[Entry]:
    """What the audit trail says, oldest first."""
    found = (await store.trail.page(AuditFilters(**filters), before=None, limit=100)).entries  # type: ignore[arg-type]
    return [entry for _, entry in reversed(found)]
