"""The tables as this version of the program writes them. `migrations/` brings a database to this shape."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)

from chapar.message import Message, Status

metadata = MetaData()

# SQLite numbers rows by itself only where the type is exactly INTEGER.
_SEQUENCE = BigInteger().with_variant(Integer, "sqlite")

# Ids are compared byte by byte, also where the database sorts text by a language's rules: a page's cursor and
# the bounds of a time range are ids.
_ID = String(36).with_variant(String(36, collation="C"), "postgresql")

messages = Table(
    "messages",
    metadata,
    Column(
        "seq", _SEQUENCE, Identity(always=True), primary_key=True
    ),  # the order of acceptance, whatever the clock does
    Column("id", _ID, nullable=False),
    Column("imei", String(64), nullable=False),
    Column("micro_op", Text, nullable=False),
    Column("params", Text),
    Column("topic", Text, nullable=False),
    Column("qos", SmallInteger, nullable=False),
    Column("retain", Boolean, nullable=False),
    Column("at_most_once", Boolean, nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", Text),
    Column("reason_code", SmallInteger),
    Column("attempts", Integer, nullable=False),
    Column("possible_duplicate", Boolean, nullable=False),
    Column("subscribers", Boolean),
    Column("claim", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("published_at", BigInteger),
    Column("finished_at", BigInteger),
    # A number is never given twice, also after the newest rows were pruned.
    sqlite_autoincrement=True,
)

# Every index is paid for by each accepted message, so each answers something that is asked of ten million rows.

# One message, the pages newest first and oldest first, and ranges of time too: an id begins with its time.
Index("ix_messages_id", messages.c.id, unique=True)
# The pages of one device. The dearest: with many devices, each message dirties an index page of its own.
Index("ix_messages_imei_id", messages.c.imei, messages.c.id)
# The pages of one status, however rare, and what is queued or publishing. Whole, because which status most messages
# end in depends on who replies: leaving out the published ones would save 6 % and make their pages a search.
Index("ix_messages_status_id", messages.c.status, messages.c.id)
# What a device still waits for, in the order of acceptance. Nearly empty, so nearly free.
Index(
    "ix_messages_unfinished",
    messages.c.imei,
    messages.c.seq,
    sqlite_where=messages.c.status.in_(["scheduled", "queued", "publishing"]),
    postgresql_where=messages.c.status.in_(["scheduled", "queued", "publishing"]),
)
# None by operation: pages of one are found among the newest, and an index would cost 17 %.

COLUMNS = tuple(messages.c[name] for name in Message._fields)
"""The columns of a message in the order of its fields: all but `seq`."""

MUTABLE = (
    "status",
    "reason",
    "reason_code",
    "attempts",
    "possible_duplicate",
    "subscribers",
    "claim",
    "published_at",
    "finished_at",
)
"""The fields that a move may change."""

Value = str | int | bool | None
Row = tuple[Value, ...]

_STATUS_AT = Message._fields.index("status")
_STATUSES = {status.value: status for status in Status}


def to_row(message: Message) -> Row:
    """The message as plain values in the order of `COLUMNS` (an enum member would cost more to hand over)."""
    return (*message[:_STATUS_AT], message.status.value, *message[_STATUS_AT + 1 :])


def to_message(row: tuple[object, ...]) -> Message:
    """The message in a row of `COLUMNS`."""
    return Message._make((*row[:_STATUS_AT], _STATUSES[str(row[_STATUS_AT])], *row[_STATUS_AT + 1 :]))
