"""Every IP address of every broker gets its turn, whatever the name server answers."""

import asyncio
import socket
from collections.abc import Sequence

import pytest

from chapar.errors import HostNotFound
from chapar.link import endpoints
from chapar.link.endpoints import Endpoint, Rotation, look_up
from chapar.runtime.addresses import BrokerAddress

FIRST, SECOND = BrokerAddress("first.example", 1883), BrokerAddress("second.example", 8883, tls=True)


def endpoint(broker: BrokerAddress, ip_address: str) -> Endpoint:
    if ":" in ip_address:
        return Endpoint(broker, socket.AF_INET6, (ip_address, broker.port, 0, 0))
    return Endpoint(broker, socket.AF_INET, (ip_address, broker.port))


class Names:
    """A name server whose answers a test gives, one for each look-up of a name; the last one stays."""

    def __init__(self, answers: dict[str, list[Sequence[str] | None]]) -> None:
        self._answers = answers

    async def look_up(self, broker: BrokerAddress, _: float) -> list[Endpoint]:
        answers = self._answers[broker.host]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:
            raise HostNotFound(str(broker), "Name or service not known")
        return [endpoint(broker, ip_address) for ip_address in answer]


async def rounds(monkeypatch: pytest.MonkeyPatch, count: int, **answers: list[Sequence[str] | None]) -> list[list[str]]:
    """The IP addresses that are tried in so many rounds; a name without any is `?`."""
    names = Names({f"{name}.example": list(answer) for name, answer in answers.items()})
    monkeypatch.setattr(endpoints, "look_up", names.look_up)
    brokers = [broker for broker in (FIRST, SECOND) if broker.host.partition(".")[0] in answers]
    tried: list[list[str]] = [[]]
    rotation = Rotation(brokers, 5.0, lambda _: tried[-1].append("?"))
    while len(tried) <= count:
        found = await rotation.next()
        if found is None:
            tried.append([])
        else:
            tried[-1].append(found.socket_address[0])
    return tried[:count]


async def test_each_address_is_tried_once_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"first": [["a", "b"]], "second": [["c"]]}
    assert await rounds(monkeypatch, 3, **answers) == [["a", "b", "c"]] * 3


async def test_a_name_server_that_turns_its_answers_hides_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    turning = [["a", "b"], ["b", "a"]] * 10
    assert await rounds(monkeypatch, 2, first=turning) == [["a", "b"], ["b", "a"]]


async def test_what_changed_while_a_session_lived_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await rounds(monkeypatch, 2, first=[["a", "b"], ["c", "d"]]) == [["a", "c"], ["c", "d"]]
    assert await rounds(monkeypatch, 2, first=[["a", "b"], ["c"]]) == [["a"], ["c"]]


async def test_ever_new_answers_end_the_round_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    new = [[str(number)] for number in range(100)]
    assert [len(tried) for tried in await rounds(monkeypatch, 5, first=new, second=[["z"]])] == [2] * 5


async def test_a_name_without_an_address_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await rounds(monkeypatch, 2, first=[None], second=[["c"]]) == [["?", "c"]] * 2
    assert await rounds(monkeypatch, 2, first=[None, ["a"]]) == [["?"], ["a"]]
    assert await rounds(monkeypatch, 1, first=[["a", "b"], None], second=[["c"]]) == [["a", "?", "c"]]


@pytest.mark.parametrize(
    ("broker", "ip_address", "shown"),
    [
        (FIRST, "192.0.2.7", "mqtt://first.example:1883 (192.0.2.7:1883)"),
        (SECOND, "2001:db8::7", "mqtts://second.example:8883 ([2001:db8::7]:8883)"),
        (BrokerAddress("192.0.2.7", 1883), "192.0.2.7", "mqtt://192.0.2.7:1883"),
        (BrokerAddress("::1", 1883), "::1", "mqtt://[::1]:1883"),
    ],
)
def test_an_endpoint_names_the_host_and_its_address(broker: BrokerAddress, ip_address: str, shown: str) -> None:
    assert str(endpoint(broker, ip_address)) == shown


async def test_a_numeric_address_is_looked_up_at_once() -> None:
    (found,) = await look_up(BrokerAddress("127.0.0.1", 1883), 5.0)
    assert found == endpoint(BrokerAddress("127.0.0.1", 1883), "127.0.0.1")
    (found,) = await look_up(BrokerAddress("::1", 1883), 5.0)
    assert (found.family, found.socket_address[:2]) == (socket.AF_INET6, ("::1", 1883))


async def test_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    with pytest.raises(HostNotFound) as error:
        await look_up(FIRST, 0.5)
    assert str(error.value) == "The name of mqtt://first.example:1883 has no address (DNS): no answer within 0.5 s."
    assert "در ۰٫۵ ثانیه پاسخی نیامد" in error.value.sentence("fa")
