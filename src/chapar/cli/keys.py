"""`chapar keys`: who may call the gateway. It works on the database itself, whether or not a gateway runs."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from chapar.cli.options import Json, moment
from chapar.cli.sentences import say
from chapar.cli.table import print_table
from chapar.cli.terminal import check_output, local_time, local_time_of
from chapar.errors import ApiKeyNotFound, Language
from chapar.model.lines import json_line, plain
from chapar.model.principal import EVERYTHING, Caller, Reach, Scope, check_patterns
from chapar.model.times import milliseconds
from chapar.runtime.clock import system_now
from chapar.runtime.settings import Settings, database_url, preferred_language

if TYPE_CHECKING:
    from chapar.model.api_key import ApiKey, KeyChange

# What works on the database is imported where it runs: it takes longer to load than `--help` takes to print.

keys = typer.Typer()

KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `chapar keys list` shows it.")]

_CANCELLED_AT_ONCE: Final = 500  # messages in one transaction, for which a running gateway's commits wait
_HEADINGS: Final = ("id", "name", "scopes", "devices", "operations", "made", "ends", "last_used", "state")


@keys.callback(invoke_without_command=True)
def _overview(context: typer.Context) -> None:
    """Make, list, limit and revoke API keys."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@keys.command()
def create(
    name: Annotated[str, typer.Option(help="Whom the key is for.")],
    scope: Annotated[list[Scope], typer.Option(help="What it may do; may be repeated.")],
    device: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="A device that it reaches, as `farm1-*`; may be repeated."),
    ] = None,
    operation: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="An operation that it may send; may be repeated.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it ends: `90d` from now, or `2027-03-21T00:00`.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Make a key and print it, once. Without `--device` and `--operation` it reaches all of them.

    From the first key on, every call needs one.

    Example: `chapar keys create --name backend --scope messages:send --scope messages:read --device 'farm1-*'`
    """
    from chapar.access.door import KEY_KNOWN  # noqa: PLC0415 - see above
    from chapar.access.keyring import Grant, issue  # noqa: PLC0415 - see above
    from chapar.store.administration import administer  # noqa: PLC0415 - see above
    from chapar.store.api_keys import CREATE_KEY, any_key  # noqa: PLC0415 - see above

    grant = Grant(
        name,
        frozenset(scope),
        Reach(
            check_patterns(device or EVERYTHING, "devices"),
            check_patterns(operation or EVERYTHING, "operations"),
        ),
        milliseconds(moment("--expires", expires, ahead=True)),
    )
    issued = issue(_caller(), grant, system_now())
    with administer(database_url()) as connection:
        is_first = not any_key(connection)
        CREATE_KEY.run(connection, [(issued.key, issued.entry)])
    if is_first:  # gateways that were open until now notice
        time.sleep(KEY_KNOWN)
    if as_json:
        typer.echo(json_line({**_shown(issued.key), "key": issued.secret}))
        return
    typer.echo(_sentence("created", issued.key.id, issued.key.name), err=True)
    typer.echo(issued.secret)


@keys.command("list")
def list_keys(*, as_json: Json = False) -> None:
    """Show every key that was ever made, the oldest first; the keys themselves are nowhere.

    Example: `chapar keys list`
    """
    from chapar.store.administration import administer  # noqa: PLC0415 - see above
    from chapar.store.api_keys import oldest_first  # noqa: PLC0415 - see above

    with administer(database_url()) as connection:
        found = oldest_first(connection)
    language = preferred_language()
    if as_json:
        for key in found:
            typer.echo(json_line(_shown(key)))
    elif not found:
        typer.echo(say("keys.none", language, database=Settings.load().database), err=True)
    else:
        _print(found, language)
    check_output()


@keys.command()
def revoke(
    key_id: KeyId,
    *,
    cancel_waiting: Annotated[
        bool, typer.Option("--cancel-waiting", help="Cancel the messages that it sent and that still wait, too.")
    ] = False,
) -> None:
    """End a key at once and for good. When this returns, no gateway accepts it any more.

    Example: `chapar keys revoke k3x9q2m7aa --cancel-waiting`
    """
    from chapar.access.keyring import revocation  # noqa: PLC0415 - see above

    key = _change(key_id, lambda key: revocation(_caller(), key, system_now()))
    typer.echo(_sentence("revoked", key.id, key.name))
    if cancel_waiting:
        typer.echo(say("keys.cancelled", preferred_language(), count=_cancel_waiting(f"key:{key.id}")))
    elif waiting := _how_many_wait(f"key:{key.id}"):
        typer.echo(say("keys.waiting", preferred_language(), count=waiting, id=key.id), err=True)


@keys.command()
def expire(
    key_id: KeyId,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="The end: `90d` from now, or `2027-03-21T00:00`. Without: none.")
    ] = None,
) -> None:
    """Give a key another end. A key that was revoked stays so.

    Example: `chapar keys expire k3x9q2m7aa --at 7d`
    """
    from chapar.access.keyring import new_end  # noqa: PLC0415 - see above

    ends = moment("--at", at, ahead=True)
    key = _change(key_id, lambda key: new_end(_caller(), key, milliseconds(ends), system_now()))
    typer.echo(_sentence("endless" if ends is None else "expires", key.id, key.name, ends))


def _change(key_id: str, change: "Callable[[ApiKey], KeyChange]") -> "ApiKey":
    """Change a key, and wait until every gateway knows; raises ApiKeyNotFound."""
    from chapar.access.door import KEY_KNOWN  # noqa: PLC0415 - see above
    from chapar.store.administration import administer  # noqa: PLC0415 - see above
    from chapar.store.api_keys import CHANGE_KEY, find  # noqa: PLC0415 - see above

    with administer(database_url()) as connection:
        key = find(connection, key_id.lower())
        if key is None:
            raise ApiKeyNotFound(key_id)
        CHANGE_KEY.run(connection, [change(key)])
    time.sleep(KEY_KNOWN)
    return key


def _cancel_waiting(sender: str) -> int:
    """Withdraw whatever waits of what a principal sent, in short transactions; gives how many messages."""
    from chapar.model.audit import KEY_REVOKED, cancellation  # noqa: PLC0415 - see above
    from chapar.model.message import WAITING  # noqa: PLC0415 - see above
    from chapar.model.report import Filters, Page  # noqa: PLC0415 - see above
    from chapar.store.administration import administer  # noqa: PLC0415 - see above
    from chapar.store.moves import CANCEL  # noqa: PLC0415 - see above
    from chapar.store.reports import oldest_first  # noqa: PLC0415 - see above

    cancelled = 0
    for status in WAITING:
        filters = Filters(status=(status,), sender=sender)
        page: Page | None = None
        while page is None or page.next is not None:
            with administer(database_url()) as connection:
                page = oldest_first(connection, filters, page and page.next, _CANCELLED_AT_ONCE)
                entries = [cancellation(_caller(), message, system_now(), KEY_REVOKED) for message in page.messages]
                cancelled += sum(found is not None and found.won for found in CANCEL.run(connection, entries))
    return cancelled


def _how_many_wait(sender: str) -> int:
    from chapar.store.administration import administer  # noqa: PLC0415 - see above
    from chapar.store.reports import how_many_wait_of  # noqa: PLC0415 - see above

    with administer(database_url()) as connection:
        return how_many_wait_of(connection, sender)


def _caller() -> Caller:
    """Return the owner as the caller: whoever can open the database owns it."""
    from chapar.store.audit import local_user  # noqa: PLC0415 - see above

    return Caller(local_user(), "")


def _shown(key: "ApiKey") -> dict[str, object]:
    """A key as the API shows it."""
    from chapar.web.api.keys import key_view  # noqa: PLC0415 - see above

    return key_view(key).model_dump()


def _print(found: Sequence["ApiKey"], language: Language) -> None:
    print_table(_HEADINGS, [_row(key, language) for key in found], language)


def _row(key: "ApiKey", language: Language) -> tuple[str, ...]:
    lists = (sorted(key.scopes), key.reach.devices, key.reach.operations)
    times = (key.created_at, key.expires_at, key.last_used_at)
    state = "revoked" if key.revoked_at is not None else "expired" if key.ended(system_now()) else "valid"
    return (
        key.id,
        key.name,
        *map(" ".join, lists),
        *("" if at is None else local_time_of(at, language) for at in times),
        say(f"key_state.{state}", language),
    )


def _sentence(what: str, key_id: str, name: str, time_: datetime | None = None) -> str:
    language = preferred_language()
    shown = "" if time_ is None else local_time(time_, language)
    facts = {"id": key_id, "name": plain(name), "time": shown, "database": Settings.load().database}
    return say(f"keys.{what}", language, **facts)
