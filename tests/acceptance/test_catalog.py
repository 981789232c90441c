"""With a catalog, what does not fit it is neither stored nor sent, whichever way it comes; and callers can read it."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from support.api import problem_of
from support.builtin import BuiltinBroker
from support.gateway import GatewayProcess, find_command

EXAMPLE: Final = Path(__file__).parents[2] / "deploy" / "catalog.toml"
FITS: Final = {"valve": "north", "minutes": 20}
TOO_LONG: Final = {"valve": "north", "minutes": 500}

Start = Callable[..., GatewayProcess]


def command(params: Any = None, micro_op: str = "irrigate", **fields: Any) -> dict[str, Any]:
    given = {} if params is None else {"params": params}
    return {"imei": "farm1-valve-3", "micro_op": micro_op, **given, **fields}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    env = BuiltinBroker().settings_env | {"CHAPAR_CATALOG": str(EXAMPLE)}
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), env) as gateway:
        yield gateway


@pytest.fixture
def api(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        yield client


def stored(api: httpx.Client) -> int:
    return len(api.get("/reporting/all").json())


def test_a_send_that_does_not_fit_is_refused_and_leaves_no_trace(api: httpx.Client) -> None:
    before = stored(api)
    answer = api.post("/messaging/send", json=command(TOO_LONG))
    problem = problem_of(answer)
    assert (answer.status_code, problem["code"]) == (422, "params_invalid")
    assert "`params.minutes` must be at most 120" in problem["reason"]
    assert problem["errors"] == [{"field": "params.minutes", "rule": "must be at most 120"}]
    persian = api.post("/messaging/send", json=command(TOO_LONG), headers={"Accept-Language": "fa"}).json()
    assert "`params.minutes` باید حداکثر ۱۲۰ باشد" in persian["reason"]
    assert stored(api) == before


@pytest.mark.parametrize("wait", ["none", "broker", "device"])
def test_it_holds_whatever_a_caller_waits_for(api: httpx.Client, wait: str) -> None:
    assert api.post("/messaging/send", json=command(TOO_LONG, wait=wait, timeout=1)).status_code == 422
    assert api.post("/messaging/send", json=command(FITS, wait=wait, timeout=1)).status_code in {201, 202}


def test_what_fits_and_what_is_not_described_is_sent_as_it_is(api: httpx.Client) -> None:
    for sent in (command(FITS), command(micro_op="stop"), command({"any": [1]}, "unheard_of")):
        answer = api.post("/messaging/send", json=sent)
        assert answer.status_code == 201, answer.text
        message = api.get(f"/messaging/messages/{answer.json()['id']}").json()
        evidence = api.get(f"/messaging/messages/{answer.json()['id']}/explain").json()["evidence"]
        [word] = [each for each in evidence if each["kind"] == "catalog"]
        is_described = sent["micro_op"] != "unheard_of"
        assert (word["described"], word["fits"]) == (is_described, True if is_described else None)
        assert message["params"] == sent.get("params"), "no default is added"


def test_in_bulk_each_message_is_held_to_it(api: httpx.Client) -> None:
    messages = [command(FITS), command(TOO_LONG), command(micro_op="unheard_of"), command()]
    answer = api.post("/messaging/bulk", json={"messages": messages}).json()
    assert [item["status"] for item in answer["answers"]] == [201, 422, 201, 422]
    assert [item["body"].get("code") for item in answer["answers"]] == [None, "params_invalid", None, "params_invalid"]


def test_a_repetition_with_its_key_is_answered_although_the_catalog_has_changed(
    start_gateway: Start, tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text("")
    gateway = start_gateway(BuiltinBroker().settings_env | {"CHAPAR_CATALOG": str(catalog)})
    sent, key = command({"any": 1}), {"Idempotency-Key": "once"}
    first = httpx.post(f"{gateway.url}/messaging/send", json=sent, headers=key)
    assert first.status_code == 201
    gateway.terminate()
    catalog.write_text("[operations.irrigate]")
    gateway.start()
    again = httpx.post(f"{gateway.url}/messaging/send", json=sent, headers=key)
    assert (again.status_code, again.json()) == (201, first.json())
    assert httpx.post(f"{gateway.url}/messaging/send", json=sent).status_code == 422
    explained = httpx.get(f"{gateway.url}/messaging/messages/{first.json()['id']}/explain").json()
    [word] = [each for each in explained["evidence"] if each["kind"] == "catalog"]
    assert (word["described"], word["fits"], word["at"]) == (True, False, None)
    assert "`params.any` is no parameter of this operation" in word["fault"]
    resent = httpx.post(f"{gateway.url}/messaging/messages/{first.json()['id']}/resend")
    assert problem_of(resent)["code"] == "params_invalid", "which would be a new message"


def test_the_command_line_is_held_to_it_and_prints_it(gateway: GatewayProcess) -> None:
    def chapar(*arguments: str, language: str = "en") -> subprocess.CompletedProcess[str]:
        env = {"CHAPAR_URL": gateway.url, "CHAPAR_LANGUAGE": language, "HOME": "/nonexistent"}
        return subprocess.run(
            [find_command(), *arguments], env=env, capture_output=True, text=True, timeout=60, check=False
        )

    refused = chapar("send", "farm1-valve-3", "irrigate", "--params", json.dumps(TOO_LONG))
    assert refused.returncode != 0
    assert "`params.minutes` must be at most 120" in refused.stderr
    assert "Irrigate" in chapar("catalog").stdout
    assert "آبیاری" in chapar("catalog", "irrigate", language="fa").stdout
    assert "no operation" in chapar("catalog", "irigate").stderr


def test_the_catalog_is_read_in_both_languages(api: httpx.Client) -> None:
    operations = api.get("/catalog").json()["operations"]
    assert [each["micro_op"] for each in operations] == ["irrigate", "pump_on", "stop"]
    irrigate = api.get("/catalog/irrigate").json()
    assert irrigate == operations[0]
    assert (irrigate["title"], irrigate["title_fa"], irrigate["expires_in"]) == ("Irrigate", "آبیاری", 600)
    assert irrigate["params"]["properties"]["minutes"]["unit_fa"] == "دقیقه"
    assert [each["confirm"] for each in operations] == [False, True, True]
    unknown = api.get("/catalog/valve/open")
    assert (unknown.status_code, problem_of(unknown)["code"]) == (404, "operation_not_found")


def test_a_key_sees_the_operations_that_it_reaches(start_gateway: Start, sqlite_url: str) -> None:
    env = BuiltinBroker().settings_env | {"CHAPAR_DATABASE_URL": sqlite_url, "CHAPAR_CATALOG": str(EXAMPLE)}
    gateway = start_gateway(env)
    made = httpx.post(f"{gateway.url}/keys", json={"name": "all", "scopes": ["keys:write", "messages:send"]}).json()
    with httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {made['key']}"}) as admin:
        narrow = {"name": "narrow", "scopes": ["messages:send"], "operations": ["s*"]}
        key = admin.post("/keys", json=narrow).json()["key"]
    with httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {key}"}) as caller:
        assert [each["micro_op"] for each in caller.get("/catalog").json()["operations"]] == ["stop"]
        assert caller.get("/catalog/stop").status_code == 200
        assert caller.get("/catalog/irrigate").status_code == 404
    assert httpx.get(f"{gateway.url}/catalog").status_code == 401


def test_a_mistake_keeps_the_gateway_from_starting_with_one_sentence(start_gateway: Start, tmp_path: Path) -> None:
    (tmp_path / "farm.toml").write_text(EXAMPLE.read_text().replace("default = 20", "default = 500"))
    gateway = start_gateway({"CHAPAR_CATALOG": "farm.toml"}, until=None)
    assert gateway.program.wait() == 1
    [sentence] = [line for line in gateway.lines if line.startswith("chapar: ")]
    assert "farm.toml `operations.irrigate.params.properties.minutes.default` must be at most 120" in sentence


def test_without_a_catalog_any_parameters_are_taken(start_gateway: Start) -> None:
    gateway = start_gateway(BuiltinBroker().settings_env)
    assert httpx.get(f"{gateway.url}/catalog").json() == {"operations": []}
    sent = httpx.post(f"{gateway.url}/messaging/send", json=command(TOO_LONG))
    assert sent.status_code == 201
    evidence = httpx.get(f"{gateway.url}/messaging/messages/{sent.json()['id']}/explain").json()["evidence"]
    assert "catalog" not in {each["kind"] for each in evidence}
