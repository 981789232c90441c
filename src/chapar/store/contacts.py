"""Contacts: a device has just spoken, so what waits for it may leave, for a while."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Connection, bindparam, func, select, text, update

from chapar.errors import NotSaved
from chapar.model.reason import Reason
from chapar.store.database import run_on_driver
from chapar.store.operations import Kind, as_list
from chapar.store.schema import IS_RELEASED, IS_WAITING, messages

if TYPE_CHECKING:  # the writer, which loads the statements, must start quickly
    from chapar.store.commits import Commits

_CONTACT: Final = Reason.WAITING_FOR_CONTACT.value
_AT: ColumnElement[int] = bindparam("at", type_=BigInteger)

# What has a time already is in its window, or tried once more in it. What was given up in a window has its end, and
# no time: a later contact releases it. SQLite is made to begin with the devices.
_WAITING: Final = f"""
    SELECT imei, seq, contact_until FROM {{messages_of_devices}} AND seq > 0 AND {IS_WAITING} AND reason = '{_CONTACT}'
        AND (contact_until IS NULL OR not_before IS NULL)
"""  # noqa: S608 - made of constants
WAITING_SQL: Final = {
    "sqlite": _WAITING.format(
        messages_of_devices="json_each(?) AS device CROSS JOIN messages WHERE imei = device.value"
    ),
    "postgresql": _WAITING.format(messages_of_devices="messages WHERE imei = ANY (%s::text[])"),
}
# It keeps its reason until it may leave: until then it is in nobody's way.
_RELEASE = (
    update(messages)
    .where(messages.c.seq == bindparam("at_seq", type_=BigInteger))
    .where(text(IS_WAITING), messages.c.not_before.is_(None))
    .values(
        not_before=bindparam("first", type_=BigInteger),
        contact_until=bindparam("last", type_=BigInteger),
        reason_code=None,
    )
)
_OVER = (
    update(messages)
    .where(text(IS_RELEASED), messages.c.contact_until <= _AT)
    .values(reason=_CONTACT, contact_until=None, not_before=None, reason_code=None)
    .returning(messages.c.id, messages.c.imei)
)

NEXT_WINDOW_OVER: Final = select(func.min(messages.c.contact_until)).where(text(IS_RELEASED)).scalar_subquery()
"""When the next window is over in which a message may leave."""


class Contact(NamedTuple):
    """A device spoke, and is taken to receive what is sent soon after."""

    imei: str
    first: int  #: when the first of what waits may leave, ms since the epoch
    last: int  #: from when on nothing may leave any more


class Contacts:
    """Messages that wait for their devices to speak."""

    def __init__(self, commits: "Commits") -> None:
        self._commits = commits

    def release(self, contacts: Sequence[Contact]) -> asyncio.Future[list[int | NotSaved]]:
        """Let leave what waits for these devices; gives how many messages of each.

        Where nothing waits, nothing is written.
        """
        return self._commits.submit(CONTACT, contacts)


def _contact(connection: Connection, contacts: Sequence[tuple[str, int, int]]) -> Sequence[int]:
    of_device = {imei: (first, last) for imei, first, last in contacts}
    sql = WAITING_SQL[connection.dialect.name]
    waiting = run_on_driver(connection, sql, (as_list(connection, sorted(of_device)),)).fetchall()
    counts: Counter[str] = Counter()
    released = []
    for imei, seq, given_up in sorted(waiting, key=itemgetter(1)):  # two processes lock them in the same order
        first, last = of_device[imei]
        if given_up is None or given_up < last:
            released.append({"at_seq": seq, "first": first, "last": last})
            counts[imei] += 1
    if released:
        connection.execute(_RELEASE, released)
    return [counts[imei] for imei, _, _ in contacts]


def end_windows(connection: Connection, at: int) -> list[tuple[str, str]]:
    """Have wait for the next contact what did not leave in its window; gives ids and devices."""
    return sorted((id_, imei) for id_, imei in connection.execute(_OVER, {"at": at}))


CONTACT: Final[Kind[Contact, int]] = Kind("contact", _contact, packed=tuple)
