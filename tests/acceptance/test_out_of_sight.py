"""A narrowed key learns nothing of what is out of its reach: no id, no device, no operation, not that it is there."""

import contextlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import pytest

from support.api import problem_of
from support.gateway import GatewayProcess
from support.issuer import EVERY_SCOPE
from support.mosquitto import Mosquitto

CANARY: Final = "c4nary"
OWN: Final = "farm1-pump"
FULL: Final = "farm1-full"  # within reach, and full of what is not
FOREIGN: Final = f"{CANARY}-dev"
QUEUES: Final = [("POST", f"/queue/{verb}") for verb in ("pause", "resume", "purge")]
UNKNOWN: Final = "01a20c84-57d5-7cc1-aaa1-65fb014696c7"
TOMORROW: Final = (datetime.now(UTC) + timedelta(days=1)).isoformat()
SCOPES: Final = EVERY_SCOPE.split()


class Sight:
    """A gateway, its owner and somebody with a narrowed key."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.owner = self._holder(None, name="owner", scopes=SCOPES)
        self.narrow = self._holder(self.owner, name="narrow", scopes=SCOPES, devices=["farm1-*"], operations=["open*"])
        self.foreign: list[str] = []
        for imei, micro_op in [(FOREIGN, "open"), (FOREIGN, "open"), (FULL, f"{CANARY}_op"), (FULL, f"{CANARY}_op")]:
            made = self.owner.post(
                "/messaging/send",
                json=message(imei, micro_op),
                headers={"Idempotency-Key": CANARY + str(len(self.foreign))},
            )
            assert made.status_code == 202, made.text
            self.foreign.append(made.json()["id"])
        self.own = self.narrow.post("/messaging/send", json=message(OWN, "open")).json()["id"]

    def _holder(self, maker: httpx.Client | None, **asked: Any) -> httpx.Client:
        with httpx.Client(base_url=self._url) as anybody:
            made = (maker or anybody).post("/keys", json=asked).json()
        return httpx.Client(base_url=self._url, headers={"Authorization": f"Bearer {made['key']}"}, timeout=30)

    def hidden_in(self, answer: httpx.Response, *asked: str) -> None:
        """Check that nothing of others is in an answer, but for what the caller itself wrote."""
        shown = f"{answer.headers} {answer.text}"
        for text in asked:
            shown = shown.replace(text, "")
        assert CANARY not in shown, shown
        assert not [id_ for id_ in self.foreign if id_ in shown], shown


def message(imei: str, micro_op: str) -> dict[str, Any]:
    return {"imei": imei, "micro_op": micro_op, "params": {"of": imei}, "deliver_at": TOMORROW, "wait": "none"}


@pytest.fixture(scope="module")
def sight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sight]:
    folder = tmp_path_factory.mktemp("sight")
    with Mosquitto() as broker:
        env = {"CHAPAR_DATABASE_URL": f"sqlite:///{folder / 'chapar.db'}", **broker.settings_env}
        bounds = {"CHAPAR_MAX_DEVICE_QUEUE": "2", "CHAPAR_MAX_QUEUE": "6", "CHAPAR_REQUESTS_PER_SECOND": "1000"}
        with GatewayProcess(folder, env | bounds) as gateway:
            sight = Sight(gateway.url)
            with contextlib.closing(sight.owner), contextlib.closing(sight.narrow):
                yield sight


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("POST", "/cancel"), ("POST", "/resend"), ("POST", "/resend?wait=none")],
)
@pytest.mark.parametrize("accept_language", ["en", "fa"])
def test_a_message_of_others_is_not_there(sight: Sight, method: str, path: str, accept_language: str) -> None:
    unknown = ask(sight, method, UNKNOWN, path, accept_language)
    assert (unknown.status_code, problem_of(unknown)["code"]) == (404, "message_not_found")
    for id_ in sight.foreign:
        answer = ask(sight, method, id_, path, accept_language)
        assert answer.status_code == 404
        assert answer.text.replace(id_, "") == unknown.text.replace(UNKNOWN, "")
        assert set(answer.headers) == set(unknown.headers)
        sight.hidden_in(answer, id_)
    for id_ in sight.foreign:
        assert sight.owner.get(f"/messaging/messages/{id_}").json()["status"] == "scheduled"


def ask(sight: Sight, method: str, id_: str, path: str, accept_language: str) -> httpx.Response:
    headers = {"Accept-Language": accept_language}
    return sight.narrow.request(method, f"/messaging/messages/{id_}{path}", headers=headers)


@pytest.mark.parametrize("accept_language", ["en", "fa"])
def test_a_device_of_others_is_not_there_and_keeps_what_waits(sight: Sight, accept_language: str) -> None:
    for imei in (FOREIGN, FULL):
        assert sight.owner.put(f"/devices/{imei}", json={"name": CANARY if imei is FOREIGN else "full"}).is_success
    headers = {"Accept-Language": accept_language}
    for method, path in (("GET", ""), ("PUT", ""), ("DELETE", ""), *QUEUES):
        answer, unknown = (
            sight.narrow.request(
                method, f"/devices/{imei}{path}", json={} if method == "PUT" else None, headers=headers
            )
            for imei in (FOREIGN, f"{CANARY}-unknown")
        )
        assert (answer.status_code, problem_of(answer)["code"]) == (404, "device_not_found")
        assert answer.text.replace(FOREIGN, "") == unknown.text.replace(f"{CANARY}-unknown", "")
        assert set(answer.headers) == set(unknown.headers)
        sight.hidden_in(answer, FOREIGN)
    for query in ("", f"?q={CANARY}", "?presence=unknown"):
        answer = sight.narrow.get(f"/devices{query}")
        assert answer.is_success, answer.text
        sight.hidden_in(answer, query)
    shown = sight.narrow.get(f"/devices/{FULL}").json()
    assert (shown["queue"]["depth"], shown["queue"]["oldest"]) == (0, None), "what waits for it is out of reach"
    assert sight.owner.get(f"/devices/{FULL}").json()["queue"]["depth"] == 2
    assert sight.narrow.post(f"/devices/{FULL}/queue/purge").json()["cancelled"] == 0
    for id_ in sight.foreign:
        assert sight.owner.get(f"/messaging/messages/{id_}").json()["status"] == "scheduled"


def test_no_list_no_report_and_no_count_knows_of_it(sight: Sight) -> None:
    [first, *_] = sight.foreign
    for path in (
        "/messaging/messages",
        f"/messaging/messages?imei={FOREIGN}",
        f"/messaging/messages?micro_op={CANARY}_op&status=scheduled",
        "/messaging/messages?limit=1",
        "/reporting/all?format=json",
        "/reporting/all?format=ndjson",
        "/reporting/all?format=csv",
        f"/reporting/all?imei={FOREIGN}",
        "/reporting/summary",
        f"/reporting/summary?imei={FOREIGN}",
        "/audit",
        f"/audit?subject={first}",
        f"/audit?imei={FOREIGN}",
        "/keys",
        "/metrics",
        "/health/ready",
    ):
        answer = sight.narrow.get(path)
        assert answer.is_success, (path, answer.text)
        sight.hidden_in(answer)
    assert sight.narrow.get("/reporting/summary").json()["total"] == 1
    assert [row["id"] for row in sight.narrow.get("/reporting/all").json()] == [sight.own]
    for imei in (FOREIGN, FULL):
        assert sight.narrow.get("/reporting/summary", params={"imei": imei}).json()["total"] == 0


@pytest.mark.parametrize("accept_language", ["en", "fa"])
def test_what_is_full_is_full_of_nobody(sight: Sight, accept_language: str) -> None:
    headers = {"Accept-Language": accept_language}
    device_full = sight.narrow.post("/messaging/send", json=message(FULL, "open"), headers=headers)
    assert (device_full.status_code, problem_of(device_full)["code"]) == (429, "queue_full")
    sight.hidden_in(device_full)
    bulk = {"messages": [message(FULL, "open"), message(FOREIGN, "open"), message(OWN, f"{CANARY}_op")]}
    answer = sight.narrow.post("/messaging/bulk", json=bulk, headers=headers)
    assert answer.json()["summary"] == {"403": 2, "429": 1}
    sight.hidden_in(answer, FOREIGN, f"{CANARY}_op")
    for number in range(3):  # until the queue of all is full, whose oldest is out of reach
        whole = sight.narrow.post("/messaging/send", json=message(f"farm1-{number}", "open"), headers=headers)
        sight.hidden_in(whole)
    assert (whole.status_code, problem_of(whole)["code"]) == (429, "queue_full")
    assert "CHAPAR_MAX_QUEUE" in whole.text
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-7", whole.text), "no id at all"
    assert sight.foreign[0] in sight.owner.post("/messaging/send", json=message("farm2", "open")).text


def test_the_idempotency_keys_of_others_are_free(sight: Sight) -> None:
    for body in (message(OWN, "open"), message(FOREIGN, "open"), message(FULL, "open")):
        answer = sight.narrow.post("/messaging/send", json=body, headers={"Idempotency-Key": f"{CANARY}0"})
        assert answer.status_code in {202, 403, 429}, answer.text
        assert "idempotency-replayed" not in answer.headers
        sight.hidden_in(answer, FOREIGN)


def test_a_place_in_a_list_of_others_is_no_place(sight: Sight) -> None:
    """A cursor that another caller's page gave shows the same as one that nobody was given."""
    for id_ in sight.foreign:
        answer = sight.narrow.get("/messaging/messages", params={"cursor": f"{id_}.1", "status": "scheduled"})
        assert answer.is_success, answer.text
        sight.hidden_in(answer, id_)


def test_a_key_with_more_rights_is_not_there(sight: Sight) -> None:
    [owner, *_] = sight.owner.get("/keys").json()["keys"]
    unknown = sight.narrow.post("/keys/abcdefghij/revoke")
    for answer in (
        sight.narrow.post(f"/keys/{owner['id']}/revoke"),
        sight.narrow.post(f"/keys/{owner['id']}/expire", json={"expires_at": TOMORROW}),
    ):
        assert (answer.status_code, problem_of(answer)["code"]) == (404, "key_not_found")
        assert answer.text.replace(owner["id"], "") == unknown.text.replace("abcdefghij", "")
    assert owner["id"] not in json.dumps([key["id"] for key in sight.narrow.get("/keys").json()["keys"]])
