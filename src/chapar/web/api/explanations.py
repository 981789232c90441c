"""`/messaging/messages/{id}/explain`: why a message stands where it does."""

import json
from typing import Final

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from chapar.delivery.causes import Cause
from chapar.delivery.explaining import Explaining
from chapar.delivery.explanation import plain_fact
from chapar.delivery.proofs import Kind, Proof
from chapar.errors import Language
from chapar.model.principal import Scope
from chapar.model.times import rfc3339
from chapar.web.api.messages import MessageId
from chapar.web.http.entrance import Calling, GuardedRoute, allow
from chapar.web.http.problems import answers, language_of

_JSON: Final = "application/json"
_EXAMPLE_ID: Final = "0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55"

FactValue = str | int | float | bool | None


class EvidenceView(BaseModel):
    """One piece of evidence; what else it has depends on its kind."""

    model_config = ConfigDict(extra="allow")

    kind: Kind = Field(description="What it is evidence of.", examples=[Kind.PUBLISHED])
    at: str | None = Field(
        description="When it happened or happens; null where it has no time.", examples=["2026-11-24T06:30:00.004Z"]
    )


class ExplanationView(BaseModel):
    """The cause of where a message stands, with its evidence."""

    id: str = Field(examples=[_EXAMPLE_ID])
    code: Cause = Field(description="The cause; stable, for programs to compare.", examples=[Cause.NO_REPLY])
    sentence: str = Field(
        description="The cause for a person. Persian with `Accept-Language: fa`.",
        examples=["The broker took it at 2026-11-24 06:30:00 UTC, and its device did not reply until 06:30:30 UTC."],
    )
    facts: dict[str, FactValue] = Field(
        description="What the sentence names: times in RFC 3339, lengths in seconds.",
        examples=[{"published_at": "2026-11-24T06:30:00.004Z", "reply_by": "2026-11-24T06:30:30.004Z"}],
    )
    evidence: list[EvidenceView] = Field(description="What it is concluded from, in the order of time.")


def explanations_router(explaining: Explaining) -> APIRouter:
    """The route of explanations."""
    router = APIRouter(route_class=GuardedRoute)

    @router.get(
        "/messaging/messages/{id}/explain",
        summary="Explain why a message stands where it does",
        operation_id="explain_message",
        tags=["messaging"],
        response_model=ExplanationView,
        responses=answers(404, 422, 503),
    )
    @allow(Scope.READ)
    async def explain(id: MessageId, caller: Calling, request: Request) -> Response:  # noqa: A002 - the name in the path
        """One cause, also for what arrived and what waits, in a sentence, and the evidence that it is concluded from.

        Nothing is claimed that the evidence does not show. Where the device is, is said to callers with `devices:read`.
        """
        explained = await explaining.explain(caller, id)
        language = language_of(request)
        body = {
            "id": id,
            "code": explained.explanation.cause.value,
            "sentence": explained.explanation.sentence(language),
            "facts": explained.explanation.named_facts(language),
            "evidence": [_shown(proof, language) for proof in explained.proofs],
        }
        headers = {"Content-Language": language, "Vary": "Accept-Language"}
        return Response(json.dumps(body, ensure_ascii=False), headers=headers, media_type=_JSON)

    return router


def _shown(proof: Proof, language: Language) -> dict[str, FactValue]:
    facts = {name: plain_fact(fact, language) for name, fact in proof.facts.items()}
    return {"kind": proof.kind.value, "at": rfc3339(proof.at), **facts}
