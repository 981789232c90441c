"""`/devices`: the devices that are known, whether each is there, and what waits for it."""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Body, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.config import JsonDict
from starlette.convertors import StringConvertor, register_url_convertor

from chapar.devices.pausing import Pausing
from chapar.devices.registry import Description, Registry
from chapar.errors import FieldInvalid, Phrase
from chapar.model.device import (
    MAX_LABEL_NAME,
    MAX_LABEL_VALUE,
    MAX_LABELS,
    MAX_NAME,
    MAX_NOTE,
    DeviceFilters,
    DeviceQueue,
    Ground,
    KnownDevice,
    QueueState,
    Registration,
    State,
    check_labels,
    check_name,
    check_note,
    read_label,
)
from chapar.model.message import Profile, check_device_id, has_forbidden_character
from chapar.model.principal import Scope
from chapar.model.times import rfc3339
from chapar.web.api.schemas import DEVICE_ID, FORBIDDEN, MAX_PAGE
from chapar.web.http.chunks import in_chunks, page_of
from chapar.web.http.entrance import AdmittedStream, Calling, GuardedRoute, allow
from chapar.web.http.problems import answers

_JSON: Final = "application/json"
_PROFILES: Final = {profile.value: profile for profile in Profile}

# The rules of `device.py` as JSON Schema knows them; those hold them, in both languages.
_ID: Final[JsonDict] = {"type": "string", **DEVICE_ID}
_NAME: Final[JsonDict] = {"pattern": f"^[^{FORBIDDEN}]*[^\\s{FORBIDDEN}][^{FORBIDDEN}]*$"}
_LABELS: Final[JsonDict] = {
    "maxProperties": MAX_LABELS,
    "propertyNames": {"pattern": f"^[^:{FORBIDDEN}]{{1,{MAX_LABEL_NAME}}}$"},
    "additionalProperties": {"type": "string", "pattern": f"^[^{FORBIDDEN}]{{0,{MAX_LABEL_VALUE}}}$"},
}
_LABEL: Final = f"^[^:{FORBIDDEN}]{{1,{MAX_LABEL_NAME}}}:[^{FORBIDDEN}]{{0,{MAX_LABEL_VALUE}}}$"
_CURSOR: Final = r"^[A-Za-z0-9._-]{1,64}$"

DeviceId = Annotated[
    str,
    Path(description="The device: 1 to 64 of `A-Z a-z 0-9 . _ -`. Persian and Arabic digits are read as ASCII."),
    WithJsonSchema(_ID),
]


class _DeviceId(StringConvertor):
    """Any id but what has its own place beside the devices, whichever method it takes there."""

    regex = "(?!(?:import|export)$)[^/]+"


register_url_convertor("device", _DeviceId())

_ONE: Final = "/{imei:device}"


