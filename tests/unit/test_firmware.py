import json
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapar.devices.firmware import MOST_SEEN, Behaviour, Deed, Firmware, Received, Word
from chapar.model.message import Profile

ENVELOPE = b'{"id":"a1","micro_op":"open_valve","params":{"seconds":600}}'
values = st.text() | st.integers() | st.none() | st.lists(st.integers(), max_size=2)
documents = st.dictionaries(st.sampled_from(["id", "micro_op", "params", "status"]), values) | values
IN_PROPERTY = (("message-id", "a1"),)


def played(behaviour: Behaviour, commands: int = 400, device: str = "pump-7") -> list[list[tuple[Deed, Word]]]:
    """For each of these commands, the deed and the words of its replies."""
    firmware = Firmware(device, behaviour)
    reactions = [firmware.receive(Received(b"push_down")) for _ in range(commands)]
    return [[(reaction.deed, reply.word) for reply in reaction.replies] for reaction in reactions]


@pytest.mark.parametrize(
    ("profile", "failures", "received", "payload"),
    [
        (Profile.TEXT, 0, Received(b"push_down"), b"push_down ok"),
        (Profile.TEXT, 1, Received(b"push_down"), b"push_down failed: simulated"),
        (Profile.TEXT, 0, Received("باز کن".encode()), "باز کن ok".encode()),
        (Profile.TEXT, 0, Received(ENVELOPE), b"open_valve ok"),
        (Profile.CHAPAR, 0, Received(ENVELOPE), {"id": "a1", "status": "ok", "micro_op": "open_valve"}),
        (
            Profile.CHAPAR,
            1,
            Received(ENVELOPE),
            {"id": "a1", "status": "failed", "micro_op": "open_valve", "result": "simulated"},
        ),
        (Profile.CHAPAR, 0, Received(b"push_down"), {"status": "ok", "micro_op": "push_down"}),
        (
            Profile.CHAPAR,
            0,
            Received(b"push_down", user_properties=IN_PROPERTY),
            {"id": "a1", "status": "ok", "micro_op": "push_down"},
        ),
    ],
)
def test_a_reply_has_the_form_of_its_profile(
    profile: Profile, failures: float, received: Received, payload: bytes | dict[str, str]
) -> None:
    [reply] = Firmware("1", Behaviour(profile, failures=failures)).receive(received).replies
    assert payload == (reply.payload if isinstance(payload, bytes) else json.loads(reply.payload))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"\xff",
        b"push\x1b[2J",
        b"x" * 2000,
        b"{",
        b"{}",
        b'{"micro_op":1}',
        b'{"id":1,"micro_op":"a"}',
        b'{"id":"a","micro_op":"a","status":"ok"}',
        b'{"id":"a","id":"b","micro_op":"a"}',
        b'{"id":"%s","micro_op":"a"}' % (b"x" * 200),
        b'{"id":"a","micro_op":' + b"[" * 100_000,
    ],
    ids=lambda payload: repr(payload[:24]),
)
def test_what_is_no_command_is_ignored(payload: bytes) -> None:
    firmware = Firmware("1")
    assert firmware.receive(Received(payload)) == (Deed.IGNORED, None, None, ())
    assert firmware.receive(Received(b"push_down")).deed is Deed.RAN, "and the device goes on"


@given(payload=st.binary(max_size=300) | st.text().map(str.encode) | documents.map(json.dumps).map(str.encode))
def test_whatever_arrives_is_taken_and_answered_briefly(payload: bytes) -> None:
    for profile in Profile:
        reaction = Firmware("1", Behaviour(profile)).receive(Received(payload))
        assert (reaction.deed is Deed.IGNORED) == (reaction.operation is None) == (not reaction.replies)
        assert all(len(reply.payload) < 8192 for reply in reaction.replies)


def test_a_known_id_is_not_run_again_and_is_answered_alike() -> None:
    firmware = Firmware("1", Behaviour(Profile.CHAPAR, failures=1, progress=2, duplicates=1))
    first = firmware.receive(Received(ENVELOPE, b"one"))
    assert first.deed is Deed.FAILED
    assert [reply.word for reply in first.replies] == [Word.RUNNING, Word.RUNNING, Word.FAILED, Word.FAILED]
    again = firmware.receive(Received(ENVELOPE, b"two"))
    assert (again.deed, again.id) == (Deed.REPEATED, "a1")
    [reply] = again.replies
    assert (reply.payload, reply.correlation_data) == (first.replies[-1].payload, b"two")


def test_the_last_16_ids_are_remembered() -> None:
    firmware = Firmware("1")

    def receive(number: int) -> Deed:
        return firmware.receive(Received(b'{"id":"%d","micro_op":"a"}' % number)).deed

    assert MOST_SEEN == 16
    assert {receive(number) for number in range(MOST_SEEN)} == {Deed.RAN}
    assert {receive(number) for number in range(MOST_SEEN)} == {Deed.REPEATED}
    assert receive(MOST_SEEN) is Deed.RAN
    assert receive(1) is Deed.REPEATED
    assert receive(0) is Deed.RAN, "forgotten"


def test_without_an_id_every_copy_is_a_command() -> None:
    firmware = Firmware("1")
    assert [firmware.receive(Received(b"push_down")).deed for _ in range(2)] == [Deed.RAN, Deed.RAN]


def test_a_silent_device_runs_and_does_not_reply() -> None:
    reaction = Firmware("1", Behaviour(silent=True)).receive(Received(ENVELOPE))
    assert reaction == (Deed.RAN, "a1", "open_valve", ())


def test_replies_are_due_in_equal_gaps_and_the_final_one_after_the_delay() -> None:
    reaction = Firmware("1", Behaviour(delay=6, progress=3)).receive(Received(b"push_down", b"\xff"))
    assert [(reply.delay, reply.word) for reply in reaction.replies] == [
        (0, Word.RUNNING),
        (2, Word.RUNNING),
        (4, Word.RUNNING),
        (6, Word.OK),
    ]
    assert [reply.payload for reply in reaction.replies[2:]] == [b"push_down running", b"push_down ok"]
    assert {reply.correlation_data for reply in reaction.replies} == {b"\xff"}


def test_the_same_seed_is_the_same_behaviour_of_each_device() -> None:
    behaviour = Behaviour(failures=0.5, duplicates=0.5)
    assert played(behaviour) == played(behaviour)
    assert played(behaviour) != played(behaviour, device="pump-8")
    assert played(behaviour) != played(Behaviour(failures=0.5, duplicates=0.5, seed=1))


def test_failures_and_duplicates_have_their_shares() -> None:
    reactions = played(Behaviour(failures=0.05, duplicates=0.2), commands=4000)
    assert 140 <= sum(reaction[0] == (Deed.FAILED, Word.FAILED) for reaction in reactions) <= 260
    assert 700 <= sum(len(reaction) == 2 for reaction in reactions) <= 900


def test_a_device_is_away_for_its_share_of_the_time() -> None:
    firmware = Firmware("1", Behaviour(away=0.2, spell=30))
    spells = list(islice(firmware.spells(), 2000))
    connected, away = (sum(times) for times in zip(*spells, strict=True))
    assert 0.18 <= away / (connected + away) <= 0.22
    assert 27 <= away / len(spells) <= 33
    assert spells == list(islice(firmware.spells(), 2000)), "by its seed too"
    assert list(Firmware("1").spells()) == []
