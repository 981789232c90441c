"""Any text as device id, operation, parameters and topic: refused, or published as a legal packet that arrives."""

import asyncio
import json
from collections import defaultdict
from typing import Final

from hypothesis import HealthCheck, Phase, given, settings
from pydantic import ValidationError

from chapar.errors import ChaparError
from chapar.link.publication import Publication
from chapar.link.session import Session
from chapar.model.message import Message, check_topic_template
from chapar.web.api.schemas import SendRequest
from fuzz.campaign import Outcome
from fuzz.packets import Illegal, Publish, parse
from fuzz.texts import CASES_IN_A_LIST, Case, lists_of_cases
from support.devices import Device, Heard
from support.links import open_session
from support.mosquitto import Mosquitto
from support.site import HOLDS_NOTHING_BACK
from support.stores import new_message

_MAX_FINDINGS: Final = 5
_CORRELATION_DATA: Final = 0x09
_MESSAGE_EXPIRY: Final = 0x02
_EXPIRY: Final = 3600  # seconds


def run(wanted: int) -> Outcome:
    """`wanted` cases through one session, all of which Mosquitto must forward as they are."""
    outcome = Outcome()
    with (
        Mosquitto(*HOLDS_NOTHING_BACK) as broker,
        Device(broker.port, "everything", topics=["#"], qos=2, mqtt5=True) as everything,
        asyncio.Runner() as runner,
    ):
        opening = open_session(broker.url)
        session = runner.run(opening.__aenter__())
        wire = Wire(session)

        @settings(
            max_examples=max(1, wanted // CASES_IN_A_LIST),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(lists_of_cases)
        def campaign(some: list[Case]) -> None:
            if len(outcome.findings) < _MAX_FINDINGS:
                runner.run(_publish_all(some, session, wire, everything, outcome))

        campaign()
        if not session.up:
            outcome.findings.append("the session ended")
        runner.run(opening.__aexit__(None, None, None))
        connects = sum("New client connected" in line for line in broker.program.lines)
        outcome.said["connects seen by Mosquitto"] = connects
        if connects != 2:  # ours and the device's
            outcome.findings.append(f"Mosquitto saw {connects} connects where there should be 2")
    return outcome


class Wire:
    """Takes down what a session writes, on its way to the broker."""

    def __init__(self, session: Session) -> None:
        assert session._transport is not None
        self._transport = session._transport
        self.written = bytearray()
        session._transport = self  # type: ignore[assignment]

    def write(self, data: bytes) -> None:
        self.written += data
        self._transport.write(data)

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()


def _message(case: Case) -> Message | None:
    """The message that the gateway makes of a request, None where it refuses it."""
    try:
        template = check_topic_template(case.template)
        command = SendRequest.model_validate_json(json.dumps(case.fields)).command()
    except (ChaparError, ValidationError, ValueError):
        return None
    return new_message(
        imei=command.imei,
        micro_op=command.micro_op,
        params=command.params,
        topic=template.replace("{imei}", command.imei),
        qos=command.qos,
        retain=command.retain,
    )


async def _publish_all(some: list[Case], session: Session, wire: Wire, everything: Device, outcome: Outcome) -> None:
    """Publish what is not refused, and compare what left and what arrived with what should."""
    messages = {message.id: (case, message) for case in some if (message := _message(case)) is not None}
    outcome.cases += len(some)
    outcome.count("refused", len(some) - len(messages))
    outcome.count("published", len(messages))
    wire.written.clear()
    deadline = asyncio.get_running_loop().time() + _EXPIRY
    async for answers in session.publish([_publication(message, deadline) for _, message in messages.values()]):
        for answer in answers:
            if isinstance(answer.outcome, Exception):
                raise answer.outcome
    arrived = {each.correlation_data: each for each in await asyncio.to_thread(everything.wait_for, len(messages))}
    everything.heard.clear()
    try:
        left = parse(bytes(wire.written))
    except Illegal as error:
        outcome.findings.append(f"{error}: one of {[case for case, _ in messages.values()]}")
        return
    ids: dict[str, list[bytes]] = defaultdict(list)
    for packet in left:
        ids[packet.topic].append(packet.properties[_CORRELATION_DATA])
    expected: dict[str, list[bytes]] = defaultdict(list)
    for _, message in messages.values():
        expected[message.topic].append(message.id.encode())
    if ids != expected:
        outcome.findings.append(f"not each left once, and behind those before it on its topic: {left}")
        return
    packets = {packet.properties[_CORRELATION_DATA]: packet for packet in left}
    for case, message in messages.values():
        packet = packets[message.id.encode()]
        if not _is_of(packet, message) or not _heard(arrived.get(message.id.encode()), message):
            outcome.findings.append(f"{case} left as {packet} and arrived as {arrived.get(message.id.encode())}")


def _publication(message: Message, deadline: float) -> Publication:
    return Publication(message.topic, message.payload, message.qos, message.retain, message.id, deadline=deadline)


def _is_of(packet: Publish, message: Message) -> bool:
    """Whether the packet says all that the message does, and nothing else."""
    expiry = packet.properties.get(_MESSAGE_EXPIRY)
    return (
        (packet.topic, packet.payload, packet.qos) == (message.topic, message.payload, message.qos)
        and (packet.retain, packet.dup) == (message.retain, False)
        and packet.user_properties == [("message-id", message.id)]
        and set(packet.properties) == {_CORRELATION_DATA, _MESSAGE_EXPIRY}
        and isinstance(expiry, int)
        and 0 < expiry <= _EXPIRY
    )


def _heard(heard: Heard | None, message: Message) -> bool:
    """Whether a device heard just that."""
    return heard is not None and (heard.topic, heard.payload, heard.qos, heard.user_properties) == (
        message.topic,
        message.payload,
        message.qos,
        (("message-id", message.id),),
    )
