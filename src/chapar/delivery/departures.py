"""Decide whether a message may leave now: by its device's order, this process's lease, and what may end sessions."""

from collections.abc import Collection, Sequence

from chapar.delivery.lease import ProcessLease
from chapar.delivery.suspects import Suspects, Trial
from chapar.link.keeper import Link
from chapar.model.message import Message


class Departures:
    """Decides how each message is tried, and knows what is on its way back into the queue."""

    def __init__(self, link: Link, lease: ProcessLease) -> None:
        self._link = link
        self._lease = lease
        self.suspects = Suspects()
        self.isolating = False  #: whether a suspect is being delivered with nothing else in flight
        self._returning: dict[str, list[str]] = {}  # devices, and what of them is on its way back
        self._returning_before: dict[str, set[str]] = {}  # likewise, when the page was asked for
        self._went_back: set[str] = set()  # devices of which something went back since the page was asked for
        self._superseded: set[str] = set()  # messages that were superseded since then
        self.paused: Collection[str] = ()  #: devices of which nothing may leave, as far as something is under way

    @property
    def takes_direct(self) -> bool:
        """Return whether a message may be published as it comes; else it belongs into the queue."""
        return self._link.up and not self.isolating

    def trial(self, message: Message, *, direct: bool) -> Trial:
        """Decide how a claimed message is tried now; `direct`: it never was in the queue."""
        if not self._lease.is_held:  # another may have taken it over
            return Trial.BACK
        if message.id in self._superseded or message.imei in self.paused:  # while it waited for those of its page
            return Trial.BACK
        # Nothing overtakes an earlier message of its device, but for what is urgent.
        is_behind = message.imei in self._returning or (not direct and message.imei in self._went_back)
        if is_behind and not message.urgent:
            return Trial.BACK
        if direct:
            must_wait = self.isolating or self.suspects.is_unanswered(message.imei)
            return Trial.BACK if must_wait else Trial.PLAIN
        if not self.suspects:
            return Trial.PLAIN
        return self.suspects.trial(message, self._link.window, broker_was_there=self._link.broker_was_there)

    def asks_for_page(self) -> None:
        """A page of the queue is about to be taken."""
        self._went_back, self._superseded = set(), set()
        self._returning_before = {imei: set(ids) for imei, ids in self._returning.items()}

    def page_taken(self, messages: Sequence[Message]) -> None:
        """The page is this. What was on its way back and is not here came too late: nothing may overtake it."""
        here = {message.id for message in messages}
        self._went_back |= {imei for imei, ids in self._returning_before.items() if not ids <= here}

    def superseded(self, message: Message) -> None:
        """A message that is claimed was superseded: where it has not left yet, it does not."""
        self._superseded.add(message.id)

    def goes_back(self, message: Message) -> None:
        """A message is on its way back into the queue."""
        self._returning.setdefault(message.imei, []).append(message.id)
        self._went_back.add(message.imei)

    def is_back(self, message: Message) -> None:
        """It is there; a message may be on its way twice, where it was taken in between."""
        returning = self._returning[message.imei]
        returning.remove(message.id)
        if not returning:
            del self._returning[message.imei]
