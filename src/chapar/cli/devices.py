"""`chapar devices`: who is registered, whether each is there, and what waits for it."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Final
from urllib.parse import quote

import typer
from pydantic import BaseModel, ConfigDict

from chapar.cli.client import PAGE, GatewayClient, Moment
from chapar.cli.device_files import export_devices, import_devices
from chapar.cli.options import DeviceLabels, DevicePresence, DeviceProfile, Json, Search, Url, device_query
from chapar.cli.sentences import say, word
from chapar.cli.table import print_record, print_table
from chapar.cli.terminal import check_output, local_time, progress
from chapar.errors import GatewayRefused, Language, Phrase, UsageInvalid, joined, persian_digits
from chapar.model.device import check_labels, check_name, check_note, read_label
from chapar.model.lines import json_line, plain
from chapar.model.message import Profile, check_device_id
from chapar.runtime.settings import preferred_language

devices = typer.Typer()

DeviceId = Annotated[str, typer.Argument(metavar="DEVICE", help="The device's id.", show_default=False)]

_MOST: Final = 100_000  # devices
_DEFAULT: Final = "default"
_HEADINGS: Final = ("device", "name", "presence", "since", "last_seen", "waiting", "labels")


class ShownPresence(BaseModel):
    """The presence of a device as the gateway shows it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    state: str  # a newer gateway may know more of them than `State`
    since: Moment | None = None
    evidence: str | None = None
    stale: bool = False


class ShownQueue(BaseModel):
    """The messages that wait for a device, likewise."""

    model_config = ConfigDict(extra="allow", frozen=True)

    depth: int
    oldest: Moment | None = None
    paused: Moment | None = None
    paused_by: str | None = None
    pause_reason: str | None = None


class ShownDevice(BaseModel):
    """A device, likewise."""

    model_config = ConfigDict(extra="allow", frozen=True)

    imei: str
    name: str | None = None
    profile: str | None = None
    labels: dict[str, str] = {}
    presence: ShownPresence
    last_seen: Moment | None = None
    queue: ShownQueue


class ShownQueueState(ShownQueue):
    """The queue of one device, likewise."""

    in_flight: list[str] = []


class DevicePage(BaseModel):
    """One page of devices, likewise."""

    devices: list[ShownDevice]
    next: str | None


class Purged(BaseModel):
    """The end of a purge, likewise."""

    cancelled: int


@devices.callback(invoke_without_command=True)
def _overview(context: typer.Context) -> None:
    """See devices and whether they are there, describe and forget them, withdraw what waits for one."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@devices.command("list")
def list_devices(
    *,
    presence: DevicePresence = None,
    label: DeviceLabels = None,
    profile: DeviceProfile = None,
    search: Search = None,
    limit: Annotated[int, typer.Option(min=1, max=_MOST, help="The first so many, by their ids.")] = 1000,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show the devices that were registered, or have spoken.

    Example: `chapar devices list --presence offline --label farm:1`
    """
    language = preferred_language()
    query = device_query(presence, label, profile, search)
    with GatewayClient(url, language) as gateway, progress(say("devices.reading", language)):
        found = _pages(gateway, query, limit)
    if as_json:
        for device in found:
            typer.echo(_json(device))
    elif not found:
        typer.echo(say("devices.none", language), err=True)
    else:
        print_table(_HEADINGS, [_row(device, language) for device in found], language)
    check_output()


@devices.command()
def show(device: DeviceId, *, url: Url = None, as_json: Json = False) -> None:
    """Show all that is known of a device.

    Example: `chapar devices show farm1-pump-7`
    """
    language = preferred_language()
    with GatewayClient(url, language) as gateway:
        found = gateway.ask(ShownDevice, "GET", _path(device))
    if as_json:
        typer.echo(_json(found))
    else:
        print_record(_lines(found, language), language)
    check_output()


