"""Callers who wait for the device's own word, on the installed command with a device that answers by itself."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from support.devices import Heard
from support.raw_http import RawRequest
from support.site import Site, until

MOST_WAITS = 6


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), max_waits=MOST_WAITS) as site:
        until(lambda: site.api.get("/health/ready").json()["replies"] == "up")
        yield site


@pytest.fixture(scope="module")
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as callers:
        yield callers


def answering(*words: str) -> Callable[[Any], Callable[[Heard], None]]:
    """A device that says these words of each command, one after the other."""

    def on_heard(device: Any) -> Callable[[Heard], None]:
        def reply(heard: Heard) -> None:
            for word in words:
                said = json.dumps({"status": word, "litres": 20})
                device.reply(said, correlation_data=heard.correlation_data)

        return reply

    return on_heard


def answers_in_any_order(site: Site, imei: str) -> None:
    """Register it as a device that gives ids back: no command to it waits for the reply to the one before."""
    assert site.api.put(f"/devices/{imei}", json={"profile": "chapar"}).status_code == 201


def waiting_get(site: Site, message_id: str, wait: str = "device", timeout: float = 60) -> httpx.Response:
    return httpx.get(
        f"{site.gateway.url}/messaging/messages/{message_id}", params={"wait": wait, "timeout": timeout}, timeout=90
    )


@pytest.mark.parametrize(
    ("words", "answered", "status"),
    [
        (["ok"], 201, "succeeded"),
        (["running", "done"], 201, "succeeded"),
        (["running", "failed"], 201, "failed"),
        (["failed", "ok"], 201, "failed"),
        (["running"], 202, "timed_out"),
        ([], 202, "timed_out"),
    ],
)
def test_the_answer_is_the_devices_word(site: Site, words: list[str], answered: int, status: str) -> None:
    imei = site.new_imei()
    with site.device(imei) as device:
        device.on_heard = answering(*words)(device)
        sent = site.send(imei, wait="device", **({} if answered == 201 else {"reply_within": 1}))
    body = sent.json()
    assert (sent.status_code, body["status"]) == (answered, status), body
    assert ("reply" in body) is bool(words)
    assert sent.headers["location"].endswith(body["id"])
    if answered == 201:
        message = until(lambda: row if (row := site.message(body["id"]))["published_at"] else None)
        assert message["status"] == status
        assert body["subscribers"] is not False
        assert body["reply"] == message["reply"]
        stands = next(word for word in words if word != "running")
        assert body["reply"]["payload"] == {"status": stands, "litres": 20}
        assert (body["reply"]["matched_by"], body["reply"]["late"]) == ("correlation", False)


def test_who_does_not_wait_long_enough_is_answered_as_the_message_stands(site: Site) -> None:
    imei = site.new_imei()
    with site.device(imei):
        sent = site.send(imei, wait="device", timeout=0.5, reply_within=60)
    assert (sent.status_code, sent.json()["status"]) == (202, "published")
    assert site.message(sent.json()["id"])["reply_within"] == 60


def test_what_is_due_later_is_not_waited_for(site: Site) -> None:
    sent = site.send(site.new_imei(), wait="device", deliver_at="2026-12-24T00:00:00Z")
    assert (sent.status_code, sent.json()["status"]) == (202, "scheduled")
    site.cancel(sent.json()["id"])


def test_what_was_not_sent_is_406(site: Site) -> None:
    with site.parted():
        sent = site.send(site.new_imei(), wait="device")
    assert (sent.status_code, sent.json()["code"], sent.json()["detail"]) == (
        406,
        "broker_unreachable",
        "Something went wrong",
    )


def test_a_list_is_not_waited_for(site: Site) -> None:
    imei = site.new_imei()
    items = [{"imei": imei, "micro_op": "a", "wait": "device"}, {"imei": imei, "micro_op": "b", "reply_within": 5}]
    answers = site.api.post("/messaging/bulk", json={"messages": items}).json()["answers"]
    assert [answer["status"] for answer in answers] == [422, 201]
    assert answers[0]["body"]["errors"][0]["field"] == "wait"


def test_any_number_wait_for_one_message(site: Site, callers: ThreadPoolExecutor) -> None:
    imei = site.new_imei()
    with site.device(imei) as device:
        sent = site.accepted(imei, reply_within=60)
        before = site.message_in(sent, "published")
        assert waiting_get(site, sent, "broker").json() == before, "at once"
        waiting = [callers.submit(waiting_get, site, sent.upper()) for _ in range(4)]
        short = waiting_get(site, sent, timeout=0.2)
        assert (short.status_code, short.json()) == (200, before), "waiting has changed nothing"
        device.reply("ok", correlation_data=device.wait_for(1)[0].correlation_data)
        answers = [each.result(60) for each in waiting]
    after = site.message_in(sent, "succeeded")
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, after)] * 4
    assert waiting_get(site, sent).json() == after


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("wait=devices", "wait"),
        ("wait=device&timeout=0", "timeout"),
        ("wait=device&timeout=301", "timeout"),
        ("wait=device&wait=broker", "wait"),
        ("a=b", "a"),
    ],
)
def test_a_wait_that_is_none_is_422(site: Site, query: str, field: str) -> None:
    answer = site.api.get(f"/messaging/messages/0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55?{query}")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


def test_who_waits_for_what_there_is_not_is_404(site: Site) -> None:
    assert waiting_get(site, "0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55").status_code == 404
    long = site.api.get(f"/messaging/messages/{'a' * 65}")
    assert (long.status_code, long.json()["errors"][0]["field"]) == (422, "id")


def test_a_client_that_hangs_up_waits_no_more_and_cancels_nothing(site: Site) -> None:
    imei = site.new_imei()
    answers_in_any_order(site, imei)
    body = json.dumps({"imei": imei, "micro_op": "push_down", "wait": "device", "timeout": 300}).encode()
    with site.device(imei) as device:
        sends = [RawRequest(site.gateway.port, "Content-Type: application/json", body=body) for _ in range(3)]
        heard = device.wait_for(3)
        ids = [(each.correlation_data or b"").decode() for each in heard]
        shows = [
            RawRequest(site.gateway.port, method="GET", path=f"/messaging/messages/{ids[0]}?wait=device&timeout=300")
            for _ in range(MOST_WAITS - 3)
        ]
        until(lambda: waiting_get(site, ids[0], timeout=0.01).status_code == 429)
        for each in (*sends, *shows):
            each.hang_up()
        until(lambda: waiting_get(site, ids[0], timeout=0.01).status_code == 200)
        for each in heard:
            device.reply("ok", correlation_data=each.correlation_data)
        for message_id in ids:
            site.message_in(message_id, "succeeded")


def test_a_repetition_is_answered_as_the_message_stands(site: Site, callers: ThreadPoolExecutor) -> None:
    imei = site.new_imei()

    def send() -> httpx.Response:
        asked = {"imei": imei, "micro_op": "push_down", "wait": "device", "reply_within": 60}
        return httpx.post(
            f"{site.gateway.url}/messaging/send", json=asked, headers={"Idempotency-Key": imei}, timeout=90
        )

    with site.device(imei) as device:
        with site.silent_broker():
            first: Future[httpx.Response] = callers.submit(send)
            until(lambda: site.messages_of(imei))
            early = send()
            assert (early.status_code, early.json()["code"]) == (409, "idempotency_key_in_flight")
        [command] = device.wait_for(1)
        [message] = site.messages_of(imei)
        site.message_in(str(message["id"]), "published")
        again = send()
        assert (again.status_code, again.json()["status"]) == (202, "published")
        assert again.headers["idempotency-replayed"] == "true"
        device.reply("failed", correlation_data=command.correlation_data)
        answer = first.result(60)
        assert (answer.status_code, answer.json()["status"]) == (201, "failed")
        again = send()
        assert (again.status_code, again.json()) == (201, answer.json())
        assert len(device.heard) == len(site.messages_of(imei)) == 1


def test_a_message_is_sent_again_for_the_devices_word(site: Site) -> None:
    imei = site.new_imei()
    first = site.accepted(imei, reply_within=2)
    with site.device(imei) as device:
        site.message_in(first, "published")
        device.on_heard = answering("ok")(device)
        again = site.api.post(f"/messaging/messages/{first}/resend", params={"wait": "device"})
    assert (again.status_code, again.json()["status"]) == (201, "succeeded")
    assert site.message(again.json()["id"])["reply_within"] == 2


def test_a_gateway_that_stops_answers_whoever_waits(site: Site, callers: ThreadPoolExecutor) -> None:
    """The last one: the gateway is gone behind it."""
    imei = site.new_imei()
    answers_in_any_order(site, imei)
    sent = site.accepted(imei, reply_within=300)
    site.message_in(sent, "published")
    shown = callers.submit(waiting_get, site, sent, timeout=300)
    sending = callers.submit(site.send, imei, wait="device", timeout=300)
    until(lambda: len(site.messages_of(imei)) == 2)
    site.message_in(str(site.messages_of(imei)[1]["id"]), "published")
    site.gateway.terminate()
    assert (shown.result(60).status_code, shown.result().json()["status"]) == (200, "published")
    assert (sending.result(60).status_code, sending.result().json()["status"]) == (202, "published")
