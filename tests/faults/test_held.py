"""What leaves for a device while its queue is paused is found out."""

from uuid import UUID

import pytest

from faults.listener import Hearing, topic_of
from faults.pauses import Hold, left_while_held
from faults.table import Row

ID = str(UUID(int=1))
SINCE, UNTIL = 100.0, 200.0


def hold(*in_flight: str) -> Hold:
    return Hold("pump", SINCE, UNTIL, frozenset(in_flight))


def row(published_at: float | None) -> Row:
    at = None if published_at is None else round(published_at * 1000)
    return Row(
        seq=1,
        id=ID,
        imei="pump",
        micro_op="n-1",
        at_most_once=False,
        status="published",
        reason=None,
        reason_code=None,
        attempts=2,
        possible_duplicate=False,
        created_at=0,
        deliver_at=None,
        expires_at=None,
        published_at=at,
        finished_at=at,
    )


def heard(at: float, attempt: int = 1, imei: str = "pump") -> Hearing:
    return Hearing(1, at, attempt, redelivered=False, topic=topic_of(imei), id=ID)


def left(hearings: list[Hearing], published_at: float | None, *in_flight: str) -> int:
    return len(left_while_held([hold(*in_flight)], [row(published_at)], hearings))


@pytest.mark.parametrize("published_at", [150.0, 250.0, None])
def test_what_is_heard_within_a_pause_left_within_it(published_at: float | None) -> None:
    assert left([heard(150)], published_at) == 1


def test_what_is_heard_before_or_after_a_pause_or_by_another_device_is_none_of_its() -> None:
    assert left([heard(99), heard(201), heard(150, imei="other")], 201) == 0


def test_what_was_acknowledged_before_may_take_a_moment_to_arrive() -> None:
    assert left([heard(100.1)], 99.9) == 0


def test_what_was_in_flight_may_arrive_and_is_not_tried_again() -> None:
    assert left([heard(101)], 101, ID) == 0
    assert left([heard(101), heard(102, attempt=2)], 102, ID) == 1
