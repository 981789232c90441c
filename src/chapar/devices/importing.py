"""Import of devices from a table: what would become of each row, and doing it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from enum import StrEnum
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from chapar.devices.columns import Columns
from chapar.devices.registry import Registry
from chapar.devices.tables import Table, Tables
from chapar.errors import ChaparError, FieldInvalid, NotSaved, Phrase
from chapar.model.device import Edit, Registration
from chapar.model.json_text import shown
from chapar.model.principal import Caller

Item = TypeVar("Item")

AT_ONCE: Final = 100  # rows of one commit; others have the event loop, and the writer, between two
_TURN: Final = 0.005  # seconds; what a caller may have to wait for besides its own work


class Outcome(StrEnum):
    """The outcome of a row."""

    CREATED = "created"  #: Its device was not registered before.
    CHANGED = "changed"  #: Its device is described anew.
    UNCHANGED = "unchanged"  #: Its device was described so before.
    REFUSED = "refused"  #: Nothing was changed by it, and an error says why.


class Row(NamedTuple):
    """A row of a table, and what became of it."""

    number: int  #: as a spreadsheet counts: the header is the first
    imei: str  #: as the row names it
    outcome: Outcome
    error: ChaparError | None = None


class Importing:
    """Imports devices: each row is a device that is registered or described anew, as far as its columns say."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._tables = Tables()

    async def read(self, content: bytes) -> Table:
        """Read a file, CSV or xlsx; raises TableMalformed, TableNotRead, FieldInvalid for its header."""
        table = await self._tables.read(content)
        Columns(table.header)
        return table

    async def rows(self, caller: Caller, table: Table, *, dry_run: bool) -> AsyncIterator[list[Row]]:
        """Import all rows that are right, some at a time; what became of each. A dry run changes nothing.

        Raises StoreUnavailable, OutcomeUnknown. What was imported until then stays; the same again is safe.
        """
        columns = Columns(table.header)
        first: dict[str, int] = {}  # the first row of each device
        made = 0
        lines = iter(table.rows)
        while some := list(islice(lines, AT_ONCE)):
            read = [row async for row in _in_turns(_read(columns, line, first) for line in some)]
            edits = [each for _, _, each in read if isinstance(each, Edit)]
            ends = iter(await self._ends(caller, edits, made if dry_run else None))
            rows = [_row(number, imei, next(ends) if isinstance(each, Edit) else each) for number, imei, each in read]
            made += sum(row.outcome is Outcome.CREATED for row in rows)
            yield rows

    async def _ends(
        self, caller: Caller, edits: Sequence[Edit], made: int | None
    ) -> Sequence[Registration | ChaparError]:
        """Have edits done; or foresee their ends, after so many others were `made`."""
        if made is not None:
            return await self._registry.foresee(caller, edits, made)
        try:
            return await self._registry.edit(caller, edits)
        except NotSaved as error:
            return [error] * len(edits)


async def _in_turns(items: Iterator[Item]) -> AsyncIterator[Item]:
    """The items; others have the event loop after every few milliseconds of making them."""
    began = time.perf_counter()
    for item in items:
        yield item
        if time.perf_counter() - began > _TURN:
            await asyncio.sleep(0)
            began = time.perf_counter()


def _read(columns: Columns, line: bytes, first: dict[str, int]) -> tuple[int, str, Edit | ChaparError]:
    """A row: its number, the device as it is named, and what is to be said of that, or why nothing is."""
    number, *cells = json.loads(line)
    imei = columns.device_of(cells)
    try:
        edit = columns.edit(cells)
    except ChaparError as error:
        return number, shown(imei) if imei else "", error.with_traceback(None)
    before = first.setdefault(edit.imei, number)
    if before != number:
        return number, edit.imei, FieldInvalid("imei", Phrase("rule.row_before", row=before))
    return number, edit.imei, edit


def _row(number: int, imei: str, end: Registration | ChaparError) -> Row:
    if isinstance(end, ChaparError):
        return Row(number, imei, Outcome.REFUSED, end)
    return Row(number, imei, _OUTCOMES[end])


_OUTCOMES: Final = {
    Registration.MADE: Outcome.CREATED,
    Registration.CHANGED: Outcome.CHANGED,
    Registration.UNCHANGED: Outcome.UNCHANGED,
}
