"""Import devices: choose a file, see what would become of each row, and import what was seen."""

import asyncio
import base64
import binascii
import csv
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from fastapi import APIRouter, Request, Response

from chapar.devices.importing import Importing, Outcome, Row
from chapar.devices.tables import Table
from chapar.errors import ChaparError, FieldInvalid, TableMalformed
from chapar.model.cells import guarded
from chapar.model.principal import Caller, Scope
from chapar.web.console.multipart import FileRoute, files_of
from chapar.web.console.routes import FormExpired, routes
from chapar.web.console.site import Site
from chapar.web.console.words import chosen_language
from chapar.web.http.entrance import allow, caller_of
from chapar.web.http.problems import status_of

SHOWN: Final = 200  # rows

_LARGEST: Final = 64 << 20  # bytes of what a form carries, unpacked: a table is refused before it has so many
_COUNT: Final = re.compile(r"[0-9]{1,9}")
_DOES: Final = (Outcome.CREATED, Outcome.CHANGED)
_ORDER: Final = (Outcome.REFUSED, Outcome.CHANGED, Outcome.CREATED, Outcome.UNCHANGED)


class Plan(NamedTuple):
    """The outcome that an import of a file would have."""

    counts: Mapping[Outcome, int]
    rows: Sequence[Row]  #: the first of them, in the order in which they matter
    table: str  #: the rows that would change something, as a form carries them; empty where none would


def importing_router(site: Site, importing: Importing) -> APIRouter:
    """The page of imports."""
    router = routes()

    def page(
        request: Request, *, plan: Plan | None = None, problem: ChaparError | None = None, done: object = None
    ) -> Response:
        return site.page(
            request,
            "import.html",
            200 if problem is None else status_of(problem),
            plan=plan,
            outcomes=_ORDER,
            refused=Outcome.REFUSED,
            changes=0 if plan is None else sum(plan.counts[outcome] for outcome in _DOES),
            hidden=0 if plan is None else sum(plan.counts.values()) - len(plan.rows),
            done=done,
            problem=None if problem is None else problem.sentence(chosen_language(request)),
            sentence=lambda error: error.sentence(chosen_language(request)),
        )

    @router.get("/import")
    @allow(Scope.DEVICES_WRITE)
    async def ask(request: Request) -> Response:
        """Ask for a file; or say what the import has done that leads here."""
        given = {outcome: request.query_params.get(outcome, "") for outcome in Outcome}
        counts = {outcome: int(text) if _COUNT.fullmatch(text) else 0 for outcome, text in given.items()}
        return page(request, done=counts if any(counts.values()) else None)

    @allow(Scope.DEVICES_WRITE)
    async def check(request: Request) -> Response:
        """Show what would become of each row of a file."""
        try:
            table = await importing.read(files_of(request).get("file", b""))
        except (TableMalformed, FieldInvalid) as error:
            return page(request, problem=error)
        return page(request, plan=await _plan(importing, caller_of(request), table))

    @allow(Scope.DEVICES_WRITE)
    async def apply(request: Request) -> Response:
        """Import what was shown."""
        content = await asyncio.to_thread(unpacked, files_of(request).get("table", b""))
        counts: Counter[Outcome] = Counter()
        async for rows in importing.rows(caller_of(request), await importing.read(content), dry_run=False):
            counts.update(row.outcome for row in rows)
        return site.redirect(request, "/import", **{outcome: str(count) for outcome, count in counts.items()})

    router.add_api_route("/import", check, methods=["POST"], route_class_override=FileRoute)
    router.add_api_route("/import/apply", apply, methods=["POST"], route_class_override=FileRoute)
    return router


async def _plan(importing: Importing, caller: Caller, table: Table) -> Plan:
    counts = dict.fromkeys(Outcome, 0)
    first: dict[Outcome, list[Row]] = {outcome: [] for outcome in Outcome}
    kept: list[bytes] = []
    lines = iter(table.rows)
    async for rows in importing.rows(caller, table, dry_run=True):
        for row, line in zip(rows, lines, strict=False):
            counts[row.outcome] += 1
            if counts[row.outcome] <= SHOWN:
                first[row.outcome].append(row)
            if row.outcome in _DOES:
                kept.append(line)
    shown = [row for outcome in _ORDER for row in first[outcome]][:SHOWN]
    return Plan(counts, shown, await asyncio.to_thread(packed, table.header, kept) if kept else "")


def packed(header: Sequence[str], lines: Iterable[bytes]) -> str:
    """Rows of a table as a form carries them to the next page."""
    text = io.StringIO()
    rows = csv.writer(text, quoting=csv.QUOTE_ALL)
    rows.writerow(map(guarded, header))
    rows.writerows(map(guarded, json.loads(line)[1:]) for line in lines)
    return base64.b64encode(zlib.compress(text.getvalue().encode())).decode()


def unpacked(carried: bytes) -> bytes:
    """The file that a form has carried; raises FormExpired for what no page of ours has made."""
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(base64.b64decode(carried, validate=True), _LARGEST)
    except (binascii.Error, zlib.error):
        raise FormExpired from None
    if not unpacker.eof:
        raise FormExpired
    return content
