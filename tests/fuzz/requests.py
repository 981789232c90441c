"""The same texts through the installed command: answered with a reason, or heard by a device as they were asked."""

import json
from typing import Any, Final

import httpx
from hypothesis import HealthCheck, Phase, given, settings

from fuzz.campaign import Outcome
from fuzz.stage import open_stage
from fuzz.texts import CASES_IN_A_LIST, Case, lists_of_cases
from support.devices import Device, Heard

_ACCEPTED: Final = {201, 202}
_REFUSED: Final = {400, 413, 422}
_SINGLE: Final = 5  # cases of each list that are sent alone as well
_MAX_FINDINGS: Final = 5
_DIGITS: Final = str.maketrans("۰۱۲۳۴۵۶۷۸۹٠١٢٣٤٥٦٧٨٩", "0123456789" * 2)
_JSON: Final = {"Content-Type": "application/json"}


def run(wanted: int) -> Outcome:
    """`wanted` cases in bulk calls, some of them in calls of their own too."""
    outcome = Outcome()
    with (
        open_stage() as stage,
        Device(stage.broker.port, "everything", topics=["#"], qos=2, mqtt5=True) as everything,
        httpx.Client(base_url=stage.gateway.url, timeout=60.0) as api,
    ):

        @settings(
            max_examples=max(1, wanted // CASES_IN_A_LIST),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(lists_of_cases)
        def campaign(cases: list[Case]) -> None:
            if len(outcome.findings) < _MAX_FINDINGS:
                answers = _bulk(api, cases) + _single(api, cases[:_SINGLE])
                _judge(cases + cases[:_SINGLE], answers, everything, outcome)

        campaign()
        stage.judge(outcome)
    return outcome


def _bulk(api: httpx.Client, cases: list[Case]) -> list[tuple[int, Any]]:
    body = json.dumps({"messages": [case.fields for case in cases]})
    answer = api.post("/messaging/bulk", content=body, headers=_JSON)
    assert answer.status_code == 200, answer.text
    return [(each["status"], each["body"]) for each in answer.json()["answers"]]


def _single(api: httpx.Client, cases: list[Case]) -> list[tuple[int, Any]]:
    answers = [api.post("/messaging/send", content=json.dumps(case.fields), headers=_JSON) for case in cases]
    return [(answer.status_code, answer.json()) for answer in answers]


def _judge(cases: list[Case], answers: list[tuple[int, Any]], everything: Device, outcome: Outcome) -> None:
    asked = list(zip(cases, answers, strict=True))
    outcome.cases += len(asked)
    accepted = {body["id"]: case for case, (status, body) in asked if status in _ACCEPTED}
    outcome.count("accepted", len(accepted))
    outcome.count("refused", len(asked) - len(accepted))
    outcome.findings += [
        f"{case} was answered with {status}: {body}"
        for case, (status, body) in asked
        if status not in _ACCEPTED | _REFUSED or "detail" not in body
    ]
    heard = {each.correlation_data: each for each in everything.wait_for(len(accepted))}
    everything.heard.clear()
    outcome.findings += [
        f"{case} arrived as {heard.get(id_.encode())}"
        for id_, case in accepted.items()
        if not _is_as_asked(heard.get(id_.encode()), id_, case)
    ]


def _is_as_asked(heard: Heard | None, id_: str, case: Case) -> bool:
    if heard is None or (heard.topic, heard.qos) != (f"devices/{case.imei.translate(_DIGITS)}", case.qos):
        return False
    if case.params is None:
        return heard.payload == case.micro_op.encode()
    told: object = json.loads(heard.payload)
    return told == {"id": id_, "micro_op": case.micro_op, "params": case.params}
