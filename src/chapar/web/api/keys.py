"""`/keys`: API keys, made and ended by those who may."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, FailFast, Field, StringConstraints
from pydantic.config import JsonDict

from chapar.access.keyring import MAX_NAME, Grant, Keyring
from chapar.delivery.cancellation import Cancellation
from chapar.errors import FieldInvalid, Phrase
from chapar.model.api_key import ApiKey
from chapar.model.principal import (
    DEVICE_PATTERN,
    EVERYTHING,
    MAX_PATTERN_LENGTH,
    MAX_PATTERNS,
    Reach,
    Scope,
    check_patterns,
)
from chapar.model.times import milliseconds, rfc3339
from chapar.web.api.idempotency import refuse_key
from chapar.web.api.schemas import FORBIDDEN, Time
from chapar.web.http.chunks import begun, in_list
from chapar.web.http.entrance import AdmittedStream, Calling, GuardedRoute, allow, check
from chapar.web.http.problems import answers

KeyId = Annotated[
    str,
    StringConstraints(to_lower=True),
    Path(description="The key's `id`, in either case; not the key itself.", max_length=64),
]

_Names = Annotated[list[str], FailFast()]  # the first fault of thousands says enough

CancelWaiting = Annotated[
    bool, Query(description="Whether to cancel the messages that it sent and that still wait; needs `messages:cancel`.")
]

_EXAMPLE_ID: Final = "k3x9q2m7aa"
# The rules of `principal.py` and of the keyring as JSON Schema knows them; those hold them, in both languages.
_LISTED: Final[JsonDict] = {"minItems": 1, "maxItems": MAX_PATTERNS}
_DEVICES: Final[JsonDict] = {
    **_LISTED,
    "items": {"type": "string", "pattern": f"^{DEVICE_PATTERN.pattern}$", "maxLength": MAX_PATTERN_LENGTH},
}
_OPERATIONS: Final[JsonDict] = {
    **_LISTED,
    "items": {"type": "string", "pattern": f"^[^{FORBIDDEN}]+$", "maxLength": MAX_PATTERN_LENGTH},
}
_NAME: Final[JsonDict] = {"pattern": f"^[^{FORBIDDEN}]*[^\\s{FORBIDDEN}][^{FORBIDDEN}]*$"}
_PATTERNS: Final = "Names in which `*` stands for any characters and `?` for one."


class KeyRequest(BaseModel):
    """The rights, name and end of a new key."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str = Field(
        description="Whom it is for.", max_length=MAX_NAME, examples=["irrigation backend"], json_schema_extra=_NAME
    )
    scopes: _Names = Field(
        description="What it may do: " + ", ".join(f"`{scope}`" for scope in Scope) + ".",
        examples=[["messages:send", "messages:read"]],
        json_schema_extra={"items": {"type": "string", "enum": [scope.value for scope in Scope]}, "minItems": 1},
    )
    devices: _Names = Field(
        list(EVERYTHING),
        description=f"The devices that it reaches. {_PATTERNS}",
        examples=[["farm1-*"]],
        json_schema_extra=_DEVICES,
    )
    operations: _Names = Field(
        list(EVERYTHING),
        description=f"The operations that it may send and see. {_PATTERNS}",
        examples=[["*"]],
        json_schema_extra=_OPERATIONS,
    )
    expires_at: Time | None = Field(
        default=None,
        description="Not accepted from then on (RFC 3339); not after the end of the caller's own key or token. "
        "Left out, it is that end; null: it has no end.",
    )

    def grant(self) -> Grant:
        """Return it as the keyring takes it; raises FieldInvalid."""
        return Grant(
            name=self.name,
            scopes=read_scopes(self.scopes),
            reach=Reach(check_patterns(self.devices, "devices"), check_patterns(self.operations, "operations")),
            expires_at=milliseconds(self.expires_at),
            ends_with_maker="expires_at" not in self.model_fields_set,
        )


class EndRequest(BaseModel):
    """The time at which a key ends."""

    model_config = ConfigDict(strict=True, extra="forbid")

    expires_at: Time | None = Field(description="Not accepted from then on (RFC 3339); null: it has no end.")


