"""The tables as this version of the program writes them. `migrations/` brings a database to this shape."""

from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Computed,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    and_,
    or_,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from chapar.model.message import OWED, UNFINISHED, Message, Status

metadata = MetaData()
sqlite_metadata = MetaData()
"""Tables that only SQLite has."""

PROCESS_LENGTH = 16
"""Characters of a process's token; every claim of the process begins with it."""

# SQLite numbers rows by itself only where the type is exactly INTEGER.
_SEQUENCE = BigInteger().with_variant(Integer, "sqlite")

# Ids are compared byte by byte, also where the database sorts text by a language's rules: a page's cursor and
# the bounds of a time range are ids.
_ID = String(36).with_variant(String(36, collation="C"), "postgresql")
_DEVICE = String(64).with_variant(String(64, collation="C"), "postgresql")


def _partial(name: str, where: str, *columns: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


WAKE_AT = """CASE
    WHEN status = 'scheduled' THEN deliver_at
    WHEN status = 'queued' AND (not_before IS NULL OR not_before > expires_at) THEN expires_at
    WHEN status = 'queued' THEN not_before
END"""
"""When time does something to a message: it becomes due, may be tried again, or expires."""

# Conditions of the two indexes by status. SQLite uses a partial index only for a query that says so word by word.
IS_OPEN = "finished_at IS NULL"
_IS_AT_REST = "status <> 'publishing'"

IS_AWAITED = "reply_by IS NOT NULL AND finished_at IS NULL"
"""Whether a message's reply is awaited until a time."""
IS_RELEASED = "contact_until IS NOT NULL AND status = 'queued'"
"""Whether a contact lets a message leave until a time."""
_MAY_LEAVE = "status = 'queued' AND reason IS NULL"
IS_READY = f"{_MAY_LEAVE} AND NOT urgent"
"""Whether a message may leave, as far as its row says: a reason says what else it waits for."""
IS_URGENT = f"{_MAY_LEAVE} AND urgent"
"""Whether it may leave, and before all else. Apart, because SQLite takes the first index that serves."""
IS_WAITING = "status = 'queued' AND reason IS NOT NULL"
"""Whether a message is in the queue and waits for something besides its turn: a contact, a reply, its owner."""

IS_UNFINISHED = (
    f"{IS_OPEN} AND status IN ({', '.join(repr(status.value) for status in Status if status in UNFINISHED)})"
)
"""Whether a message is unfinished, as the index of what is says it."""

IS_OWED = f"{IS_OPEN} AND status IN ({', '.join(repr(status.value) for status in Status if status in OWED)})"
"""Whether a message is unfinished, or its device has yet to answer it."""

messages = Table(
    "messages",
    metadata,
    # The order of acceptance, whatever the clock does.
    Column("seq", _SEQUENCE, Identity(always=True), primary_key=True),
    # The principal that the audit trail names for it.
    Column("sent_by", Text),
    Column("id", _ID, nullable=False),
    Column("imei", String(64), nullable=False),
    Column("micro_op", Text, nullable=False),
    Column("params", Text),
    Column("topic", Text, nullable=False),
    Column("qos", SmallInteger, nullable=False),
    Column("retain", Boolean, nullable=False),
    Column("at_most_once", Boolean, nullable=False),
    Column("status", String(16), nullable=False),
    Column("claim", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("attempts", Integer, nullable=False),
    Column("possible_duplicate", Boolean, nullable=False),
    Column("not_before", BigInteger),
    Column("reply_by", BigInteger),
    Column("contact_until", BigInteger),
    Column("reason", Text),
    Column("reason_code", SmallInteger),
    Column("subscribers", Boolean),
    Column("published_at", BigInteger),
    Column("finished_at", BigInteger),
    Column("deliver_at", BigInteger),
    Column("origin", _ID),
    Column("reply_within", Integer),
    Column("profile", String(16), nullable=False, server_default=text("'text'")),
    Column("condition", String(8)),
    Column("collapse_key", Text),
    Column("reply", Text),
    Column("superseded_by", _ID),
    Column("urgent", Boolean, nullable=False, server_default=text("false")),
    Column("wake_at", BigInteger, Computed(WAKE_AT, persisted=True)),
    # Every index is paid for by each accepted message, so each answers something that is asked of ten million rows.
    # One message, the pages newest first and oldest first, and ranges of time too: an id begins with its time.
    Index("ix_messages_id", "id", unique=True),
    # The pages of one device. The dearest: with many devices, each message dirties an index page of its own.
    Index("ix_messages_imei_id", "imei", "id"),
    # The pages of one status, however rare, and the queue in its order. What is on its way is in the next one alone, so
    # that a message enters this one once: where it waits, or where it ends. The published ones are in it, because which
    # status most messages end in depends on who replies: without them it would save 6 % and make their pages a search.
    _partial("ix_messages_status_seq", _IS_AT_REST, "status", "seq"),
    # The rest are nearly empty, so nearly free: a message is in them only while it is unfinished, waits for something,
    # or was put off. The first has what a device has unfinished, what is on its way, and what it has yet to answer.
    _partial("ix_messages_unfinished", IS_OPEN, "status", "imei", "seq"),
    _partial("ix_messages_wake_at", "wake_at IS NOT NULL", "wake_at"),
    _partial("ix_messages_put_off", "not_before IS NOT NULL", "imei", "seq"),
    # Many may wait for a contact or a reply: what may leave is found without them.
    _partial("ix_messages_ready", IS_READY, "seq"),
    _partial("ix_messages_waiting", IS_WAITING, "imei", "seq"),
    _partial("ix_messages_urgent", IS_URGENT, "seq"),
    _partial("ix_messages_reply_by", IS_AWAITED, "reply_by"),
    _partial("ix_messages_contact_until", IS_RELEASED, "contact_until"),
    # None by operation: pages of one are found among the newest, and an index would cost 17 %.
    # A number is never given twice, also after the newest rows were pruned.
    sqlite_autoincrement=True,
)

attempts = Table(
    "attempts",
    metadata,
    Column("message_id", _ID, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("process", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason_code", SmallInteger),
)
"""Attempts that were not the plain first success."""

keys = Table(
    "idempotency_keys",
    metadata,
    Column("principal", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("message_id", _ID, nullable=False),
    Column("process", Text, nullable=False),
    Column("answer_status", SmallInteger),
    Column("answer_body", Text),
    Column("kept_until", BigInteger, nullable=False),
    Index("ix_idempotency_keys_kept_until", "kept_until"),
)
"""Idempotency keys, each committed with the message that it made."""

processes = Table(
    "processes",
    metadata,
    Column("token", String(PROCESS_LENGTH), primary_key=True),
    Column("name", Text, nullable=False),
    Column("lease_until", BigInteger, nullable=False),
)
"""The gateway processes on this database; what one holds is taken over when its lease, in database time, is over."""

installation = Table(
    "installation",
    metadata,
    Column("id", SmallInteger, primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("held_up_to", BigInteger),
    Column("name", String(16), nullable=False, server_default=""),
)
"""One row, about the database as a whole: its generation (see `generations`), the last `seq` of what is held, and a
name that no other database has."""

replies = Table(
    "replies",
    metadata,
    Column("seq", _SEQUENCE, Identity(always=True), primary_key=True),
    Column("imei", _DEVICE, nullable=False),
    Column("message_id", _ID),
    Column("at", BigInteger, nullable=False),
    Column("status", String(16)),
    Column("word", Text),
    Column("payload", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("truncated", Boolean, nullable=False),
    Column("matched_by", String(16)),
    Column("late", Boolean, nullable=False),
    Column("count", Integer, nullable=False),
    Column("reason", String(24)),
    Column("topic", Text, nullable=False),
    _partial("ix_replies_message", "message_id IS NOT NULL", "message_id", "seq"),
    _partial("ix_replies_unmatched", "message_id IS NULL", "imei", "seq"),
)
"""Replies, but for the one of each message that stands, which is in its row. Without a message: why it matched none."""

devices = Table(
    "devices",
    metadata,
    Column("imei", _DEVICE, primary_key=True),
    Column("name", Text, nullable=False, server_default=""),
    Column("profile", String(16)),
    Column("labels", Text, nullable=False, server_default="{}"),
    Column("created_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
)
"""The devices that are known: registered, or met. Labels are a JSON object; without a profile, it is the default."""

presences = Table(
    "presences",
    metadata,
    Column("imei", _DEVICE, primary_key=True),
    Column("state", String(8), nullable=False),
    Column("since", BigInteger),
    Column("evidence", String(16)),
    Column("offline_at", BigInteger),
)
"""The evidence of which device is there; written when it changes."""

sightings = Table(
    "sightings",
    metadata,
    Column("imei", _DEVICE, primary_key=True),
    Column("at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""When each device was last seen, to some minutes: narrow, because it is written again and again."""

pauses = Table(
    "pauses",
    metadata,
    Column("imei", _DEVICE, primary_key=True),
    Column("paused_at", BigInteger, nullable=False),
    Column("paused_by", Text, nullable=False),
    Column("note", Text),
    Column("resumed_at", BigInteger),
    _partial("ix_pauses_resumed", "resumed_at IS NOT NULL", "resumed_at"),
)
"""Devices of which nothing is taken from the queue: since when, and by whose wish. Once resumed, the row goes when all
that waited may leave."""

receiver = Table(
    "receiver",
    metadata,
    Column("id", SmallInteger, primary_key=True),
    Column("process", String(PROCESS_LENGTH)),
    Column("lease_until", BigInteger, nullable=False),
    Column("life_down_since", BigInteger),
    Column("filters", Text, nullable=False, server_default="[]"),
)
"""One row: the process that receives, its lease in database time, since when it receives no signs of life (NULL: it
does), and the topic filters that the broker keeps for it, a JSON list."""

changes = Table(
    "changes",
    metadata,
    # On SQLite it follows the highest one there is. The newest row always stays, so no number is given twice.
    Column("seq", _SEQUENCE, Identity(always=True), primary_key=True),
    Column("tx", BigInteger),
    Column("process", String(PROCESS_LENGTH)),
    Column("batch", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("moved", Text, nullable=False),
    Index("ix_changes_tx", "tx").ddl_if(dialect="postgresql"),
)
"""What each commit has changed: a row a commit, written with it (see `change_log`). Transaction and process are those
of PostgreSQL, where transactions end out of order; `batch` is the writer's number for what it commits together."""

outages = Table(
    "outages",
    metadata,
    Column("seq", _SEQUENCE, Identity(always=True), primary_key=True),
    Column("process", String(PROCESS_LENGTH), nullable=False),
    Column("began_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("cause", String(64)),
)
"""When gateway processes had no session with the broker; so few are kept that no index is needed."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("hash", String(64), nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("devices", Text, nullable=False),
    Column("operations", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("last_used_at", BigInteger),
)
"""Who may call with an API key. The key itself is nowhere; lists are JSON."""

audit = Table(
    "audit",
    metadata,
    Column("seq", _SEQUENCE, Identity(always=True), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("principal", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("action", String(24), nullable=False),
    Column("subject", Text, nullable=False),
    Column("imei", String(64)),
    Column("micro_op", Text),
    Column("detail", Text),
    # On SQLite `audit_hours` is in its place. No numbers are kept there either: none is free again, as no row goes.
    Index("ix_audit_at", "at").ddl_if(dialect="postgresql"),
)
"""Who did what. Triggers of the migration refuse every change of a row, and its removal."""

audit_hours = Table(
    "audit_hours",
    sqlite_metadata,
    Column("hour", Integer, primary_key=True),
    Column("first", Integer, primary_key=True),
    sqlite_with_rowid=False,
)
"""Where in the trail an hour begins: from the entry numbered `first` on, up to the next row's, each is of this hour
(`at` divided by `HOUR`). A trigger writes it; a clock that goes back makes more rows. An index by time has its page to
write for each entry, and this one for each hour."""

HOUR = 3_600_000  # ms

COLUMNS = tuple(messages.c[name] for name in Message._fields)
"""The columns of a message in the order of its fields: all but `seq`."""

Value = str | int | bool | None
Row = tuple[Value, ...]


def has_status(statuses: Iterable[Status]) -> ColumnElement[bool]:
    """The condition that a message has one of these statuses, in words with which an index finds it."""
    return or_(*each_has_status(statuses))


def each_has_status(statuses: Iterable[Status]) -> Sequence[ColumnElement[bool]]:
    """The conditions of `has_status`, one for each of the two indexes that have messages of these statuses."""
    by_index: dict[str, list[str]] = {}
    for status in statuses:
        by_index.setdefault(IS_OPEN if status is Status.PUBLISHING else _IS_AT_REST, []).append(status.value)
    return [and_(messages.c.status.in_(values), text(index)) for index, values in by_index.items()]


_STATUS_AT = Message._fields.index("status")
_STATUSES = {status.value: status for status in Status}
_DEFAULTS: Final[Row] = tuple(Message._field_defaults.values())
_PLAIN: Final[int] = len(Message._fields) - len(_DEFAULTS)


def to_row(message: Message) -> Row:
    """The message as plain values in the order of `COLUMNS` (an enum member would cost more to hand over)."""
    return (*message[:_STATUS_AT], str(message.status), *message[_STATUS_AT + 1 :])


def to_short_row(message: Message) -> Row:
    """The row of a message, of which the end is left out where all of it has its default, as a plain new one's has."""
    if message[_PLAIN:] != _DEFAULTS:
        return to_row(message)
    return (*message[:_STATUS_AT], str(message.status), *message[_STATUS_AT + 1 : _PLAIN])


def shortened(row: Row) -> Row:
    """The short row of a row, where it can be short."""
    return row[:_PLAIN] if row[_PLAIN:] == _DEFAULTS else row


def is_short(row: Row) -> bool:
    """Return whether a row leaves out its end."""
    return len(row) == _PLAIN


def whole(row: Row) -> Row:
    """The row of which a short one has left out the end."""
    return (*row, *_DEFAULTS) if is_short(row) else row


def to_message(row: tuple[object, ...]) -> Message:
    """The message in a row of `COLUMNS`."""
    return Message._make((*row[:_STATUS_AT], _STATUSES[str(row[_STATUS_AT])], *row[_STATUS_AT + 1 :]))


class _DatabaseTime(FunctionElement[int]):
    inherit_cache = True
    type = BigInteger()


@compiles(_DatabaseTime, "postgresql")
def _on_postgresql(*_: object, **__: object) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"


@compiles(_DatabaseTime, "sqlite")
def _on_sqlite(*_: object, **__: object) -> str:
    return "CAST(unixepoch('now', 'subsec') * 1000 AS BIGINT)"


DATABASE_TIME = _DatabaseTime()
"""The database's clock in ms since the epoch: leases of several hosts are measured by one clock."""
