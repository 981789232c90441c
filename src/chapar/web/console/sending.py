"""Send an operation: a form for one device, for a list, or for all that have something in common.

What is to be asked about, or is for devices that nobody has named, is shown before it is sent: a dry run.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from fastapi import APIRouter, Request, Response
from pydantic import JsonValue

from chapar.delivery.messages import Messaging
from chapar.devices.catalog import Catalog, Operation, in_language
from chapar.devices.registry import Registry
from chapar.errors import ChaparError, FieldInvalid, KeyMismatch, Language, Phrase, ascii_number, persian_digits
from chapar.model.device import State
from chapar.model.message import (
    LONGEST_REPLY_WITHIN,
    SHORTEST_REPLY_WITHIN,
    Command,
    Condition,
    Profile,
    Wait,
    check_collapse_key,
    check_operation,
)
from chapar.model.principal import Scope
from chapar.model.times import span
from chapar.web.console.dispatching import send_all_once
from chapar.web.console.fields import read_moment, read_offset
from chapar.web.console.parameters import (
    Parameter,
    as_text,
    parameters_of,
    read_json_object,
    read_parameters,
    takes_more,
    written,
)
from chapar.web.console.routes import fields_of, form_of, routes
from chapar.web.console.site import Site
from chapar.web.console.targets import has_selector, read_list, read_targets, targets_of
from chapar.web.console.words import chosen_language
from chapar.web.http.entrance import allow, caller_of
from chapar.web.http.problems import status_of
from chapar.web.http.rates import Limits

UNITS: Final[Mapping[str, int]] = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400}
DELIVERIES: Final[Mapping[str, Condition | None]] = {
    "now": None,
    "online": Condition.ONLINE,
    "contact": Condition.CONTACT,
}
ROWS: Final = 200  # devices of a dry run that are shown with all that is known of them; of others the ids
OTHER: Final = "*"  # in place of an operation's name: one that the catalog does not describe


class Described(NamedTuple):
    """An operation of the catalog, for a reader."""

    micro_op: str
    operation: Operation
    language: Language

    def said(self, name: str) -> str | None:
        """The title, description or question."""
        return in_language(vars(self.operation), name, self.language)


class Sender:
    """The pages of sending."""

    def __init__(self, site: Site, messaging: Messaging, registry: Registry, catalog: Catalog, limits: Limits) -> None:
        self._site = site
        self._messaging = messaging
        self._registry = registry
        self._catalog = catalog
        self._limits = limits

    def ask(self, request: Request, asked: Mapping[str, str], problem: ChaparError | None = None) -> Response:
        """The form, as it was filled in, and what is wrong with it."""
        language, described = chosen_language(request), self._described(request, asked)
        if "to" in asked and not has_selector(asked):
            asked = {**asked, "imei": asked["to"]}
        if isinstance(problem, KeyMismatch):  # what was sent with it was something else
            asked = {**asked, "key": ""}
        if described is not None and "key" not in asked:
            asked = {**proposals(described.operation, language), **asked}
        return self._site.page(
            request,
            "send.html",
            200 if problem is None else status_of(problem),
            asked=asked,
            operations=[Described(name, each, language) for name, each in self._within(request).items()],
            takes_others=not self._catalog.is_strict,
            described=described,
            parameters=[] if described is None else parameters_of(described.operation.params, language),
            written=written,
            takes_more=described is None or takes_more(described.operation.params),
            other=OTHER,
            states=list(State),
            profiles=list(Profile),
            has_selector=has_selector(asked),
            units=list(UNITS),
            deliveries=list(DELIVERIES),
            wrong=problem.field if isinstance(problem, FieldInvalid) else None,
            rule=problem.rule.sentence(language) if isinstance(problem, FieldInvalid) else None,
            problem=None if problem is None else problem.sentence(language),
        )

    async def send(self, request: Request, asked: Mapping[str, str]) -> Response:
        """Send it, or show first what would be sent; raises ChaparError for what cannot be sent."""
        caller, described = caller_of(request), self._described(request, asked)
        command = read_command(asked, None if described is None else described.operation)
        devices = await read_targets(self._registry, caller, asked)
        commands = [command._replace(imei=imei) for imei in devices]
        is_asked_first = described is not None and described.operation.is_confirmed
        if "to" not in asked and (asked.get("step") == "try" or has_selector(asked) or is_asked_first):
            return await self._show_first(request, asked, commands, described)
        self._limits.messages(caller, len(commands))
        with self._limits.waiting(caller):
            sent = await send_all_once(self._messaging, caller, commands, asked.get("key", ""))
        if len(sent) == 1 and isinstance(sent[0], ChaparError):
            raise sent[0]
        if len(sent) == 1 and Scope.READ in caller.principal.scopes:
            return self._site.redirect(request, f"/messages/{sent[0]}")
        language = chosen_language(request)
        rows = [
            (command.imei, None, each.sentence(language))
            if isinstance(each, ChaparError)
            else (command.imei, each, None)
            for command, each in zip(commands, sent, strict=True)
        ]
        accepted = sum(1 for _, message_id, _ in rows if message_id is not None)
        return self._site.page(request, "sent.html", rows=rows, accepted=accepted, refused=len(rows) - accepted)

    async def _show_first(
        self, request: Request, asked: Mapping[str, str], commands: Sequence[Command], described: Described | None
    ) -> Response:
        """Show which devices would get it, and which would not and why. Nothing is sent."""
        caller, language = caller_of(request), chosen_language(request)
        lengths = {"expires_in": commands[0].expires_in, "reply_within": commands[0].reply_within}
        refusals = self._messaging.refusals(caller, commands)
        wrong = next((each for each in refusals if isinstance(each, FieldInvalid)), None)
        if wrong is not None:  # with what is asked for, so for every device
            raise wrong
        # What is to be noted stands first. A long table takes long to write, and nobody reads it.
        targets = sorted(
            await targets_of(self._registry, caller, commands, refusals),
            key=lambda target: (target.refusal is None, not target.is_away),
        )
        return self._site.page(
            request,
            "preview.html",
            asked={name: text for name, text in asked.items() if name not in {"step", "imei"}},
            command=commands[0],
            lengths={name: span(length).sentence(language) for name, length in lengths.items() if length is not None},
            described=described,
            given=given_of(commands[0].params, described),
            targets=targets[:ROWS],
            further=[each.imei for each in targets[ROWS:] if each.refusal is None],
            further_refused=[each.imei for each in targets[ROWS:] if each.refusal is not None],
            refused=sum(1 for each in targets if each.refusal is not None),
            to=[each.imei for each in targets if each.refusal is None],
        )

    def _within(self, request: Request) -> Mapping[str, Operation]:
        return self._catalog.within(caller_of(request))

    def _described(self, request: Request, asked: Mapping[str, str]) -> Described | None:
        """The operation that a form is about, where the catalog describes it."""
        micro_op = asked.get("micro_op", "")
        operation = self._within(request).get(micro_op)
        return None if operation is None else Described(micro_op, operation, chosen_language(request))


def sending_router(site: Site, messaging: Messaging, registry: Registry, catalog: Catalog, limits: Limits) -> APIRouter:
    """The pages of sending."""
    router, sender = routes(), Sender(site, messaging, registry, catalog, limits)

    @router.get("/send")
    @allow(Scope.SEND)
    async def ask(request: Request) -> Response:
        """Ask what is to be sent."""
        return sender.ask(request, fields_of(request))

    @router.post("/send")
    @allow(Scope.SEND)
    async def send(request: Request) -> Response:
        """Send it, and show the message, or what came of each; or show first what would be sent."""
        asked = form_of(request)
        if asked.get("step") == "change":
            return sender.ask(request, asked)
        try:
            return await sender.send(request, asked)
        except ChaparError as error:
            return sender.ask(request, asked, error)

    return router


def read_commands(asked: Mapping[str, str]) -> list[Command]:
    """The commands that a form asks for, one for each device of its list; raises FieldInvalid."""
    command = read_command(asked)
    return [command._replace(imei=imei) for imei in read_list(asked.get("imei", ""))]


def read_command(asked: Mapping[str, str], operation: Operation | None = None) -> Command:
    """The command that a form asks for, without a device; `operation`: as the catalog describes it.

    Raises FieldInvalid.
    """
    key = asked.get("collapse_key")
    time = asked.get("deliver_at")
    return Command(
        imei="",
        micro_op=check_operation(asked.get("micro_op", "")),
        params=_read_params(asked.get("params", "")) if operation is None else read_parameters(operation.params, asked),
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


def proposals(operation: Operation, language: Language) -> dict[str, str]:
    """The fields with which the form of an operation begins, besides its parameters."""
    deliver = "contact" if operation.deliver == "on_contact" else "now"
    return {
        **_length("expires_in", operation.expires_in, language),
        **_length("reply_within", operation.reply_within, language),
        "deliver": "online" if operation.only_if_online else deliver,
    }


def given_of(params: str | None, described: Described | None) -> list[tuple[Parameter | None, str, JsonValue]]:
    """The parameters that a command has: each as the catalog describes it, its name, and its value."""
    given: dict[str, JsonValue] = {} if params is None else json.loads(params)
    every = () if described is None else parameters_of(described.operation.params, described.language)
    by_name = {each.name: each for each in every}
    return [(by_name.get(name), name, value) for name, value in given.items()]


def _length(name: str, seconds: float | None, language: Language) -> dict[str, str]:
    """A length of time as its fields have it, in the longest unit of which it is a whole number."""
    if seconds is None:
        return {}
    unit = next((each for each in reversed(list(UNITS)) if seconds % UNITS[each] == 0), "seconds")
    number = f"{seconds / UNITS[unit]:.10g}"
    return {name: persian_digits(number) if language == "fa" else number, f"{name}_unit": unit}


def _read_params(text: str) -> str | None:
    return as_text(read_json_object(text)) if text else None


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
