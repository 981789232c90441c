"""A broker's Reason String and Server Reference are shown as its words: short, printable, and in quotation marks."""

import mqtt5
import pytest

from chapar.errors import BrokerClosed, ConnectionRefused
from support.fake_broker import FakeBroker
from support.links import open_session


async def refused(**words: str) -> ConnectionRefused:
    connack = mqtt5.ConnAckPacket(reason_code=mqtt5.ConnAckReasonCode.USE_ANOTHER_SERVER, **words).write()
    async with FakeBroker(connack) as broker:
        with pytest.raises(ConnectionRefused) as error:
            async with open_session(broker.url):
                pass
    return error.value


async def test_a_refusal_is_shown_with_them() -> None:
    error = await refused(reason_str="quota of gate is spent", server_reference="b.example:1883")
    assert str(error).endswith(
        "refused the session: Use another server (0x9C). The broker says: “quota of gate is spent”."
        " It refers to another server: “b.example:1883”."
    )
    assert error.sentence("fa").endswith(
        "نشست را نپذیرفت: Use another server (0x9C). گفتهٔ کارگزار: «quota of gate is spent»."
        " کارگزار به سرور دیگری ارجاع می‌دهد: «b.example:1883»."
    )


async def test_nothing_is_added_where_it_says_nothing() -> None:
    assert str(await refused()).endswith("refused the session: Use another server (0x9C).")


@pytest.mark.parametrize("words", ["x" * 60_000, "\x1b[2J\u202e" * 100, "{endpoint} {0} %s", "۱۲۳ کارگزار"])
async def test_they_are_short_and_printable_and_no_template(words: str) -> None:
    for language in ("en", "fa"):
        sentence = (await refused(reason_str=words, server_reference=words)).sentence(language)
        assert len(sentence) < 4000
        assert not any(sign in sentence for sign in ("\x1b", "\u202e"))
    assert "{endpoint} {0} %s" not in words or words in sentence


async def test_they_cannot_end_their_own_quotation() -> None:
    sentence = str(await refused(reason_str="no”. All is well. “"))
    assert 'The broker says: “no". All is well. "”.' in sentence


async def test_the_end_of_a_session_is_shown_with_them() -> None:
    disconnect = mqtt5.DisconnectPacket(
        reason_code=mqtt5.DisconnectReasonCode.SERVER_MOVED,
        reason_str="moved for good",
        server_reference="b.example",
    )
    async with FakeBroker() as broker, open_session(broker.url) as session:
        broker.send(disconnect.write())
        with pytest.raises(BrokerClosed) as error:
            await session.ended()
    assert str(error.value).endswith(
        "ended the session: Server moved (0x9D). The broker says: “moved for good”. "
        "It refers to another server: “b.example”."
    )
