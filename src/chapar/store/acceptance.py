"""Accepting a message: its key, what it withdraws, its place behind the device's backlog, and the bound of that."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, bindparam, select

from chapar.model.acceptance import Added, Addition, Full, IdempotencyKey, Placement, Sender
from chapar.model.audit import Action
from chapar.model.change import Cancelled, Change
from chapar.model.message import WAITING, Condition, Message, Status
from chapar.model.reason import Reason
from chapar.store.audit import add_entries
from chapar.store.change_log import all_written
from chapar.store.collapse import Found, lock_devices, withdraw, withdrawable, withdrawn_by
from chapar.store.database import run_on_driver
from chapar.store.idempotency import keep_keys, owners_of
from chapar.store.insertion import insert_messages
from chapar.store.lanes import IN_LANE, WAITING_FOR_REPLY, is_in_lane
from chapar.store.online import absent, must_be_online
from chapar.store.operations import Ambiguous, Kind, as_list
from chapar.store.pauses import keep_paused
from chapar.store.schema import (
    IS_OWED,
    IS_UNFINISHED,
    Row,
    is_short,
    messages,
    to_message,
    to_row,
    to_short_row,
    whole,
)

# What a partial index is for must stand in a query word by word and without parameters: SQLite proves no more. And
# `seq > 0`, which is always true, makes that index a better match than the one of all that the device ever had.
#
# What comes direct may follow only what came direct to the same process: that is on its way to the link already, in
# this order. Anything else of its device is in the queue, or taken from it and perhaps on its way back; but what waits
# for something besides its turn is nobody's predecessor.
_BACKLOG = f"""
    SELECT imei, NULL, count(CASE WHEN {IS_UNFINISHED} AND micro_op <> '' THEN 1 END),
        min(CASE WHEN {IS_UNFINISHED} AND micro_op <> '' THEN seq END),
        max(CASE WHEN (status = 'queued' AND (reason IS NULL OR reason = '{Reason.PAUSED}'))
            OR (status = 'publishing' AND claim <> {{direct}}) THEN 1 ELSE 0 END),
        max(CASE WHEN status = 'queued' AND reason = '{WAITING_FOR_REPLY}' THEN 1 ELSE 0 END),
        max(CASE WHEN {IN_LANE} AND status <> 'scheduled' AND NOT (status = 'queued' AND reason IS NOT NULL)
            THEN 1 ELSE 0 END),
        count(collapse_key), 0
    FROM {{messages_of_devices}} AND seq > 0 AND {{condition}}
    GROUP BY imei
    UNION ALL SELECT imei, profile, 0, NULL, 0, 0, 0, 0, 0 FROM {{devices}} AND profile IS NOT NULL
    UNION ALL SELECT imei, NULL, 0, NULL, 0, 0, 0, 0, CASE WHEN resumed_at IS NULL THEN 1 ELSE 2 END FROM {{pauses}}
