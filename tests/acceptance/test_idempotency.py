"""The same `Idempotency-Key` once more: the same answer, and no second message, whatever happened to the first call."""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from support.api import problem_of
from support.promises import hearings
from support.site import Site, until, until_past, written

AT_ONCE = 10


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def imei(site: Site) -> str:
    return site.new_imei()


@pytest.fixture
def key() -> str:
    return str(uuid.uuid4())


def keyed(key: str, **headers: str) -> Mapping[str, str]:
    return {"Idempotency-Key": key, **headers}


def said(answer: httpx.Response) -> tuple[int, bytes, str | None, str]:
    """What a repetition must be told too."""
    return answer.status_code, answer.content, answer.headers.get("location"), answer.headers["content-type"]


def replayed(answer: httpx.Response) -> bool:
    value = answer.headers.get("idempotency-replayed")
    assert value in {None, "true"}
    return value is not None


def test_a_repetition_is_told_the_same_and_sends_nothing(site: Site, imei: str, key: str) -> None:
    with site.device(imei) as device:
        first, second, third = [site.send(imei, headers=keyed(key)) for _ in range(3)]
        assert site.send(imei, "afterwards").status_code == 201
        heard = device.wait_for(2)
    assert first.status_code == 201
    assert said(first) == said(second) == said(third)
    assert [replayed(answer) for answer in (first, second, third)] == [False, True, True]
    assert [each.payload for each in heard] == [b"push_down", b"afterwards"]
    assert len(site.messages_of(imei)) == 2


def test_the_answer_stays_what_it_was_when_the_message_moves_on(site: Site, imei: str, key: str) -> None:
    first = site.send(imei, headers=keyed(key), wait="none")
    assert (first.status_code, first.json()["status"]) == (202, "queued")
    site.message_in(first.json()["id"], "published")
    second = site.send(imei, headers=keyed(key), wait="none")
    assert (said(second), replayed(second)) == (said(first), True)


def test_a_repeated_resend_with_the_same_key_makes_one_message(site: Site, imei: str, key: str) -> None:
    with site.device(imei) as device:
        first = site.send(imei).json()["id"]
        path = f"/messaging/messages/{first}/resend"
        answers = [
            site.api.post(path, headers=keyed(key)),
            site.api.post(path, headers=keyed(key)),
            site.api.post(path.replace(first, first.upper()), headers=keyed(key)),
        ]
        assert [answer.status_code for answer in answers] == [201] * 3
        assert len({said(answer) for answer in answers}) == 1
        assert [replayed(answer) for answer in answers] == [False, True, True]
        assert site.message(answers[0].json()["id"])["origin"] == first
        assert site.api.post(path).json()["id"] != answers[0].json()["id"], "without a key it is a new one"
        assert len(device.wait_for(3)) == 3
    other = site.send(imei).json()["id"]
    for request in ((f"/messaging/messages/{other}/resend", {}), (path, {"wait": "none"})):
        answer = site.api.post(request[0], params=request[1], headers=keyed(key))
        assert (answer.status_code, problem_of(answer)["code"]) == (422, "idempotency_key_mismatch")
    assert len(site.messages_of(imei)) == 4


def test_a_resend_that_prefers_not_to_wait_says_so(site: Site, imei: str, key: str) -> None:
    first = site.send(imei).json()["id"]
    answers = [
        site.api.post(f"/messaging/messages/{first}/resend", headers=keyed(key, Prefer="respond-async"))
        for _ in range(2)
    ]
    assert [answer.headers["preference-applied"] for answer in answers] == ["respond-async"] * 2
    assert len({said(answer) for answer in answers}) == 1
    assert answers[0].status_code == 202


