"""The gateway's own time: it goes forward with the machine, whatever is done to the system's clock."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapar.model.message import new_id
from chapar.runtime.clock import Clock

NANOSECONDS = st.integers(0, 4_000_000_000 * 1_000_000_000)


class Machine:
    """The two clocks of a machine, in nanoseconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wall: int = 1_800_000_000_000_000_000) -> None:
        self.wall = wall
        self.monotonic = 123_456_789
        monkeypatch.setattr(time, "time_ns", lambda: self.wall)
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.monotonic)

    def goes_on(self, nanoseconds: int) -> None:
        self.wall += nanoseconds
        self.monotonic += nanoseconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_a_clock_begins_with_the_systems_time_in_milliseconds(machine: Machine) -> None:
    clock = Clock()
    assert clock.now() == machine.wall // 1_000_000
    assert clock.now_ns() == machine.wall
    assert clock.drift() == 0


def test_a_clock_goes_forward_with_the_machine(machine: Machine) -> None:
    clock = Clock()
    before = clock.now()
    machine.goes_on(999_999)
    assert clock.now() == before
    machine.goes_on(1)
    assert clock.now() == before + 1


@pytest.mark.parametrize("step", [-86_400_000, -1, 1, 86_400_000])
def test_stepping_the_systems_clock_changes_nothing_but_the_drift(machine: Machine, step: int) -> None:
    clock = Clock()
    before = clock.now()
    machine.wall += step * 1_000_000
    assert clock.now() == before
    assert clock.drift() == step
    machine.goes_on(5_000_000)
    assert clock.now() == before + 5
    assert clock.drift() == step


def test_a_new_clock_adopts_the_systems_time(machine: Machine) -> None:
    Clock()
    machine.wall += 5_000_000_000
    assert Clock().now() == machine.wall // 1_000_000
    assert Clock().drift() == 0


def test_the_real_clock_does_not_go_back() -> None:
    clock = Clock()
    times = [clock.now_ns() for _ in range(1000)]
    assert times == sorted(times)
    assert abs(clock.drift()) < 1000


@given(earlier=NANOSECONDS, later=NANOSECONDS)
def test_ids_sort_as_their_times_do_to_a_quarter_of_a_microsecond(earlier: int, later: int) -> None:
    earlier, later = sorted((earlier, later))
    if later - earlier >= 245:  # 1/4096 ms
        assert new_id(earlier) < new_id(later)


@given(NANOSECONDS)
def test_an_id_is_a_uuid_of_version_7_that_tells_its_millisecond(nanoseconds: int) -> None:
    id_ = new_id(nanoseconds)
    digits = id_.replace("-", "")
    assert [len(part) for part in id_.split("-")] == [8, 4, 4, 4, 12]
    assert int(digits[:12], 16) == nanoseconds // 1_000_000
    assert digits[12] == "7"
    assert digits[16] in "89ab"


def test_ids_of_one_moment_differ() -> None:
    assert len({new_id(0) for _ in range(1000)}) == 1000
