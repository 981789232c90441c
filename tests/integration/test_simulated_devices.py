"""Simulated devices as others see them: what they publish, with both brokers and both versions of MQTT."""

import json
from collections.abc import Iterator

import pytest

from chapar.devices.firmware import Behaviour, Deed
from chapar.devices.simulated import FellSilent
from chapar.model.message import Profile
from support.builtin import BuiltinBroker
from support.devices import Device, Heard
from support.fleet import PlayedFleet
from support.mosquitto import Mosquitto

PUBLISHED = ["devices/+/reply", "devices/+/presence"]
PRESENCE = "devices/pump-7/presence"
REPLY = "devices/pump-7/reply"

Broker = Mosquitto | BuiltinBroker


@pytest.fixture(params=[5, 3])
def version(request: pytest.FixtureRequest) -> int:
    """The MQTT of the devices."""
    number: int = request.param
    return number


@pytest.fixture
def listener(broker: Broker) -> Iterator[Device]:
    """An MQTT 3.1.1 client on all that devices publish: the built-in broker loses it where a PUBLISH has properties."""
    with listening(broker) as device:
        yield device


def listening(broker: Broker, *, mqtt5: bool = False) -> Device:
    device = broker.device("listener", mqtt5=mqtt5)
    device.topics = PUBLISHED
    return device


def words(heard: list[Heard]) -> list[tuple[str, bytes]]:
    return [(each.topic.removeprefix("devices/"), each.payload) for each in heard if not each.retain]


def envelope(command_id: str, operation: str = "open_valve") -> str:
    return json.dumps({"id": command_id, "micro_op": operation, "params": {}})


async def test_a_device_announces_itself_runs_each_command_once_and_says_good_bye(
    broker: Broker, version: int, listener: Device
) -> None:
    with PlayedFleet(broker.settings_env, ["pump-7"], Behaviour(Profile.CHAPAR, progress=1), version=version) as fleet:
        for payload in (envelope("a"), envelope("a"), "", "{nonsense", "text"):
            listener.publish("devices/pump-7", payload)
        listener.wait_for(6)
    heard = words(listener.wait_for(7))
    assert heard[0] == ("pump-7/presence", b"online")
    assert heard[-1] == ("pump-7/presence", b"offline")
    assert [json.loads(payload) for topic, payload in heard if topic == "pump-7/reply"] == [
        {"id": "a", "status": "running", "micro_op": "open_valve"},
        {"id": "a", "status": "ok", "micro_op": "open_valve"},
        {"id": "a", "status": "ok", "micro_op": "open_valve"},
        {"status": "running", "micro_op": "text"},
        {"status": "ok", "micro_op": "text"},
    ]
    assert fleet.deeds("pump-7") == [
        ("a", "open_valve", Deed.RAN),
        ("a", "open_valve", Deed.REPEATED),
        (None, None, Deed.IGNORED),
        (None, None, Deed.IGNORED),
        (None, "text", Deed.RAN),
    ]
    assert [reply.payload for reply in fleet.replies("pump-7")] == [each for _, each in heard[1:-1]]
    assert fleet.problems == []


async def test_the_last_presence_is_retained_and_the_brokers_will_is_one(
    broker: Broker, version: int, listener: Device
) -> None:
    behaviour = Behaviour(away=0.5, spell=0.3)
    with PlayedFleet(broker.settings_env, ["pump-7"], behaviour, version=version) as fleet:
        listener.wait_for(3)
    assert [payload for _, payload in words(listener.heard)][:3] == [b"online", b"offline", b"online"]
    assert any(isinstance(event, FellSilent) for event in fleet.events)
    with listening(broker) as late:
        [last] = late.wait_for(1)
        assert (last.topic, last.payload, last.retain) == (PRESENCE, b"offline", True)


async def test_a_persistent_device_gets_what_came_while_it_was_away(broker: Broker, version: int) -> None:
    for number in ("first", "second"):
        with (
            PlayedFleet(broker.settings_env, ["pump-7"], version=version, persistent=True) as fleet,
            broker.device("sender") as sender,
        ):
            if number == "first":
                sender.publish("devices/pump-7", "here")
            fleet.wait_for(lambda: fleet.replies("pump-7"))
        with broker.device("sender") as sender:
            sender.publish("devices/pump-7", "meanwhile")
    assert [operation for _, operation, _ in fleet.deeds("pump-7")] == ["meanwhile"]


@pytest.mark.parametrize(("version", "correlation_data"), [(5, b"\xffid"), (3, None)])
async def test_a_reply_has_the_correlation_data_of_its_request(
    mosquitto: Mosquitto, version: int, correlation_data: bytes | None
) -> None:
    with (
        listening(mosquitto, mqtt5=True) as listener,
        PlayedFleet(mosquitto.settings_env, ["pump-7"], Behaviour(failures=1), version=version),
    ):
        listener.publish("devices/pump-7", "push_down", correlation_data=b"\xffid")
        heard = listener.wait_for(2)[1]
        assert (heard.topic, heard.payload, heard.qos) == (REPLY, b"push_down failed: simulated", 1)
        assert (heard.correlation_data, heard.user_properties) == (correlation_data, ())


async def test_a_reply_that_the_broker_does_not_acknowledge_is_sent_again(mosquitto: Mosquitto) -> None:
    with PlayedFleet(mosquitto.settings_env, ["pump-7"], Behaviour(delay=0.2)) as fleet:
        with mosquitto.device("sender") as sender:
            sender.publish("devices/pump-7", "push_down")
            fleet.wait_for(lambda: fleet.deeds("pump-7"))
        mosquitto.stop()
        fleet.wait_for(lambda: fleet.problems)
        assert fleet.replies("pump-7") == []
        mosquitto.start()
        fleet.wait_for(lambda: fleet.replies("pump-7"))


async def test_a_silent_device_announces_itself_and_does_not_reply(mosquitto: Mosquitto) -> None:
    with (
        listening(mosquitto) as listener,
        PlayedFleet(mosquitto.settings_env, ["pump-7"], Behaviour(silent=True)) as fleet,
    ):
        listener.publish("devices/pump-7", "push_down")
        fleet.wait_for(lambda: fleet.deeds("pump-7"))
    assert words(listener.wait_for(2)) == [("pump-7/presence", b"online"), ("pump-7/presence", b"offline")]


async def test_a_broker_that_lets_no_device_publish_is_named_once() -> None:
    acl = "topic read devices/#\ntopic write devices/pump-7\ntopic write devices/pump-8\n"
    with (
        Mosquitto(acl=acl) as mosquitto,
        PlayedFleet(mosquitto.settings_env, ["pump-7", "pump-8"]) as fleet,
        mosquitto.device("sender") as sender,
    ):
        for device in ("pump-7", "pump-8"):
            sender.publish(f"devices/{device}", "push_down")
        fleet.wait_for(lambda: len(fleet.problems) == 2)
        assert sorted(problem.split(":")[0] for problem in fleet.problems) == [
            "The broker lets no device publish on devices/{imei}/presence",
            "The broker lets no device publish on devices/{imei}/reply",
        ]
