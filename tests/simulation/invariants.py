"""What must hold of a world that has come to rest."""

from collections import defaultdict
from collections.abc import Iterator

from chapar.delivery.outcomes import MAX_ATTEMPTS
from chapar.link.reason_codes import FIRST_FAILURE, NO_MATCHING_SUBSCRIBERS, TRANSIENT
from chapar.model.message import ANSWERED, FINAL_WORDS, UNFINISHED, Condition, Message, Status
from chapar.store.schema import PROCESS_LENGTH
from simulation.database import Change
from simulation.network import Passage
from simulation.world import CONTACT_WINDOW, EPOCH, OF_ID, Given, World

FEWEST_ENDS = 2  # sessions that end until what was in flight each time may be quarantined …
MOST_ENDS = 4  # … and until one process does quarantine it
SERVER_ERROR = 500
_SLACK = 0.1  # seconds from its contact to when the gateway received it, and clocks that were stepped meanwhile
_WITH_DEVICE = {Status.PUBLISHED, Status.ACKNOWLEDGED}
_WITH_BROKER = {*_WITH_DEVICE, Status.TIMED_OUT, *FINAL_WORDS}
_NOTHING_STORED = {400, 401, 403, 404, 409, 413, 415, 422, 429}


def broken(world: World) -> list[str]:
    """One sentence for each promise that the world broke."""
    return [sentence.replace(OF_ID, "m") for sentence in (*world.failures, *Verdict(world).sentences())]


