"""Devices as callers register, find and forget them, and empty their queues."""

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from support.api import problem_of
from support.site import Site, until, written

UNKNOWN = {"state": "unknown", "since": None, "evidence": None, "stale": True}
ROOM = 40
QUEUES = [("POST", f"/queue/{verb}") for verb in ("pause", "resume", "purge")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), max_devices=ROOM) as site:
        yield site


@pytest.fixture
def imei(site: Site) -> str:
    return site.new_imei()


def refused(answer: httpx.Response, status: int, code: str) -> str:
    problem = problem_of(answer)
    assert (answer.status_code, problem["code"]) == (status, code), answer.text
    reason: str = problem["reason"]
    return reason


def ids(site: Site, **query: Any) -> list[str]:
    answer = site.api.get("/devices", params=query)
    assert answer.status_code == 200, answer.text
    return [device["imei"] for device in answer.json()["devices"]]


def test_a_device_is_registered_described_shown_and_forgotten(site: Site, imei: str) -> None:
    path = f"/devices/{imei}"
    assert f"There is no device {imei}" in refused(site.api.get(path), 404, "device_not_found")
    described = {"name": " پمپ شمالی ", "profile": "chapar", "labels": {"مزرعه": "۱", "farm": "1"}}
    made = site.api.put(path, json=described)
    assert made.status_code == 201, made.text
    shown = made.json()
    assert shown.pop("presence") | {"stale": True} == UNKNOWN
    assert shown == {
        "imei": imei,
        "name": "پمپ شمالی",
        "profile": "chapar",
        "labels": {"farm": "1", "مزرعه": "۱"},
        "last_seen": None,
        "queue": {"depth": 0, "oldest": None, "paused": None, "paused_by": None, "pause_reason": None},
    }
    persian = imei.translate(str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹"))
    assert site.api.get(f"/devices/{quote(persian)}").json()["name"] == "پمپ شمالی"
    changed = site.api.put(path, json={"labels": {"farm": "2"}})
    assert changed.status_code == 200
    assert [changed.json()[field] for field in ("name", "profile", "labels")] == [None, None, {"farm": "2"}]
    kept = site.send(imei, deliver_at=written(time.time() + 3600)).json()["id"]
    assert site.api.delete(path).status_code == 204
    assert site.api.delete(path).status_code == site.api.get(path).status_code == 404
    assert site.message(kept)["status"] == "scheduled", "its messages stay"
    entries = site.api.get("/audit", params={"imei": imei}).json()["entries"]
    assert [entry["action"] for entry in entries] == ["device_forgotten", "message_sent", "device_put", "device_put"]
    assert entries[0]["subject"] == imei


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "\u202egnp"}, "name"),
        ({"name": "n" * 101}, "name"),
        ({"name": 7}, "name"),
        ({"profile": "zigbee"}, "profile"),
        ({"labels": {"a:b": "c"}}, "labels"),
        ({"labels": {"": "c"}}, "labels"),
        ({"labels": {"a": "c" * 129}}, "labels"),
        ({"labels": {"a": 1}}, "labels.a"),
        ({"labels": ["a"]}, "labels"),
        ({"labels": {str(number): "" for number in range(17)}}, "labels"),
        ({"presence": {"state": "online"}}, "presence"),
    ],
)
def test_what_no_device_can_be_is_refused_by_field_in_both_languages(
    site: Site, imei: str, body: dict[str, Any], field: str
) -> None:
    for language, word in (("en", "must|is not a field"), ("fa", "باید|نیست")):
        answer = site.api.put(f"/devices/{imei}", json=body, headers={"Accept-Language": language})
        reason = refused(answer, 422, "field_invalid")
        assert f"`{field}`" in reason
        assert any(part in reason for part in word.split("|")), reason
    assert site.api.get(f"/devices/{imei}").status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        "labels=a:b",
        "label=a",
        "label=:b",
        "presence=away",
        "presence=online&presence=offline",
        "profile=zigbee",
        "q=",
        "q=%00",
        "cursor=a%2Fb",
        "limit=0",
        "limit=1001",
    ],
)
def test_what_nobody_can_be_found_by_is_refused(site: Site, query: str) -> None:
    assert site.api.get(f"/devices?{query}").status_code == 422


def test_ids_that_no_device_can_have_are_refused(site: Site) -> None:
    for name in ("a%20b", "%2B", "a" * 65, "%D9%BE"):
        for method, path in (("GET", ""), ("PUT", ""), ("DELETE", ""), *QUEUES):
            answer = site.api.request(method, f"/devices/{name}{path}", json={} if method == "PUT" else None)
            assert "A-Z a-z 0-9" in refused(answer, 422, "field_invalid")


