"""`/catalog`: the operations that the catalog describes."""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field, JsonValue

from chapar.devices.catalog import Catalog, Operation
from chapar.model.principal import Caller, Scope
from chapar.web.http.entrance import Calling, GuardedRoute, Identity, allow, check
from chapar.web.http.problems import answers

_PARAMS: Final[dict[str, JsonValue]] = {
    "type": "object",
    "required": ["minutes"],
    "properties": {
        "minutes": {
            "type": "integer",
            "title": "Duration",
            "title_fa": "\u0645\u062f\u062a",
            "unit": "min",
            "unit_fa": "\u062f\u0642\u06cc\u0642\u0647",
            "minimum": 1,
            "maximum": 120,
            "default": 20,
        }
    },
    "unevaluatedProperties": False,
}


class OperationView(BaseModel):
    """An operation, in English and in Persian. What is not said is null."""

    micro_op: str = Field(examples=["irrigate"])
    title: str | None = Field(examples=["Irrigate"])
    title_fa: str | None = Field(examples=["\u0622\u0628\u06cc\u0627\u0631\u06cc"])
    description: str | None = Field(examples=["Opens the valve, and closes it after the time given."])
    description_fa: str | None = Field(examples=[None])
    confirm: bool = Field(description="Whether a person is to be asked before it is sent.")
    question: str | None = Field(description="What to ask then.", examples=["Is nobody in the field?"])
    question_fa: str | None = Field(examples=[None])
    expires_in: float | None = Field(description="Proposed, as `expires_in` of a message.", examples=[600])
    reply_within: float | None = Field(description="Proposed, as `reply_within` of a message.", examples=[30])
    deliver: Literal["now", "on_contact"] = Field(description="Proposed, as `deliver` of a message.")
    only_if_online: bool = Field(description="Proposed, as `only_if_online` of a message.")
    params: dict[str, JsonValue] = Field(
        description="JSON Schema (draft 2020-12) of its parameters, which every message of it has to fit. Beyond the "
        "draft's own words, a parameter may have `title_fa`, `description_fa`, `unit` and `unit_fa`.",
        examples=[_PARAMS],
    )


class CatalogView(BaseModel):
    """The operations within the caller's reach, in the order of the catalog."""

    operations: list[OperationView]


def catalog_router(catalog: Catalog) -> APIRouter:
    """The routes of `/catalog`."""
    router = APIRouter(prefix="/catalog", tags=["catalog"], route_class=GuardedRoute)

    @router.get("", summary="List the operations of the catalog", operation_id="list_operations")
    @allow(Identity.KNOWN)
    async def operations(caller: Calling) -> CatalogView:
        """List what may be sent, and with which parameters, as far as the caller reaches; empty without a catalog.

        It needs `messages:send` or `messages:read`.
        """
        _check(caller)
        described = catalog.within(caller)
        return CatalogView(operations=[_view(micro_op, operation) for micro_op, operation in described.items()])

    @router.get(
        "/{micro_op:path}",
        summary="Show one operation of the catalog",
        operation_id="show_operation",
        responses=answers(404, 422),
    )
    @allow(Identity.KNOWN)
    async def operation(
        micro_op: Annotated[str, Path(description="The operation's name.", examples=["irrigate"])], caller: Calling
    ) -> OperationView:
        """Show what it is called, what it proposes, and which parameters it takes.

        It needs `messages:send` or `messages:read`.
        """
        _check(caller)
        return _view(micro_op, catalog.find(caller, micro_op))

    return router


def _check(caller: Caller) -> None:
    """Raise Unauthenticated or ScopeMissing unless the caller sends, or reads what was sent."""
    check(caller, Scope.READ if Scope.READ in caller.principal.scopes else Scope.SEND)


def _view(micro_op: str, operation: Operation) -> OperationView:
    return OperationView.model_validate(
        {**operation.model_dump(), "micro_op": micro_op, "confirm": operation.is_confirmed}
    )
