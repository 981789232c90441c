"""Not after, and not before: what a message's time runs out for is never heard, what is scheduled never early."""

import contextlib
import json
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest

from chapar.model.principal import EVERY_SCOPE
from support.api import problem_of
from support.gateway import GatewayProcess, find_command
from support.mosquitto import Mosquitto
from support.site import Site, operations, seconds_of, until_past, written

MAX_EXPIRY = 30 * 86400  # seconds; the default
MOSQUITTO_S_WINDOW = 20  # publications that it takes before it acknowledges one
SCHEDULED = 50
SLEWED = 0.02  # seconds that the system's clock may have been slewed by since the gateway read it


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def imei(site: Site) -> str:
    return site.new_imei()


def test_what_expires_in_the_queue_is_never_heard_and_what_is_behind_it_is(site: Site, imei: str) -> None:
    with site.device(imei) as device:
        with site.parted():
            late, in_time = site.accepted(imei, "late", expires_in=0.2), site.accepted(imei, "in-time", expires_in=60)
            row = site.message_in(late, "expired")
        heard = device.wait_for(1)
        assert site.send(imei, "afterwards").status_code == 201
        heard = device.wait_for(2)
    assert operations(heard) == ["in-time", "afterwards"]
    assert (row["reason"], row["attempts"], row["published_at"]) == ("expired", 0, None)
    assert row["finished_at"] >= row["expires_at"]
    assert site.message(late)["status"] == "expired"
    assert site.message(in_time)["status"] == "published"


def test_what_expires_behind_a_full_window_is_never_heard(site: Site, imei: str) -> None:
    others = [site.new_imei(), site.new_imei()]  # one alone may not fill the window
    with site.device(imei, *others) as device:
        with site.silent_broker():
            for number in range(MOSQUITTO_S_WINDOW):
                site.message_in(site.accepted(others[number % 2], f"{number}"), "publishing")
            late = site.accepted(imei, "late", expires_in=0.2)
            until_past(site.message(late)["expires_at"])
        row = site.message_in(late, "expired")
        assert site.send(imei, "afterwards").status_code == 201
        heard = device.wait_for(MOSQUITTO_S_WINDOW + 1)
    came = operations(heard)
    for device_of in range(2):
        in_order = [f"{number}" for number in range(device_of, MOSQUITTO_S_WINDOW, 2)]
        assert [each for each in came if each in in_order] == in_order
    assert sorted(came) == sorted([*(f"{number}" for number in range(MOSQUITTO_S_WINDOW)), "afterwards"])
    assert (row["reason"], row["attempts"], row["possible_duplicate"]) == ("expired", 0, False)


def test_the_broker_is_told_how_long_a_message_is_good_for(site: Site, imei: str) -> None:
    device = site.device(imei, persistent=True)
    with device:
        pass
    row = site.message(site.send(imei, "late", expires_in=1).json()["id"])
    assert (row["status"], site.send(imei, "in-time", expires_in=60).status_code) == ("published", 201)
    until_past(written(seconds_of(row["expires_at"]) + 1))  # a broker counts in whole seconds
    with device:
        [heard] = device.wait_for(1)
        assert site.send(imei, "afterwards").status_code == 201
        assert operations(device.wait_for(2)) == ["in-time", "afterwards"]
    assert heard.expiry is not None
    assert heard.expiry <= 60 - 1, "what is left of the sixty seconds, and no fraction more"


@pytest.mark.parametrize("expires_in", [0.9, 1, 30, 600.5, MAX_EXPIRY])
def test_the_expiry_that_travels_is_whole_seconds_that_are_left(site: Site, imei: str, expires_in: float) -> None:
    with site.device(imei) as device:
        assert site.send(imei, expires_in=expires_in).status_code == 201
        [heard] = device.wait_for(1)
    assert heard.expiry is not None
    assert 1 <= heard.expiry <= max(1, expires_in)


def test_a_message_is_good_for_an_hour_unless_it_says_otherwise(site: Site, imei: str) -> None:
    row = site.message(site.send(imei).json()["id"])
    assert seconds_of(row["expires_at"]) - seconds_of(row["created_at"]) == pytest.approx(3600)
    row = site.message(site.send(imei, expires_in=0.5).json()["id"])
    assert seconds_of(row["expires_at"]) - seconds_of(row["created_at"]) == pytest.approx(0.5)


def test_the_time_of_a_scheduled_message_begins_when_it_is_due(site: Site, imei: str) -> None:
    due = written(time.time() + 7200)
    row = site.message(site.accepted(imei, deliver_at=due, expires_in=60))
    assert (row["status"], seconds_of(row["deliver_at"])) == ("scheduled", seconds_of(due))
    assert seconds_of(row["expires_at"]) - seconds_of(due) == pytest.approx(60)


