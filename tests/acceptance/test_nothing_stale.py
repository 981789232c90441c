"""Nothing arrives stale: what waits for its device, what a newer command replaces, and what is sent now or never."""

import time
from collections.abc import Iterator

import pytest

from support.site import Site, operations, until

WINDOW = 4


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), contact_window=WINDOW, contact_delay=0.1) as site:
        site.wait_until_received()
        yield site


def waits(site: Site, message_id: str) -> str | None:
    return site.message(message_id)["reason"]


def test_what_is_for_a_contact_survives_a_kill_and_leaves_when_the_device_speaks(site: Site) -> None:
    imei = site.new_imei()
    with site.device(imei) as device:
        sent = [site.accepted(imei, f"step_{number}", deliver="on_contact") for number in range(3)]
        assert [waits(site, each) for each in sent] == ["waiting_for_contact"] * 3
        site.gateway.kill()
        site.gateway.start()
        site.wait_until_received()
        assert device.heard == []
        plain = site.accepted(imei, "plain")
        site.message_in(plain, "published")
        device.publish(f"devices/{imei}/presence", "online")
        heard = device.wait_for(4)
        device.publish(f"devices/{imei}/reply", "good morning")
        again = site.accepted(imei, "again", deliver="on_contact")
        site.message_in(again, "published")
    assert operations(heard) == ["plain", "step_0", "step_1", "step_2"], "what waits keeps nothing behind it"
    assert {each.expiry for each in heard[1:]} <= set(range(1, WINDOW + 1))
    shown = [site.message(each) for each in sent]
    assert [(each["status"], each["reason"], each["attempts"]) for each in shown] == [("published", None, 1)] * 3


def test_a_device_that_speaks_before_it_subscribes_is_tried_once_more(site: Site) -> None:
    imei = site.new_imei()
    sent = site.accepted(imei, deliver="on_contact")
    with site.device(f"{imei}x") as talker:
        talker.publish(f"devices/{imei}/presence", "online")
        until(lambda: site.message(sent)["attempts"] == 1 and site.message(sent)["status"] == "queued")
    with site.device(imei) as device:
        device.wait_for(1)
    message = site.message_in(sent, "published")
    assert (message["attempts"], message["possible_duplicate"], message["subscribers"]) == (2, False, True)


def test_who_never_subscribes_is_tried_twice_a_contact(site: Site) -> None:
    imei = site.new_imei()
    sent = site.accepted(imei, deliver="on_contact")
    with site.device(f"{imei}x") as talker:
        talker.publish(f"devices/{imei}/presence", "online")
        until(lambda: site.message(sent)["attempts"] == 2 and site.message(sent)["status"] == "queued")
        over = time.monotonic() + WINDOW
        until(lambda: time.monotonic() > over)
        message = site.message(sent)
        assert (message["reason"], message["attempts"], message["possible_duplicate"]) == (
            "waiting_for_contact",
            2,
            False,
        )
    assert site.cancel(sent).json()["status"] == "cancelled"


def test_a_device_hears_the_newest_command_of_a_key_alone(site: Site) -> None:
    imei = site.new_imei()
    with site.device(imei) as device:
        with site.parted():
            sent = [site.accepted(imei, f"set_{number}", collapse_key="valve") for number in range(4)]
            other = site.accepted(imei, "lamp")
        device.wait_for(2)
    assert operations(device.heard) == ["set_3", "lamp"]
    site.message_in(sent[3], "published")
    shown = [site.message(each) for each in sent]
    assert [each["status"] for each in shown[:3]] == ["cancelled"] * 3
    assert [each["superseded_by"] for each in shown] == [*sent[1:], None]
    assert [each["reason"] for each in shown[:3]] == ["superseded"] * 3
    site.message_in(other, "published")


def test_who_waits_for_what_is_superseded_is_answered(site: Site) -> None:
    imei = site.new_imei()
    first = site.accepted(imei, deliver="on_contact", collapse_key="valve")
    site.accepted(imei, deliver="on_contact", collapse_key="valve")
    refused = site.send(imei, deliver="on_contact", collapse_key="valve", expires_in=1, timeout=5)
    assert site.message(first)["reason"] == "superseded"
    assert (refused.status_code, refused.json()["code"]) == (406, "expired")


def test_a_stop_leaves_first_and_takes_what_waits_away(site: Site) -> None:
    imei, other = site.new_imei(), site.new_imei()
    with site.device(imei, other) as device:
        with site.parted():
            waiting = [site.accepted(imei, "start"), site.accepted(imei, "start", deliver="on_contact")]
            backlog = [site.accepted(other, f"other_{number}") for number in range(5)]
            stop = site.accepted(imei, "stop", urgent=True, purge=True)
        device.wait_for(6)
    assert operations(device.heard)[0] == "stop"
    assert "start" not in operations(device.heard)
    assert [site.message(each)["reason"] for each in waiting] == ["purged"] * 2
    for each in (stop, *backlog):
        site.message_in(each, "published")


def test_only_who_is_online_is_sent_what_is_for_who_is_online(site: Site) -> None:
    imei = site.new_imei()
    site.wait_until_received()
    refused = site.send(imei, only_if_online=True)
    assert (refused.status_code, refused.json()["code"]) == (406, "presence_unknown")
    assert site.message(refused.json()["id"])["status"] == "rejected"
    with site.device(imei) as device:
        device.publish(f"devices/{imei}/presence", "online")
        until(lambda: site.api.get(f"/devices/{imei}").json().get("presence", {}).get("state") == "online")
        assert site.send(imei, only_if_online=True).status_code == 201
        assert site.send(imei, only_if_online=True, wait="none").status_code == 202
        heard = device.wait_for(2)
        with site.parted():
            refused = site.send(imei, only_if_online=True)
            assert (refused.status_code, refused.json()["code"]) == (406, "broker_unreachable")
    assert {each.expiry for each in heard} <= set(range(1, WINDOW + 1))


def test_an_old_device_is_asked_one_thing_at_a_time(site: Site) -> None:
    imei = site.new_imei()
    with site.device(imei) as device:
        first, second = (site.accepted(imei, "push_down", reply_within=30) for _ in range(2))
        behind = site.accepted(imei, "status")
        device.wait_for(1)
        assert [waits(site, each) for each in (second, behind)] == ["waiting_for_reply"] * 2
        device.reply("push_down ok")
        device.wait_for(3)
        device.reply("push_down failed: dry")
        site.message_in(second, "failed")
        assert site.message(first)["status"] == "succeeded"
    assert operations(device.heard) == ["push_down", "push_down", "status"]