@devices.command("set")
def put(
    device: DeviceId,
    name: Annotated[str | None, typer.Option(metavar="NAME", help='For people; `""` removes it.')] = None,
    profile: Annotated[
        str | None,
        typer.Option(metavar="PROFILE", help="The form in which it takes commands: `text`, `chapar` or `default`."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:VALUE", help="A label that it gets, or gets anew; may be repeated."),
    ] = None,
    no_label: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A label that it loses; may be repeated.")
    ] = None,
    *,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Register a device, or change what is said of it; what no option names stays.

    Example: `chapar devices set farm1-pump-7 --name 'Northern pump' --label farm:1`
    """
    language = preferred_language()
    path = _path(device)
    changed: dict[str, object] = {}
    if name is not None:
        changed["name"] = check_name(name, "--name") if name else None
    if profile is not None:
        changed["profile"] = _profile(profile)
    added = dict(read_label(text, "--label") for text in label or ())
    with GatewayClient(url, language) as gateway:
        before = _known(gateway, path)
        kept: dict[str, object] = {} if before is None else {"name": before.name, "profile": before.profile}
        labels = (
            {}
            if before is None
            else {each: before.labels[each] for each in before.labels if each not in (no_label or ())}
        )
        described = kept | changed | {"labels": check_labels(labels | added, "--label")}
        found = gateway.ask(ShownDevice, "PUT", path, body=described)
    if as_json:
        typer.echo(_json(found))
    else:
        shown = plain(found.imei)
        typer.echo(
            say("devices.registered", language, device=shown)
            if before is None
            else say("devices.changed", language, device=shown)
        )


@devices.command()
def forget(device: DeviceId, *, url: Url = None) -> None:
    """Forget a device and all that is known of it, but for its messages. It registers anew once it speaks.

    Example: `chapar devices forget farm1-pump-7`
    """
    language = preferred_language()
    with GatewayClient(url, language) as gateway:
        gateway.ask(None, "DELETE", _path(device))
    typer.echo(say("devices.forgotten", language, device=check_device_id(device)))


@devices.command()
def purge(device: DeviceId, *, url: Url = None, as_json: Json = False) -> None:
    """Cancel all that is queued or scheduled for a device, as far as your key reaches.

    Example: `chapar devices purge farm1-pump-7`
    """
    language = preferred_language()
    with GatewayClient(url, language) as gateway, progress(say("queue.working", language)):
        purged = gateway.ask(Purged, "POST", f"{_path(device)}/queue/purge")
    if as_json:
        typer.echo(json_line(purged.model_dump()))
    else:
        typer.echo(say("devices.purged", language, count=purged.cancelled))


@devices.command()
def pause(
    device: DeviceId,
    *,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why, for whoever meets the pause.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Send nothing to a device until its queue is resumed. What is in flight may still arrive.

    Example: `chapar devices pause farm1-pump-7 --reason 'the valve is being repaired'`
    """
    language = preferred_language()
    body = None if reason is None else {"reason": check_note(reason, "--reason")}
    with GatewayClient(url, language) as gateway, progress(say("queue.working", language)):
        state = gateway.ask(ShownQueueState, "POST", f"{_path(device)}/queue/pause", body=body)
    if as_json:
        typer.echo(json_line(state.model_dump(mode="json")))
        return
    typer.echo(_paused(state, language))
    if state.in_flight:
        typer.echo(say("devices.in_flight", language, count=len(state.in_flight), ids=" ".join(state.in_flight)))


@devices.command()
def resume(device: DeviceId, *, url: Url = None, as_json: Json = False) -> None:
    """Let leave what waits for a device since its queue was paused.

    Example: `chapar devices resume farm1-pump-7`
    """
    language = preferred_language()
    with GatewayClient(url, language) as gateway, progress(say("queue.working", language)):
        state = gateway.ask(ShownQueueState, "POST", f"{_path(device)}/queue/resume")
    if as_json:
        typer.echo(json_line(state.model_dump(mode="json")))
    else:
        typer.echo(say("devices.resumed", language, count=state.depth))


devices.command("import")(import_devices)
devices.command("export")(export_devices)


def _pages(gateway: GatewayClient, query: Mapping[str, str | list[str]], limit: int) -> list[ShownDevice]:
    found: list[ShownDevice] = []
    cursor: str | None = None
    while len(found) < limit:
        paging = {"limit": str(min(limit - len(found), PAGE))} | ({} if cursor is None else {"cursor": cursor})
        page = gateway.ask(DevicePage, "GET", "/devices", query={**query, **paging})
        found += page.devices
        cursor = page.next
        if cursor is None:
            break
    return found


def _known(gateway: GatewayClient, path: str) -> ShownDevice | None:
    try:
        return gateway.ask(ShownDevice, "GET", path)
    except GatewayRefused as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise


def _path(device: str) -> str:
    return f"/devices/{quote(check_device_id(device, 'DEVICE'), safe='')}"


def _profile(text: str) -> str | None:
    names = (*(each.value for each in Profile), _DEFAULT)
    if text not in names:
        raise UsageInvalid(Phrase("usage.option", option="--profile", rule=Phrase("rule.one_of", names=names)))
    return None if text == _DEFAULT else text


def _json(device: ShownDevice) -> str:
    return json_line(device.model_dump(mode="json"))


def _row(device: ShownDevice, language: Language) -> Sequence[str]:
    presence = device.presence
    return (
        device.imei,
        device.name or "",
        _presence(presence, language),
        "" if presence.since is None else local_time(presence.since, language),
        "" if device.last_seen is None else local_time(device.last_seen, language),
        _waiting(device.queue, language),
        _labels(device, language),
    )


def _lines(device: ShownDevice, language: Language) -> Mapping[str, str]:
    presence, oldest = device.presence, device.queue.oldest
    return {
        "device": device.imei,
        "name": device.name or "",
        "profile": device.profile or say("devices.default_profile", language),
        "labels": _labels(device, language),
        "presence": _presence(presence, language),
        "since": "" if presence.since is None else local_time(presence.since, language),
        "evidence": "" if presence.evidence is None else word("evidence", presence.evidence, language),
        "last_seen": "" if device.last_seen is None else local_time(device.last_seen, language),
        "waiting": _number(device.queue.depth, language),
        "oldest": "" if oldest is None else local_time(oldest, language),
        "queue": _paused(device.queue, language),
    }


def _paused(queue: ShownQueue, language: Language) -> str:
    """Say since when a queue is paused, by whom and why; nothing where it is not."""
    if queue.paused is None:
        return ""
    facts = {"since": local_time(queue.paused, language), "by": plain(queue.paused_by or "–")}
    if queue.pause_reason is None:
        return say("devices.paused", language, **facts)
    return say("devices.paused_because", language, **facts, reason=plain(queue.pause_reason))


def _presence(presence: ShownPresence, language: Language) -> str:
    state = word("presence", presence.state, language)
    return say("devices.stale", language, state=state) if presence.stale else state


def _labels(device: ShownDevice, language: Language) -> str:
    return joined((f"{name}:{value}" for name, value in device.labels.items()), language)


def _waiting(queue: ShownQueue, language: Language) -> str:
    number = _number(queue.depth, language)
    return number if queue.paused is None else say("devices.waiting_paused", language, number=number)


def _number(number: int, language: Language) -> str:
    return persian_digits(str(number)) if language == "fa" else str(number)