"""  # noqa: S608 - made of constants
# All devices are one parameter: with one for each, every number of them would be a statement of its own. SQLite is
# made to begin with them, and PostgreSQL is not: else they would go through everything that is unfinished.
_BACKLOGS = {
    "sqlite": _BACKLOG.format(
        direct="?",
        messages_of_devices="json_each(?) AS device CROSS JOIN messages WHERE imei = device.value",
        devices="json_each(?) AS device CROSS JOIN devices WHERE imei = device.value",
        pauses="json_each(?) AS device CROSS JOIN pauses WHERE imei = device.value",
        condition="{condition}",
    ),
    "postgresql": _BACKLOG.format(
        direct="%s",
        messages_of_devices="messages WHERE imei = ANY (%s::text[])",
        devices="devices WHERE imei = ANY (%s::text[])",
        pauses="pauses WHERE imei = ANY (%s::text[])",
        condition="{condition}",
    ),
}
BACKLOGS_SQL = {dialect: sql.format(condition=IS_UNFINISHED) for dialect, sql in _BACKLOGS.items()}
"""What a new message meets of its device."""
LANES_SQL = {dialect: sql.format(condition=IS_OWED) for dialect, sql in _BACKLOGS.items()}
"""Likewise, where a reply is expected: what the device has yet to answer, too."""

_PLACE = select(messages.c.status, messages.c.claim, messages.c.reason, messages.c.profile).where(
    messages.c.id == bindparam("of_message")
)
_ID_AT = select(messages.c.id).where(messages.c.seq == bindparam("seq"))

Packed = tuple[Row, int, Row | None, Row | None, bool]
"""An addition as it crosses: the message, how many unfinished ones its device may have, the key, the sender, and
whether it withdraws all that waits."""
_Withdrawn = list[tuple[str, Row]]
"""Messages that were withdrawn: the state of each before, and the message as it stands now."""
_Placed = tuple[str, str | None, str | None, str, _Withdrawn]
"""Status, claim, reason and profile of a message that was added, and what it has withdrawn."""


@dataclass(slots=True)
class _Backlog:
    """The unfinished messages of one device, and what else of it matters to the next one."""

    profile: str | None = None  #: of the device; None: it has none of its own
    depth: int = 0
    front: int | None = None  #: the oldest one's seq, where it was there before
    blocked: bool = False  #: something has to leave before what comes now
    waits: bool = False  #: something waits for a reply, and what comes now is behind it
    unanswered: bool = False  #: something of its lane is on its way, or about to be, or is not answered
    paused: bool = False  #: nothing leaves for it
    unsure: bool = False  #: it is being paused or resumed: what comes now goes through the queue
    keyed: int = 0  #: messages with a collapse key
    first: str | None = None  #: the id of the first that joined in this batch

    def place(self, message: Message) -> Message:
        """Return a new message where it stands among these."""
        if self.profile is not None and self.profile != message.profile:
            message = message._replace(profile=self.profile)
        if message.status == _SCHEDULED:
            return message
        if message.condition == _CONTACT:
            return _queued(message, _WAITING_FOR_CONTACT)
        waits, reason = self._waits(message)
        if not waits:
            return message
        if must_be_online(message):  # it never waits
            return _rejected(message, _PAUSED if reason == _PAUSED else Reason.DEVICE_BUSY.value)
        return _queued(message, reason)

    def _waits(self, message: Message) -> tuple[bool, str | None]:
        """Return whether a new message has to wait, and for what besides its turn."""
        if self.paused:
            return True, _PAUSED
        if not message.urgent and (self.waits or (self.unanswered and is_in_lane(message))):
            return True, WAITING_FOR_REPLY
        is_behind = self.unsure or (self.blocked and not message.urgent)
        return is_behind and message.status == _PUBLISHING, None

    def join(self, message: Message) -> None:
        """A message was placed, and is one of these from now on."""
        self.depth += 1
        if self.first is None:
            self.first = message.id
        self.keyed += message.collapse_key is not None
        if message.status == _SCHEDULED:
            return
        if message.reason == WAITING_FOR_REPLY:
            self.waits = True
        elif message.reason is None:
            self.blocked |= message.status == _QUEUED
            self.unanswered = self.unanswered or is_in_lane(message)


def _queued(message: Message, reason: str | None) -> Message:
    return message._replace(status=Status.QUEUED, reason=reason, attempts=0, claim=None)


def _rejected(message: Message, reason: str) -> Message:
    at = message.created_at
    return message._replace(status=Status.REJECTED, reason=reason, attempts=0, claim=None, finished_at=at)


def packed_addition(addition: Addition) -> Packed:
    """An addition as it crosses."""
    message, max_depth, key, sender, purges = addition
    return to_short_row(message), max_depth, key and tuple(key), sender and tuple(sender), purges


def _unpacked_addition(packed: Packed) -> Addition:
    row, max_depth, key, sender, purges = packed
    return Addition(
        to_message(whole(row)),
        max_depth,
        None if key is None else IdempotencyKey._make(key),
        None if sender is None else Sender._make(sender),
        purges,
    )


def _placed(addition: Addition, result: tuple[Any, ...] | None) -> Added:
    """Return what came of an ADD. It crosses as None where the message was added as asked, and nothing withdrawn."""
    match result:
        case None:
            message = addition.message
            return Placement(message.status, message.claim, message.reason, message.profile)
        case (oldest,):
            return Full(str(oldest))
        case (status, claim, reason, profile, withdrawn):
            gone = tuple(Cancelled(Status(before), to_message(row)) for before, row in withdrawn)
            return Placement(Status(status), claim, reason, profile, gone)
        case owner:
            return IdempotencyKey._make(owner)


def _changes_of_add(addition: Addition, added: Added) -> Sequence[Change]:
    if not isinstance(added, Placement):
        return ()
    message = addition.message
    changes = [
        Change(gone.id, gone.imei, before, gone.status, gone.reason, message.created_at, gone)
        for before, gone in added.withdrawn
    ]
    now = added.of(message)
    reason = None if now is None else now.reason
    changes.append(Change(message.id, message.imei, None, added.status, reason, message.created_at, now))
    return changes


# As the rows have them: to compare with a member of an enum, or to look for one in a set, takes longer.
_REJECTED, _PUBLISHING = Status.REJECTED.value, Status.PUBLISHING.value
_QUEUED, _SCHEDULED = Status.QUEUED.value, Status.SCHEDULED.value
_PAUSED = Reason.PAUSED.value
_CONTACT, _WAITING_FOR_CONTACT = Condition.CONTACT.value, Reason.WAITING_FOR_CONTACT.value
_SENT = Action.SENT.value


def _add(connection: Connection, additions: Sequence[Packed]) -> Sequence[tuple[Any, ...] | None]:
    asked = [Message._make(whole(row)) for row, *_ in additions]
    is_plain = all(is_short(row) for row, *_ in additions)
    adding = _Adding(connection, asked, [key for _, _, key, *_ in additions], is_plain=is_plain)
    results = [adding.add(message, *addition) for message, addition in zip(asked, additions, strict=True)]
    return results if adding.finish() else [_again(connection, asked[0], purges=additions[0][-1])]


class _Adding:
    """Additions of one batch, and what each device has while they are added."""

    def __init__(
        self, connection: Connection, asked: Sequence[Message], keys: Sequence[Row | None], *, is_plain: bool
    ) -> None:
        """`is_plain`: none of the messages has any condition, and no reply is expected."""
        self._connection = connection
        self._alone = len(asked) == 1
        joining = [message for message in asked if message.status != _REJECTED]
        if not is_plain:
            self._lock(joining)
        used = {
            IdempotencyKey._make(key)[:2]: message.created_at
            for message, key in zip(asked, keys, strict=True)
            if key is not None
        }
        self._owners = owners_of(connection, used) if used else {}
        self._direct = next((message.claim for message in joining if message.claim is not None), "")
        self._expects = not is_plain and any(message.reply_within is not None for message in joining)
        self._backlogs: defaultdict[str, _Backlog] = defaultdict(_Backlog)
        self._read_backlogs({message.imei for message in joining})
        self._absent = {} if is_plain else self._read_absent(joining)
        self._keys: list[IdempotencyKey] = []
        self._rows: list[Row] = []
        self._new: set[str] = set()  # devices of which there are such rows
        self._entries: list[Row] = []

    def _lock(self, joining: Sequence[Message]) -> None:
        """See to it that two processes neither leave out each other's message of a key, nor both begin a lane."""
        keyed = [(each.imei, each.collapse_key) for each in joining if each.collapse_key is not None]
        lock_devices(self._connection, [*keyed, *((each.imei, "") for each in joining if is_in_lane(each))])

    def _read_absent(self, joining: Sequence[Message]) -> dict[str, str]:
        """Of the messages that may leave at once where their device is online: the devices that are not, and why."""
        direct = [each for each in joining if must_be_online(each) and each.status == _PUBLISHING]
        now = max((each.created_at for each in direct), default=0)
        return absent(self._connection, {each.imei for each in direct}, now)

    def _read_backlogs(self, imeis: Collection[str]) -> None:
        if not imeis:
            return
        sql = (LANES_SQL if self._expects else BACKLOGS_SQL)[self._connection.dialect.name]
        devices = as_list(self._connection, list(imeis))
        found = run_on_driver(self._connection, sql, (self._direct, devices, devices, devices)).fetchall()
        passed_over: dict[str, bool] = {}
        for imei, profile, depth, front, blocked, waits, unanswered, keyed, paused in found:
            backlog = self._backlogs[imei]
            if profile is not None:
                backlog.profile = profile
                continue
            if paused:
                passed_over[imei] = paused == 1
                continue
            backlog.depth, backlog.front, backlog.keyed = depth, front, keyed
            backlog.blocked, backlog.waits, backlog.unanswered = bool(blocked), bool(waits), bool(unanswered)
        if passed_over:
            self._pass_over(passed_over)

    def _pass_over(self, devices: Mapping[str, bool]) -> None:
        """Have what comes for these devices wait: each is paused, or was, and that is not over yet."""
        kept = keep_paused(self._connection, [imei for imei, is_paused in devices.items() if is_paused])
        for imei in devices:
            self._backlogs[imei].paused = imei in kept
            self._backlogs[imei].unsure = imei not in kept

    def _read_again(self, imei: str) -> None:
        del self._backlogs[imei]
        self._read_backlogs([imei])

    def add(
        self,
        asked: Message,
        row: Row,
        max_depth: int,
        key_row: Row | None,
        sender: Row | None,
        purges: bool,  # noqa: FBT001 - it crosses so
    ) -> tuple[Any, ...] | None:
        """Place a message, of which the rest is as it crosses, and keep it to be inserted; gives the result."""
        key = None if key_row is None else IdempotencyKey._make(key_row)
        if key is not None and self._owners.setdefault(key[:2], key).message_id != asked.id:
            return tuple(self._owners[key[:2]])
        placed = self._place(asked, max_depth, sender, purges=purges)
        if isinstance(placed, str):
            return (placed,)
        message, withdrawn = placed
        self._rows.append((None if sender is None else sender[0], *(row if message is asked else to_row(message))))
        if sender is not None:
            self._entries.append((asked.created_at, *sender, _SENT, asked.id, asked.imei, asked.micro_op, None))
        if key is not None and self._owners[key[:2]] is key:
            self._keys.append(key)
        if message is asked and not withdrawn:
            return None
        gone = [(str(before), to_row(each)) for before, each in withdrawn]
        return str(message.status), message.claim, message.reason, message.profile, gone

    def _place(
        self, asked: Message, max_depth: int, sender: Row | None, *, purges: bool
    ) -> tuple[Message, Sequence[Cancelled]] | str:
        """Return a message where it stands, and what it withdraws; where its queue is full, the id of its front."""
        # Rejected rows never block a device, no bound refuses them, and they withdraw nothing.
        if asked.status == _REJECTED:
            return asked, ()
        backlog = self._backlogs[asked.imei]
        reason = self._absent.get(asked.imei) if self._absent and not backlog.paused else None
        if reason is not None and asked.status == _PUBLISHING and must_be_online(asked):
            return _rejected(asked, reason), ()
        message = backlog.place(asked)
        if message.status == _REJECTED:
            return message, ()
        found: Found = []
        if purges or asked.collapse_key is not None:
            found, backlog = self._withdrawable(asked, backlog, purges=purges)
        depth = backlog.depth
        if found:
            depth -= sum(each.status in WAITING for _, each in found)
        if depth >= max_depth and _place(self._connection, asked.id) is None:
            oldest = self._connection.execute(_ID_AT, {"seq": backlog.front}).scalar_one_or_none()
            return oldest or str(backlog.first)
        withdrawn: Sequence[Cancelled] = ()
        if found:
            by = None if sender is None else Sender._make(sender)
            withdrawn = withdraw(self._connection, found, asked, by)
            self._read_again(asked.imei)
            backlog = self._backlogs[asked.imei]
            message = backlog.place(asked)
        backlog.join(message)
        self._new.add(asked.imei)
        return message, withdrawn

    def _withdrawable(self, message: Message, backlog: _Backlog, *, purges: bool) -> tuple[Found, _Backlog]:
        """Find what a new message withdraws; also gives its device's backlog, all of it in the database by then."""
        if not (backlog.depth if purges else backlog.keyed):
            return [], backlog
        if message.imei in self._new:
            self._insert()
            self._read_again(message.imei)
            backlog = self._backlogs[message.imei]
        # Where it is there, this is a repetition: what has come since must not be withdrawn by it.
        is_new = _place(self._connection, message.id) is None
        return withdrawable(self._connection, message, purges=purges) if is_new else [], backlog

    def finish(self) -> bool:
        """Insert everything; False where the only message was there already."""
        keep_keys(self._connection, self._keys)
        if not self._insert():
            return False
        add_entries(self._connection, self._entries)
        return True

    def _insert(self) -> bool:
        rows, self._rows = self._rows, []
        self._new.clear()
        if rows and insert_messages(self._connection, rows) < len(rows):
            if not self._alone:
                raise Ambiguous
            return False
        return True


