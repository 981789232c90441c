"""The real databases move messages as the simulated one does, whatever is asked in whatever order, and by `MOVES`."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from chapar.model.message import MOVES, UNFINISHED, Attempt, Message, Status, clearing
from chapar.store.acceptance import Key, Place, addition
from chapar.store.operations import move_row
from chapar.store.queue import Lease, Take
from chapar.store.retained import TakeBack
from chapar.store.schema import to_row
from chapar.store.store import UNBOUNDED, Store
from chapar.store.writer import _KINDS
from simulation.database import Database
from support.callers import cancelling
from support.fakes import EPOCH, Surroundings
from support.stores import new_message, open_store

EXAMPLES: Final = 25
STEPS: Final = 40

DEVICES = ("A", "B")
PROCESSES = ("000000000000000a", "000000000000000b")
TIMES = st.integers(0, 5)  # ms since EPOCH: few, so that they meet

Operation = tuple[str, Any]


@dataclass
class Databases:
    """The real one, the loop that it lives in, and the moves that all examples made together."""

    store: Store
    runner: asyncio.Runner
    moves: Counter[tuple[Status | None, Status]] = field(default_factory=Counter)
    claims: int = 0

    def run(self, wanted: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(wanted)

    def commit(self, operations: Sequence[Operation]) -> list[object]:
        """Ask for everything in one turn of the loop, so that it shares a batch."""

        async def commit() -> list[object]:
            submit = self.store._commits.submit
            return list(await asyncio.gather(*(submit(_KINDS[kind], arguments) for kind, arguments in operations)))

        return list(self.run(commit()))

    def new_claim(self, process: str) -> str:
        self.claims += 1
        return f"{process}.{self.claims}"


class Messages(RuleBasedStateMachine):
    """Anything that a gateway asks, of the database and of the model; both must say and hold the same afterwards."""

    messages = Bundle("messages")  # ids
    takes = Bundle("takes")

    def __init__(self, databases: Databases) -> None:
        super().__init__()
        self.databases = databases
        self.surroundings = Surroundings()
        self.model = Database(self.surroundings)  # type: ignore[arg-type]
        self.additions: dict[str, Operation] = {}
        self.principal = databases.new_claim("me")  # nobody else's keys

    def ask(self, *operations: Operation) -> list[object]:
        expected = self.model.commit(operations)
        found = self.databases.commit(operations)
        assert found == expected, operations
        assert self.surroundings.failures == []
        return found

    @rule(
        target=messages,
        imei=st.sampled_from(DEVICES),
        status=st.sampled_from([Status.SCHEDULED, Status.QUEUED, Status.PUBLISHING, Status.REJECTED]),
        process=st.sampled_from(PROCESSES),
        times=st.tuples(TIMES, TIMES),
        expires=st.booleans(),
        once_and_retained=st.tuples(st.booleans(), st.booleans()),
        max_depth=st.sampled_from([2, UNBOUNDED]),
        key=st.sampled_from([None, None, "k1", "k2"]),
    )
    def add(
        self,
        imei: str,
        status: Status,
        process: str,
        times: tuple[int, int],
        max_depth: int,
        key: str | None,
        once_and_retained: tuple[bool, bool],
        *,
        expires: bool,
    ) -> str:
        is_claimed = status is Status.PUBLISHING
        due, late = min(times), max(times)
        message = new_message(
            imei,
            status,
            claim=f"{process}.0" if is_claimed else None,
            attempts=int(is_claimed),
            created_at=EPOCH,
            deliver_at=EPOCH + due if status is Status.SCHEDULED else None,
            expires_at=EPOCH + late if expires else None,
            at_most_once=once_and_retained[0],
            retain=once_and_retained[1],
            finished_at=EPOCH if status is Status.REJECTED else None,
        )
        use = None if key is None else Key(self.principal, key, "f", message.id, process, None, None, EPOCH + 60_000)
        self.additions[message.id] = ("add", addition(message, max_depth, use, None))
        self.ask(self.additions[message.id])
        return message.id

    @rule(id_=messages)
    def add_again(self, id_: str) -> None:
        (found,) = self.ask(self.additions[id_])
        if (message := self.model.messages.get(id_)) is not None and not isinstance(found, Key):
            assert found == Place(message.status, message.claim)

    @rule(id_=messages)
    def withdraw(self, id_: str) -> None:
        row, _, key_row, _ = self.additions[id_][1]
        key = None if key_row is None else Key._make(key_row)
        added = Message._make(row)
        never = added._replace(
            status=Status.REJECTED, reason="outcome_unknown", attempts=0, claim=None, finished_at=EPOCH
        )
        self.ask(("withdraw", (to_row(never), added.claim, key)))

    @rule(target=takes, process=st.sampled_from(PROCESSES), limit=st.integers(0, 3), at=TIMES)
    def take(self, process: str, limit: int, at: int) -> Take:
        take = Take(self.databases.new_claim(process), limit, EPOCH + at)
        self.ask(("take", take))
        return take

    @rule(take=takes)
    def take_again(self, take: Take) -> None:
        self.ask(("take", take))

    @rule(id_=messages, choices=st.lists(st.integers(0, 5), min_size=1, max_size=4), later=st.none() | TIMES)
    def move_on(self, id_: str, choices: list[int], later: int | None) -> None:
        for choice in choices:
            before = self.model.messages.get(id_)
            moves = [] if before is None else sorted(MOVES[before.status])
            if before is None or not moves:
                return
            status = moves[choice % len(moves)]
            assert self.ask(("move", move_row(before, self._after(before, status, later)))) == [True]
            assert self.model.messages[id_].status is status

    @rule(id_=messages, status=st.sampled_from(list(Status)))
    def move_where_it_may_not(self, id_: str, status: Status) -> None:
        before = self.model.messages.get(id_)
        if before is not None and status not in MOVES[before.status]:
            with pytest.raises(ValueError, match="does not move"):
                before.moved(status)

    @rule(id_=messages, status=st.sampled_from([Status.PUBLISHED, Status.QUEUED]))
    def move_from_an_older_attempt(self, id_: str, status: Status) -> None:
        now = self.model.messages.get(id_)
        if now is None:
            return
        before = now._replace(status=Status.PUBLISHING, attempts=now.attempts + 1, claim=f"{PROCESSES[0]}.gone")
        assert self.ask(("move", move_row(before, self._after(before, status, None)))) == [False]
        assert self.model.messages[id_] == now

    @rule(id_=messages, at=TIMES)
    def cancel(self, id_: str, at: int) -> None:
        self.ask(("cancel", cancelling(id_, EPOCH + at)))

    @rule(target=messages, id_=messages, due=st.none() | TIMES)
    def take_back(self, id_: str, due: int | None) -> str:
        retained = self.model.messages.get(id_)
        if retained is None:
            return id_
        empty = clearing(retained, EPOCH * 1_000_000, None if due is None else EPOCH + due)
        self.additions[empty.id] = ("add", addition(empty, UNBOUNDED, None, None))
        self.ask(("take_back", TakeBack(to_row(empty), None)))
        return empty.id if empty.id in self.model.messages else id_

    @rule(process=st.sampled_from(PROCESSES), seconds=st.sampled_from([0, 3600]))
    def hold(self, process: str, seconds: int) -> None:
        # In the model time stands still, so a lease of 0 s is over; the real one has begun before it is asked about.
        self.ask(("hold", Lease(process, "a test", -3600 if seconds == 0 else seconds, alone=False)))

    @rule(process=st.sampled_from(PROCESSES))
    def leave(self, process: str) -> None:
        self.ask(("leave", process))

    @rule(process=st.sampled_from(PROCESSES), at=TIMES)
    def settle(self, process: str, at: int) -> None:
        self.ask(("settle", (process, EPOCH + at)))

    @rule(id_=messages, number=st.integers(1, 3), outcome=st.sampled_from(["published", "link_lost"]))
    def record(self, id_: str, number: int, outcome: str) -> None:
        self.ask(("record", Attempt(id_, number, EPOCH, PROCESSES[0], outcome, None)))

    @rule(name=st.sampled_from(["k1", "k2"]), status=st.sampled_from([201, 202]))
    def answer(self, name: str, status: int) -> None:
        if (key := self.model.keys.get((self.principal, name))) is not None:
            self.ask(("answer", (key, status, "{}")))

    @rule(
        imei=st.sampled_from(DEVICES),
        process=st.sampled_from(PROCESSES),
        statuses=st.lists(st.sampled_from([Status.QUEUED, Status.PUBLISHING]), min_size=1, max_size=3),
        take_first=st.booleans(),
        at=TIMES,
    )
    def add_and_take_in_one_batch(
        self, imei: str, process: str, statuses: list[Status], at: int, *, take_first: bool
    ) -> None:
        added = []
        for status in statuses:
            is_claimed = status is Status.PUBLISHING
            claim = f"{process}.0" if is_claimed else None
            message = new_message(imei, status, claim=claim, attempts=int(is_claimed), created_at=EPOCH)
            self.additions[message.id] = ("add", addition(message, UNBOUNDED, None, None))
            added.append(self.additions[message.id])
        take = ("take", Take(self.databases.new_claim(process), 2, EPOCH + at))
        self.ask(*((take, *added) if take_first else (*added, take)))

    @rule(id_=consumes(messages), at=TIMES, process=st.sampled_from(PROCESSES))
    def cancel_while_it_is_taken(self, id_: str, at: int, process: str) -> None:
        take = ("take", Take(self.databases.new_claim(process), 2, EPOCH + at))
        self.ask(take, ("cancel", cancelling(id_, EPOCH + at)))

    @invariant()
    def both_hold_the_same(self) -> None:
        async def rows() -> list[Message]:
            return await self.databases.store.find_all(list(self.model.messages))

        found = {message.id: message for message in self.databases.run(rows())}
        assert found == self.model.messages

    def teardown(self) -> None:
        try:
            for id_ in self.model.messages:
                kept = [attempt for (of, _), attempt in sorted(self.model.attempts.items()) if of == id_]
                assert self.databases.run(self.databases.store.attempts(id_)) == kept
            assert self.databases.run(self.databases.store.backlog()) == self.model.backlog()
            for change in self.model.changes:
                before = None if change.before is None else change.before.status
                self.databases.moves[before, change.after.status] += 1
        finally:
            self._clear()

    def _clear(self) -> None:
        """Leave nothing behind that the next example could find."""

        async def unfinished() -> list[Message]:
            found = await self.databases.store.find_all(list(self.additions))
            return [message for message in found if message.status in UNFINISHED]

        for message in self.databases.run(unfinished()):
            ended = message._replace(status=Status.REJECTED, claim=None, finished_at=EPOCH)
            self.databases.commit([("move", move_row(message, ended))])
        for process in PROCESSES:
            self.databases.commit([("leave", process)])

    def _after(self, before: Message, status: Status, later: int | None) -> Message:
        after = before.moved(status)
        match status:
            case Status.QUEUED:
                not_before = None if later is None else EPOCH + later
                return after._replace(claim=None, not_before=not_before, possible_duplicate=True)
            case Status.PUBLISHING:
                return after._replace(
                    claim=self.databases.new_claim(PROCESSES[0]), attempts=before.attempts + 1, not_before=None
                )
            case _:
                return after._replace(claim=None, not_before=None, finished_at=EPOCH, published_at=EPOCH)


@pytest.fixture
def databases(database_url: str) -> Iterator[Databases]:
    with asyncio.Runner() as runner:
        opened = contextlib.AsyncExitStack()
        store = runner.run(opened.enter_async_context(open_store(database_url)))
        yield Databases(store, runner)
        runner.run(opened.aclose())


def test_both_databases_move_messages_as_the_model_does(databases: Databases) -> None:
    run_state_machine_as_test(
        lambda: Messages(databases),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    moves = {(before, after) for before, afters in MOVES.items() for after in afters}
    made = {move for move in databases.moves if move[0] is not None}
    assert made <= moves
    # What the queue does by itself is made in any case.
    assert {(Status.QUEUED, Status.PUBLISHING), (Status.SCHEDULED, Status.QUEUED)} <= made


async def test_each_move_can_be_made_and_only_once(database_url: str) -> None:
    async with open_store(database_url) as store:
        moves = [(before, after) for before, afters in MOVES.items() for after in sorted(afters)]
        for number, (before, after) in enumerate(moves):
            path = _path_to(before)
            message = new_message(f"D{number}", path[0], claim=None, attempts=0, deliver_at=EPOCH)
            await store.add(message)
            for status in (*path[1:], after):
                older, message = message, message.moved(status)._replace(attempts=message.attempts + 1)
                assert await store.move(older, message) is True
                assert await store.move(older, message._replace(reason="another")) is False
                assert await store.find(message.id) == message


def _path_to(status: Status) -> tuple[Status, ...]:
    """The shortest way to a state from one in which a message begins."""
    paths: list[tuple[Status, ...]] = [(Status.SCHEDULED,), (Status.QUEUED,), (Status.PUBLISHING,)]
    for path in paths:
        if path[-1] is status:
            return path
        paths += [(*path, following) for following in sorted(MOVES[path[-1]]) if following not in path]
    raise AssertionError(status)