def test_the_longest_times_allowed_are_taken(site: Site, imei: str) -> None:
    due = written(time.time() + MAX_EXPIRY - 60)
    assert site.send(imei, deliver_at=due, expires_in=MAX_EXPIRY).status_code == 202


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"expires_in": MAX_EXPIRY + 1}, "expires_in"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": -1}, "expires_in"),
        ({"expires_in": "60"}, "expires_in"),
        pytest.param({"deliver_at": written(time.time() + MAX_EXPIRY + 3600)}, "deliver_at", id="too far ahead"),
        ({"deliver_at": "2100-01-01T00:00:00"}, "deliver_at"),  # no offset
        ({"deliver_at": "2100-01-01"}, "deliver_at"),
        ({"deliver_at": "tomorrow"}, "deliver_at"),
        ({"deliver_at": 4102444800}, "deliver_at"),
        ({"deliver_at": "20261125"}, "deliver_at"),  # no Unix time: that one was in 1970, and due at once
        ({"deliver_at": "4102444800.5"}, "deliver_at"),
    ],
    ids=str,
)
def test_a_time_that_cannot_be_kept_is_refused_by_name_and_nothing_is_stored(
    site: Site, imei: str, fields: dict[str, object], named: str
) -> None:
    answer = site.send(imei, **fields)
    assert answer.status_code == 422
    assert [error["field"] for error in problem_of(answer)["errors"]] == [named]
    assert site.messages_of(imei) == []


def test_what_was_due_a_moment_ago_is_sent_now(site: Site, imei: str) -> None:
    with site.device(imei) as device:
        answer = site.send(imei, deliver_at=written(time.time() - 30))
        device.wait_for(1)
    assert (answer.status_code, answer.json()["status"]) == (201, "published")
    row = site.message(answer.json()["id"])
    assert row["deliver_at"] is None
    assert seconds_of(row["expires_at"]) - seconds_of(row["created_at"]) == pytest.approx(3600)


@pytest.mark.parametrize("wait", ["broker", "none"])
def test_what_was_due_more_than_a_minute_ago_is_refused(site: Site, imei: str, wait: str) -> None:
    answer = site.send(imei, deliver_at=written(time.time() - 90), wait=wait)
    assert answer.status_code == 422
    assert [error["field"] for error in problem_of(answer)["errors"]] == ["deliver_at"]
    assert "has passed" in problem_of(answer)["reason"]
    assert site.messages_of(imei) == []


@pytest.mark.parametrize(
    ("written_time", "rule", "persian_rule"),
    [
        ("1405-09-10T06:30:00+03:30", "1405, which looks like the Jalali", "۱۴۰۵ است که به سال هجری شمسی"),
        ("1448-06-19T06:30:00Z", "lunar Hijri", "قمری"),
        ("1399-12-30T23:59:59Z", "Jalali", "شمسی"),  # a day that the Gregorian calendar has too
        ("9999-12-31T23:59:59-14:00", "1970 to 9999", "۱۹۷۰ تا ۹۹۹۹"),
        ("1969-12-31T23:59:59Z", "1970 to 9999", "۱۹۷۰ تا ۹۹۹۹"),
        ("0001-01-01T00:00:00+14:00", "1970 to 9999", "۱۹۷۰ تا ۹۹۹۹"),
    ],
)
@pytest.mark.parametrize("place", ["deliver_at", "bulk", "expires_at", "end", "since", "until", "audit"])
def test_a_time_of_another_calendar_or_out_of_range_is_refused_wherever_one_is_taken(
    site: Site, written_time: str, rule: str, persian_rule: str, place: str
) -> None:
    for language, expected in (("en", rule), ("fa", persian_rule)):
        status, problem = asked_with_time(site.api, place, written_time, {"Accept-Language": language})
        assert status == 422
        assert expected in problem["reason"]
        assert problem["errors"][0]["field"] in {"deliver_at", "expires_at", "since", "until"}


def asked_with_time(api: httpx.Client, place: str, at: str, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """The status and problem of a call that takes a time at this place."""
    command = {"imei": "8612", "micro_op": "push_down", "deliver_at": at}
    match place:
        case "deliver_at":
            answer = api.post("/messaging/send", json=command, headers=headers)
        case "bulk":
            [item] = api.post("/messaging/bulk", json={"messages": [command]}, headers=headers).json()["answers"]
            return item["status"], item["body"]
        case "expires_at":
            key = {"name": "late", "scopes": ["messages:read"], "expires_at": at}
            answer = api.post("/keys", json=key, headers=headers)
        case "end":
            answer = api.post("/keys/abc/expire", json={"expires_at": at}, headers=headers)
        case "audit":
            answer = api.get("/audit", params={"since": at}, headers=headers)
        case _:
            answer = api.get("/reporting/summary", params={place: at}, headers=headers)
    return answer.status_code, answer.json()


@pytest.mark.parametrize("hours", [-8, 0, 3.5])
def test_a_time_is_the_same_in_every_zone(site: Site, imei: str, hours: float) -> None:
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)
    answer = site.send(imei, deliver_at=due.astimezone(timezone(timedelta(hours=hours))).isoformat())
    assert site.message(answer.json()["id"])["deliver_at"] == f"{due:%Y-%m-%dT%H:%M:%S}.000Z"


