"""Every way in which the gateway changes a message."""

import asyncio

from chapar.model.acceptance import Withdrawal
from chapar.model.audit import Action, Entry
from chapar.model.message import Status, clearing
from chapar.model.principal import Reach
from chapar.model.reply import read_reply
from chapar.store.purges import Purge
from chapar.store.store import Store
from support.callers import cancelling
from support.stores import CLAIM, PROCESS, add_one, move_one, new_message, now, published, single

DEAD = "00000000deadbeef"


async def everything(store: Store) -> None:
    """Change messages in each way there is."""
    deadline = asyncio.get_running_loop().time() + 30
    direct, retained = new_message("A"), new_message("R", retain=True)
    queued = [new_message("B", Status.QUEUED, claim=None, attempts=0) for _ in range(4)]
    too_late = new_message("C", Status.QUEUED, claim=None, attempts=0, expires_at=1)
    left = new_message("D", claim=f"{DEAD}.0")
    await asyncio.gather(*(add_one(store, message) for message in (direct, retained, *queued, too_late, left)))
    await asyncio.gather(*(move_one(store, message, published(message)) for message in (direct, retained)))
    assert not await move_one(store, direct, published(direct)._replace(status=Status.REJECTED)), "moved already"
    await store.messages.cancel([cancelling(queued[0].id, now())], deadline)
    await store.messages.take_back(clearing(retained, now() * 1_000_000), None, deadline)
    await store.queue.settle(PROCESS, now())
    await store.queue.take(f"{PROCESS}.1", 2, now())
    never = new_message("E", Status.REJECTED, claim=None, finished_at=now())
    await single(store.messages.withdraw([Withdrawal(never, CLAIM, None)]))
    reply = read_reply(b"ok", direct.id.encode(), (), device="A", topic="devices/A/reply", at=now())
    await store.replies.receive([reply])
    for _ in range(2):
        await add_one(store, new_message("F", Status.QUEUED, claim=None, attempts=0, collapse_key="valve"))
    entry = Entry(now(), "me", "me", "", Action.CANCELLED.value, "", "B")
    await store.purges.purge(Purge(entry, Reach()), 30)
