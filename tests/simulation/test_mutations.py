"""The simulation can fail: mistakes that somebody might make are found within a few hundred worlds."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Connection

from chapar.delivery import acceptance as sending
from chapar.delivery import dispatcher, idempotency, outcomes
from chapar.delivery.acceptance import Draft, Sending
from chapar.delivery.idempotency import Sent
from chapar.delivery.outcomes import Facts, Outcome
from chapar.delivery.replies import Incoming
from chapar.delivery.suspects import Suspects
from chapar.errors import BrokerRefused, LinkLost, NotSaved, NotSent
from chapar.link.publication import Delivery, Publication
from chapar.link.topics import DeviceTopics
from chapar.model.audit import Entry
from chapar.model.change import Cancelled
from chapar.model.message import Command, Message, Status, Wait
from chapar.model.principal import Caller
from chapar.store import pauses
from chapar.store.acceptance import BACKLOGS_SQL
from chapar.store.messages import Messages
from simulation.invariants import broken
from simulation.world import World, run, simulated

WORLDS = 1000

# A world in which a mistake shows that shows in few: the search begins with it.
SHOWN_IN = {
    "an attempt in doubt counts as unsent": 159,
    "at most once is ignored": 159,
    "a reply is acknowledged before its commit": 128,
}

_in_doubt = outcomes.in_doubt
_publication = dispatcher._publication
_cancel = Messages.cancel
_not_sent = outcomes.not_sent
_send = Sending.send
_received = Incoming.received
_with_conditions = World._with_conditions


def in_doubt_is_unsent(message: Message, _: object, facts: Facts) -> Outcome:
    return outcomes.unsent(message, facts, may_queue=True)


def attempt_is_not_counted(message: Message, lost: LinkLost, facts: Facts) -> Outcome:
    after, kept = _in_doubt(message, lost, facts)
    return Outcome(after._replace(attempts=after.attempts - 1), kept)


def at_most_once_is_ignored(message: Message, lost: LinkLost, facts: Facts) -> Outcome:
    return _in_doubt(message._replace(at_most_once=False), lost, facts)


def nothing_is_kept(message: Message, lost: LinkLost, facts: Facts) -> Outcome:
    return Outcome(_in_doubt(message, lost, facts).message)


def expiry_is_ignored(message: Message, clock_is_behind: float, replies: DeviceTopics) -> Publication:
    return _publication(message._replace(expires_at=None), clock_is_behind, replies)


def refusal_is_success(message: Message, _: int, facts: Facts) -> Outcome:
    return Outcome(message.moved(Status.PUBLISHED, claim=None, finished_at=facts.now))


async def cancel_always_succeeds(
    self: Messages, entries: Sequence[Entry], deadline: float
) -> list[Cancelled | NotSaved | None]:
    cancelled = [each for each in await _cancel(self, entries, deadline) if isinstance(each, Cancelled)]
    return [Cancelled(Status.QUEUED, each.message._replace(status=Status.CANCELLED)) for each in cancelled]


def queued_is_refused(message: Message) -> NotSent | None:
    if message.status in {Status.QUEUED, Status.PUBLISHING}:
        return BrokerRefused(message.id, "Not authorized", 0x87)
    return _not_sent(message)


def acknowledged_at_once(self: Incoming, deliveries: Sequence[Delivery]) -> None:
    for delivery in deliveries:
        delivery.acknowledge()
    _received(self, deliveries)


async def key_is_not_kept(
    self: Sending, caller: Caller, drafts: Sequence[Draft], wait: Wait, patience: float | None
) -> list[Sent]:
    return await _send(self, caller, [draft._replace(key=None) for draft in drafts], wait, patience)


def what_waits_is_forgotten(connection: Connection, imei: str, _: int) -> int:
    connection.execute(pauses._END, {"device": imei})
    return 0


MISTAKES: dict[str, tuple[AbstractContextManager[Any], str]] = {
    "an attempt in doubt counts as unsent": (
        patch.object(outcomes, "in_doubt", in_doubt_is_unsent),
        "and is no possible duplicate",
    ),
    "an attempt is not counted": (patch.object(outcomes, "in_doubt", attempt_is_not_counted), "and counts"),
    "at most once is ignored": (patch.object(outcomes, "in_doubt", at_most_once_is_ignored), "may be at most once"),
    "an attempt is not kept": (patch.object(outcomes, "in_doubt", nothing_is_kept), "is not in its history"),
    "the expiry is not handed over": (patch.object(dispatcher, "_publication", expiry_is_ignored), "ms too late"),
    "a refusal counts as success": (patch.object(outcomes, "refused", refusal_is_success), "nobody heard it"),
    "nothing is quarantined": (patch.object(Suspects, "_is_cause", lambda *_, **__: False), "are enough"),
    "nothing is put off": (patch.object(outcomes, "TRANSIENT", frozenset()), "was given up"),
    "what is in line does not keep others back": (
        patch.dict(BACKLOGS_SQL, sqlite=BACKLOGS_SQL["sqlite"].replace("max(CASE", "0 * max(CASE")),
        "left before",
    ),
    "cancelling always seems to succeed": (
        patch.object(Messages, "cancel", cancel_always_succeeds),
        "was cancelled, and",
    ),
    "a repeated request counts as not saved": (
        patch.object(idempotency, "NotSaved", StopAsyncIteration),
        "nothing was saved",
    ),
    "a reply is acknowledged before its commit": (
        patch.object(Incoming, "received", acknowledged_at_once),
        "and its device said",
    ),
    "keys are not kept": (patch.object(Sending, "send", key_is_not_kept), "one key"),
    "what is accepted for a paused device leaves at once": (
        patch.dict(BACKLOGS_SQL, sqlite=BACKLOGS_SQL["sqlite"].replace("THEN 1 ELSE 2 END", "THEN 0 ELSE 0 END")),
        "while its device was paused",
    ),
    "what waited for a paused device is forgotten": (
        patch.object(pauses, "_let_leave", what_waits_is_forgotten),
        "waited for a pause that was over",
    ),
    "what waits counts as refused": (
        patch.object(sending, "not_sent", queued_is_refused),
        "was answered 406, and",
    ),
}

RARE = "at most once is ignored"  # one message in seven is sent so: it takes nearly all the worlds to find it


def always_at_most_once(self: World, command: Command) -> Command:
    return _with_conditions(self, command._replace(at_most_once=True))


@pytest.fixture(scope="module", autouse=True)
def _simulated() -> Iterator[None]:
    with simulated():
        yield


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str) -> None:
    denser = patch.object(World, "_with_conditions", always_at_most_once) if mistake == RARE else nullcontext()
    with denser:
        assert is_found(mistake)


@pytest.mark.long
def test_the_rare_mistake_is_found_among_all_kinds_of_messages() -> None:
    assert is_found(RARE)


def is_found(mistake: str) -> bool:
    mutation, sentence = MISTAKES[mistake]
    first = SHOWN_IN.get(mistake, 0)
    with mutation:
        return any(sentence in found for seed in range(first, first + WORLDS) for found in broken(run(seed)))
