"""Cut a byte stream into MQTT control packets; what is in them is the session's business."""

from collections.abc import Iterator
from typing import Final

from chapar.link.reason_codes import MALFORMED_PACKET, PACKET_TOO_LARGE

_LONGEST_HEADER: Final = 5  # type and flags, then a length of one to four bytes (MQTT 5.0 §2.1)


class FrameInvalid(ValueError):
    """A packet that ends the session; the text says why, `reason_code` is for our DISCONNECT."""

    def __init__(self, why: str, reason_code: int = MALFORMED_PACKET) -> None:
        super().__init__(why)
        self.reason_code = reason_code


class Frames:
    """Collects bytes as they come and hands out whole packets, however they were cut or merged on the way.

    A packet's announced length is checked before a byte of it is kept, so at most `max_packet_size` bytes plus
    one read of the transport are held.
    """

    def __init__(self, max_packet_size: int) -> None:
        self._max_packet_size = max_packet_size
        self._partial = bytearray()
        self._needed = 0  # bytes that `_partial` must have before it is worth another look

    def feed(self, data: bytes) -> Iterator[memoryview]:
        """Yield each packet that `data` completes. Raises FrameInvalid once the good packets are out.

        Exhaust it before the next call. Whole packets are views into `data`: only a cut one is copied, and only
        once, because `_needed` tells how far there is nothing to look at.
        """
        if self._partial:
            self._partial += data
            if len(self._partial) < self._needed:
                return
            data, self._partial = bytes(self._partial), bytearray()
        view = memoryview(data)
        position, end = 0, len(data)
        while position < end:
            length = self._packet_length(data, position)
            if length is None or position + length > end:
                self._partial += view[position:]
                self._needed = length or 0
                return
            yield view[position : position + length]
            position += length

    def _packet_length(self, data: bytes, start: int) -> int | None:
        """Length in bytes of the packet that begins at `start`; None while its header is incomplete."""
        header = data[start + 1 : start + _LONGEST_HEADER]
        remaining = 0
        for index, byte in enumerate(header):
            remaining |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:  # noqa: PLR2004 - the continuation bit of MQTT 5.0 §1.5.5
                length = 2 + index + remaining
                if length > self._max_packet_size:
                    what = f"a packet of {length} bytes; we announced {self._max_packet_size}"
                    raise FrameInvalid(what, PACKET_TOO_LARGE)
                return length
        if len(header) == _LONGEST_HEADER - 1:
            raise FrameInvalid("a packet length of more than four bytes")
        return None
