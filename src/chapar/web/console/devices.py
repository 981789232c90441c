"""The list of devices: whether each is there, what is said of it, and what waits for it."""

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final

from fastapi import APIRouter, Request, Response

from chapar.devices.registry import Description, Registry
from chapar.errors import DeviceNotFound, FieldInvalid, PathUnknown, Phrase
from chapar.model.device import MAX_LABELS, MAX_NAME, DeviceFilters, DevicePage, KnownDevice, State, read_label
from chapar.model.message import Profile, check_device_id, has_forbidden_character
from chapar.model.principal import Caller, Scope
from chapar.model.report import Format
from chapar.web.console.routes import fields_of, form_of, routes
from chapar.web.console.site import Site
from chapar.web.console.words import chosen_language
from chapar.web.http.chunks import begun
from chapar.web.http.entrance import allow, caller_of
from chapar.web.http.problems import status_of

PAGE: Final = 50  # devices

_NOTHING_SAID: Final = Description(None, None, {})
_FORMS: Final = (Format.CSV, Format.XLSX)
_CURSOR: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


Written = Callable[[Caller, AsyncIterator[list[KnownDevice]], Format], Response]
"""Writes devices as a file."""


def devices_router(site: Site, registry: Registry, as_file: Written) -> APIRouter:
    """The page of devices, and a file of them."""
    router = routes()

    @router.get("/devices")
    @allow(Scope.DEVICES_READ)
    async def devices(request: Request) -> Response:
        """Show devices, in the order of their ids."""
        asked, labels = fields_of(request), _labels(request)
        after = asked.get("cursor") if _CURSOR.fullmatch(asked.get("cursor", "")) else None
        page, status, problem = DevicePage([], None), 200, None
        try:
            page = await registry.page(caller_of(request), read_filters(asked, labels), after=after, limit=PAGE)
        except FieldInvalid as error:
            status, problem = status_of(error), error.sentence(chosen_language(request))
        return site.page(
            request,
            "devices.html",
            status,
            asked=asked,
            labels=labels,
            selected=_selected(asked, labels),
            can_have_more_labels=len(labels) < MAX_LABELS,
            states=list(State),
            profiles=list(Profile),
            devices=page.devices,
            is_stale=any(device.presence.stale for device in page.devices),
            next=page.next,
            is_first=after is None,
            filters={name: asked[name] for name in ("q", "presence", "profile") if name in asked},
            done="forgotten" if asked.get("done") == "forgotten" else None,
            problem=problem,
        )

    @router.get("/devices.{form}")
    @allow(Scope.DEVICES_READ)
    async def export(request: Request) -> Response:
        """Give every device that fits as a file that can be imported."""
        form = request.path_params["form"]
        if form not in _FORMS:
            raise PathUnknown
        caller, filters = caller_of(request), read_filters(fields_of(request), _labels(request))
        return as_file(caller, await begun(registry.all(caller, filters)), Format(form))

    @router.post("/devices")
    @allow(Scope.DEVICES_WRITE)
    async def register(request: Request) -> Response:
        """Register a device; one that is known stays as it is described."""
        caller, imei = caller_of(request), check_device_id(form_of(request).get("imei", ""))
        try:
            await registry.find(caller, imei)
        except DeviceNotFound:
            await registry.put(caller, imei, _NOTHING_SAID)
            return site.redirect(request, f"/devices/{imei}", done="registered")
        return site.redirect(request, f"/devices/{imei}")

    return router


def _labels(request: Request) -> list[str]:
    """The labels that are asked for; the form has a field for each."""
    asked = (text.strip() for text in request.query_params.getlist("label"))
    return list(dict.fromkeys(text for text in asked if text))[:MAX_LABELS]


def _selected(asked: Mapping[str, str], labels: Sequence[str]) -> dict[str, str]:
    """The same conditions as the form of sending has them."""
    given = {name: asked[name] for name in ("presence", "profile", "q") if name in asked}
    return {**given, "labels": "\n".join(labels)} if labels else given


def read_filters(asked: Mapping[str, str], labels: Sequence[str]) -> DeviceFilters:
    """The conditions of a form; raises FieldInvalid."""
    text, state, profile = asked.get("q"), asked.get("presence"), asked.get("profile")
    if text is not None and has_forbidden_character(text):
        raise FieldInvalid("q", Phrase("rule.control_characters"))
    if text is not None and len(text) > MAX_NAME:
        raise FieldInvalid("q", Phrase("rule.characters", limit=MAX_NAME))
    return DeviceFilters(
        state=State(state) if state in set(State) else None,
        profile=profile if profile in set(Profile) else None,
        labels=tuple(read_label(label) for label in labels),
        text=text,
    )
