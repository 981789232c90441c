"""Lanes: where replies may have to be matched by their order, a device has one message at a time to answer."""

from collections.abc import Collection
from typing import Final

from sqlalchemy import BigInteger, Connection, bindparam, update

from chapar.model.message import Message, Profile
from chapar.model.reason import Reason
from chapar.store.database import run_on_driver
from chapar.store.operations import as_list
from chapar.store.schema import IS_OPEN, IS_URGENT, messages

WAITING_FOR_REPLY: Final = Reason.WAITING_FOR_REPLY.value
_TEXT: Final = Profile.TEXT.value

IN_LANE: Final = f"reply_within IS NOT NULL AND profile = '{_TEXT}'"
"""Whether a message's reply may have to be matched by its order."""

# One message of a lane may be ahead: on its way, or in the queue. What is behind a second one waits, so that order
# holds; urgent ones wait for nobody. SQLite is made to begin with the devices. Those that have one on its way are found
# once: looked for beside each message, it would be the square of a queue.
_MISPLACED: Final = f"""
    WITH taken AS (
        SELECT imei FROM {{messages_of_devices}} AND seq > 0 AND {IS_OPEN}
            AND status IN ('publishing', 'published', 'acknowledged') AND {IN_LANE}
        UNION SELECT imei FROM {{messages_of_devices}} AND seq > 0 AND {IS_OPEN} AND {IS_URGENT} AND {IN_LANE}
    ), in_queue AS (
        SELECT seq, reason, sum(CASE WHEN {IN_LANE} THEN 1 ELSE 0 END) OVER (PARTITION BY imei ORDER BY seq)
            + CASE WHEN imei IN (SELECT imei FROM taken) THEN 1 ELSE 0 END AS ahead
        FROM {{messages_of_devices}} AND seq > 0 AND {IS_OPEN} AND status = 'queued'
            AND (reason IS NULL OR reason = '{WAITING_FOR_REPLY}') AND NOT urgent
    )
    SELECT seq, ahead FROM in_queue WHERE (ahead > 1) <> (reason IS NOT NULL)
"""  # noqa: S608 - made of constants
MISPLACED_SQL: Final = {
    "sqlite": _MISPLACED.format(
        messages_of_devices="json_each(?) AS device CROSS JOIN messages WHERE imei = device.value"
    ),
    "postgresql": _MISPLACED.format(messages_of_devices="messages WHERE imei = ANY (%s::text[])"),
}
_PLACE = (
    update(messages)
    .where(messages.c.seq == bindparam("at_seq", type_=BigInteger))
    .values(reason=bindparam("waits_for"))
)


def is_in_lane(message: Message) -> bool:
    """Return whether its reply may have to be matched by its order."""
    return message.reply_within is not None and message.profile == _TEXT


def leaves_lane(message: Message) -> bool:
    """Return whether its device has nothing to answer of it any more, so that the next may leave."""
    return message.reply_within is not None and message.finished_at is not None and is_in_lane(message)


def release(connection: Connection, imeis: Collection[str]) -> None:
    """Let leave what waits for no reply of these devices any more, and have wait what must.

    To be called after whatever ends a message of a lane, and after whatever puts messages into the queue.
    """
    if not imeis:
        return
    sql = MISPLACED_SQL[connection.dialect.name]
    devices = as_list(connection, sorted(set(imeis)))
    misplaced = run_on_driver(connection, sql, (devices, devices, devices)).fetchall()
    if misplaced:
        connection.execute(
            _PLACE, [{"at_seq": seq, "waits_for": WAITING_FOR_REPLY if ahead > 1 else None} for seq, ahead in misplaced]
        )