def test_what_is_scheduled_is_heard_soon_after_its_time_and_never_before(
    site: Site, figure: Callable[[str], None]
) -> None:
    imeis = [site.new_imei() for _ in range(SCHEDULED)]
    first = round(time.time() + 1, 3)
    due = {imei: written(first + number * 0.013) for number, imei in enumerate(imeis)}
    with site.device(*imeis) as device:
        ids = [site.accepted(imei, deliver_at=due[imei]) for imei in reversed(imeis)]
        heard = device.wait_for(SCHEDULED)
    began = time.time() - time.monotonic()
    lateness = sorted(began + each.at - seconds_of(due[each.topic.removeprefix("devices/")]) for each in heard)
    assert lateness[0] > -SLEWED
    for message_id in ids:
        row = site.message_in(message_id, "published")
        assert seconds_of(row["published_at"]) >= seconds_of(due[row["imei"]])
        assert row["attempts"] == 1
    figure(
        f"scheduled: {SCHEDULED} messages were heard {lateness[SCHEDULED // 2] * 1000:.1f} ms after their time "
        f"(median; p99, which of so few is the largest: {lateness[-1] * 1000:.1f} ms)"
    )


def test_who_schedules_a_message_is_not_kept_waiting(site: Site, imei: str) -> None:
    due = written(time.time() + 3600)
    with site.parted():
        answer = site.send(imei, deliver_at=due, wait="broker")
    assert (answer.status_code, answer.json()["status"]) == (202, "scheduled")


def test_time_goes_on_while_the_gateway_is_away(site: Site, imei: str) -> None:
    with site.device(imei) as device:
        site.part()
        late = site.accepted(imei, "late", expires_in=0.5)
        due_meanwhile = site.accepted(imei, "due-meanwhile", deliver_at=written(time.time() + 0.5))
        too_late = site.accepted(imei, "too-late", deliver_at=written(time.time() + 0.1), expires_in=0.4)
        due_later = site.accepted(imei, "due-later", deliver_at=written(time.time() + 3600))
        last = site.message(too_late)["expires_at"]
        site.gateway.kill()
        site.line.resume()
        until_past(last)
        site.gateway.start()
        heard = device.wait_for(1)
        assert site.send(imei, "afterwards").status_code == 201
        heard = device.wait_for(2)
    assert operations(heard) == ["due-meanwhile", "afterwards"]
    assert [site.message_in(each, "expired", "published")["status"] for each in (late, too_late, due_meanwhile)] == [
        "expired",
        "expired",
        "published",
    ]
    assert site.message(due_later)["status"] == "scheduled"


def test_a_stored_time_out_of_range_breaks_no_list(
    start_gateway: Callable[..., GatewayProcess], tmp_path: Path, mosquitto: Mosquitto
) -> None:
    gateway = start_gateway(mosquitto.settings_env)
    for operation in ("first", "second"):
        httpx.post(f"{gateway.url}/messaging/send", json={"imei": "8612", "micro_op": operation})
    make = [find_command(), "keys", "create", "--name=all", *(f"--scope={scope}" for scope in EVERY_SCOPE), "--json"]
    key = json.loads(subprocess.run(make, cwd=tmp_path, check=True, capture_output=True).stdout)["key"]
    with contextlib.closing(sqlite3.connect(tmp_path / "chapar.db", timeout=10)) as database, database:
        database.execute("UPDATE messages SET expires_at = ?, finished_at = -1 WHERE micro_op = 'first'", (2**62,))
        database.execute("UPDATE api_keys SET expires_at = ?, last_used_at = ?", (253_402_351_199_000, -(2**62)))
    with httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {key}"}) as api:
        second, first = api.get("/messaging/messages").json()["messages"]
        assert (first["expires_at"], first["finished_at"]) == ("9999-12-31T23:59:59.999Z", "1970-01-01T00:00:00.000Z")
        assert second["expires_at"] < "2100"
        for path in ("/reporting/all", "/reporting/all?format=csv", f"/messaging/messages/{first['id']}"):
            assert "9999-12-31T23:59:59.999Z" in api.get(path).text
        assert [each["expires_at"] for each in api.get("/keys").json()["keys"]] == ["9999-12-31T23:59:59.999Z"]
        assert api.get("/audit").status_code == 200
    for options in ([], ["--json"]):
        listed = subprocess.run(
            [find_command(), "keys", "list", *options], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        assert "9999-12-31" in listed.stdout
