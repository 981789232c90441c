"""How a message is tried again that may be the cause of what went wrong."""

import pytest

from chapar.delivery.suspects import Suspects, Trial
from chapar.errors import BrokerClosed, BrokerError, BrokerSilent, BrokerUnanswered, LinkLost, ReleaseRefused
from support.stores import new_message

BROKER = "mqtt://fake"
CLOSED = BrokerClosed(BROKER, "Malformed Packet (0x81)", 0x81)
SILENT = BrokerSilent(BROKER, 12.5)
UNANSWERED = BrokerUnanswered(BROKER, 30.0)
UNKNOWN = ReleaseRefused(BROKER, "Packet Identifier not found", 0x92)


def trial(suspects: Suspects, message: object, *, window: int = 20, broker_was_there: bool = True) -> Trial:
    return suspects.trial(message, window, broker_was_there=broker_was_there)  # type: ignore[arg-type]


def test_who_was_never_in_doubt_is_tried_like_every_other() -> None:
    suspects, message = Suspects(), new_message("A")
    assert not suspects
    assert trial(suspects, message) is Trial.PLAIN
    suspects.went_wrong(message, LinkLost(None, singled_out=True))
    assert not suspects
    assert suspects.reason_code(message) is None


@pytest.mark.parametrize(
    ("losts", "broker_was_there", "expected"),
    [
        ([LinkLost(CLOSED)], True, Trial.ALONE),
        ([LinkLost(CLOSED, singled_out=True)], True, Trial.ALONE),
        ([LinkLost(CLOSED), LinkLost(CLOSED)], True, Trial.ALONE),
        ([LinkLost(CLOSED), LinkLost(SILENT, singled_out=True)], True, Trial.NEVER),
        ([LinkLost(CLOSED), LinkLost(SILENT, singled_out=True)], False, Trial.ALONE),
        ([LinkLost(SILENT, singled_out=True)] * 3, False, Trial.ALONE),
        ([LinkLost(SILENT, singled_out=True)] * 4, False, Trial.NEVER),
        ([LinkLost(SILENT)] * 4, True, Trial.NEVER),
        ([LinkLost(UNANSWERED)], True, Trial.BESIDE),
        ([LinkLost(UNANSWERED)] * 3, True, Trial.BESIDE),
        ([LinkLost(UNANSWERED)] * 4, True, Trial.NEVER),
        ([LinkLost(CLOSED), LinkLost(UNANSWERED, singled_out=True)], False, Trial.NEVER),
        ([LinkLost(UNKNOWN, singled_out=True)], True, Trial.BESIDE),
        ([LinkLost(UNKNOWN, singled_out=True)] * 2, False, Trial.NEVER),
    ],
)
def test_a_suspect_is_tried_alone_or_beside_the_others_and_given_up_where_it_is_proven_or_enough(
    losts: list[LinkLost], expected: Trial, *, broker_was_there: bool
) -> None:
    suspects, message = Suspects(), new_message("A")
    for lost in losts:
        suspects.went_wrong(message, lost)
    assert trial(suspects, message, broker_was_there=broker_was_there) is expected
    cause = losts[-1].cause
    assert isinstance(cause, BrokerError)
    assert suspects.reason_code(message) == getattr(cause, "reason_code", None)
    suspects.forget(message.id)
    suspects.came_back(message, answered=True)
    assert not suspects


def test_of_what_is_left_unanswered_one_of_a_device_and_half_a_window_is_tried() -> None:
    suspects = Suspects()
    first, second, other, third = (new_message(imei) for imei in "AABC")
    for message in (first, second, other, third):
        suspects.went_wrong(message, LinkLost(UNANSWERED))
    assert trial(suspects, first, window=4) is Trial.BESIDE
    suspects.tried_beside(first)
    assert trial(suspects, second, window=4) is Trial.LATER
    assert trial(suspects, new_message("A"), window=4) is Trial.LATER, "nothing of its device may take a place"
    assert trial(suspects, other, window=4) is Trial.BESIDE
    suspects.tried_beside(other)
    assert trial(suspects, third, window=4) is Trial.LATER
    assert trial(suspects, new_message("D"), window=4) is Trial.PLAIN
    suspects.came_back(second, answered=False)  # it was not the one that was tried
    assert trial(suspects, second, window=4) is Trial.LATER
    suspects.came_back(first, answered=False)
    assert trial(suspects, new_message("A"), window=1) is Trial.LATER
    suspects.came_back(other, answered=True)
    assert trial(suspects, new_message("A"), window=1) is Trial.BESIDE, "a window of one has room for one"
    assert trial(suspects, new_message("B")) is Trial.PLAIN
    assert suspects.is_unanswered("A")
    assert not suspects.is_unanswered("B")


def test_what_was_left_unanswered_twice_without_a_proof_is_tried_without_another() -> None:
    suspects, first, second = Suspects(), new_message("A"), new_message("B")
    for message in (first, second) * 2:
        suspects.went_wrong(message, LinkLost(UNANSWERED))
    assert trial(suspects, first) is Trial.BESIDE
    suspects.tried_beside(first)
    assert trial(suspects, second) is Trial.LATER


def test_nothing_is_alone_while_something_is_tried_beside_the_others() -> None:
    suspects, beside, alone = Suspects(), new_message("A"), new_message("B")
    suspects.went_wrong(beside, LinkLost(UNANSWERED))
    suspects.went_wrong(alone, LinkLost(CLOSED))
    suspects.tried_beside(beside)
    assert trial(suspects, alone) is Trial.LATER
    suspects.came_back(beside, answered=True)
    assert trial(suspects, alone) is Trial.ALONE


def test_what_has_expired_is_held_against_nobody() -> None:
    suspects = Suspects()
    late, lasting = new_message("A", expires_at=1000), new_message("B", expires_at=None)
    for message in (late, lasting):
        suspects.went_wrong(message, LinkLost(CLOSED))
    suspects.forget_late(999)
    assert trial(suspects, late) is Trial.ALONE
    suspects.forget_late(1000)
    assert trial(suspects, late) is Trial.PLAIN
    assert trial(suspects, lasting) is Trial.ALONE