class DeviceRequest(BaseModel):
    """All that is to be said of a device; what is left out is said no more."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str | None = Field(
        default=None,
        description="For people.",
        max_length=MAX_NAME,
        examples=["northern pump"],
        json_schema_extra=_NAME,
    )
    profile: Literal["text", "chapar"] | None = Field(
        default=None,
        description="The form in which it takes commands. null: that of CHAPAR_DEFAULT_PROFILE.",
        examples=["text"],
    )
    labels: dict[str, str] = Field(
        default={},
        description=f"At most {MAX_LABELS}, by which devices are found: names without a colon, and values.",
        examples=[{"farm": "1"}],
        json_schema_extra=_LABELS,
    )

    def description(self) -> Description:
        """Return it as the registry takes it; raises FieldInvalid."""
        return Description(
            name=None if self.name is None else check_name(self.name),
            profile=None if self.profile is None else _PROFILES[self.profile],
            labels=check_labels(self.labels),
        )


class PresenceView(BaseModel):
    """The presence of a device now, and the evidence for it."""

    state: State = Field(examples=[State.ONLINE])
    since: str | None = Field(examples=["2026-11-24T06:30:00.000Z"])
    evidence: Ground | None = Field(
        description="`announced`: the device said so, or its will. `retained`: the presence topic held it when the "
        "gateway subscribed. `spoke`: the device published something after its last `offline`.",
        examples=[Ground.ANNOUNCED],
    )
    stale: bool = Field(description="Whether it may have changed unnoticed: the gateway has received nothing for 30 s.")


class DeviceQueueView(BaseModel):
    """The messages of a device that have not ended, as far as the caller reaches."""

    depth: int = Field(examples=[0])
    oldest: str | None = Field(description="When the first of them was accepted.", examples=[None])
    paused: str | None = Field(description="Since when nothing leaves for it; null: it is not paused.", examples=[None])
    paused_by: str | None = Field(description="Who paused it.", examples=[None])
    pause_reason: str | None = Field(description="Why, as they said.", examples=[None])


class QueueStateView(DeviceQueueView):
    """The queue of one device."""

    imei: str = Field(examples=["861234567890123"])
    in_flight: list[str] = Field(
        description="Ids of messages that the broker may have been sent and has not acknowledged; the first 100.",
        examples=[[]],
    )


class DeviceView(BaseModel):
    """A device. Times are RFC 3339, UTC, with milliseconds."""

    imei: str = Field(examples=["861234567890123"])
    name: str | None = Field(examples=["northern pump"])
    profile: Profile | None = Field(description="null: that of CHAPAR_DEFAULT_PROFILE.", examples=[Profile.TEXT])
    labels: dict[str, str] = Field(examples=[{"farm": "1"}])
    presence: PresenceView
    last_seen: str | None = Field(
        description="When it last published something; to 5 minutes where another process receives.",
        examples=["2026-11-24T06:30:00.000Z"],
    )
    queue: DeviceQueueView


class DeviceList(BaseModel):
    """One page of devices, in the order of their ids."""

    devices: list[DeviceView]
    next: str | None = Field(description="`cursor` of the next page; null on the last one.", examples=[None])


class PauseRequest(BaseModel):
    """More about a pause."""

    model_config = ConfigDict(strict=True, extra="forbid")

    reason: str | None = Field(
        default=None,
        description="Why, for whoever meets the pause.",
        max_length=MAX_NOTE,
        examples=["valve is being repaired"],
        json_schema_extra=_NAME,
    )


_MaybePause = Annotated[PauseRequest | None, Body(examples=[{"reason": "valve is being repaired"}])]


class PurgedView(BaseModel):
    """The end of a purge."""

    imei: str = Field(examples=["861234567890123"])
    cancelled: int = Field(description="How many messages were cancelled.", examples=[3])


class DeviceConditions(BaseModel):
    """Conditions on devices; what is absent does not narrow."""

    presence: Annotated[State | None, WithJsonSchema({"type": "string", "enum": list(State)})] = Field(
        None, description="Those that are in this state now."
    )
    label: Annotated[
        list[str],
        WithJsonSchema({"type": "array", "maxItems": MAX_LABELS, "items": {"type": "string", "pattern": _LABEL}}),
    ] = Field([], max_length=MAX_LABELS, description="Those with this label, as `name:value`; each, where repeated.")
    profile: Annotated[Profile | None, WithJsonSchema({"type": "string", "enum": list(Profile)})] = Field(
        None, description="Those that take commands in this form, by their own profile or by default."
    )
    q: Annotated[
        str | None,
        WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_NAME, "pattern": f"^[^{FORBIDDEN}]*$"}),
    ] = Field(None, min_length=1, max_length=MAX_NAME, description="Those with this in their id or name.")

    def filters(self) -> DeviceFilters:
        """Return them as the registry takes them; raises FieldInvalid."""
        if self.q is not None and has_forbidden_character(self.q):
            raise FieldInvalid("q", Phrase("rule.control_characters"))
        return DeviceFilters(
            state=self.presence,
            profile=None if self.profile is None else self.profile.value,
            labels=tuple(map(read_label, self.label)),
            text=self.q,
        )


class DevicesQuery(DeviceConditions):
    """Conditions on devices, and the place of a page."""

    cursor: Annotated[str | None, WithJsonSchema({"type": "string", "pattern": _CURSOR})] = Field(
        None, pattern=_CURSOR, description="`next` of the page before."
    )
    limit: int = Field(
        100,
        ge=1,
        le=MAX_PAGE,
        description="Devices on a page, at most: it also ends at 256 KiB of text. Follow `next`.",
    )


_REGISTERED: Final[dict[int | str, dict[str, object]]] = {
    201: {"model": DeviceView, "description": "It was not registered before."}
}


def devices_router(registry: Registry, pausing: Pausing) -> APIRouter:
    """The routes of `/devices`."""
    router = APIRouter(prefix="/devices", tags=["devices"], route_class=GuardedRoute)

    @router.get(
        "",
        summary="List devices",
        operation_id="list_devices",
        response_model=DeviceList,
        responses=answers(422, 503),
    )
    @allow(Scope.DEVICES_READ)
    async def devices(query: Annotated[DevicesQuery, Query()], caller: Calling) -> Response:
        """A page of the devices that were registered, or have spoken, in the order of their ids: follow `next`."""
        page = await registry.page(caller, query.filters(), after=query.cursor, limit=query.limit)
        written = (device_view(device).model_dump_json().encode() for device in page.devices)
        return AdmittedStream(in_chunks(page_of("devices", written, page.next)), media_type=_JSON)

    @router.get(_ONE, summary="Show one device", operation_id="show_device", responses=answers(404, 422, 503))
    @allow(Scope.DEVICES_READ)
    async def device(imei: DeviceId, caller: Calling) -> DeviceView:
        """Show whether a device is there and by what evidence, when it was last seen, and how much waits for it."""
        return device_view(await registry.find(caller, check_device_id(imei)))

    @router.put(
        _ONE,
        summary="Register a device, or describe it anew",
        operation_id="put_device",
        responses=_REGISTERED | answers(400, 404, 406, 408, 409, 413, 415, 422, 503),
    )
    @allow(Scope.DEVICES_WRITE)
    async def put(imei: DeviceId, asked: DeviceRequest, caller: Calling, response: Response) -> DeviceView:
        """Set all of it: what is left out becomes empty. Messages that wait keep their form."""
        known, registration = await registry.put(caller, check_device_id(imei), asked.description())
        if registration is Registration.MADE:
            response.status_code = 201
        return device_view(known)

    @router.delete(
        _ONE,
        summary="Forget a device",
        operation_id="forget_device",
        status_code=204,
        responses=answers(404, 406, 409, 422, 503),
    )
    @allow(Scope.DEVICES_WRITE)
    async def forget(imei: DeviceId, caller: Calling) -> None:
        """Remove what is known of it. Its messages stay, and what waits leaves. It registers anew once it speaks."""
        await registry.forget(caller, check_device_id(imei))

    @router.post(
        "/{imei}/queue/purge",
        summary="Withdraw all that waits for a device",
        operation_id="purge_device_queue",
        responses=answers(404, 406, 422, 503),
    )
    @allow(Scope.DEVICES_WRITE)
    async def purge(imei: DeviceId, caller: Calling) -> PurgedView:
        """Cancel what is queued or scheduled for it, reason `purged`, as far as the caller reaches.

        What the broker has, or is being sent, is not touched. A repetition withdraws what was accepted meanwhile, too.
        """
        device_id = check_device_id(imei)
        return PurgedView(imei=device_id, cancelled=await registry.purge(caller, device_id))

    @router.post(
        "/{imei}/queue/pause",
        summary="Pause the queue of a device",
        operation_id="pause_device_queue",
        responses=answers(400, 404, 406, 408, 409, 413, 415, 422, 503),
    )
    @allow(Scope.DEVICES_WRITE)
    async def pause(imei: DeviceId, caller: Calling, asked: _MaybePause = None) -> QueueStateView:
        """Send nothing to it until it is resumed, also nothing urgent; the device is registered where it is not.

        Messages for it are accepted and wait, reason `paused`; they expire, and can be withdrawn. What is in flight may
        still arrive. Paused again, the first pause stands.
        """
        device_id = check_device_id(imei)
        reason = None if asked is None or asked.reason is None else check_note(asked.reason)
        return queue_view(device_id, await pausing.pause(caller, device_id, reason))

    @router.post(
        "/{imei}/queue/resume",
        summary="Resume the queue of a device",
        operation_id="resume_device_queue",
        responses=answers(404, 406, 422, 503),
    )
    @allow(Scope.DEVICES_WRITE)
    async def resume(imei: DeviceId, caller: Calling) -> QueueStateView:
        """Let leave what waits for it, in its order. Nothing changes where it is not paused."""
        device_id = check_device_id(imei)
        return queue_view(device_id, await pausing.resume(caller, device_id))

    return router


def queue_view(imei: str, state: QueueState) -> QueueStateView:
    """The queue of a device as JSON."""
    return QueueStateView(imei=imei, in_flight=state.in_flight, **_queue_fields(state.queue))


def _queue_fields(queue: DeviceQueue) -> dict[str, Any]:
    depth, oldest, pause = queue
    return {
        "depth": depth,
        "oldest": rfc3339(oldest),
        "paused": None if pause is None else rfc3339(pause.since),
        "paused_by": None if pause is None else pause.by,
        "pause_reason": None if pause is None else pause.note,
    }


def device_view(known: KnownDevice) -> DeviceView:
    """A device as JSON."""
    device, presence, last_seen, queue = known
    return DeviceView(
        imei=device.imei,
        name=device.name,
        profile=None if device.profile is None else Profile(device.profile),
        labels=dict(device.labels),
        presence=PresenceView(
            state=presence.state,
            since=rfc3339(presence.since),
            evidence=presence.evidence,
            stale=presence.stale,
        ),
        last_seen=rfc3339(last_seen),
        queue=DeviceQueueView(**_queue_fields(queue)),
    )
