"""Explain single messages: gather what is known of one, and say why it stands where it does."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from chapar.delivery.acceptance import CheckParams
from chapar.delivery.explanation import Explanation, Facts
from chapar.delivery.proofs import Kind, Proof, proofs
from chapar.delivery.verdicts import LinkState, explain
from chapar.errors import FieldInvalid, MessageNotFound, ParamsInvalid
from chapar.link.keeper import Link
from chapar.model.message import Message
from chapar.model.principal import EVERYWHERE, Caller, Reach, Scope
from chapar.runtime.clock import Clock
from chapar.store.circumstances import Ahead, Circumstances, Evidence


class Explained(NamedTuple):
    """An explanation, and the evidence for it."""

    explanation: Explanation
    proofs: list[Proof]


class Explaining:
    """Explains messages, to callers within reach of them."""

    def __init__(
        self,
        evidence: Evidence,
        link: Link,
        clock: Clock,
        process: str,
        receives: Callable[[], bool],
        check_params: CheckParams | None = None,
    ) -> None:
        """`process`: token of this one, whose link is known; `receives`: whether it receives what devices publish.

        `check_params`: by the catalog; None: there is none.
        """
        self._evidence = evidence
        self._link = link
        self._clock = clock
        self._process = process
        self._receives = receives
        self._check_params = check_params

    async def explain(self, caller: Caller, message_id: str) -> Explained:
        """Explain a message; raises MessageNotFound, also for one out of reach, and StoreUnavailable.

        Where its device is, is said to callers who may see devices. Other messages out of reach are not named.
        """
        if "\0" in message_id:  # PostgreSQL has no text for it
            raise MessageNotFound(message_id)
        principal, now = caller.principal, self._clock.now()
        with_presence = Scope.DEVICES_READ in principal.scopes
        found = await self._evidence.of_message(message_id, now, with_presence=with_presence)
        if found is None or not principal.reach.covers(found.message.imei, found.message.micro_op):
            raise MessageNotFound(message_id)
        if self._receives():
            found = found._replace(not_receiving_since=None)
        found, link = within(found, principal.reach), self._state()
        further = [*self._by_the_catalog(found.message), *limits(principal.reach)]
        listed = proofs(found, link, now, self._clock.drift(), *further)
        return Explained(explain(found, link, now), listed)

    def _by_the_catalog(self, message: Message) -> Iterator[Proof]:
        """Give whether the catalog, as it is now, describes the operation, and whether the parameters fit."""
        if self._check_params is None or message.clears:
            return
        try:
            is_described = self._check_params(message.micro_op, message.params)
        except FieldInvalid as error:
            is_described = isinstance(error, ParamsInvalid)
            facts: Facts = {"described": is_described, "fits": False if is_described else None, "fault": error}
        else:
            facts = {"described": is_described, "fits": True if is_described else None, "fault": None}
        yield Proof(Kind.CATALOG, None, facts)

    def _state(self) -> LinkState:
        link = self._link
        since = self._clock.now() - round(link.steady_for * 1000)
        return LinkState(self._process, link.up, since, link.sessions > 0, link.broker, link.trouble)


def within(found: Circumstances, reach: Reach) -> Circumstances:
    """The circumstances without the ids of other messages that are out of reach."""
    imei = found.message.imei
    blocker = found.held_up_by
    if blocker is not None and not reach.covers(imei, blocker[1]):
        blocker = ("", "")
    return found._replace(ahead=[_within(each, imei, reach) for each in found.ahead], held_up_by=blocker)


def _within(ahead: Ahead, imei: str, reach: Reach) -> Ahead:
    return ahead if reach.covers(imei, ahead.micro_op) else ahead._replace(id="", micro_op="")


def limits(reach: Reach) -> Iterator[Proof]:
    """The limits within which somebody is shown the evidence, where there are any."""
    if reach != EVERYWHERE:
        facts: Facts = {"devices": ", ".join(reach.devices), "operations": ", ".join(reach.operations)}
        yield Proof(Kind.REACH, None, facts)