class Verdict:
    """The invariants over one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._messages = world.messages
        self._heard: dict[str, list[Passage]] = defaultdict(list)
        self._left: dict[str, list[Passage]] = defaultdict(list)
        self._refused: dict[str, list[Passage]] = defaultdict(list)
        for passages, by_id in (
            (world.broker.heard, self._heard),
            (world.broker.left, self._left),
            (world.broker.refused, self._refused),
        ):
            for passage in passages:
                by_id[passage.message_id].append(passage)
        for id_, message in self._messages.items():
            if message.condition == Condition.CONTACT:  # where nobody listened, nobody heard it, and it is tried again
                self._heard[id_] = [each for each in self._heard[id_] if each.code != NO_MATCHING_SUBSCRIBERS]

    def sentences(self) -> Iterator[str]:
        for message in self._messages.values():
            for rule in (
                self._hearings,
                self._ending,
                self._broker,
                self._times,
                self._attempts,
                self._replies,
                self._stale,
            ):
                yield from rule(message)
        for id_ in self._left:
            if id_ not in self._messages:
                yield f"{id_} left, and is not stored"
        yield from self._pauses()
        yield from self._answers()
        yield from self._keys()
        yield from self._cancellations()
        yield from self._order()

    def _pauses(self) -> Iterator[str]:
        for pause in self._world.pauses:
            for message in self._messages.values():
                if message.imei != pause.imei or message.id in pause.in_flight:
                    continue
                if any(pause.since < passage.at < pause.until for passage in self._left[message.id]):
                    yield f"{message.id} left while its device was paused"
            for change in self._world.database.changes:
                waited = change.before is not None and change.before.reason == "paused"
                if waited and change.after.status is Status.EXPIRED and change.at > pause.over + 1:
                    yield f"{change.after.id} waited for a pause that was over"

    def _hearings(self, message: Message) -> Iterator[str]:
        heard = len(self._heard[message.id])
        if heard > 1 and not message.possible_duplicate:
            yield f"{message.id} was heard {heard} times and is no possible duplicate"
        if heard > 1 and message.at_most_once:
            yield f"{message.id} was heard {heard} times, and may be at most once"
        if message.status in _WITH_BROKER and not heard:
            yield f"{message.id} is {message.status}, and nobody heard it"
        never_sent = message.status in {Status.CANCELLED, Status.EXPIRED, Status.REJECTED}
        if never_sent and heard and not message.possible_duplicate:
            yield f"{message.id} is {message.status} ({message.reason}), and was heard"

    def _ending(self, message: Message) -> Iterator[str]:
        status = message.status
        if status in UNFINISHED:
            yield f"{message.id} is still {status}"
        is_open = status in UNFINISHED or (status in _WITH_DEVICE and message.reply_within is not None)
        if message.finished_at is None and not is_open:
            yield f"{message.id} is {status} and finished_at is {message.finished_at}"
        if status not in UNFINISHED and message.claim is not None:
            yield f"{message.id} is {status} and still claimed"
        if status is Status.UNCONFIRMED and not message.at_most_once and not message.superseded_by:
            yield f"{message.id} is unconfirmed, and was to be sent again"
        if message.reason == "broker_unreachable" and self._left[message.id]:
            yield f"{message.id} is broker_unreachable, and left"

    def _broker(self, message: Message) -> Iterator[str]:
        """Whether the broker said, and did, what the message says that it did."""
        ended = self._world.broker.ended_sessions[message.id]
        allowed = MOST_ENDS * len(self._world.processes)
        if ended > allowed:
            yield f"{message.id} was in flight whenever {ended} sessions ended, and {allowed} are enough"
        if message.reason == "quarantined":
            if ended < FEWEST_ENDS:
                yield f"{message.id} is quarantined, and was not in flight at two ends of sessions"
        elif message.reason_code is not None and message.reason_code >= FIRST_FAILURE:
            invalid = self._world.by_name[message.micro_op].kind == "too large"
            if not invalid and message.reason_code not in {passage.code for passage in self._refused[message.id]}:
                yield f"{message.id} is {message.reason}, and the broker never said so"

    def _times(self, message: Message) -> Iterator[str]:
        for passage in self._left[message.id]:
            if message.deliver_at is not None and passage.latest_clock < message.deliver_at:
                yield f"{message.id} left {message.deliver_at - passage.latest_clock} ms early"
            if message.expires_at is not None and passage.clock > message.expires_at:
                yield f"{message.id} left {passage.clock - message.expires_at} ms too late"

    def _attempts(self, message: Message) -> Iterator[str]:
        kept = {attempt.attempt for attempt in self._world.attempts if attempt.message_id == message.id}
        if len(self._left[message.id]) > message.attempts:
            yield f"{message.id} left {len(self._left[message.id])} times, and counts {message.attempts} attempts"
        for number in range(1, message.attempts):
            if number not in kept:
                yield f"attempt {number} of {message.id} is not in its history {kept}"
        if kept and max(kept) > message.attempts:
            yield f"the history {kept} of {message.id} has more than its {message.attempts} attempts"

    def _replies(self, message: Message) -> Iterator[str]:
        """Whether the device's word stands, and nothing that no device said."""
        words = [word for word in self._world.devices.words if word.message_id == message.id]
        final = next((word.status for word in words if word.status in FINAL_WORDS), None)
        by_order = any(word.by_order for word in words)
        if message.status in ANSWERED and message.status not in {word.status for word in words}:
            yield f"{message.id} is {message.status}, and its device never said so"
        if final is not None and message.status in FINAL_WORDS and message.status is not final and not by_order:
            yield f"{message.id} is {message.status}, and its device said first that it {final}"
        if by_order or not words:
            return
        if final is not None and message.status is not final:
            yield f"{message.id} is {message.status}, and its device said that it {final}"
        if final is None and message.status not in {Status.ACKNOWLEDGED, Status.TIMED_OUT}:
            yield f"{message.id} is {message.status}, and its device said that it is at work"

    def _stale(self, message: Message) -> Iterator[str]:
        """Whether it left although something newer took its place, or its device had not spoken."""
        withdrawn = next((each for each in self._world.database.changes if _withdraws(each, message.id)), None)
        for passage in self._left[message.id]:
            if withdrawn is not None and passage.at > withdrawn.at and passage.attempt > withdrawn.after.attempts:
                yield f"{message.id} left as attempt {passage.attempt} after {message.superseded_by} took its place"
            spoke = (at for at, imei in self._world.devices.contacts if imei == message.imei and at <= passage.at)
            if (
                message.condition == Condition.CONTACT
                and passage.at - max(spoke, default=-1e9) > CONTACT_WINDOW + _SLACK
            ):
                yield f"{message.id} left, and its device had not spoken"

    def _answers(self) -> Iterator[str]:
        for request in self._world.requests:
            ids = {id_ for id_, message in self._messages.items() if message.micro_op == request.name}
            originals = {id_ for id_ in ids if self._messages[id_].origin is None}
            for given in request.given:
                yield from self._answer(request.name, given)
            statuses = {given.status for given in request.given}
            if statuses and not request.lost and statuses <= _NOTHING_STORED and originals:
                yield f"{request.name} was answered {statuses}, and {originals} are stored"
            if request.key is not None:
                heard = [id_ for id_ in originals if self._heard[id_]]
                if heard and any(given.status == 406 and given.message_id is None for given in request.given):
                    yield f"{request.name} was answered that nothing was saved, and {heard} were heard"
                if len(heard) > 1:
                    yield f"{request.name} has one key, and {heard} were heard"
        for given in self._world.resent:
            yield from self._answer("resend", given)

    def _answer(self, name: str, given: Given) -> Iterator[str]:
        if given.status == SERVER_ERROR:
            yield f"{name} was answered {given.status}"
        if given.status not in {201, 202, 406} or given.message_id is None:  # None: nothing was saved
            return
        message = self._messages.get(given.message_id)
        if message is None:
            yield f"{name} was answered {given.status} for {given.message_id}, which is not stored"
            return
        heard = len(self._heard[message.id])
        if given.status == 201 and message.status not in _WITH_BROKER:
            yield f"{name} was answered 201, and {message.id} is {message.status}"
        if given.status == 201 and heard != 1 and not message.possible_duplicate:
            yield f"{name} was answered 201, and {message.id} was heard {heard} times"
        if given.status == 202 and self._was_given_up(message, given.at):
            yield f"{name} was answered 202, and {message.id} was given up: {message.reason}"
        if given.status == 406 and heard:
            yield f"{name} was answered 406, and {message.id} ({message.status}, {message.reason}) was heard"

    def _was_given_up(self, message: Message, answered: float) -> bool:
        """Whether it ended, after it was promised that it would wait, for a reason that lets a message wait."""
        if message.reason == "outcome_unknown":
            return True
        if message.condition == Condition.ONLINE:  # it waits for nothing but its time
            return False
        too_early = message.reason_code in TRANSIENT and message.attempts < MAX_ATTEMPTS
        return (too_early or message.reason == "broker_unreachable") and self._ended_at(message) > answered

    def _ended_at(self, message: Message) -> float:
        """Loop time at which a process decided that the message was at its end; its commit comes later."""
        for change in self._world.database.changes:
            if change.after.id == message.id and change.after.status is message.status and change.before is not None:
                owner = int((change.before.claim or "0")[:PROCESS_LENGTH], 16)
                offset = self._world.processes[owner - 1].clock.offset if owner else 0
                return ((message.finished_at or 0) - EPOCH - offset) / 1000
        return 0.0

    def _keys(self) -> Iterator[str]:
        for request in self._world.requests:
            if request.key is None:
                continue
            final = [given for given in request.given if given.status in {201, 202, 406} and given.message_id]
            never_sent = [given for given in final if self._reason(given) == "outcome_unknown"]
            if len({given.message_id for given in final if given not in never_sent}) > 1:
                yield f"{request.name}: one key made {[given.message_id for given in final]}"
            elif len({(given.message_id, given.status, given.body) for given in final}) > len(
                {given.message_id for given in final}
            ):
                yield f"{request.name}: replays differ: {[(given.status, given.body) for given in final]}"

    def _reason(self, given: Given) -> str | None:
        message = self._messages.get(given.message_id or "")
        return None if message is None else message.reason

    def _cancellations(self) -> Iterator[str]:
        for at, id_, status in self._world.cancelled:
            message = self._messages.get(id_)
            if status != 200 or message is None:
                continue
            if message.status is not Status.CANCELLED:
                yield f"{id_} was cancelled, and is {message.status}"
            if any(passage.at > at for passage in self._left[id_]) and not message.possible_duplicate:
                yield f"{id_} was cancelled, and left afterwards"

    def _order(self) -> Iterator[str]:
        first_left = _first(self._world.broker.left)
        first_heard = _first(self._world.broker.heard)
        excused = self._excused_from_order()
        for first, second in self._in_order_of_acceptance():
            if first in first_left and second in first_left and first_left[second] < first_left[first]:
                yield f"{second} left before {first}, which was accepted before it"
            elif (
                first not in excused
                and first in first_heard
                and second in first_heard
                and first_heard[second] < first_heard[first]
            ):
                yield f"{second} was heard before {first}, which was accepted before it"

    def _in_order_of_acceptance(self) -> Iterator[tuple[str, str]]:
        """Each two messages of one device of which the first has to go first."""
        entered: dict[str, int] = {}  # when it was in the queue: a scheduled message is not before its time
        for place, change in enumerate(self._world.database.changes):
            if change.after.status is not Status.SCHEDULED:
                entered.setdefault(change.after.id, place)
        taken_over = {each.message_id for each in self._world.attempts if each.outcome == "process_died"}
        by_device: dict[str, list[str]] = defaultdict(list)
        for id_, message in self._messages.items():
            for first in by_device[message.imei]:
                # Where its process was taken for dead, others went on; it may only have been slow, and send it still.
                is_passed = message.urgent or self._messages[first].condition == Condition.CONTACT
                if first not in taken_over and not is_passed and entered.get(first, 0) < entered.get(id_, 0):
                    yield first, id_
            by_device[message.imei].append(id_)

    def _excused_from_order(self) -> set[str]:
        """Messages that left in order, and that the broker may pass on after later ones."""
        put_off = {id_ for id_, passages in self._refused.items() if any(each.code in TRANSIENT for each in passages)}
        # QoS 2 is released with PUBREL, when others are through; for QoS 0 nobody waits at all.
        return put_off | {id_ for id_, message in self._messages.items() if message.qos != 1}


def _withdraws(change: Change, message_id: str) -> bool:
    """Return whether a change notes that something newer takes the place of a message."""
    before, after = change.before, change.after
    return (
        after.id == message_id and before is not None and after.superseded_by is not None and not before.superseded_by
    )


def _first(passages: list[Passage]) -> dict[str, int]:
    first: dict[str, int] = {}
    for place, passage in enumerate(passages):
        first.setdefault(passage.message_id, place)
    return first
