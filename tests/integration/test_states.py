"""Whatever is asked in whatever order: messages keep the rules of their states, PostgreSQL answers as SQLite does."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from itertools import takewhile
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from chapar.model.acceptance import UNBOUNDED, Added, Addition, Full, IdempotencyKey, KeptAnswer, Placement, Withdrawal
from chapar.model.change import Change, Move
from chapar.model.message import ANSWERED, FINAL_WORDS, MOVES, MUTABLE, UNFINISHED, Attempt, Message, Status, clearing
from chapar.model.queue import Lease
from chapar.model.reason import Reason
from chapar.model.reply import Unmatched, read_reply
from chapar.store.idempotency import owner_of
from chapar.store.kinds import KINDS
from chapar.store.messages import attempts_of
from chapar.store.queue import Settle, Take, backlog
from chapar.store.retained import TakeBack
from chapar.store.schema import PROCESS_LENGTH
from chapar.store.store import Store
from support.callers import cancelling
from support.fakes import EPOCH
from support.memory_database import WatchedDatabase
from support.stores import add_one, move_one, new_message, open_store, single

EXAMPLES: Final = 100
ON_A_SERVER: Final = 25
STEPS: Final = 40

DEVICES = ("A", "B")
PROCESSES = ("000000000000000a", "000000000000000b")
TIMES = st.integers(0, 5)  # ms since EPOCH: few, so that they meet

BY_NAME = {kind.name: kind for kind in KINDS}
BEGINNINGS = {Status.SCHEDULED, Status.QUEUED, Status.PUBLISHING, Status.REJECTED}
WAITING = {Status.SCHEDULED, Status.QUEUED}
WITH_DEVICE = {Status.PUBLISHED, Status.ACKNOWLEDGED}

Operation = tuple[str, Any]
Changed = tuple[Message | None, Message]


class Database(WatchedDatabase):
    """SQLite in memory, and what the last commit changed."""

    def __init__(self) -> None:
        super().__init__(lambda: EPOCH)
        self.changes: list[Changed] = []

    def changed(self, before: Message | None, after: Message) -> None:
        self.changes.append((before, after))


class Server:
    """PostgreSQL, and the loop that its store lives in."""

    def __init__(self, store: Store, runner: asyncio.Runner) -> None:
        self.store = store
        self._runner = runner

    def run(self, wanted: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(wanted)

    def ask(self, *operations: Operation) -> list[Any]:
        """Ask for everything in one turn of the loop, so that it shares a batch."""

        async def commit() -> list[Any]:
            submit = self.store.messages._commits.submit
            asked = [single(submit(BY_NAME[kind], [arguments])) for kind, arguments in operations]
            return list(await asyncio.gather(*asked))

        return list(self.run(commit()))

    def clear(self, ids: Sequence[str]) -> None:
        """Leave nothing behind that the next example could find."""
        for message in self.run(self.store.messages.find_all(ids)):
            if message.finished_at is None:  # its device may have it, and is to answer it yet
                ended = message._replace(status=Status.REJECTED, claim=None, not_before=None, finished_at=EPOCH)
                self.ask(("move", Move(message, ended, EPOCH)))
        for process in PROCESSES:
            self.ask(("release_lease", process))


def check(before: Message | None, after: Message) -> None:
    """The rules of each change."""
    assert (after.claim is not None) == (after.status is Status.PUBLISHING)
    is_awaited = after.finished_at is None and after.reply_by is not None and after.status in WITH_DEVICE
    assert (after.finished_at is None) == (after.status in UNFINISHED or is_awaited)
    assert after.not_before is None or after.status is Status.QUEUED
    if before is None:
        assert after.status in BEGINNINGS
        return
    changed = {name for name in Message._fields if getattr(before, name) != getattr(after, name)}
    assert changed <= {*MUTABLE, "reply"}
    assert before.status not in FINAL_WORDS or changed <= {"reply", "published_at", "reason_code", "subscribers"}
    if after.reason == "superseded":
        assert (before.status, after.status, before.clears) == (Status.PUBLISHING, Status.CANCELLED, True)
    elif after.status is not before.status:
        assert after.status in MOVES[before.status]
    if (before.status, after.status) == (Status.QUEUED, Status.PUBLISHING):
        assert after.attempts == before.attempts + 1


class Messages(RuleBasedStateMachine):
    """Anything that a gateway asks of SQLite, and of PostgreSQL where that is given: then both must say the same."""

    messages = Bundle("messages")  # ids
    takes = Bundle("takes")

    def __init__(self, server: Server | None, moves: Counter[tuple[Status | None, Status]]) -> None:
        super().__init__()
        self.database = Database()
        self.server = server
        self.moves = moves
        self.alive: set[str] = set()
        self.additions: dict[str, Operation] = {}
        self.principal = new_message().id  # nobody else's keys

    @property
    def now(self) -> dict[str, Message]:
        """What is kept, in the order of acceptance."""
        return self.database.by_id

    def ask(self, *operations: Operation) -> list[Any]:
        self.database.changes.clear()
        found = self.database.ask(*operations)
        if self.server is not None:
            assert self.server.ask(*operations) == found, operations
        for before, after in self.database.changes:
            check(before, after)
            self.moves[None if before is None else before.status, after.status] += 1
        self._check_announced(operations, found)
        return found

    def _check_announced(self, operations: Sequence[Operation], found: Sequence[Any]) -> None:
        """What the operations say that they have changed is what was changed."""
        told: dict[str, Change] = {}
        for kind in KINDS:
            for (name, arguments), result in zip(operations, found, strict=True):
                if name == kind.name and kind.changes is not None:
                    for change in kind.changes(arguments, result):
                        before = told[change.id].before if change.id in told else change.before
                        told[change.id] = change._replace(before=before)
        for _, after in self.database.changes:
            at_first = next(first for first, each in self.database.changes if each.id == after.id)
            was, now = None if at_first is None else at_first.status, self.now[after.id]
            if was is not now.status:
                assert told[after.id].before is was, "each change is announced"
        for change in told.values():
            now = self.now[change.id]
            assert (change.imei, change.after) == (now.imei, now.status)
            if change.before is not None or any(after.id == change.id for _, after in self.database.changes):
                self._check_content(change, now)

    @staticmethod
    def _check_content(change: Change, now: Message) -> None:
        # What is queued may have to wait for a reply, or not any more, since what else the same commit did.
        of_lanes = {None, Reason.WAITING_FOR_REPLY.value}
        reasons = of_lanes if now.status is Status.QUEUED and now.reason in of_lanes else {now.reason}
        assert change.reason in reasons
        if change.message is not None:
            assert change.message.reason in reasons
            assert change.message._replace(reason=now.reason) == now

    def new_claim(self, process: str) -> str:
        return f"{process}.{new_message().id}"

    @rule(
        target=messages,
        imei=st.sampled_from(DEVICES),
        status=st.sampled_from([Status.SCHEDULED, Status.QUEUED, Status.PUBLISHING, Status.REJECTED]),
        process=st.sampled_from(PROCESSES),
        times=st.tuples(TIMES, TIMES),
        expires=st.booleans(),
        kind=st.tuples(st.booleans(), st.booleans(), st.none() | st.integers(1, 3)),
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
        kind: tuple[bool, bool, int | None],
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
            at_most_once=kind[0],
            retain=kind[1],
            finished_at=EPOCH if status is Status.REJECTED else None,
            reply_within=kind[2],
        )
        use = (
            None
            if key is None
            else IdempotencyKey(self.principal, key, "f", message.id, process, None, None, EPOCH + 60_000)
        )
        self.additions[message.id] = ("add", Addition(message, max_depth, use))
        before = [other for other in self.now.values() if other.imei == imei and other.status in UNFINISHED]
        (added,) = self.ask(self.additions[message.id])
        self._check_added(message, max_depth, before, added)
        return message.id

    def _check_added(self, message: Message, max_depth: int, before: Sequence[Message], added: Added) -> None:
        """The rules of what is accepted behind what its device had `before`."""
        is_full = len([other for other in before if not other.clears]) >= max_depth
        match added:
            case Full(oldest):
                assert is_full
                assert oldest == next(other.id for other in before if not other.clears)
            case IdempotencyKey():
                assert added.message_id != message.id
            case Placement(status=status, claim=claim):
                assert not is_full or status is Status.REJECTED
                goes_behind = any(
                    other.status is Status.QUEUED
                    or (other.status is Status.PUBLISHING and other.claim != message.claim)
                    for other in before
                )
                is_in_lane = message.reply_within is not None and any(
                    other.reply_within is not None for other in self._with_device(message)
                )
                if message.status is Status.PUBLISHING and (goes_behind or is_in_lane):
                    assert (status, claim) == (Status.QUEUED, None)
                else:
                    assert (status, claim) == (message.status, message.claim)
        assert (message.id in self.now) == isinstance(added, Placement)

    def _with_device(self, message: Message) -> list[Message]:
        """Other messages of its device on their way, or with it, which it may answer yet."""
        on_its_way = {Status.PUBLISHING, Status.PUBLISHED, Status.ACKNOWLEDGED}
        return [
            other
            for other in self.now.values()
            if other.imei == message.imei
            and other.id != message.id
            and other.status in on_its_way
            and other.finished_at is None
        ]

    @rule(id_=messages)
    def add_again(self, id_: str) -> None:
        (found,) = self.ask(self.additions[id_])
        if (message := self.now.get(id_)) is not None and not isinstance(found, IdempotencyKey):
            assert found == Placement(message.status, message.claim, message.reason)

    @rule(id_=messages)
    def withdraw(self, id_: str) -> None:
        added, _, key, *_ = self.additions[id_][1]
        never = added._replace(
            status=Status.REJECTED, reason="outcome_unknown", attempts=0, claim=None, finished_at=EPOCH
        )
        (withdrawn,) = self.ask(("withdraw", Withdrawal(never, added.claim, key)))
        if withdrawn is not None:
            assert self.now[id_].status in {Status.REJECTED, Status.CANCELLED}
        else:
            assert self.database.changes == []

    @rule(target=takes, process=st.sampled_from(PROCESSES), limit=st.integers(0, 3), at=TIMES)
    def take(self, process: str, limit: int, at: int) -> Take:
        take = Take(self.new_claim(process), limit, EPOCH + at)
        self.ask(("take", take))
        self._check_taken(take)
        return take

    def _check_taken(self, take: Take) -> None:
        """The rules of what is taken and of what is left."""
        for message in self.now.values():
            if message.status in WAITING:
                assert message.expires_at is None or message.expires_at > take.at
                assert message.not_before is None or message.not_before > take.at
            if message.status is Status.SCHEDULED:
                assert message.deliver_at is not None
                assert message.deliver_at > take.at
        taken = [after for before, after in self.database.changes if before and after.claim == take.claim]
        assert len(taken) <= take.limit
        for message in taken:
            of_device = [other for other in self.now.values() if other.imei == message.imei]
            earlier = takewhile(lambda other, message=message: other.id != message.id, of_device)
            assert Status.QUEUED not in {other.status for other in earlier}
            owners = {(other.claim or "")[:PROCESS_LENGTH] for other in of_device if other.status is Status.PUBLISHING}
            assert owners <= {take.claim[:PROCESS_LENGTH]}

    @rule(take=takes)
    def take_again(self, take: Take) -> None:
        self.ask(("take", take))

    @rule(id_=messages, choices=st.lists(st.integers(0, 5), min_size=1, max_size=4), later=st.none() | TIMES)
    def move_on(self, id_: str, choices: list[int], later: int | None) -> None:
        for choice in choices:
            before = self.now.get(id_)
            # A reply makes the moves of a device, and makes none where nothing was sent.
            moves = [] if before is None else sorted(MOVES[before.status] - ANSWERED)
            if before is None or not moves:
                return
            status = moves[choice % len(moves)]
            assert self.ask(("move", Move(before, self._after(before, status, later), EPOCH))) == [True]
            assert self.now[id_].status is status

    @rule(id_=messages, later=TIMES)
    def give_back_untried(self, id_: str, later: int) -> None:
        before = self.now.get(id_)
        if before is not None and before.status is Status.PUBLISHING:
            back = before.moved(Status.QUEUED, attempts=before.attempts - 1, claim=None, not_before=EPOCH + later)
            assert self.ask(("move", Move(before, back, EPOCH))) == [True]

    @rule(id_=messages, status=st.sampled_from(list(Status)))
    def move_where_it_may_not(self, id_: str, status: Status) -> None:
        before = self.now.get(id_)
        if before is not None and status not in MOVES[before.status]:
            with pytest.raises(ValueError, match="does not move"):
                before.moved(status)

    @rule(id_=messages, status=st.sampled_from([Status.PUBLISHED, Status.QUEUED]))
    def move_from_an_older_attempt(self, id_: str, status: Status) -> None:
        now = self.now.get(id_)
        if now is None:
            return
        before = now._replace(status=Status.PUBLISHING, attempts=now.attempts + 1, claim=f"{PROCESSES[0]}.gone")
        (moved,) = self.ask(("move", Move(before, self._after(before, status, None), EPOCH)))
        device_was_first = now.status in {*ANSWERED, Status.TIMED_OUT}
        assert moved == (self.now[id_] if device_was_first else False)
        expected = now
        if device_was_first and status is Status.PUBLISHED and now.published_at is None:
            expected = now._replace(published_at=EPOCH)
        assert self.now[id_] == expected

    @rule(
        id_=messages,
        word=st.sampled_from(["running", "done", "failed", "?"]),
        at=TIMES,
        by_name=st.booleans(),
        repeated=st.booleans(),
    )
    def receive(self, id_: str, word: str, at: int, *, by_name: bool, repeated: bool) -> None:
        before = self.now.get(id_)
        if before is None:
            return
        # On a server, what earlier examples left could be answered by order.
        named = {"id": id_, "status": word} if by_name or self.server is not None else {}
        payload = json.dumps({"of": self.principal} | named) if named else f"push_down {word} {self.principal}"
        received = read_reply(
            payload.encode(), None, (), device=before.imei, topic="reply", at=EPOCH + at, is_repeated=repeated
        )
        (receipt,) = self.ask(("receive", received))
        if receipt.message is None:
            assert receipt.unmatched is (Unmatched.NOT_SENT if named else receipt.unmatched)
            assert not (named and before.attempts)
            assert self.database.changes == []
            return
        assert receipt.message == self.now[receipt.message.id]
        # What the broker delivers again changes nothing, also where time has run out meanwhile.
        assert receipt.message.status in ANSWERED or (repeated and self.database.changes == [])
        assert receipt.message.attempts > 0

    @rule(id_=messages, at=TIMES)
    def cancel(self, id_: str, at: int) -> None:
        before = self.now.get(id_)
        (cancelled,) = self.ask(("cancel", cancelling(id_, EPOCH + at)))
        assert (cancelled is None) == (before is None)
        if before is not None:
            ended = (Status.CANCELLED, "cancelled", EPOCH + at)
            is_repeated = (before.status, before.reason, before.finished_at) == ended
            assert cancelled.won == (before.status in WAITING or is_repeated)
            assert cancelled.message == self.now[id_]

    @rule(target=messages, id_=messages, due=st.none() | TIMES)
    def take_back(self, id_: str, due: int | None) -> str:
        retained = self.now.get(id_)
        if retained is None:
            return id_
        empty = clearing(retained, EPOCH * 1_000_000, None if due is None else EPOCH + due)
        empty = empty._replace(id=new_message().id)  # chance begins anew with each example: another may have had its id
        self.additions[empty.id] = ("add", Addition(empty))
        self.ask(("take_back", TakeBack(empty, None)))
        return empty.id if empty.id in self.now else id_

    @rule(process=st.sampled_from(PROCESSES), seconds=st.sampled_from([0, 3600]))
    def hold(self, process: str, seconds: int) -> None:
        # In memory time stands still, so a lease of 0 s is over; on a server it has begun before it is asked about.
        self.ask(("acquire_lease", Lease(process, "a test", -3600 if seconds == 0 else seconds, alone=False)))
        self.alive = self.alive | {process} if seconds else self.alive - {process}

    @rule(process=st.sampled_from(PROCESSES))
    def leave(self, process: str) -> None:
        self.ask(("release_lease", process))
        self.alive.discard(process)

    @rule(process=st.sampled_from(PROCESSES), at=TIMES)
    def settle(self, process: str, at: int) -> None:
        (settled,) = self.ask(("settle", Settle(process, EPOCH + at)))
        assert len(settled) == len(self.database.changes)
        owners = {message.claim[:PROCESS_LENGTH] for message in self.now.values() if message.claim is not None}
        assert owners <= self.alive | {process}

    @rule(id_=messages, number=st.integers(1, 3), outcome=st.sampled_from(["published", "link_lost"]))
    def record(self, id_: str, number: int, outcome: str) -> None:
        self.ask(("record", Attempt(id_, number, EPOCH, PROCESSES[0], outcome, None)))

    @rule(name=st.sampled_from(["k1", "k2"]), status=st.sampled_from([201, 202]))
    def answer(self, name: str, status: int) -> None:
        key = self.database.read(lambda connection: owner_of(connection, (self.principal, name), EPOCH))
        if key is not None:
            (answered,) = self.ask(("answer", KeptAnswer(key, status, "{}")))
            assert answered == key._replace(answer_status=key.answer_status or status, answer_body="{}")

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
            self.additions[message.id] = ("add", Addition(message))
            added.append(self.additions[message.id])
        take = ("take", Take(self.new_claim(process), 2, EPOCH + at))
        self.ask(*((take, *added) if take_first else (*added, take)))

    @rule(id_=consumes(messages), at=TIMES, process=st.sampled_from(PROCESSES))
    def cancel_while_it_is_taken(self, id_: str, at: int, process: str) -> None:
        take = ("take", Take(self.new_claim(process), 2, EPOCH + at))
        self.ask(take, ("cancel", cancelling(id_, EPOCH + at)))

    @invariant()
    def what_changed_is_what_is_kept(self) -> None:
        assert self.database.messages() == [*self.now.values()]
        if self.server is not None:
            found = {
                message.id: message for message in self.server.run(self.server.store.messages.find_all([*self.now]))
            }
            assert found == self.now

    def teardown(self) -> None:
        if self.server is None:
            return
        try:
            for id_ in self.now:
                kept = self.database.read(lambda connection, id_=id_: attempts_of(connection, id_))
                assert self.server.run(self.server.store.messages.attempts(id_)) == kept
            assert self.server.run(self.server.store.queue.backlog()) == self.database.read(backlog)
        finally:
            self.server.clear([*self.additions])

    def _after(self, before: Message, status: Status, later: int | None) -> Message:
        after = before.moved(status)
        match status:
            case Status.QUEUED:
                not_before = None if later is None else EPOCH + later
                return after._replace(claim=None, not_before=not_before, possible_duplicate=True)
            case Status.PUBLISHING:
                return after._replace(claim=self.new_claim(PROCESSES[0]), attempts=before.attempts + 1, not_before=None)
            case Status.PUBLISHED if before.reply_within is not None:
                return after._replace(
                    claim=None, published_at=EPOCH, reply_by=EPOCH + before.reply_within, finished_at=None
                )
            case _:
                return after._replace(claim=None, not_before=None, finished_at=EPOCH, published_at=EPOCH)


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest) -> Iterator[Server | None]:
    if request.param == "sqlite":
        yield None
        return
    with asyncio.Runner() as runner:
        opened = contextlib.AsyncExitStack()
        store = runner.run(opened.enter_async_context(open_store(request.getfixturevalue("postgres_url"))))
        yield Server(store, runner)
        runner.run(opened.aclose())


def test_whatever_is_asked_the_rules_of_the_states_are_kept(server: Server | None) -> None:
    moves: Counter[tuple[Status | None, Status]] = Counter()
    run_state_machine_as_test(
        lambda: Messages(server, moves),
        settings=settings(
            max_examples=EXAMPLES if server is None else ON_A_SERVER,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    if server is None:  # so many examples make in any case what the queue does by itself
        assert {(Status.QUEUED, Status.PUBLISHING), (Status.SCHEDULED, Status.QUEUED)} <= moves.keys()


async def test_each_move_can_be_made_and_only_once(database_url: str) -> None:
    async with open_store(database_url) as store:
        moves = [(before, after) for before, afters in MOVES.items() for after in sorted(afters)]
        for number, (before, after) in enumerate(moves):
            path = _path_to(before)
            message = new_message(f"D{number}", path[0], claim=None, attempts=0, deliver_at=EPOCH)
            await add_one(store, message)
            for status in (*path[1:], after):
                older, message = message, message.moved(status)._replace(attempts=message.attempts + 1)
                assert await move_one(store, older, message) is True
                is_the_devices = status in {*ANSWERED, Status.TIMED_OUT}
                moved = await move_one(store, older, message._replace(reason="another"))
                assert moved == (message if is_the_devices else False)
                assert await store.messages.find(message.id) == message


def _path_to(status: Status) -> tuple[Status, ...]:
    """The shortest way to a state from one in which a message begins."""
    paths: list[tuple[Status, ...]] = [(Status.SCHEDULED,), (Status.QUEUED,), (Status.PUBLISHING,)]
    for path in paths:
        if path[-1] is status:
            return path
        paths += [(*path, following) for following in sorted(MOVES[path[-1]]) if following not in path]
    raise AssertionError(status)
