"""Messages that may be the cause of sessions that end or of answers that do not come, and how each is tried again."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from chapar.errors import BrokerUnanswered, LinkLost, ReleaseRefused
from chapar.model.message import Message

_PROVEN: Final = 2  # times that it went wrong, the last of them with nobody else to blame
_ENOUGH: Final = 4  # times that it went wrong, whoever was to blame: so often it is repeated at most


class Trial(Enum):
    """The way a message is tried: with others, alone, or not again."""

    PLAIN = auto()  #: like every other
    ALONE = auto()  #: with nothing else in flight: where the session ends again, it is the cause
    BESIDE = auto()  #: beside the others: the broker goes on without answering it
    BACK = auto()  #: not now: it goes back into the queue, behind what is on its way there
    LATER = auto()  #: not for a while
    NEVER = auto()  #: it is quarantined


@dataclass(slots=True)
class _Suspicion:
    expires_at: int | None  #: of the message, ms since the epoch
    times: int = 0  #: that it went wrong
    singled_out: bool = False  #: whether the last time nothing else can have been the cause
    went_on: bool = False  #: whether the broker was alive all the same
    reason_code: int | None = None  #: of the last time


class Suspects:
    """Evidence against messages since this process started; true where there is anything.

    A session that ends makes suspects of all that was in flight. Each is tried alone next, so nobody else is sent again
    because of it. What a broker that goes on leaves unanswered would make everybody wait for its time-out each time, so
    it is tried beside the others: one message of its device at a time, and at most half of the broker's window in all.
    """

    def __init__(self) -> None:
        self._suspicions: dict[str, _Suspicion] = {}  # by message
        self._unanswered: dict[str, str | None] = {}  # devices, and which message of theirs is tried beside the others

    def __bool__(self) -> bool:
        return bool(self._suspicions or self._unanswered)

    def is_unanswered(self, imei: str) -> bool:
        """Return whether the broker left the last message of this device unanswered."""
        return imei in self._unanswered

    def reason_code(self, message: Message) -> int | None:
        """Return what the broker said when it went wrong last."""
        suspicion = self._suspicions.get(message.id)
        return None if suspicion is None else suspicion.reason_code

    def trial(self, message: Message, window: int, *, broker_was_there: bool) -> Trial:
        """Decide how to try it now, with this window; `broker_was_there`: when the last session had ended."""
        suspicion = self._suspicions.get(message.id)
        beside = sum(tried is not None for tried in self._unanswered.values())
        if suspicion is not None and self._is_cause(suspicion, broker_was_there=broker_was_there):
            return Trial.NEVER
        if message.imei in self._unanswered or (suspicion is not None and suspicion.went_on):
            # Where nothing showed that the broker passes it over, it goes without others that may be unanswered too.
            is_unclear = suspicion is not None and suspicion.times >= _PROVEN
            most = 1 if is_unclear else max(1, window // 2)
            is_free = self._unanswered.get(message.imei) is None and beside < most
            return Trial.BESIDE if is_free else Trial.LATER
        if suspicion is None:
            return Trial.PLAIN
        return Trial.LATER if beside else Trial.ALONE

    def tried_beside(self, message: Message) -> None:
        """It is on its way beside the others."""
        self._unanswered[message.imei] = message.id

    def came_back(self, message: Message, *, answered: bool) -> None:
        """It is not on its way any more; an answer, whatever it says, shows that its device is no cause."""
        if answered:
            self._unanswered.pop(message.imei, None)
        elif self._unanswered.get(message.imei) == message.id:
            self._unanswered[message.imei] = None

    def went_wrong(self, message: Message, lost: LinkLost) -> None:
        """It is in doubt; where we ended the session, nobody is to blame."""
        if lost.cause is None:
            return
        suspicion = self._suspicions.setdefault(message.id, _Suspicion(message.expires_at))
        suspicion.times += 1
        suspicion.singled_out = lost.singled_out
        suspicion.reason_code = getattr(lost.cause, "reason_code", None)
        suspicion.went_on = isinstance(lost.cause, BrokerUnanswered | ReleaseRefused)
        if suspicion.went_on:
            self._unanswered.setdefault(message.imei, None)

    def forget(self, message_id: str) -> None:
        """It has come to its end."""
        self._suspicions.pop(message_id, None)

    def forget_late(self, now: int) -> None:
        """Forget what has expired by `now` (ms since the epoch): it has come to its end, whoever saw to it."""
        late = [id_ for id_, each in self._suspicions.items() if each.expires_at is not None and each.expires_at <= now]
        for message_id in late:
            del self._suspicions[message_id]

    @staticmethod
    def _is_cause(suspicion: _Suspicion, *, broker_was_there: bool) -> bool:
        """Return whether to give it up. A broker that was away meanwhile had reasons of its own to end the session."""
        is_proven = suspicion.singled_out and (broker_was_there or suspicion.went_on)
        return suspicion.times >= (_PROVEN if is_proven else _ENOUGH)
