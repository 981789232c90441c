"""Many messages in one call: an answer for each in its place, committed together, each device in order."""

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import httpx
import pytest

from support.api import problem_of
from support.measures import measures
from support.raw_http import JSON, RawRequest
from support.site import HOLDS_NOTHING_BACK, Site, operations

MOST = 10_000
DEVICES = 100
LARGEST = 2 * 1024 * 1024  # bytes
LARGEST_MESSAGE = 64 * 1024  # bytes; the default of CHAPAR_MAX_BODY_BYTES
NDJSON = "application/x-ndjson"
ASYNC = {"Prefer": "respond-async"}

Item = Mapping[str, Any]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with Site(folder, *HOLDS_NOTHING_BACK, max_bulk_bytes=LARGEST, publish_timeout=60) as site:
        yield site


@pytest.fixture
def imei(site: Site) -> str:
    return site.new_imei()


def as_json(site: Site, items: Iterable[object], **headers: str) -> httpx.Response:
    return site.api.post("/messaging/bulk", json={"messages": list(items)}, headers=headers)


def as_lines(site: Site, items: Iterable[object], **headers: str) -> httpx.Response:
    body = "".join(f"{item if isinstance(item, str) else json.dumps(item)}\n" for item in items)
    return site.api.post("/messaging/bulk", content=body, headers={"Content-Type": NDJSON, **headers})


Post = Callable[..., httpx.Response]
in_either_form = pytest.mark.parametrize("post", [as_json, as_lines])


@in_either_form
def test_each_message_is_answered_in_its_place_as_if_it_came_alone(site: Site, imei: str, post: Post) -> None:
    steps = [f"step-{number}" for number in range(20)]
    with site.device(imei) as device:
        answer = post(site, [{"imei": imei, "micro_op": step} for step in steps])
        heard = device.wait_for(len(steps))
    told = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert "preference-applied" not in answer.headers
    assert told["summary"] == {"201": len(steps)}
    rows = site.messages_of(imei)
    for step, item, row in zip(steps, told["answers"], rows, strict=True):
        assert item == {
            "status": 201,
            "body": {
                "detail": f"Send `{step}` to topic `devices/{imei}`",
                "id": row["id"],
                "status": "published",
                "topic": f"devices/{imei}",
                "subscribers": item["body"]["subscribers"],
            },
        }
    assert operations(heard) == steps


@in_either_form
def test_who_does_not_wait_has_every_message_accepted(site: Site, imei: str, post: Post) -> None:
    items = [{"imei": imei, "micro_op": f"step-{number}", "wait": "broker"} for number in range(20)]
    answer = post(site, items, **ASYNC)
    assert answer.headers["preference-applied"] == "respond-async"
    assert answer.json()["summary"] == {"202": len(items)}
    assert {row["status"] for row in site.settled(imei)} == {"published"}


@in_either_form
def test_a_faulty_message_fails_alone_and_by_name(site: Site, imei: str, post: Post) -> None:
    items: list[object] = [
        {"imei": imei, "micro_op": "first"},
        {"imei": f"{imei}/#", "micro_op": "bad"},
        {"imei": imei},
        {"imei": imei, "micro_op": "bad", "qos": 3, "expires_in": 0},
        {"imei": imei, "micro_op": "bad", "unknown": 1},
        {"imei": imei, "micro_op": "bad", "deliver_at": "2100-01-01T00:00:00"},
        [],
        None,
        {"imei": imei, "micro_op": "last"},
    ]
    with site.device(imei) as device:
        told = post(site, items).json()
        heard = device.wait_for(2)
    faults = [[error["field"] for error in item["body"].get("errors", ())] for item in told["answers"]]
    assert faults == [
        [],
        ["imei"],
        ["micro_op"],
        ["qos", "expires_in"],
        ["unknown"],
        ["deliver_at"],
        ["body"],
        ["body"],
        [],
    ]
    assert [item["status"] for item in told["answers"]] == [201, *[422] * 7, 201]
    assert told["summary"] == {"201": 2, "422": 7}
    for item in told["answers"][1:-1]:
        assert item["body"]["status"] == item["status"]
        assert item["body"]["code"] == "field_invalid"
        assert item["body"]["reason"] == item["body"]["detail"]
    assert operations(heard) == ["first", "last"]
    assert len(site.messages_of(imei)) == 2