def test_each_route_that_makes_something_takes_a_key_or_refuses_it(site: Site) -> None:
    repeatable = {
        "/messaging/messages/{id}/cancel": "withdraws once, however often",
        "/devices/import": "the same table again changes nothing",
        "/devices/{imei}/queue/purge": "withdraws what waits when it comes",
        "/devices/{imei}/queue/pause": "the first pause stands, however often",
        "/devices/{imei}/queue/resume": "ends once, however often",
        "/keys/{id}/revoke": "ends once, however often",
        "/keys/{id}/expire": "gives the same end",
    }
    document = site.api.get("/openapi.json").json()
    creating = {path: methods["post"] for path, methods in document["paths"].items() if "post" in methods}
    taking = {
        path
        for path, operation in creating.items()
        if any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", ()))
    }
    assert taking == {"/messaging/send", "/messaging/bulk", "/messaging/messages/{id}/resend"}
    for path in creating.keys() - taking - repeatable.keys():
        answer = site.api.post(path, json={}, headers=keyed("k", **{"Accept-Language": "fa"}))
        assert (answer.status_code, problem_of(answer)["code"]) == (400, "idempotency_key_not_taken")
        assert "Idempotency-Key پذیرفته نیست" in answer.json()["reason"]
    assert site.api.get("/keys").json() == {"keys": []}


def test_without_a_key_the_same_call_is_a_new_message(site: Site, imei: str) -> None:
    answers = [site.send(imei) for _ in range(2)]
    assert answers[0].json()["id"] != answers[1].json()["id"]
    assert not any(map(replayed, answers))


def test_a_refusal_by_the_broker_s_absence_is_replayed_after_it_came_back(site: Site, imei: str, key: str) -> None:
    with site.parted():
        first = site.send(imei, headers=keyed(key))
    second = site.send(imei, headers=keyed(key))
    assert (first.status_code, problem_of(first)["code"]) == (406, "broker_unreachable")
    assert (said(second), replayed(second)) == (said(first), True)
    assert [row["status"] for row in site.messages_of(imei)] == ["rejected"]


def test_another_request_with_the_key_is_refused_and_spoils_nothing(site: Site, imei: str, key: str) -> None:
    first = site.send(imei, headers=keyed(key))
    for other in (site.send(imei, "pull_up", headers=keyed(key)), site.send(site.new_imei(), headers=keyed(key))):
        assert (other.status_code, problem_of(other)["code"]) == (422, "idempotency_key_mismatch")
        assert not replayed(other)
    assert said(site.send(imei, headers=keyed(key))) == said(first)
    assert len(site.messages_of(imei)) == 1


def test_while_the_first_call_is_not_answered_a_repetition_is_asked_to_come_back(
    site: Site, imei: str, key: str
) -> None:
    with ThreadPoolExecutor() as callers:
        with site.silent_broker():
            first = callers.submit(site.send, imei, headers=keyed(key))
            until(lambda: site.messages_of(imei))
            early = site.send(imei, headers=keyed(key))
            other = site.send(imei, "pull_up", headers=keyed(key))
        answer = first.result()
    assert (early.status_code, problem_of(early)["code"]) == (409, "idempotency_key_in_flight")
    assert (other.status_code, problem_of(other)["code"]) == (422, "idempotency_key_mismatch")
    assert answer.status_code == 201
    late = site.send(imei, headers=keyed(key))
    assert (said(late), replayed(late)) == (said(answer), True)
    assert len(site.messages_of(imei)) == 1


def test_a_key_makes_one_message_however_many_call_at_once(site: Site) -> None:
    keys = {site.new_imei(): str(uuid.uuid4()) for _ in range(10)}
    calls = [(imei, key) for imei, key in keys.items() for _ in range(AT_ONCE)]
    with site.device(*keys) as device, ThreadPoolExecutor(AT_ONCE) as callers:
        answers = list(callers.map(lambda call: (call[0], site.send(call[0], headers=keyed(call[1]))), calls))
        heard = device.wait_for(len(keys))
        finally_said = {imei: said(site.send(imei, headers=keyed(key))) for imei, key in keys.items()}
    statuses = Counter(answer.status_code for _, answer in answers)
    assert set(statuses) <= {201, 409}
    assert {said(answer) for _, answer in answers if answer.status_code == 201} == set(finally_said.values())
    first_hand = Counter(imei for imei, answer in answers if answer.status_code == 201 and not replayed(answer))
    assert first_hand == dict.fromkeys(keys, 1)
    assert sorted(each.topic for each in heard) == sorted(f"devices/{imei}" for imei in keys)
    assert [len(site.messages_of(imei)) for imei in keys] == [1] * len(keys)


