"""Why a message was not sent and never will be."""

from collections.abc import Mapping
from dataclasses import dataclass

from chapar.errors.root import ChaparError


@dataclass(eq=False)
class NotSent(ChaparError):
    """The message was not sent and never will be."""

    code = "not_sent"
    en = "The message was not sent and never will be."
    fa = "پیام فرستاده نشد و فرستاده نخواهد شد."

    id: str


@dataclass(eq=False)
class BrokerUnreachable(NotSent):
    """There is no session with the broker, and the call did not ask to queue."""

    code = "broker_unreachable"
    en = (
        "The broker cannot be reached, so the message was not sent and never will be. "
        "Send it again when `GET /health/ready` answers 200."
    )
    fa = (
        "کارگزار (broker) در دسترس نیست؛ پیام فرستاده نشد و فرستاده نخواهد شد. "
        "هنگامی که `GET /health/ready` پاسخ ۲۰۰ داد دوباره بفرستید."
    )


@dataclass(eq=False)
class BrokerRefused(NotSent):
    """The broker answered the PUBLISH with a reason code of 0x80 or above (MQTT 5.0 §3.4.2.1)."""

    code = "broker_refused"
    en = "The broker refused the message: {reason_name} (0x{reason_hex})."
    fa = "کارگزار (broker) پیام را نپذیرفت: {reason_name} (0x{reason_hex})."

    reason_name: str
    reason_code: int

    def facts(self) -> Mapping[str, object]:
        """Add the reason code as the specification writes it."""
        return {**vars(self), "reason_hex": f"{self.reason_code:02X}"}


@dataclass(eq=False)
class Quarantined(NotSent):
    """Sessions ended again and again while this message was in flight; it is taken for the cause."""

    code = "quarantined"
    en = (
        "The broker ended the session each time this message was sent, so it is not sent any more. "
        "Look for what the broker does not take in its operation, its parameters or its size."
    )
    fa = (
        "هر بار که این پیام فرستاده شد کارگزار (broker) نشست را پایان داد؛ پس دیگر فرستاده نمی‌شود. "
        "در عملیات، پارامترها یا اندازهٔ آن به دنبال چیزی بگردید که کارگزار نمی‌پذیرد."
    )


@dataclass(eq=False)
class DeliveryFaulty(NotSent):
    """A fault of ours stopped the message before a byte of it left."""

    code = "internal_error"
    en = (
        "A fault inside Chapar stopped the message, so it was not sent and never will be. "
        "The log of the gateway says what, under the id of the message."
    )
    fa = (
        "خطایی درون چاپار جلوی پیام را گرفت؛ پیام فرستاده نشد و فرستاده نخواهد شد. "
        "شرح آن با شناسهٔ پیام در گزارش (log) دروازه آمده است."
    )


@dataclass(eq=False)
class MessageExpired(NotSent):
    """The message's time ran out before the broker had it."""

    code = "expired"
    en = "The time of the message ran out before the broker had it, so it was not sent and never will be."
    fa = "مهلت پیام پیش از رسیدن به کارگزار (broker) گذشت؛ پیام فرستاده نشد و فرستاده نخواهد شد."


@dataclass(eq=False)
class MessageCancelled(NotSent):
    """The message was withdrawn before it was sent."""

    code = "cancelled"
    en = "The message was cancelled before it was sent."
    fa = "پیام پیش از آنکه فرستاده شود لغو شد."
