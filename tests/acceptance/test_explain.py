"""Causes injected one by one at a real broker: each is the one that is named, in both languages."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import pytest

from chapar.delivery.causes import Cause
from chapar.delivery.explanation import SENTENCES
from chapar.delivery.verdicts import UNATTENDED_AFTER
from support.devices import Device
from support.gateway import find_command
from support.site import Site, until, until_past, written

WINDOW: Final = 3  # seconds
DENIED: Final = "861000000000999"
ACL: Final = f"topic readwrite #\ntopic deny devices/{DENIED}\n"
LANGUAGES: Final = ("en", "fa")

Injection = Callable[[Site], str]
"""Brings a message to where its cause is; gives its id."""

INJECTIONS: Final[dict[Cause, Injection]] = {}


def injects(cause: Cause) -> Callable[[Injection], Injection]:
    def register(injection: Injection) -> Injection:
        assert cause not in INJECTIONS
        INJECTIONS[cause] = injection
        return injection

    return register


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(
        tmp_path_factory.mktemp("site"), "max_packet_size 4000", "max_qos 1", contact_window=WINDOW, contact_delay=0.1
    )
    site.broker.acl = ACL
    with site:
        site.wait_until_received()
        yield site


def pattern_of(cause: Cause, language: Any) -> str:
    """What the sentence of a cause looks like, whatever its facts are."""
    text = SENTENCES[language][f"cause.{cause}"]
    forms = [text] if isinstance(text, str) else text.values()
    return "|".join(re.sub(r"\\{.*?\\}", ".*", re.escape(form)) for form in forms)


def explanations(site: Site, message_id: str) -> dict[str, Any]:
    """The explanation in each language."""
    path = f"/messaging/messages/{message_id}/explain"
    answers = {language: site.api.get(path, headers={"Accept-Language": language}) for language in LANGUAGES}
    for language, answer in answers.items():
        assert (answer.status_code, answer.headers["content-language"]) == (200, language), answer.text
    return {language: answer.json() for language, answer in answers.items()}


def explained(site: Site, message_id: str, cause: Cause) -> dict[str, Any]:
    """The English explanation; both languages name this cause, and word it."""
    found = explanations(site, message_id)
    for language, explanation in found.items():
        assert (explanation["id"], explanation["code"]) == (message_id, cause), explanation
        assert re.fullmatch(pattern_of(cause, language), explanation["sentence"]), explanation
        assert "accepted" in {each["kind"] for each in explanation["evidence"]}
    assert re.search("[\u0600-\u06ff]", found["fa"]["sentence"])
    assert list(found["en"]["facts"]) == list(found["fa"]["facts"])
    english: dict[str, Any] = found["en"]
    return english


def evidence(explanation: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(each for each in explanation["evidence"] if each["kind"] == kind)


def announce(site: Site, device: Device, word: str) -> None:
    device.publish(f"devices/{device.imei}/presence", word)
    path = f"/devices/{device.imei}"
    until(lambda: (site.api.get(path).json().get("presence") or {}).get("state") == word)


def asked(site: Site, imei: str, **fields: Any) -> str:
    """A message that the broker has, and whose reply is awaited."""
    sent = site.accepted(imei, **({"reply_within": 60} | fields))
    site.message_in(sent, "published")
    return sent


def ended(site: Site, message_id: str, status: str) -> str:
    """The id of a message, once it is in this state."""
    site.message_in(message_id, status)
    return message_id


# What waits.


@injects(Cause.SCHEDULED)
def scheduled(site: Site) -> str:
    return site.accepted(site.new_imei(), deliver_at=written(time.time() + 3600))


@injects(Cause.WAITING_FOR_CONTACT)
def waits_for_contact(site: Site) -> str:
    return site.accepted(site.new_imei(), deliver="on_contact")


@injects(Cause.CONTACT_UNSUBSCRIBED)
def spoke_without_a_subscription(site: Site) -> str:
    imei = site.new_imei()
    sent = site.accepted(imei, deliver="on_contact")
    with site.device(f"{imei}x") as talker:
        talker.publish(f"devices/{imei}/presence", "online")
        until(lambda: (row := site.message(sent))["attempts"] and row["status"] == "queued" and not row["not_before"])
    return sent


@injects(Cause.WAITING_FOR_REPLY)
def behind_an_open_question(site: Site) -> str:
    imei = site.new_imei()
    asked(site, imei)
    return site.accepted(imei, reply_within=60)


@injects(Cause.BROKER_AWAY)
def queued_without_a_broker(site: Site) -> str:
    site.part()
    return site.accepted(site.new_imei())


@injects(Cause.IN_FLIGHT)
def in_flight(site: Site) -> str:
    site.line.stall()
    return ended(site, site.accepted(site.new_imei()), "publishing")


# What the broker has.


@injects(Cause.PUBLISHED_SUBSCRIBED)
def published_to_a_subscriber(site: Site) -> str:
    imei = site.new_imei()
    asked(site, site.new_imei(), reply_within=None)  # nobody is subscribed: from now on Mosquitto is known to say so
    with site.device(imei):
        return asked(site, imei, reply_within=None)


@injects(Cause.PUBLISHED_UNSUBSCRIBED)
def published_to_nobody(site: Site) -> str:
    return asked(site, site.new_imei(), reply_within=None)


@injects(Cause.PUBLISHED_ON_CONTACT)
def published_at_a_contact(site: Site) -> str:
    imei = site.new_imei()
    with site.device(imei) as device:
        announce(site, device, "online")
        sent = site.accepted(imei, deliver="on_contact")
        device.publish(f"devices/{imei}/presence", "still here")
        site.message_in(sent, "published")
    return sent


@injects(Cause.PUBLISHED_AFTER_RETURN)
def published_after_the_device_came_online(site: Site) -> str:
    imei = site.new_imei()
    sent = site.accepted(imei, deliver="on_contact")
    with site.device(imei) as device:
        announce(site, device, "online")
        return ended(site, sent, "published")


@injects(Cause.PUBLISHED_AFTER_OUTAGE)
def published_after_an_outage(site: Site) -> str:
    imei = site.new_imei()
    with site.device(imei):
        with site.parted():
            sent = site.accepted(imei)
        site.message_in(sent, "published")
    return outage_of(site, sent)


def outage_of(site: Site, message_id: str) -> str:
    """The id of a message, once the outage of its time is kept."""
    until(lambda: "outage" in {each["kind"] for each in explanations(site, message_id)["en"]["evidence"]})
    return message_id


@injects(Cause.PUBLISHED_AGAIN)
def published_at_the_second_attempt(site: Site) -> str:
    imei = site.new_imei()
    with site.device(imei, persistent=True):
        site.line.stall()
        sent = site.accepted(imei)
        site.message_in(sent, "publishing")
        site.line.cut()
        until(lambda: site.message(sent)["possible_duplicate"])
        site.rejoin()
        return ended(site, sent, "published")


@injects(Cause.RETAINED_TAKEN_BACK)
def retained_and_taken_back(site: Site) -> str:
    sent = asked(site, site.new_imei(), reply_within=None, retain=True)
    assert site.cancel(sent).is_success
    until(lambda: site.message(sent)["history"])
    return sent


# What a device says, or does not.


@injects(Cause.AWAITING_REPLY)
def awaits_a_reply(site: Site) -> str:
    imei = site.new_imei()
    with site.device(imei):
        return asked(site, imei)


@injects(Cause.AWAITING_REPLY_UNSUBSCRIBED)
def awaits_a_reply_of_nobody(site: Site) -> str:
    return asked(site, site.new_imei())


@injects(Cause.DEVICE_AT_WORK)
def is_at_work(site: Site) -> str:
    return replied(site, "running", "acknowledged")


@injects(Cause.SUCCEEDED)
def succeeded(site: Site) -> str:
    return replied(site, "ok", "succeeded")


@injects(Cause.FAILED)
def failed(site: Site) -> str:
    return replied(site, "error", "failed")


def replied(site: Site, word: str, status: str, **fields: Any) -> str:
    imei = site.new_imei()
    with site.device(imei) as device:
        sent = asked(site, imei, **fields)
        device.reply(json.dumps({"status": word}), correlation_data=sent.encode())
        return ended(site, sent, status)


@injects(Cause.SUCCEEDED_BY_ORDER)
def succeeded_by_order(site: Site) -> str:
    imei = site.new_imei()
    with site.device(imei) as device:
        sent = asked(site, imei)
        device.reply("push_down ok")
        return ended(site, sent, "succeeded")


@injects(Cause.SUCCEEDED_LATE)
def succeeded_late(site: Site) -> str:
    imei = site.new_imei()
    with site.device(imei) as device:
        sent = asked(site, imei, reply_within=1)
        site.message_in(sent, "timed_out")
        device.reply("ok", correlation_data=sent.encode())
        return ended(site, sent, "succeeded")


@injects(Cause.FAILED_CONTRADICTED)
def failed_and_contradicted(site: Site) -> str:
    imei = site.new_imei()
    with site.device(imei) as device:
        sent = asked(site, imei)
        for word in ("failed", "ok"):
            device.reply(json.dumps({"status": word}), correlation_data=sent.encode())
        until(lambda: len(site.api.get(f"/messaging/messages/{sent}/replies").json()["replies"]) == 2)
        return ended(site, sent, "failed")


@injects(Cause.NO_REPLY)
def no_reply(site: Site) -> str:
    imei = site.new_imei()
    with site.device(imei):
        return ended(site, asked(site, imei, reply_within=1), "timed_out")


@injects(Cause.NO_REPLY_ONLINE)
def no_reply_though_online(site: Site) -> str:
    imei = site.new_imei()
    with site.device(imei) as device:
        announce(site, device, "online")
        return ended(site, asked(site, imei, reply_within=1), "timed_out")


@injects(Cause.NO_REPLY_UNSUBSCRIBED)
def no_reply_of_nobody(site: Site) -> str:
    return ended(site, asked(site, site.new_imei(), reply_within=1), "timed_out")


@injects(Cause.NO_REPLY_AFTER_PROGRESS)
def no_reply_after_progress(site: Site) -> str:
    sent = replied(site, "running", "acknowledged", reply_within=1)
    return ended(site, sent, "timed_out")


@injects(Cause.NO_REPLY_UNMATCHED)
def replied_to_nothing(site: Site) -> str:
    imei = site.new_imei()
    with site.device(imei) as device:
        sent = asked(site, imei, reply_within=2)
        device.reply("the pump is on")
        return ended(site, sent, "timed_out")


# What was not sent, or may have been.


@injects(Cause.PRESENCE_UNKNOWN)
def nobody_knows_where_it_is(site: Site) -> str:
    return refused(site, site.new_imei(), only_if_online=True)


def refused(site: Site, imei: str, micro_op: str = "push_down", **fields: Any) -> str:
    answer = site.send(imei, micro_op, **fields)
    assert answer.status_code == 406, answer.text
    sent: str = answer.json()["id"]
    return sent


@injects(Cause.DEVICE_OFFLINE)
def offline(site: Site) -> str:
    imei = site.new_imei()
    with site.device(imei) as device:
        announce(site, device, "online")
        announce(site, device, "offline")
        return refused(site, imei, only_if_online=True)


@injects(Cause.DEVICE_BUSY)
def busy(site: Site) -> str:
    imei = site.new_imei()
    with site.device(imei) as device:
        announce(site, device, "online")
        asked(site, imei)
        return refused(site, imei, only_if_online=True, reply_within=60)


@injects(Cause.BROKER_UNREACHABLE)
def unreachable(site: Site) -> str:
    with site.parted():
        return refused(site, site.new_imei())


@injects(Cause.NOT_AUTHORIZED)
def not_authorized(site: Site) -> str:
    return refused(site, DENIED)


@injects(Cause.PACKET_TOO_LARGE)
def too_large(site: Site) -> str:
    return refused(site, site.new_imei(), params={"text": "x" * 5000})


@injects(Cause.QOS_NOT_SUPPORTED)
def too_high(site: Site) -> str:
    return refused(site, site.new_imei(), qos=2)


@injects(Cause.QOS_0)
def qos_0(site: Site) -> str:
    return ended(site, site.accepted(site.new_imei(), qos=0), "unconfirmed")


@injects(Cause.UNCONFIRMED_LINK_LOST)
def lost(site: Site) -> str:
    site.line.stall()
    sent = site.accepted(site.new_imei(), at_most_once=True)
    site.message_in(sent, "publishing")
    site.line.cut()
    site.message_in(sent, "unconfirmed")
    return sent


@injects(Cause.UNCONFIRMED_PROCESS_DIED)
def died(site: Site) -> str:
    site.line.stall()
    sent = site.accepted(site.new_imei(), at_most_once=True)
    site.message_in(sent, "publishing")
    site.gateway.kill()
    site.line.cut()
    site.line.resume()
    site.gateway.start()
    site.message_in(sent, "unconfirmed")
    site.wait_until_received()
    return sent


# What was withdrawn, or too late.


@injects(Cause.EXPIRED_BROKER_AWAY)
def too_late_without_a_broker(site: Site) -> str:
    site.part()
    return ended(site, site.accepted(site.new_imei(), expires_in=1), "expired")


@injects(Cause.EXPIRED_IN_OUTAGE)
def too_late_in_an_outage_that_is_over(site: Site) -> str:
    with site.parted():
        sent = ended(site, site.accepted(site.new_imei(), expires_in=1), "expired")
    return outage_of(site, sent)


@injects(Cause.EXPIRED_NO_CONTACT)
def too_late_for_a_contact(site: Site) -> str:
    return ended(site, site.accepted(site.new_imei(), deliver="on_contact", expires_in=1), "expired")


@injects(Cause.EXPIRED_BEHIND_REPLY)
def too_late_behind_an_open_question(site: Site) -> str:
    imei = site.new_imei()
    asked(site, imei)
    return ended(site, site.accepted(imei, reply_within=60, expires_in=1), "expired")


@injects(Cause.EXPIRED_UNATTENDED)
def too_late_while_the_gateway_was_stopped(site: Site) -> str:
    site.part()
    sent = site.accepted(site.new_imei(), expires_in=1)
    site.gateway.terminate()
    over = time.time() + 2 + UNATTENDED_AFTER / 1000
    until_past(written(over))
    site.line.resume()
    site.gateway.start()
    site.message_in(sent, "expired")
    site.wait_until_received()
    return sent


@injects(Cause.CANCELLED)
def cancelled(site: Site) -> str:
    sent = site.accepted(site.new_imei(), deliver="on_contact")
    assert site.cancel(sent).is_success
    return sent


@injects(Cause.SUPERSEDED)
def superseded(site: Site) -> str:
    imei = site.new_imei()
    sent, _ = (site.accepted(imei, deliver="on_contact", collapse_key="valve") for _ in range(2))
    return sent


@injects(Cause.PURGED)
def purged(site: Site) -> str:
    imei = site.new_imei()
    sent = site.accepted(imei, deliver="on_contact")
    site.accepted(imei, purge=True)
    return sent


@injects(Cause.PAUSED)
def paused(site: Site) -> str:
    imei = site.new_imei()
    site.api.post(f"/devices/{imei}/queue/pause", json={"reason": "repair"})
    return site.accepted(imei)


@injects(Cause.EXPIRED_PAUSED)
def expired_while_it_was_paused(site: Site) -> str:
    imei = site.new_imei()
    site.api.post(f"/devices/{imei}/queue/pause")
    sent = site.accepted(imei, expires_in=0.2)
    site.message_in(sent, "expired")
    return sent


@injects(Cause.QUEUE_PAUSED)
def only_if_online_while_it_was_paused(site: Site) -> str:
    imei = site.new_imei()
    site.api.post(f"/devices/{imei}/queue/pause")
    return str(site.send(imei, only_if_online=True).json()["id"])


@injects(Cause.CANCELLED_WITH_KEY)
def cancelled_with_its_key(site: Site) -> str:
    """The last one: access is closed from then on."""
    everything = ["messages:send", "messages:read", "messages:cancel", "devices:read", "devices:write", "keys:write"]
    for name in ("admin", "brief"):
        made = site.api.post("/keys", json={"name": name, "scopes": everything})
        assert made.status_code == 201, made.text
        if name == "admin":
            site.api.headers["Authorization"] = f"Bearer {made.json()['key']}"
    brief = {"Authorization": f"Bearer {made.json()['key']}"}
    asked_for = {"imei": site.new_imei(), "micro_op": "open", "deliver": "on_contact", "wait": "none"}
    sent: str = site.api.post("/messaging/send", json=asked_for, headers=brief).json()["id"]
    revoked = site.api.post(f"/keys/{made.json()['id']}/revoke", params={"cancel_waiting": "true"})
    assert revoked.is_success, revoked.text
    return sent


def test_there_are_enough_of_them() -> None:
    assert len(INJECTIONS) >= 25


@pytest.mark.parametrize("cause", INJECTIONS)
def test_the_injected_cause_is_the_one_that_is_named(site: Site, cause: Cause) -> None:
    try:
        explained(site, INJECTIONS[cause](site), cause)
    finally:
        site.line.resume()
        site.gateway.wait_until("ready")
        site.wait_until_received()


def test_a_blocker_is_named_with_its_time(site: Site) -> None:
    imei = site.new_imei()
    first = asked(site, imei)
    behind = site.accepted(imei, reply_within=60)
    facts = explained(site, behind, Cause.WAITING_FOR_REPLY)["facts"]
    shown = site.message(first)
    assert (facts["blocker"], facts["blocker_until"]) == (first, shown["reply_by"])
    assert facts["expires_at"] == site.message(behind)["expires_at"]


def test_there_is_no_explanation_of_what_is_not_there(site: Site) -> None:
    for path in ("0193b3f2-5c1e-7cc3-9d2f-3a1f0b6f7a55", "%00"):
        answer = site.api.get(f"/messaging/messages/{path}/explain")
        assert (answer.status_code, answer.json()["code"]) == (404, "message_not_found")


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_command_prints_the_sentence(site: Site, language: str) -> None:
    sent = site.accepted(site.new_imei(), deliver="on_contact")
    env = {"PATH": os.environ["PATH"], "CHAPAR_URL": site.gateway.url, "CHAPAR_LANGUAGE": language}
    if "authorization" in site.api.headers:
        env["CHAPAR_API_KEY"] = site.api.headers["authorization"].removeprefix("Bearer ")
    done = subprocess.run([find_command(), "explain", sent], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(explanations(site, sent)[language]["sentence"])


def test_a_key_is_shown_what_is_within_its_reach(site: Site) -> None:
    imei = site.new_imei()
    first = asked(site, imei, micro_op="open")
    behind = site.accepted(imei, reply_within=60)
    if "authorization" not in site.api.headers:
        cancelled_with_its_key(site)
    narrow = {"name": "narrow", "scopes": ["messages:read"], "operations": ["push_down"]}
    key = site.api.post("/keys", json=narrow).json()["key"]

    def ask(message_id: str) -> httpx.Response:
        return site.api.get(f"/messaging/messages/{message_id}/explain", headers={"Authorization": f"Bearer {key}"})

    answer = ask(behind)
    assert answer.json()["code"] == Cause.WAITING_FOR_ANOTHER
    assert first not in answer.text
    assert "presence" not in {each["kind"] for each in answer.json()["evidence"]}
    assert ask(first).status_code == 404