class KeyView(BaseModel):
    """A key, but for the key itself, which nobody can show any more."""

    id: str = Field(examples=[_EXAMPLE_ID])
    name: str = Field(examples=["irrigation backend"])
    scopes: list[str] = Field(examples=[["messages:send"]])
    devices: list[str] = Field(examples=[["farm1-*"]])
    operations: list[str] = Field(examples=[["*"]])
    created_at: str = Field(examples=["2026-11-24T06:30:00.000Z"])
    created_by: str = Field(description="The principal that made it; empty while access was open.", examples=[""])
    expires_at: str | None = Field(examples=[None])
    revoked_at: str | None = Field(examples=[None])
    last_used_at: str | None = Field(description="To the minute.", examples=[None])


class NewKeyView(KeyView):
    """A new key. This is the only time that the key itself is shown."""

    key: str = Field(examples=["chapar_…"])


class RevokedKeyView(KeyView):
    """A key that was revoked."""

    cancelled: int | None = Field(
        description="How many of the messages that it had waiting were cancelled; null where that was not asked for.",
        examples=[3],
    )


class KeyList(BaseModel):
    """The keys that the caller may see, oldest first."""

    keys: list[KeyView]


def keys_router(keyring: Keyring, cancellation: Cancellation) -> APIRouter:
    """The routes of `/keys`."""
    router = APIRouter(prefix="/keys", tags=["access"], route_class=GuardedRoute)

    @router.post(
        "",
        summary="Make an API key",
        operation_id="create_key",
        status_code=201,
        responses=answers(400, 403, 406, 408, 413, 415, 422, 503),
        dependencies=[Depends(refuse_key)],
    )
    @allow(Scope.KEYS)
    async def create(asked: KeyRequest, caller: Calling, response: Response) -> NewKeyView:
        """Make a key with no more rights than the caller's own. It is shown once; only its hash is kept."""
        issued = await keyring.create(caller, asked.grant())
        response.headers["Cache-Control"] = "no-store"
        return NewKeyView(key=issued.secret, **key_view(issued.key).model_dump())

    @router.get("", summary="List API keys", operation_id="list_keys", response_model=KeyList, responses=answers(503))
    @allow(Scope.KEYS)
    async def keys(caller: Calling) -> AdmittedStream:
        """Every key whose rights the caller has too, also those that have ended."""
        pages = await begun(keyring.all(caller))
        written = ((key_view(key).model_dump_json().encode() for key in page) async for page in pages)
        return AdmittedStream(in_list(written, b'{"keys":[', b"]}\n"), media_type="application/json")

    @router.post(
        "/{id}/revoke",
        summary="End a key at once and for good",
        operation_id="revoke_key",
        responses=answers(404, 406, 422, 503),
    )
    @allow(Scope.KEYS)
    async def revoke(
        id: KeyId,  # noqa: A002 - the name is the path's
        caller: Calling,
        *,
        cancel_waiting: CancelWaiting = False,
    ) -> RevokedKeyView:
        """Revoke a key: once this is answered, no process accepts it, and what it was being sent has been cut off."""
        if cancel_waiting:
            check(caller, Scope.CANCEL)
        key = await keyring.revoke(caller, id)
        cancelled = await cancellation.cancel_all_of(caller, f"key:{key.id}") if cancel_waiting else None
        return RevokedKeyView(**key_view(key).model_dump(), cancelled=cancelled)

    @router.post(
        "/{id}/expire",
        summary="Give a key another end",
        operation_id="expire_key",
        responses=answers(400, 404, 406, 408, 413, 415, 422, 503),
    )
    @allow(Scope.KEYS)
    async def expire(id: KeyId, asked: EndRequest, caller: Calling) -> KeyView:  # noqa: A002 - the name is the path's
        """A key that was revoked stays so."""
        return key_view(await keyring.expire(caller, id, milliseconds(asked.expires_at)))

    return router


def read_scopes(names: list[str]) -> frozenset[Scope]:
    """The scopes with these names; raises FieldInvalid naming those there are."""
    try:
        return frozenset(map(Scope, names))
    except ValueError:
        every = tuple(Scope)
        raise FieldInvalid("scopes", Phrase("rule.some_of", names=every)) from None


def key_view(key: ApiKey) -> KeyView:
    """A key as JSON."""
    return KeyView(
        id=key.id,
        name=key.name,
        scopes=sorted(key.scopes),
        devices=list(key.reach.devices),
        operations=list(key.reach.operations),
        created_at=str(rfc3339(key.created_at)),
        created_by=key.created_by,
        expires_at=rfc3339(key.expires_at),
        revoked_at=rfc3339(key.revoked_at),
        last_used_at=rfc3339(key.last_used_at),
    )
