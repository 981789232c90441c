"""Fields of a command that exclude each other. No I/O."""

from chapar.errors import FieldInvalid, Phrase
from chapar.model.message import Command, Condition, Wait

_CONDITIONS = {Condition.ONLINE: "only_if_online", Condition.CONTACT: "deliver"}


def check_combination(command: Command) -> None:
    """Raise FieldInvalid where a command asks for two things of which it can have one.

    A reply may be awaited at QoS 0: without the broker's acknowledgement nothing times out, and what comes counts.
    """
    if command.retain and command.reply_awaited is not None:
        field = "wait" if command.wait is Wait.DEVICE else "reply_within"
        raise FieldInvalid(field, Phrase("rule.retained_reply"))
    needs_proof = None if command.condition is None else _CONDITIONS[command.condition]
    if command.collapse_key is not None:
        needs_proof = "collapse_key"
    if needs_proof is not None:
        if command.retain:
            raise FieldInvalid(needs_proof, Phrase("rule.retained"))
        if command.qos == 0:
            raise FieldInvalid(needs_proof, Phrase("rule.qos_0"))
