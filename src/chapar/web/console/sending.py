"""Send an operation: a form for one device, or for a list of them."""

import json
import math
import re
from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter, Request, Response

from chapar.delivery.messages import Messaging
from chapar.errors import BodyMalformed, ChaparError, FieldInvalid, KeyMismatch, Phrase, ascii_number
from chapar.model.json_text import MAX_PARAMS_DEPTH, depth_of, parse
from chapar.model.message import (
    LONGEST_REPLY_WITHIN,
    SHORTEST_REPLY_WITHIN,
    Command,
    Condition,
    Wait,
    check_collapse_key,
    check_device_id,
    check_operation,
)
from chapar.model.principal import Scope
from chapar.web.console.dispatching import send_all_once
from chapar.web.console.fields import read_moment, read_offset
from chapar.web.console.routes import fields_of, form_of, routes
from chapar.web.console.site import Site
from chapar.web.console.words import chosen_language
from chapar.web.http.entrance import allow, caller_of
from chapar.web.http.problems import status_of
from chapar.web.http.rates import Limits

MOST_DEVICES: Final = 1000  # of one form

UNITS: Final[Mapping[str, int]] = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400}
DELIVERIES: Final[Mapping[str, Condition | None]] = {
    "now": None,
    "online": Condition.ONLINE,
    "contact": Condition.CONTACT,
}

_BETWEEN: Final = re.compile(r"[\s,;\u060c\u061b]+")  # ids in a list


def sending_router(site: Site, messaging: Messaging, limits: Limits) -> APIRouter:
    """The pages of sending."""
    router = routes()

    def form(request: Request, asked: Mapping[str, str], problem: ChaparError | None = None) -> Response:
        if isinstance(problem, KeyMismatch):  # what was sent with it was something else
            asked = {**asked, "key": ""}
        return site.page(
            request,
            "send.html",
            200 if problem is None else status_of(problem),
            asked=asked,
            units=list(UNITS),
            deliveries=list(DELIVERIES),
            problem=None if problem is None else problem.sentence(chosen_language(request)),
        )

    @router.get("/send")
    @allow(Scope.SEND)
    async def ask(request: Request) -> Response:
        """Ask what is to be sent."""
        return form(request, fields_of(request))

    @router.post("/send")
    @allow(Scope.SEND)
    async def send(request: Request) -> Response:
        """Send it, and show the message, or what came of each."""
        asked, caller = form_of(request), caller_of(request)
        try:
            commands = read_commands(asked)
            limits.messages(caller, len(commands))
            with limits.waiting(caller):
                sent = await send_all_once(messaging, caller, commands, asked.get("key", ""))
            if len(sent) == 1 and isinstance(sent[0], ChaparError):
                raise sent[0]
        except ChaparError as error:
            return form(request, asked, error)
        if len(sent) == 1 and Scope.READ in caller.principal.scopes:
            return site.redirect(request, f"/messages/{sent[0]}")
        language = chosen_language(request)
        rows = [
            (command.imei, None, each.sentence(language))
            if isinstance(each, ChaparError)
            else (command.imei, each, None)
            for command, each in zip(commands, sent, strict=True)
        ]
        accepted = sum(1 for _, message_id, _ in rows if message_id is not None)
        return site.page(request, "sent.html", rows=rows, accepted=accepted, refused=len(rows) - accepted)

    return router


def read_commands(asked: Mapping[str, str]) -> list[Command]:
    """The commands that a form asks for, one for each device; raises FieldInvalid."""
    devices = list(dict.fromkeys(check_device_id(text) for text in _BETWEEN.split(asked.get("imei", "").strip())))
    if len(devices) > MOST_DEVICES:
        raise FieldInvalid("imei", Phrase("rule.message_count", limit=MOST_DEVICES))
    key = asked.get("collapse_key")
    time = asked.get("deliver_at")
    command = Command(
        imei="",
        micro_op=check_operation(asked.get("micro_op", "")),
        params=_read_params(asked.get("params", "")),
        qos=int(asked["qos"]) if asked.get("qos") in {"0", "2"} else 1,
        at_most_once="at_most_once" in asked,
        expires_in=_read_length(asked, "expires_in"),
        deliver_at=read_moment(time, "deliver_at", offset=read_offset(asked.get("offset", ""))) if time else None,
        wait=Wait.NONE if "queue" in asked else Wait.BROKER,
        reply_within=_within(_read_length(asked, "reply_within")),
        condition=DELIVERIES.get(asked.get("deliver", "")),
        collapse_key=check_collapse_key(key) if key else None,
        urgent="urgent" in asked,
    )
    return [command._replace(imei=imei) for imei in devices]


def _read_params(text: str) -> str | None:
    if not text:
        return None
    try:
        params = parse(text.encode())
    except BodyMalformed as error:
        raise FieldInvalid("params", Phrase("rule.not_valid", problem=error.cause)) from None
    if not isinstance(params, dict):
        raise FieldInvalid("params", Phrase("pydantic.dict_type"))
    if depth_of(text.encode()) > MAX_PARAMS_DEPTH:
        raise FieldInvalid("params", Phrase("rule.params_depth", limit=MAX_PARAMS_DEPTH))
    try:
        return json.dumps(params, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise FieldInvalid("params", Phrase("rule.not_finite")) from None


def _read_length(asked: Mapping[str, str], name: str) -> float | None:
    """A length of time in seconds; None where none was filled in."""
    text = asked.get(name, "")
    if not text:
        return None
    try:
        seconds = float(ascii_number(text)) * UNITS.get(asked.get(f"{name}_unit", ""), 1)
    except ValueError:
        raise FieldInvalid(name, Phrase("pydantic.float_parsing")) from None
    if not 0 < seconds < math.inf:
        raise FieldInvalid(name, Phrase("pydantic.greater_than", gt=0))
    return seconds


def _within(seconds: float | None) -> float | None:
    if seconds is not None and seconds < SHORTEST_REPLY_WITHIN:
        raise FieldInvalid("reply_within", Phrase("pydantic.greater_than_equal", ge=SHORTEST_REPLY_WITHIN))
    if seconds is not None and seconds > LONGEST_REPLY_WITHIN:
        raise FieldInvalid("reply_within", Phrase("pydantic.less_than_equal", le=LONGEST_REPLY_WITHIN))
    return seconds
