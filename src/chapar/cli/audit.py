"""`chapar audit`: who did what, from where, when."""

from typing import Annotated, Final

import typer

from chapar.cli.options import Json, moment
from chapar.cli.sentences import word
from chapar.cli.table import print_table
from chapar.cli.terminal import check_output, local_time_of
from chapar.model.lines import json_line
from chapar.model.message import check_device_id
from chapar.model.times import milliseconds
from chapar.runtime.settings import database_url, preferred_language

_MOST: Final = 10_000  # entries; more belongs to `GET /audit`
_HEADINGS: Final = ("at", "who", "name", "from", "deed", "device", "operation", "subject", "note")


def audit(
    *,
    principal: Annotated[
        str | None, typer.Option(metavar="PRINCIPAL", help="What this one did: `key:…`, `jwt:…`, `cli:…`.")
    ] = None,
    action: Annotated[str | None, typer.Option(metavar="DEED", help="This kind of deed only.")] = None,
    device: Annotated[str | None, typer.Option(metavar="DEVICE", help="What was done to this device.")] = None,
    subject: Annotated[str | None, typer.Option(metavar="ID", help="What was done to this message or key.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Then or later: `15m` ago, `2026-11-24T06:30`, Jalali.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Before then.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=_MOST, help="The newest so many.")] = 20,
    as_json: Json = False,
) -> None:
    """Show who did what, the newest last. It reads the database itself, whether or not a gateway runs.

    Example: `chapar audit --device 861234567890123 --since 7d`

    Example: `chapar audit --action key_revoked --json`
    """
    from chapar.model.audit import Action, AuditFilters, check_filter  # noqa: PLC0415 - see above
    from chapar.store.administration import administer  # noqa: PLC0415 - see above
    from chapar.store.audit import newest_first  # noqa: PLC0415 - see above
    from chapar.web.api.audit import entry_view  # noqa: PLC0415 - only this command needs it, and it takes long to load

    filters = AuditFilters(
        principal=check_filter(principal, "--principal"),
        action=None if action is None else Action.named(action, "--action"),
        imei=None if device is None else check_device_id(device, "--device"),
        subject=check_filter(subject, "--subject"),
        since=milliseconds(moment("--since", since)),
        until=milliseconds(moment("--until", until)),
    )
    with administer(database_url()) as connection:
        found, before = newest_first(connection, filters, None, limit)
        while before is not None and len(found) < limit:
            further, before = newest_first(connection, filters, before, limit - len(found))
            found += further
    found.reverse()
    if as_json:
        for number, entry in found:
            typer.echo(json_line(entry_view(number, entry).model_dump()))
        check_output()
        return
    language = preferred_language()
    rows = [
        (
            local_time_of(entry.at, language),
            *(entry.principal or "-", entry.name, entry.address or "-", word("deed", entry.action, language)),
            *(entry.imei or "", entry.micro_op or "", entry.subject, entry.detail or ""),
        )
        for _, entry in found
    ]
    print_table(_HEADINGS, rows, language)
    check_output()
