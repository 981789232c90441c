"""A device whose queue is paused gets nothing, whatever is asked of which process, until somebody resumes it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from support.api import problem_of
from support.gateway import GatewayProcess
from support.mosquitto import Mosquitto
from support.processes import children, describe
from support.site import Site, operations, until, written


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), publish_timeout=20, contact_delay=0.1) as site:
        site.wait_until_received()
        yield site


@pytest.fixture
def imei(site: Site) -> str:
    return site.new_imei()


def pause(site: Site, imei: str, **body: object) -> dict[str, Any]:
    answer = site.api.post(f"/devices/{imei}/queue/pause", json=body or None)
    assert answer.status_code == 200, answer.text
    paused: dict[str, Any] = answer.json()
    return paused


def resume(site: Site, imei: str) -> dict[str, Any]:
    answer = site.api.post(f"/devices/{imei}/queue/resume")
    assert answer.status_code == 200, answer.text
    resumed: dict[str, Any] = answer.json()
    return resumed


def test_nothing_leaves_from_the_answer_on_and_all_of_it_once_resumed(site: Site, imei: str) -> None:
    others = site.new_imei()
    with site.device(imei, others) as device:
        first = site.send(imei, "first").json()["id"]
        paused = pause(site, imei, reason="valve is being repaired")
        assert (paused["paused_by"], paused["pause_reason"], paused["in_flight"]) == (
            "anybody",
            "valve is being repaired",
            [],
        )
        for asked in ({}, {"urgent": True}, {"retain": True}, {"wait": "none"}, {"wait": "device"}):
            answer = site.send(imei, f"step_{len(site.messages_of(imei))}", **asked)
            assert answer.status_code == 202, "at once: else it would be 20 s"
            assert (answer.json()["status"], answer.json()["reason"]) == ("queued", "paused")
        again = site.api.post(f"/messaging/messages/{first}/resend")
        assert (again.status_code, again.json()["reason"]) == (202, "paused")
        contact = site.accepted(imei, "at_contact", deliver="on_contact")
        device.publish(f"devices/{imei}/presence", "online")
        due = site.send(imei, "due", deliver_at=written(time.time() + 0.3)).json()["id"]
        until(lambda: site.message(due)["status"] == "queued")
        until(lambda: site.message(contact)["reason"] == "paused")
        never = site.send(imei, "never", only_if_online=True)
        assert (never.status_code, problem_of(never)["code"]) == (406, "queue_paused")
        assert "is paused" in problem_of(never)["reason"]
        assert site.send(others).status_code == 201
        site.gateway.kill()
        site.gateway.start()
        assert site.send(others).status_code == 201
        late = site.send(imei, "late").json()["id"]
        assert operations(device.wait_for(3)) == ["first", "push_down", "push_down"]
        shown = site.api.get(f"/devices/{imei}").json()["queue"]
        assert (shown["paused"], shown["paused_by"], shown["depth"]) == (paused["paused"], "anybody", 9)
        resumed = resume(site, imei)
        assert (resumed["paused"], resumed["paused_by"], resumed["pause_reason"]) == (None, None, None)
        site.message_in(late, "published")
        heard = [each.payload.decode() for each in device.wait_for(10) if each.topic.endswith(imei)]
    in_line = ["step_1", "step_3", "step_4", "step_5", "first", "due", "late"]
    assert [each for each in heard[1:] if each != "at_contact"] == ["step_2", *in_line][: len(heard) - 1]
    said = site.api.get("/audit", params={"imei": imei, "limit": 100}).json()["entries"]
    deeds = [(each["action"], each["detail"]) for each in reversed(said) if each["action"].startswith("queue")]
    assert deeds == [("queue_paused", "valve is being repaired"), ("queue_resumed", None)]


def test_what_expires_or_is_withdrawn_while_it_is_paused_never_leaves(site: Site, imei: str) -> None:
    with site.device(imei) as device:
        pause(site, imei)
        late = site.send(imei, "late", expires_in=0.5).json()["id"]
        old = site.send(imei, "old", collapse_key="valve").json()["id"]
        new = site.send(imei, "new", collapse_key="valve").json()["id"]
        cancelled = site.send(imei, "cancelled").json()["id"]
        assert site.cancel(cancelled).json()["status"] == "cancelled"
        assert site.message(old)["superseded_by"] == new
        site.message_in(late, "expired")
        assert site.api.post(f"/devices/{imei}/queue/purge").json()["cancelled"] == 1
        assert site.message(new)["reason"] == "purged"
        last = site.send(imei, "last").json()["id"]
        resume(site, imei)
        site.message_in(last, "published")
        assert operations(device.wait_for(1)) == ["last"]


def test_it_is_paused_once_however_often(site: Site, imei: str) -> None:
    first = pause(site, imei, reason="پمپ باز است")
    assert site.api.get(f"/devices/{imei}").json()["queue"]["pause_reason"] == "پمپ باز است", "it is registered"
    assert pause(site, imei, reason="another") == first
    [shown] = site.api.get("/devices", params={"q": imei}).json()["devices"]
    assert shown["queue"]["paused"] == first["paused"]
    forgotten = site.api.delete(f"/devices/{imei}")
    assert (forgotten.status_code, problem_of(forgotten)["code"]) == (409, "device_paused")
    assert resume(site, imei) == resume(site, imei)
    assert site.api.delete(f"/devices/{imei}").status_code == 204
    assert resume(site, site.new_imei())["paused"] is None, "nobody registered it"


@pytest.mark.parametrize("body", ['{"reason": ""}', '{"reason": "a\\u0000b"}', '{"reason": 1}', '{"why": "x"}'])
def test_a_note_that_nobody_can_read_is_refused(site: Site, imei: str, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = site.api.post(f"/devices/{imei}/queue/pause", content=body, headers=headers)
    assert answer.status_code == 422, answer.text
    assert site.api.get(f"/devices/{imei}").status_code == 404, "nothing was done"


def test_what_the_link_has_in_line_is_taken_back(site: Site) -> None:
    """The broker answers nothing: a window is full, and what is behind it has not left."""
    imeis = [site.new_imei() for _ in range(40)]
    last = imeis[-1]
    site.broker.pause()
    try:
        sent = [site.accepted(imei) for imei in imeis]
        until(lambda: site.message(sent[-1])["status"] == "publishing")
        pause(site, last)
        until(lambda: site.message(sent[-1])["reason"] == "paused")
        assert site.message(sent[-1])["attempts"] == 0
    finally:
        site.broker.resume()
    for id_ in sent[:-1]:
        site.message_in(id_, "published")
    assert site.message(sent[-1])["reason"] == "paused"
    resume(site, last)
    site.message_in(sent[-1], "published")


def test_no_process_sends_anything_once_a_pause_is_answered(
    start_gateway: Callable[..., GatewayProcess], postgres_url: str, mosquitto: Mosquitto
) -> None:
    """Two workers are sent to all the time, one of them is killed; what arrives after the answer was named in it."""
    env = mosquitto.settings_env | {
        "CHAPAR_DATABASE_URL": postgres_url,
        "CHAPAR_AUTO_MIGRATE": "true",
        "CHAPAR_LEASE": "1",
    }
    gateway = start_gateway(env, "--workers", "2")
    ended = threading.Event()
    statuses: list[int] = []

    def send() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            wait = ("none", "broker")[number % 2]
            try:  # a connection each, so that they are spread over the workers
                asked = {"imei": "pump", "micro_op": f"op-{number}", "wait": wait, "urgent": number % 5 == 0}
                statuses.append(httpx.post(f"{gateway.url}/messaging/send", json=asked, timeout=30).status_code)
            except httpx.TransportError:
                continue

    senders = [threading.Thread(target=send) for _ in range(4)]
    with mosquitto.device("pump", mqtt5=True) as device:
        for sender in senders:
            sender.start()
        try:
            for kills in (False, True, False):
                device.wait_for(len(device.heard) + 20)
                answer = httpx.post(f"{gateway.url}/devices/pump/queue/pause", timeout=30)
                assert answer.status_code == 200, answer.text
                in_flight = set(answer.json()["in_flight"])
                before = {(each.correlation_data or b"").decode() for each in device.heard}
                if kills:
                    victim = next(pid for pid in children(gateway.pid) if "chapar.app.workers" in describe(pid))
                    os.kill(victim, signal.SIGKILL)
                asked = len(statuses)
                until(lambda asked=asked: len(statuses) > asked + 60)  # type: ignore[misc]
                after = {(each.correlation_data or b"").decode() for each in device.heard}
                # What the broker had acknowledged when the answer was made may have come to the device behind it.
                known = in_flight | before
                for id_ in after - known:
                    message = httpx.get(f"{gateway.url}/messaging/messages/{id_}", timeout=30).json()
                    assert message["published_at"] <= answer.json()["paused"] or message["attempts"] == 0, message
                assert httpx.post(f"{gateway.url}/devices/pump/queue/resume", timeout=30).status_code == 200
        finally:
            ended.set()
            for sender in senders:
                sender.join()
    assert set(statuses) <= {201, 202}
