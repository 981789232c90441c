"""Lanes, contacts, keys and urgency together, in walks through what may happen: nothing is stuck or stale."""

import random
from collections import Counter
from typing import Any

import pytest

from chapar.model.acceptance import Addition
from chapar.model.change import Move
from chapar.model.message import UNFINISHED, Message, Status
from chapar.model.queue import Lease
from chapar.store.contacts import Contact
from chapar.store.queue import Settle, Take
from support.callers import cancelling
from support.fakes import EPOCH, PROCESS
from support.memory_database import WatchedDatabase
from support.stores import new_message

OTHER = "fedcba9876543210"
STEPS = 60


def is_in_lane(message: Message) -> bool:
    return message.reply_within is not None and message.profile == "text"


class Walk:
    """What happens to two devices, as a seed has it."""

    def __init__(self, seed: int) -> None:
        self.lot = random.Random(seed)
        self.now = EPOCH
        self.database = WatchedDatabase(lambda: self.now)
        self.database.ask(("acquire_lease", Lease(PROCESS, "a test", 3600, alone=True)))
        self.takes = 0
        self.left: set[str] = set()  # what was on its way once

    @property
    def all(self) -> list[Message]:
        return list(self.database.by_id.values())

    def some(self, *statuses: Status) -> Message | None:
        found = [message for message in self.all if message.status in statuses]
        return self.lot.choice(found) if found else None

    def add(self) -> None:
        lot = self.lot
        condition = lot.choice([None, None, "contact"])
        direct = lot.random() < 0.5 and condition is None
        due = self.now + lot.randrange(1, 3000) if lot.random() < 0.15 else None
        status = Status.SCHEDULED if due else Status.PUBLISHING if direct else Status.QUEUED
        message = new_message(
            lot.choice("AB"),
            status,
            claim=f"{PROCESS}.0" if status is Status.PUBLISHING else None,
            attempts=int(status is Status.PUBLISHING),
            created_at=self.now,
            deliver_at=due,
            expires_at=(due or self.now) + lot.choice([2000, 60_000]),
            reply_within=lot.choice([None, 500, 5000]),
            condition=condition,
            collapse_key=lot.choice([None, None, "valve"]),
            urgent=lot.random() < 0.15,
        )
        self.database.ask(("add", Addition(message, purges=lot.random() < 0.05)))

    def take(self) -> None:
        self.takes += 1
        take = Take(f"{lot_of(self)}.{self.takes}", self.lot.choice([0, 1, 5]), self.now, 5)
        [found] = self.database.ask(("take", take))
        urgent = [message.urgent for message in found.messages]
        assert urgent == sorted(urgent, reverse=True)
        for message in found.messages:
            assert message.superseded_by is None
            if message.condition == "contact":
                assert message.contact_until is not None
                assert message.contact_until > self.now

    def end(self) -> None:
        message = self.some(Status.PUBLISHING)
        if message is None:
            return
        match self.lot.randrange(5):
            case 0:
                after = message.moved(Status.QUEUED, claim=None, attempts=message.attempts - 1)
            case 1:
                after = message.moved(Status.QUEUED, claim=None, possible_duplicate=True)
            case 2:
                after = message.moved(Status.REJECTED, claim=None, finished_at=self.now)
            case _:
                by = None if message.reply_within is None else self.now + message.reply_within
                finished = self.now if by is None else None
                at = {"published_at": self.now, "reply_by": by, "finished_at": finished}
                after = message.moved(Status.PUBLISHED, claim=None, **at)
        [moved] = self.database.ask(("move", Move(message, after, self.now)))
        assert moved is True or (isinstance(moved, Message) and moved.status not in UNFINISHED)

    def answer(self) -> None:
        awaited = [message for message in self.all if message.status is Status.PUBLISHED and not message.finished_at]
        if awaited:
            message = self.lot.choice(awaited)
            self.database.ask(("move", Move(message, message.moved(Status.SUCCEEDED, finished_at=self.now), self.now)))

    def contact(self) -> None:
        self.database.ask(("contact", Contact(self.lot.choice("AB"), self.now + 100, self.now + 1000)))

    def cancel(self) -> None:
        if (message := self.some(Status.QUEUED, Status.SCHEDULED)) is not None:
            self.database.ask(("cancel", cancelling(message.id, self.now)))

    def die(self) -> None:
        self.database.ask(("settle", Settle(OTHER, self.now)))

    def step(self) -> None:
        steps: list[Any] = [self.add] * 5 + [self.take] * 4 + [self.end] * 4
        steps += [self.answer] * 2 + [self.contact, self.cancel, self.die]
        self.lot.choice(steps)()
        self.now += self.lot.choice([0, 1, 200, 1000])
        self.check()

    def check(self) -> None:
        self.left |= {message.id for message in self.all if message.status is Status.PUBLISHING}
        for device in "AB":
            mine = [message for message in self.all if message.imei == device]
            lane = [message for message in mine if is_in_lane(message)]
            unanswered = [
                message
                for message in lane
                if message.finished_at is None
                and message.status in {Status.PUBLISHING, Status.PUBLISHED, Status.ACKNOWLEDGED}
            ]
            ready = [m for m in mine if m.status is Status.QUEUED and m.reason is None and not m.urgent]
            waiting = [m for m in mine if m.status is Status.QUEUED and m.reason == "waiting_for_reply"]
            ahead = [m for m in (*unanswered, *ready) if is_in_lane(m) and not m.urgent]
            assert len(ahead) <= 1, "one message of a lane at a time"
            if waiting:
                urgent = [m for m in lane if m.status is Status.QUEUED and m.reason is None and m.urgent]
                assert unanswered or ahead or urgent, "something is waited for"
                places = {message.id: place for place, message in enumerate(self.all)}
                first = min(places[message.id] for message in waiting)
                others = [message for message in ready if message.id not in self.left]  # those may come back behind it
                assert all(places[message.id] < first for message in others), "nothing overtakes what waits"
        for message in self.all:
            if message.superseded_by is not None:
                assert message.status not in {Status.QUEUED, Status.SCHEDULED}
            if message.status in UNFINISHED:
                assert message.finished_at is None
        ids = Counter(message.id for message in self.all)
        assert max(ids.values(), default=1) == 1


def lot_of(walk: Walk) -> str:
    """The process that takes: now and then one that dies before it has settled what it took."""
    return walk.lot.choice([PROCESS, PROCESS, "00000000000dead0"])


@pytest.mark.parametrize("block", range(10))
def test_whatever_happens_nothing_is_stuck_or_stale(block: int) -> None:
    for seed in range(block, 50, 10):
        walk = Walk(seed)
        for _ in range(STEPS):
            walk.step()
        walk.database.close()