def test_devices_are_found_page_by_page(site: Site) -> None:
    names = [f"page-{number}" for number in range(7)]
    for name in names:
        assert site.api.put(f"/devices/{name}", json={"labels": {"in": "page", "odd": name[-1]}}).is_success
    found, cursor = [], None
    while True:
        query = {"label": "in:page", "limit": 3} | ({"cursor": cursor} if cursor else {})
        page = site.api.get("/devices", params=query).json()
        found += [device["imei"] for device in page["devices"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert found == names
    assert ids(site, label=["in:page", "odd:3"]) == ["page-3"]
    assert ids(site, q="PAGE-6") == ["page-6"]
    assert ids(site, label="in:page", presence="unknown", profile="text") == names
    assert ids(site, label="in:page", presence="online") == ids(site, label="in:page", profile="chapar") == []


def test_no_more_are_registered_than_may_be(site: Site) -> None:
    answers = [site.api.put(f"/devices/more-{number}", json={}) for number in range(ROOM + 1)]
    assert f"{ROOM} (CHAPAR_MAX_DEVICES)" in refused(answers[-1], 409, "too_many_devices")
    full = site.api.put("/devices/more", json={}, headers={"Accept-Language": "fa"})
    assert "۴۰ (CHAPAR_MAX_DEVICES)" in refused(full, 409, "too_many_devices")
    assert site.api.put("/devices/more-0", json={"name": "still described"}).status_code == 200
    for name in ids(site, q="more-"):
        assert site.api.delete(f"/devices/{name}").status_code == 204


def test_what_waits_for_a_device_is_withdrawn_and_the_trail_names_each(site: Site, imei: str) -> None:
    later = site.send(imei, "later", deliver_at=written(time.time() + 3600)).json()["id"]
    with site.parted():
        queued = [site.accepted(imei, f"step-{number}") for number in range(3)]
        other = site.accepted(site.new_imei())
        site.api.put(f"/devices/{imei}", json={})
        shown = site.api.get(f"/devices/{imei}").json()["queue"]
        assert (shown["depth"], shown["oldest"]) == (4, site.message(later)["created_at"])
        purged = site.api.post(f"/devices/{imei}/queue/purge")
        assert purged.json() == {"imei": imei, "cancelled": 4}
    assert site.message_in(other, "published")
    for id_ in (later, *queued):
        message = site.message(id_)
        assert (message["status"], message["reason"]) == ("cancelled", "purged")
        [entry] = site.api.get("/audit", params={"subject": id_, "action": "message_cancelled"}).json()["entries"]
        assert (entry["imei"], entry["detail"]) == (imei, "purged")
    assert site.api.post(f"/devices/{imei}/queue/purge").json()["cancelled"] == 0
    assert site.api.post(f"/devices/{site.new_imei()}/queue/purge").json()["cancelled"] == 0, "nobody registered it"


def test_a_device_that_announces_itself_is_seen_and_found(site: Site, imei: str) -> None:
    path, topic = f"/devices/{imei}", f"devices/{imei}/presence"
    site.wait_until_received()  # what is retained until then is no contact
    with site.device(imei) as device:
        device.publish(topic, "ONLINE ", retain=True)
        # The gateway is some moments later certain that it receives.
        shown = until(
            lambda: (
                found.json()
                if (found := site.api.get(path)).is_success and not found.json()["presence"]["stale"]
                else None
            )
        )
        assert (shown["name"], shown["profile"], shown["labels"]) == (None, None, {})
        assert shown["presence"] == {
            "state": "online",
            "since": shown["last_seen"],
            "evidence": "announced",
            "stale": False,
        }
        assert imei in ids(site, presence="online")
        device.publish(f"devices/{imei}/reply", "71 %")
        seen = until(lambda: later if (later := site.api.get(path).json()["last_seen"]) > shown["last_seen"] else None)
        device.publish(topic, "offline")
        device.publish(topic, "battery low")
        spoke = until(lambda: now if (now := site.api.get(path).json())["presence"]["evidence"] == "spoke" else None)
        assert spoke["presence"] == shown["presence"] | {"evidence": "spoke"}, "it spoke within the grace"
        assert spoke["last_seen"] > seen
        assert site.api.delete(path).status_code == 204
        assert site.api.get(path).status_code == 404
        device.publish(topic, "battery low")
        again = until(lambda: found.json() if (found := site.api.get(path)).is_success else None)
        assert again["presence"]["state"] == "unknown", "nothing is left of what it said before"
    entries = site.api.get("/audit", params={"imei": imei}).json()["entries"]
    assert [entry["action"] for entry in entries] == ["device_forgotten"], "nobody but itself has registered it"


def test_a_presence_outlives_the_gateway_and_what_was_retained_is_no_contact(site: Site, imei: str) -> None:
    path, topic = f"/devices/{imei}", f"devices/{imei}/presence"
    stranger = site.new_imei()
    site.wait_until_received()
    with site.device(imei) as device:
        device.publish(topic, "online", retain=True)
        before = until(lambda: found.json() if (found := site.api.get(path)).is_success else None)
        site.gateway.terminate()
        device.publish(topic, "offline", retain=True)
        device.publish(f"devices/{stranger}/presence", "online", retain=True)
        site.gateway.start()
        after = until(lambda: now if (now := site.api.get(path).json())["presence"]["state"] == "offline" else None)
    assert after["presence"]["evidence"] == "retained"
    assert after["last_seen"] == before["last_seen"]
    assert site.api.get(f"/devices/{stranger}").status_code == 404
    site.api.put(f"/devices/{stranger}", json={})
    found = until(
        lambda: now if (now := site.api.get(f"/devices/{stranger}").json())["presence"]["state"] == "online" else None
    )
    assert (found["presence"]["evidence"], found["last_seen"]) == ("retained", None)
