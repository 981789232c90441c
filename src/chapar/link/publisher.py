"""Publications as bytes: checked against the broker's limits, encoded as they leave, and what answers them."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import mqtt5

from chapar.errors import ReleaseRefused
from chapar.link.answers import Answers
from chapar.link.limits import Limits
from chapar.link.publication import Publication
from chapar.link.reason_codes import FIRST_FAILURE, reason_name
from chapar.link.window import Window

MAX_BATCH: Final = 64 * 1024  # bytes per write, so that the transport's backpressure has a say between two

_ANY_PACKET_ID: Final = 1  # for measuring: each packet id takes two bytes


class Publisher:
    """The publications of one session. Which of them may leave, its window decides."""

    def __init__(self, endpoint: str, window: Window, reply: Callable[[bytes], None], *, properties: bool) -> None:
        """`reply` sends a packet; `properties`: whether a PUBLISH may carry some."""
        self.limits = Limits()  #: what the broker takes
        self._endpoint = endpoint
        self._window = window
        self._reply = reply
        self._properties = properties
        self._loop = asyncio.get_running_loop()

    def add(self, publications: Sequence[Publication]) -> Answers:
        """Put publications in line, in this order; those beyond the limits are answered with PublicationInvalid."""
        answers = Answers(len(publications))
        for publication in publications:
            try:
                self._check(publication)
            except Exception as error:  # noqa: BLE001 - one bad publication must not stop the rest
                answers.add(publication, error)
            else:
                self._window.add(publication, answers)
        return answers

    def fill(self, batch: bytearray, now: float) -> None:
        """Append what may leave at the loop time `now`, until the batch is full."""
        while len(batch) < MAX_BATCH and (outgoing := self._window.next(now)):
            try:
                batch += self.encode(outgoing.publication, outgoing.packet_id)
            except Exception as error:  # noqa: BLE001 - what else is in this batch counts as sent, so it must leave
                self._window.fail_one(outgoing, error)
            else:
                self._window.written(outgoing)

    def encode(self, publication: Publication, packet_id: int) -> bytes:
        """The PUBLISH packet."""
        # DUP stays 0 on a second attempt: it marks the same packet sent again within one session (MQTT 5.0 §3.3.1.1),
        # and ours begin clean. That it is one, the property `attempt` tells the device.
        message_id = publication.message_id
        user_properties = [("message-id", message_id)] if message_id else []
        if publication.attempt > 1:
            user_properties.append(("attempt", str(publication.attempt)))
        return mqtt5.PublishPacket(
            publication.topic,
            publication.payload,
            qos=mqtt5.QoS(publication.qos),
            retain=publication.retain,
            packet_id=packet_id if publication.qos else None,
            message_expiry_interval=self._seconds_left(publication) if self._properties else None,
            response_topic=publication.response_topic if self._properties else None,
            correlation_data=(message_id.encode("ascii") or publication.correlation_data) if self._properties else None,
            user_properties=user_properties if self._properties else None,
        ).write()

    def answered(self, packet: mqtt5.PubAckPacket | mqtt5.PubRecPacket | mqtt5.PubCompPacket, code: int) -> bool:
        """The broker's answer, with its reason code, has come; answer whether a publication waited for it."""
        packet_id = packet.packet_id
        match packet:
            case mqtt5.PubAckPacket():
                return self._window.acknowledged(packet_id, code)
            case mqtt5.PubRecPacket():
                is_expected = self._window.received(packet_id, code)
                if code < FIRST_FAILURE:
                    self._release(packet_id)
                return is_expected
            case mqtt5.PubCompPacket():
                refusal = ReleaseRefused(self._endpoint, reason_name(code), code) if code >= FIRST_FAILURE else None
                return self._window.completed(packet_id, refusal)

    def _release(self, packet_id: int) -> None:
        """Answer PUBREC, also a repeated one and one of an unknown packet id (MQTT 5.0 §4.3.3, §3.6.2.1)."""
        is_known = self._window.is_received(packet_id)
        code = mqtt5.PubRelReasonCode.SUCCESS if is_known else mqtt5.PubRelReasonCode.PACKET_ID_NOT_FOUND
        self._reply(mqtt5.PubRelPacket(packet_id, reason_code=code).write())

    def _check(self, publication: Publication) -> None:
        """Raise PublicationInvalid where the broker's limits forbid it."""
        self.limits.check(publication)
        if self.limits.may_exceed_size(publication):
            self.limits.check_size(len(self.encode(publication, _ANY_PACKET_ID)))

    def _seconds_left(self, publication: Publication) -> int | None:
        """The Message Expiry Interval: whole seconds, rounded down, and 1 for what is left of the last one."""
        if publication.deadline is None:
            return None
        return max(1, int(publication.deadline - self._loop.time()))
