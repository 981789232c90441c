"""Changes of a message: the move that is asked for, and the change that was committed."""

from typing import NamedTuple

from chapar.model.message import Message, Status


class Move(NamedTuple):
    """A move of a message that is asked for."""

    before: Message  #: as it must still be: in this state, at this attempt, under this claim
    after: Message
    at: int  #: when it happened, ms since the epoch


class Change(NamedTuple):
    """A change of a message's state that was committed."""

    id: str
    imei: str
    before: Status | None  #: None: it was added, or what it was is not known any more
    after: Status
    reason: str | None  #: why it ended
    at: int  #: ms since the epoch
    message: Message | None  #: as it stands now; None: whoever moved it does not know all of it
    foreign: bool = False  #: whether another process has committed it, which counts it


class Cancelled(NamedTuple):
    """The result of withdrawing a message that waits."""

    before: Status | None  #: where it waited; None: it was not withdrawn by this
    message: Message  #: as it stands now

    @property
    def won(self) -> bool:
        """Return whether it was withdrawn by this."""
        return self.before is not None
