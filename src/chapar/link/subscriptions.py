"""Subscriptions of one session: SUBSCRIBE and UNSUBSCRIBE, and the answers that are awaited."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Final

import mqtt5

from chapar.errors import BrokerError, LinkDown, SubscriptionRefused, UnsubscriptionRefused
from chapar.link.reason_codes import FIRST_FAILURE, reason_name
from chapar.link.window import LAST_PACKET_ID

_LAST_ID: Final = 65_535


class Subscriptions:
    """SUBSCRIBE and UNSUBSCRIBE of one session. A caller waits for its answer, or for the end of the session."""

    def __init__(self, endpoint: str, reply: Callable[[bytes], None]) -> None:
        """`reply` sends a packet."""
        self._endpoint = endpoint
        self._reply = reply
        self._ids = cycle(range(LAST_PACKET_ID + 1, _LAST_ID + 1))
        self._asked: dict[int, asyncio.Future[list[int]]] = {}  # by packet id

    async def add(self, filters: Sequence[str], qos: int, *, retained: bool) -> int:
        """Subscribe, see `Session.subscribe`."""
        handling = mqtt5.RetainHandling.SEND_ALWAYS if retained else mqtt5.RetainHandling.SEND_NEVER
        # Without Retain As Published the flag says that a message was stored, and not how it was published.
        topic_filters = [
            mqtt5.TopicFilter(each, max_qos=mqtt5.QoS(qos), retain_as_published=False, retain_handling=handling)
            for each in filters
        ]
        codes = await self._answer(lambda packet_id: mqtt5.SubscribePacket(packet_id, topic_filters))
        for topic_filter, code in zip(filters, codes, strict=False):
            if code >= FIRST_FAILURE:
                raise SubscriptionRefused(self._endpoint, topic_filter, reason_name(code), code)
        return min(codes, default=qos)

    async def remove(self, filters: Sequence[str]) -> None:
        """Unsubscribe, see `Session.unsubscribe`."""
        codes = await self._answer(lambda packet_id: mqtt5.UnsubscribePacket(packet_id, list(filters)))
        for topic_filter, code in zip(filters, codes, strict=False):
            if code >= FIRST_FAILURE:
                raise UnsubscriptionRefused(self._endpoint, topic_filter, reason_name(code), code)

    def answered(self, packet_id: int, codes: list[int]) -> bool:
        """SUBACK or UNSUBACK came; answer whether anybody waited for it."""
        answer = self._asked.pop(packet_id, None)
        if answer is not None and not answer.done():
            answer.set_result(codes)
        return answer is not None

    def fail(self, error: BrokerError | None) -> None:
        """The session ended; None where we ended it."""
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(error or LinkDown())
        self._asked.clear()

    async def _answer(self, packet: Callable[[int], mqtt5.SubscribePacket | mqtt5.UnsubscribePacket]) -> list[int]:
        packet_id = next(self._ids)
        self._asked[packet_id] = asyncio.get_running_loop().create_future()
        self._reply(packet(packet_id).write())
        return await self._asked[packet_id]