def test_a_key_is_the_same_with_quotes_and_without(site: Site, imei: str, key: str) -> None:
    first = site.send(imei, headers=keyed(key))
    second = site.send(imei, headers=keyed(f'"{key}"'))
    assert (said(second), replayed(second)) == (said(first), True)


@pytest.mark.parametrize(
    "key", [b"", b'""', b"a\tb", "کلید".encode(), b"k" * 256], ids=["none", "quotes", "tab", "persian", "long"]
)
def test_a_key_that_cannot_be_one_is_refused_by_name(site: Site, imei: str, key: bytes) -> None:
    answer = site.api.post(
        "/messaging/send",
        json={"imei": imei, "micro_op": "push_down"},
        headers=[(b"Idempotency-Key", key)],
    )
    assert answer.status_code == 422
    assert [error["field"] for error in problem_of(answer)["errors"]] == ["Idempotency-Key"]
    assert site.messages_of(imei) == []


def test_the_longest_key_is_taken(site: Site, imei: str) -> None:
    key = "~" * 255
    assert said(site.send(imei, headers=keyed(key))) == said(site.send(imei, headers=keyed(key)))


def test_a_key_whose_call_was_at_fault_is_still_unused(site: Site, imei: str, key: str) -> None:
    assert site.send(imei, "", headers=keyed(key)).status_code == 422
    assert site.send(imei, expires_in=1e9, headers=keyed(key)).status_code == 422
    assert site.api.post("/messaging/send", content=b"{", headers=keyed(key)).status_code == 415
    sent = site.send(imei, headers=keyed(key))
    assert (sent.status_code, replayed(sent)) == (201, False)


def test_a_key_covers_scheduled_messages_too(site: Site, imei: str, key: str) -> None:
    due = written(time.time() + 3600)
    first, second = [site.send(imei, headers=keyed(key), deliver_at=due) for _ in range(2)]
    assert (first.status_code, said(second), replayed(second)) == (202, said(first), True)


def test_a_repetition_after_a_crash_is_told_of_the_message_there_is(site: Site, imei: str, key: str) -> None:
    told: list[httpx.Response | Exception] = []

    def call() -> None:
        try:
            told.append(site.send(imei, headers=keyed(key), timeout=60))
        except httpx.TransportError as error:
            told.append(error)

    with site.device(imei) as device:
        site.line.stall(to_server=False)  # the broker gets it, and its acknowledgement is lost
        caller = threading.Thread(target=call, name="caller")
        caller.start()
        device.wait_for(1)
        site.gateway.kill()
        caller.join()
        site.line.cut()
        site.line.resume()
        site.gateway.start()
        [row] = site.settled(imei)
        again = site.send(imei, headers=keyed(key), timeout=60)
        once_more = site.send(imei, headers=keyed(key), timeout=60)
        assert site.send(imei, "afterwards").status_code == 201
        heard = device.wait_for(lambda heard: heard[-1].payload == b"afterwards")
    assert isinstance(told[0], httpx.TransportError), "the first call was never answered"
    assert (again.status_code, again.json()["id"], replayed(again)) == (201, row["id"], False)
    assert (said(once_more), replayed(once_more)) == (said(again), True)
    assert hearings(heard[:-1]) == {row["id"]: [1, 2]}
    assert row["possible_duplicate"]
    assert len(site.messages_of(imei)) == 2


def test_an_answer_outlives_a_restart_of_the_gateway(site: Site, imei: str, key: str) -> None:
    first = site.send(imei, headers=keyed(key))
    site.gateway.restart()
    second = site.send(imei, headers=keyed(key))
    assert (said(second), replayed(second)) == (said(first), True)
    assert len(site.messages_of(imei)) == 1


def test_a_repeated_call_is_answered_as_before_although_its_time_has_passed(site: Site, imei: str, key: str) -> None:
    """More than a minute late it would be refused; but the message was taken, and its caller has to learn that."""
    due = time.time() - 57
    first = site.send(imei, headers=keyed(key), deliver_at=written(due))
    until_past(written(due + 60.1))
    second = site.send(imei, headers=keyed(key), deliver_at=written(due))
    assert (first.status_code, said(second), replayed(second)) == (201, said(first), True)
    assert site.send(imei, deliver_at=written(due)).status_code == 422
    assert len(site.messages_of(imei)) == 1
