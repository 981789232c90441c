"""One device: whether it is there, what has happened lately, what waits for it, and what may be changed."""

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from fastapi import APIRouter, Request, Response

from chapar.delivery.replies import Replying
from chapar.delivery.reports import Reporting
from chapar.devices.pausing import Pausing
from chapar.devices.registry import Description, Registry
from chapar.errors import DeviceNotFound, FieldInvalid, Phrase
from chapar.model.device import Device, KnownDevice, Presence, check_labels, check_name, check_note
from chapar.model.message import Message, Profile, check_device_id
from chapar.model.principal import Caller, Scope
from chapar.model.reply import Listed, Reply, standing
from chapar.model.report import Filters
from chapar.web.console.routes import fields_of, form_of, routes
from chapar.web.console.site import Site, is_live
from chapar.web.console.words import chosen_language, words_of
from chapar.web.http.entrance import allow, caller_of
from chapar.web.http.problems import status_of

MESSAGES: Final = 15  # of which the page shows what has happened
REPLIES: Final = 15  # beside theirs: those that belong to no message
MOST_OF_A_REPLY: Final = 1000  # characters; the page of its message shows the rest
OWED: Final = 10  # messages that wait, of which the page shows each

DONE: Final = ("registered", "described", "purged", "paused", "resumed")
"""What has just been done, as the address says it."""

_COUNT: Final = re.compile("[0-9]{1,9}")


class Happening(NamedTuple):
    """Something that has happened with a device."""

    at: int  #: ms since the epoch
    kind: str  #: its words are `happened.KIND`
    message: Message | None = None  #: that it belongs to
    reply: Reply | None = None
    unmatched: str | None = None  #: why the reply belongs to no message
    presence: Presence | None = None


class Asked(NamedTuple):
    """A form that describes a device, as somebody filled it in."""

    name: str
    profile: str
    labels: str  #: one on a line, as `name:value`
    version: str  #: of the description from which they began


class OneDevice:
    """The page of one device."""

    def __init__(self, site: Site, registry: Registry, reporting: Reporting, replying: Replying) -> None:
        self._site = site
        self._registry = registry
        self._reporting = reporting
        self._replying = replying

    async def show(
        self, request: Request, status: int = 200, asked: Asked | None = None, problem: str | None = None
    ) -> Response:
        """The page; with the form as it was filled in, and what is wrong with it."""
        caller, imei = caller_of(request), _imei(request)
        try:
            known = await self._registry.find(caller, imei)
        except DeviceNotFound:
            if is_live(request):  # it was forgotten meanwhile: the whole page says so
                return self._site.redirect(request, f"/devices/{imei}")
            raise
        may_read = Scope.READ in caller.principal.scopes
        owed = await self._registry.owed(caller, imei, OWED + 1) if may_read else []
        query = fields_of(request)
        return self._site.page(
            request,
            "device.html",
            status,
            known=known,
            owed=owed[:OWED],
            is_longer=len(owed) > OWED,
            happened=await self._happened(caller, known) if may_read else [],
            asked=asked or as_it_stands(known.device),
            most_of_a_reply=MOST_OF_A_REPLY,
            profiles=list(Profile),
            done=query.get("done") if query.get("done") in DONE else None,
            count=int(query["count"]) if _COUNT.fullmatch(query.get("count", "")) else 0,
            problem=problem,
        )

    async def _happened(self, caller: Caller, known: KnownDevice) -> list[Happening]:
        """The latest happenings, as far back as all of them are known."""
        imei = known.device.imei
        page = await self._reporting.page(caller, Filters(imei=imei), after=None, limit=MESSAGES)
        unmatched = await self._replying.unmatched(caller, imei, before=None, limit=REPLIES)
        since = page.messages[-1].created_at if page.next is not None else 0
        return [each for each in story(page.messages, unmatched.replies, known.presence) if each.at >= since]