def test_a_line_that_is_no_json_fails_alone(site: Site, imei: str) -> None:
    good = {"imei": imei, "micro_op": "push_down"}
    twice = f'{{"imei":"{imei}","imei":"{imei}","micro_op":"push_down"}}'
    told = as_lines(site, [good, '{"imei":', "", twice, good]).json()["answers"]  # an empty line is none
    assert [item["status"] for item in told] == [201, 400, 422, 201]
    assert told[1]["body"]["code"] == "body_malformed"
    assert [error["field"] for error in told[2]["body"]["errors"]] == ["imei"]
    assert len(site.messages_of(imei)) == 2


@pytest.mark.parametrize(
    "fields",
    [r'"micro_op":"\ud800"', f'"micro_op":"a","params":{{"x":{"[" * 300}{"]" * 300}}}'],
    ids=["surrogate", "deep"],
)
def test_a_message_that_no_text_can_hold_fails_alone(site: Site, imei: str, fields: str) -> None:
    body = f'{{"messages":[{{"imei":"{imei}",{fields}}},{{"imei":"{imei}","micro_op":"push_down"}}]}}'
    answer = site.api.post("/messaging/bulk", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert [item["status"] for item in answer.json()["answers"]] == [400, 201]


@pytest.mark.parametrize("cell", [r'"""\ud800"""', r'"{""a"":""\ud800""}"', r'"[{""\udfff"":1}]"'])
@pytest.mark.parametrize("key", [None, "unique"])
def test_a_cell_that_no_text_can_hold_fails_alone(site: Site, imei: str, cell: str, key: str | None) -> None:
    headers = {} if key is None else {"Idempotency-Key": str(uuid.uuid4())}
    text = f"imei,micro_op,params.x\n{imei},open,{cell}\n{imei},open,\n"
    answer = as_csv(site, text, **headers)
    assert answer.status_code == 200
    assert [item["status"] for item in answer.json()["answers"]] == [400, 201]


@pytest.mark.parametrize("path", ["/messaging/send", "/messaging/bulk", "/keys"])
@pytest.mark.parametrize("body", [r'{"\ud800":1,"\ud800":2}', r'{"\ud800":1}'], ids=["twice", "once"])
def test_a_field_s_name_that_no_text_can_hold_is_refused(site: Site, path: str, body: str) -> None:
    answer = site.api.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in {400, 422}
    assert "surrogate" not in problem_of(answer)["reason"]


@in_either_form
def test_a_message_past_the_bound_of_one_fails_alone(site: Site, imei: str, post: Post) -> None:
    good = {"imei": imei, "micro_op": "push_down"}
    told = post(site, [good, {**good, "params": {"text": "x" * LARGEST_MESSAGE}}, good]).json()["answers"]
    assert [item["status"] for item in told] == [201, 413, 201]
    assert told[1]["body"]["code"] == "body_too_large"
    assert f"{LARGEST_MESSAGE} bytes (CHAPAR_MAX_BODY_BYTES)" in told[1]["body"]["reason"]
    assert len(site.messages_of(imei)) == 2


@in_either_form
def test_the_largest_message_that_may_come_alone_may_come_in_bulk(site: Site, imei: str, post: Post) -> None:
    message = {"imei": imei, "micro_op": "push_down", "params": {"text": ""}}
    message["params"] = {"text": "x" * (LARGEST_MESSAGE - len(json.dumps(message)))}
    assert post(site, [message]).json()["summary"] == {"201": 1}
    assert site.send(**message).status_code == 201


@pytest.mark.parametrize(
    "rest", ['{"imei":]', "{} {}", "", "nul", '{"imei":"8612",}', "[}", '{"a":1]', '"\\x"', "01"], ids=repr
)
def test_a_body_that_is_no_json_as_a_whole_sends_nothing(site: Site, imei: str, rest: str) -> None:
    body = f'{{"messages":[{{"imei":"{imei}","micro_op":"push_down"}},{rest}]}}'
    answer = site.api.post("/messaging/bulk", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, problem_of(answer)["code"]) == (400, "body_malformed")
    assert site.messages_of(imei) == []


def test_a_number_of_many_digits_fails_alone(site: Site, imei: str) -> None:
    good = f'{{"imei":"{imei}","micro_op":"push_down"}}'
    body = f'{{"messages":[{good},{{"imei":"{imei}","micro_op":"push_down","params":{{"x":{"9" * 5000}}}}}]}}'
    answer = site.api.post("/messaging/bulk", content=body, headers={"Content-Type": "application/json"})
    assert [item["status"] for item in answer.json()["answers"]] == [201, 400]


def test_messages_of_several_devices_and_waits_keep_the_order_of_each(site: Site) -> None:
    imeis = [site.new_imei() for _ in range(5)]
    items = [
        {"imei": imei, "micro_op": f"step-{number}", "wait": "none" if (number + of) % 3 else "broker"}
        for number in range(60)
        for of, imei in enumerate(imeis)
    ]
    with site.device(*imeis) as device:
        told = as_json(site, items).json()
        heard = device.wait_for(len(items))
    assert set(told["summary"]) <= {"201", "202"}
    for imei in imeis:
        own = [each for each in heard if each.topic == f"devices/{imei}"]
        assert operations(own) == [f"step-{number}" for number in range(60)]


def test_ten_thousand_messages_in_one_call_share_few_commits_and_each_is_heard_once(
    site: Site, figure: Callable[[str], None]
) -> None:
    imeis = [site.new_imei() for _ in range(DEVICES)]
    items = [{"imei": imeis[number % DEVICES], "micro_op": f"step-{number:05}"} for number in range(MOST)]
    before = measures(site.api)
    with site.device(*imeis) as device:
        answer = as_json(site, items)
        heard = device.wait_for(MOST, timeout=30.0)
    after = measures(site.api)
    told = answer.json()
    assert told["summary"] == {"201": MOST}
    assert [item["body"]["detail"].split("`")[1] for item in told["answers"]] == [item["micro_op"] for item in items]
    for imei, of_device in by_device(heard).items():
        assert of_device == [item["micro_op"] for item in items if item["imei"] == imei]
    operations_name = "chapar_commit_batch_operations"
    commits, committed = (
        after.value(f"{operations_name}_{part}") - before.value(f"{operations_name}_{part}")
        for part in ("count", "sum")
    )
    seconds = answer.elapsed.total_seconds()
    assert committed >= 2 * MOST, "each was added, and each was moved"
    assert commits < MOST / 20
    figure(
        f"bulk: {MOST:,} messages acknowledged in {seconds:.1f} s, {committed:,.0f} operations in {commits:.0f} commits"
    )


def by_device(heard: Iterable[Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in heard:
        found.setdefault(each.topic.removeprefix("devices/"), []).append(each.payload.decode())
    return found


@in_either_form
@pytest.mark.parametrize("number", [0, MOST + 1])
def test_a_call_with_none_or_with_too_many_is_refused_whole(site: Site, imei: str, post: Post, number: int) -> None:
    answer = post(site, [{"imei": imei, "micro_op": "push_down"}] * number)
    assert answer.status_code == 422
    assert [error["field"] for error in problem_of(answer)["errors"]] == ["messages"]
    assert "10,000" in problem_of(answer)["reason"]
    assert site.messages_of(imei) == []


@pytest.mark.parametrize("body", [{}, [], {"messages": {}}, {"messages": [], "more": 1}, {"messages": None}], ids=str)
def test_a_body_that_holds_no_list_of_messages_is_refused(site: Site, body: object) -> None:
    answer = site.api.post("/messaging/bulk", json=body)
    assert answer.status_code == 422
    assert [error["field"] for error in problem_of(answer)["errors"]] == ["messages"]


def test_a_body_that_is_no_json_is_refused(site: Site) -> None:
    answer = site.api.post("/messaging/bulk", content=b'{"messages": [', headers={"Content-Type": "application/json"})
    assert (answer.status_code, problem_of(answer)["code"]) == (400, "body_malformed")


def test_a_body_past_the_bound_is_refused_unread_and_the_bound_is_named(site: Site) -> None:
    with RawRequest(site.gateway.port, *JSON, f"Content-Length: {LARGEST + 1}", path="/messaging/bulk") as request:
        answer = request.answer()
        assert (answer.status, answer.problem["code"]) == (413, "body_too_large")
        assert f"{LARGEST} bytes (CHAPAR_MAX_BULK_BYTES)" in answer.problem["reason"]
        assert request.is_closed()


@in_either_form
def test_a_key_covers_each_message_at_its_place(site: Site, imei: str, post: Post) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    items = [{"imei": imei, "micro_op": f"step-{number}"} for number in range(5)]
    with site.device(imei) as device:
        first = post(site, items, **key)
        second = post(site, items, **key)
        # As after a cut call: what is new at its place is sent, what is another message at its place is refused.
        third = post(site, [*items[:3], {"imei": imei, "micro_op": "another"}, items[4], items[0]], **key)
        heard = device.wait_for(6)
    assert first.json()["summary"] == {"201": 5}
    assert second.json() == first.json()
    statuses = [item["status"] for item in third.json()["answers"]]
    assert statuses == [201, 201, 201, 422, 201, 201]
    assert third.json()["answers"][:3] == first.json()["answers"][:3]
    assert third.json()["answers"][3]["body"]["code"] == "idempotency_key_mismatch"
    assert operations(heard) == [*(f"step-{number}" for number in range(5)), "step-0"]
    assert Counter(row["micro_op"] for row in site.messages_of(imei))["step-0"] == 2


def test_a_key_of_a_bulk_call_is_none_of_a_single_message(site: Site, imei: str) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    item = {"imei": imei, "micro_op": "push_down"}
    [bulk] = as_json(site, [item], **key).json()["answers"]
    single = site.send(imei, headers=key)
    assert (bulk["status"], single.status_code) == (201, 201)
    assert bulk["body"]["id"] != single.json()["id"]


@in_either_form
def test_a_bad_key_fails_each_message_and_sends_none(site: Site, imei: str, post: Post) -> None:
    told = post(site, [{"imei": imei, "micro_op": "push_down"}] * 2, **{"Idempotency-Key": "k" * 256}).json()
    assert told["summary"] == {"422": 2}
    assert told["answers"][0]["body"]["errors"][0]["field"] == "Idempotency-Key"
    assert site.messages_of(imei) == []


def test_without_a_broker_each_message_is_told_whether_it_is_kept(site: Site, imei: str) -> None:
    with site.parted():
        items = [
            {"imei": imei, "micro_op": f"step-{number}", "wait": ("none", "broker")[number % 2]} for number in range(6)
        ]
        told = as_json(site, items).json()
    assert told["summary"] == {"202": 3, "406": 3}
    assert [item["body"].get("code") for item in told["answers"]] == [None, "broker_unreachable"] * 3
    assert [item["body"]["detail"] for item in told["answers"]][1] == "Something went wrong"
    assert Counter(row["status"] for row in site.settled(imei)) == {"published": 3, "rejected": 3}


def test_a_repetition_with_a_key_tries_again_what_was_not_recorded(site: Site, imei: str) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    sent, faulty, rejected = ({"imei": imei, "micro_op": f"step-{number}"} for number in range(3))
    with site.parted():
        first = as_json(site, [{**sent, "wait": "none"}, {**faulty, "qos": 9}, rejected], **key).json()["answers"]
    second = as_json(site, [{**sent, "wait": "none"}, faulty, rejected], **key).json()["answers"]
    assert [item["status"] for item in first] == [202, 422, 406]
    assert [item["status"] for item in second] == [202, 201, 406]
    assert second[0] == first[0]
    assert second[2] == first[2]


def as_csv(site: Site, text: str, **headers: str) -> httpx.Response:
    return site.api.post(
        "/messaging/bulk", content=text, headers={"Content-Type": "text/csv; charset=utf-8", **headers}
    )


def test_rows_of_csv_are_messages_and_a_faulty_one_names_its_line(site: Site, imei: str) -> None:
    text = (
        "\ufeffimei,micro_op,params.litres,params.note,qos\r\n"
        f'{imei},set_flow,20,"two\nlines",\r\n'
        f"{imei},set_flow,,0012,7\r\n"
        "\r\n"
        "8.61234567890123E+14,open,,,\r\n"
        f"{imei},close,,,\r\n"
    )
    with site.device(imei) as device:
        answer = as_csv(site, text)
        heard = device.wait_for(2)
    assert answer.json()["summary"] == {"201": 2, "422": 2}
    bodies = [item["body"] for item in answer.json()["answers"]]
    assert [body.get("line") for body in bodies] == [None, 4, 6, None]
    assert bodies[1]["reason"].startswith("Line 4: `qos`")
    assert "shortened" in bodies[2]["reason"]
    assert json.loads(heard[0].payload)["params"] == {"litres": 20, "note": "two\nlines"}
    assert heard[1].payload == b"close"
    persian = as_csv(site, "imei,micro_op\na/b,open\n", **{"Accept-Language": "fa"}).json()["answers"][0]["body"]
    assert persian["reason"].startswith("سطر ۲: `imei`")


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        ("imei,operation\n1,open\n", 422, "operation"),
        ("imei,micro_op\n", 422, "1 to 10,000"),
        ("", 422, "1 to 10,000"),
        ("imei,micro_op\n" + "1,open\n" * 10_001, 422, "1 to 10,000"),
        ('imei,micro_op\n1,"open\n', 400, "line 2"),
        ("imei,params." + "x" * LARGEST_MESSAGE + "\n", 413, "CHAPAR_MAX_BODY_BYTES"),
        ("imei,micro_op\n" + "1," * LARGEST, 413, "CHAPAR_MAX_BULK_BYTES"),
    ],
)
def test_csv_that_holds_no_messages_is_refused_whole(site: Site, text: str, status: int, says: str) -> None:
    answer = as_csv(site, text)
    assert answer.status_code == status
    assert says in answer.json()["reason"]


def test_a_row_past_the_bound_of_one_message_fails_alone(site: Site, imei: str) -> None:
    answer = as_csv(site, f"imei,micro_op\n{imei},{'x' * LARGEST_MESSAGE}\n{imei},open\n").json()
    assert answer["summary"] == {"201": 1, "413": 1}
    assert answer["answers"][0]["body"]["line"] == 2


def test_a_key_covers_each_row(site: Site, imei: str) -> None:
    text, key = f"imei,micro_op\n{imei},one\n{imei},two\n", str(uuid.uuid4())
    first, second = (as_csv(site, text, **{"Idempotency-Key": key}).json() for _ in range(2))
    assert first == second
    assert len(site.messages_of(imei)) == 2


def test_a_faulty_line_of_ndjson_names_its_line(site: Site, imei: str) -> None:
    good = json.dumps({"imei": imei, "micro_op": "open"})
    bodies = [item["body"] for item in as_lines(site, [good, "", "{", good]).json()["answers"]]
    assert [body.get("line") for body in bodies] == [None, 3, None]
    assert bodies[1]["reason"].startswith("Line 3: ")