def _again(connection: Connection, message: Message, *, purges: bool) -> _Placed | None:
    """The result of an addition that is repeated, because its answer was lost: where it stands counts."""
    place = _place(connection, message.id)
    if place is None:  # it has been removed since
        return None
    withdrawn = withdrawn_by(connection, message) if purges or message.collapse_key is not None else []
    return (*place, [(str(before), to_row(each)) for before, each in withdrawn])


def _place(connection: Connection, message_id: str) -> tuple[str, str | None, str | None, str] | None:
    """Status, claim, reason and profile of a message, None where it is not there."""
    found = connection.execute(_PLACE, {"of_message": message_id}).one_or_none()
    return None if found is None else tuple(found)


def _logged(additions: Sequence[Packed], results: Sequence[tuple[Any, ...] | None]) -> list[str]:
    """Return what `_changes_of_add` says, at a fraction of what that costs."""
    items = []
    for packed, result in zip(additions, results, strict=True):
        row = packed[0]
        if result is not None or not is_short(row):
            items += all_written(ADD.changed(packed, result))
        else:
            items.append(f'["{row[0]}","{row[1]}",null,"{row[_STATUS]}",null,{row[_CREATED]},{row[_ATTEMPTS]}]')
    return items


_STATUS, _CREATED, _ATTEMPTS = map(Message._fields.index, ("status", "created_at", "attempts"))

ADD: Final[Kind[Addition, Added]] = Kind(
    "add", _add, packed_addition, _placed, _changes_of_add, _unpacked_addition, _logged
)