def device_router(
    site: Site, registry: Registry, pausing: Pausing, reporting: Reporting, replying: Replying
) -> APIRouter:
    """The page of one device, and what its forms ask for."""
    router, page = routes(), OneDevice(site, registry, reporting, replying)

    @router.get("/devices/{imei}")
    @allow(Scope.DEVICES_READ)
    async def device(request: Request) -> Response:
        """Show a device."""
        return await page.show(request)

    @router.post("/devices/{imei}")
    @allow(Scope.DEVICES_WRITE)
    async def describe(request: Request) -> Response:
        """Set its name, the form in which it takes commands, and its labels."""
        caller, imei, form = caller_of(request), _imei(request), form_of(request)
        asked = Asked(*(form.get(name, "") for name in Asked._fields))
        now = as_it_stands((await registry.find(caller, imei)).device)
        if asked.version != now.version:
            problem = words_of("device.changed_meanwhile", chosen_language(request))
            return await page.show(request, 409, asked._replace(version=now.version), problem)
        try:
            description = read_description(asked)
        except FieldInvalid as error:
            return await page.show(request, status_of(error), asked, error.sentence(chosen_language(request)))
        await registry.put(caller, imei, description)
        return site.redirect(request, f"/devices/{imei}", done="described")

    @router.post("/devices/{imei}/purge")
    @allow(Scope.DEVICES_WRITE)
    async def purge(request: Request) -> Response:
        """Withdraw what waits for it."""
        imei = _imei(request)
        cancelled = await registry.purge(caller_of(request), imei)
        return site.redirect(request, f"/devices/{imei}", done="purged", count=str(cancelled))

    @router.post("/devices/{imei}/pause")
    @allow(Scope.DEVICES_WRITE)
    async def pause(request: Request) -> Response:
        """Have nothing leave for it."""
        imei, note = _imei(request), form_of(request).get("reason", "").strip()
        try:
            state = await pausing.pause(caller_of(request), imei, check_note(note) if note else None)
        except FieldInvalid as error:
            return await page.show(request, status_of(error), problem=error.sentence(chosen_language(request)))
        return site.redirect(request, f"/devices/{imei}", done="paused", count=str(len(state.in_flight)))

    @router.post("/devices/{imei}/resume")
    @allow(Scope.DEVICES_WRITE)
    async def resume(request: Request) -> Response:
        """Let leave what waits for it."""
        imei = _imei(request)
        state = await pausing.resume(caller_of(request), imei)
        return site.redirect(request, f"/devices/{imei}", done="resumed", count=str(state.queue.depth))

    @router.post("/devices/{imei}/forget")
    @allow(Scope.DEVICES_WRITE)
    async def forget(request: Request) -> Response:
        """Remove what is known of it."""
        await registry.forget(caller_of(request), _imei(request))
        return site.redirect(request, "/devices", done="forgotten")

    return router


def story(messages: Iterable[Message], unmatched: Iterable[Listed], presence: Presence) -> list[Happening]:
    """All that has happened with a device, newest first."""
    happened = [step for message in messages for step in reversed(_steps(message))]
    happened += [Happening(each.reply.at, "unmatched", reply=each.reply, unmatched=each.reason) for each in unmatched]
    if presence.since is not None:
        happened.append(Happening(presence.since, "presence", presence=presence))
    return sorted(happened, key=lambda each: each.at, reverse=True)


def _steps(message: Message) -> Sequence[Happening]:
    """The steps of a message, in the order of time; in one millisecond, in the order in which they come."""
    steps = [Happening(message.created_at, "accepted", message)]
    if message.published_at is not None:
        steps.append(Happening(message.published_at, "published", message))
    reply = standing(message)
    if reply is not None:
        steps.append(Happening(reply.at, "replied", message, reply))
    if message.finished_at is not None and message.finished_at not in {step.at for step in steps[1:]}:
        steps.append(Happening(message.finished_at, "ended", message))
    return sorted(steps, key=lambda step: step.at)


def read_description(asked: Asked) -> Description:
    """The description that a form means; raises FieldInvalid."""
    return Description(
        name=check_name(asked.name) if asked.name else None,
        profile=Profile(asked.profile) if asked.profile in set(Profile) else None,
        labels=check_labels(_read_labels(asked.labels)),
    )


def _read_labels(text: str) -> Mapping[str, str]:
    labels: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            raise FieldInvalid("labels", Phrase("rule.label"))
        if name in labels:
            raise FieldInvalid("labels", Phrase("rule.repeated"))
        labels[name] = value
    return labels


def as_it_stands(device: Device) -> Asked:
    """The form as it is before anybody changes it."""
    labels = "\n".join(f"{name}:{value}" for name, value in device.labels.items())
    name, profile = device.name or "", device.profile or ""
    return Asked(name, profile, labels, sha256(f"{name}\n{profile}\n{labels}".encode()).hexdigest()[:16])


def _imei(request: Request) -> str:
    return check_device_id(request.path_params["imei"])
