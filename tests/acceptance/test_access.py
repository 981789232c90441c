"""Who may call what: every route, every scope, every kind of credential, against the installed command."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from support.api import problem_of
from support.gateway import GatewayProcess, find_command
from support.hostile_tokens import hostile_tokens
from support.issuer import EVERY_SCOPE, Issuer
from support.mosquitto import Mosquitto

OWN: Final = "farm1-pump"
OTHER: Final = "farm2-pump"
TOMORROW: Final = (datetime.now(UTC) + timedelta(days=1)).isoformat()
SCOPES: Final = EVERY_SCOPE.split()
NUMBERS: Final = count(1)

ANYBODY: Final = "anybody"
KNOWN: Final = "known"
EITHER: Final = "messages:read or devices:read"
SENDER: Final = "messages:send or messages:read"
POLICIES: Final[Mapping[tuple[str, str], str]] = {
    ("POST", "/messaging/send"): "messages:send",
    ("POST", "/messaging/bulk"): "messages:send",
    ("POST", "/messaging/messages/{id}/resend"): "messages:send",
    ("POST", "/messaging/messages/{id}/cancel"): "messages:cancel",
    ("GET", "/messaging/messages"): "messages:read",
    ("GET", "/messaging/messages/{id}"): "messages:read",
    ("GET", "/messaging/messages/{id}/explain"): "messages:read",
    ("GET", "/messaging/messages/{id}/replies"): "messages:read",
    ("GET", "/replies"): "messages:read",
    ("GET", "/reporting/all"): "messages:read",
    ("GET", "/reporting/summary"): "messages:read",
    ("GET", "/devices"): "devices:read",
    ("GET", "/devices/export"): "devices:read",
    ("POST", "/devices/import"): "devices:write",
    ("GET", "/devices/{imei}"): "devices:read",
    ("PUT", "/devices/{imei}"): "devices:write",
    ("DELETE", "/devices/{imei}"): "devices:write",
    ("POST", "/devices/{imei}/queue/purge"): "devices:write",
    ("GET", "/catalog"): SENDER,
    ("GET", "/catalog/{micro_op}"): SENDER,
    ("POST", "/devices/{imei}/queue/pause"): "devices:write",
    ("POST", "/devices/{imei}/queue/resume"): "devices:write",
    ("POST", "/keys"): "keys:write",
    ("GET", "/keys"): "keys:write",
    ("POST", "/keys/{id}/revoke"): "keys:write",
    ("POST", "/keys/{id}/expire"): "keys:write",
    ("GET", "/audit"): "audit:read",
    ("GET", "/metrics"): "metrics:read",
    ("GET", "/health/live"): ANYBODY,
    ("GET", "/health/ready"): ANYBODY,
    ("GET", "/events"): EITHER,
    ("GET", "/openapi.json"): KNOWN,
    ("GET", "/docs"): KNOWN,
    ("GET", "/docs/assets/swagger-ui.css"): KNOWN,
}
UNLISTED: Final = {("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/docs/assets/swagger-ui.css")}


class Place:
    """A gateway behind a closed door, with the issuer of its tokens."""

    def __init__(self, gateway: GatewayProcess, issuer: Issuer, env: Mapping[str, str]) -> None:
        self.gateway = gateway
        self.issuer = issuer
        self.http = httpx.Client(base_url=gateway.url, timeout=30)
        self.admin = {"Authorization": f"Bearer {issuer.token(sub='admin')}"}
        self._env = env

    def ask(self, route: tuple[str, str], credential: str | None, device: str = OWN) -> httpx.Response:
        """Call a route for a device, each time on a message or a key of its own."""
        method, path = route
        headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
        body: Any = None
        message = {"imei": device, "micro_op": f"open-{next(NUMBERS)}", "wait": "none", "deliver_at": TOMORROW}
        match path:
            case "/messaging/send":
                body = message
            case "/messaging/bulk":
                body = {"messages": [message]}
            case path if path.startswith("/devices/{imei}"):
                path = path.format(imei=device)
                assert self.http.put(f"/devices/{device}", json={}, headers=self.admin).is_success
                body = {"name": "pump"} if method == "PUT" else None
            case "/devices/import":
                table = {"content": f"imei\n{device}\n", "headers": headers | {"Content-Type": "text/csv"}}
                return self.http.post(path, **table)
            case "/events" | "/catalog/{micro_op}":
                path = {"/events": "/events?follow=false"}.get(path, "/catalog/stop")
            case "/keys":
                body = {"name": "new", "scopes": ["keys:write"], "devices": ["farm1-*"]}
            case "/keys/{id}/revoke" | "/keys/{id}/expire":
                path = path.format(id=self.new_key(scopes=["keys:write"])["id"])
                soon = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()  # before the end of every token here
                body = {"expires_at": soon} if path.endswith("expire") else None
            case _ if path.startswith("/messaging/messages/{id}"):
                made = self.http.post("/messaging/send", json=message, headers=self.admin)
                path = path.format(id=made.json()["id"])
        if method == "GET" or body is None:
            return self.http.request(method, path, headers=headers)
        return self.http.request(method, path, headers=headers, json=body)

    def new_key(self, **changed: Any) -> dict[str, Any]:
        asked = {"name": "new", "scopes": ["messages:send"], "devices": ["farm1-*"]} | changed
        made = self.http.post("/keys", json=asked, headers=self.admin)
        assert made.status_code == 201, made.text
        answer: dict[str, Any] = made.json()
        return answer

    def command(self, *arguments: str) -> str:
        done = subprocess.run(
            [find_command(), *arguments], env=self._env, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.strip()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("access")
    with Mosquitto() as broker, Issuer() as issuer:
        env = {"CHAPAR_DATABASE_URL": f"sqlite:///{folder / 'chapar.db'}", **broker.settings_env, **issuer.settings_env}
        (folder / "catalog.toml").write_text("[operations.stop]\n")
        extra = {"CHAPAR_MAX_DEVICE_QUEUE": "100000", "CHAPAR_CATALOG": "catalog.toml"}
        with GatewayProcess(folder, env | extra) as gateway:
            place = Place(gateway, issuer, {"PATH": os.environ["PATH"], "HOME": str(folder), **env})
            with place.http:
                yield place


def test_the_table_knows_every_route(place: Place) -> None:
    document = place.http.get("/openapi.json", headers=place.admin).json()
    listed = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert listed == set(POLICIES) - UNLISTED


@pytest.mark.parametrize("language", ["en", "fa"])
def test_the_pages_say_what_each_scope_opens(language: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / language / "security.md").read_text()
    page = re.sub(r'<code dir="ltr">(.*?)</code>', r"`\1`", page)
    rows = re.findall(r"^\| `([a-z]+:[a-z]+)` \| (.*) \|$", page, re.MULTILINE)
    documented = {
        (method, path): scope for scope, opens in rows for method, path in re.findall(r"`(\w+) (\S+)`", opens)
    }
    assert documented == {route: policy for route, policy in POLICIES.items() if policy in SCOPES}


def test_each_scope_opens_its_routes_and_no_other(place: Place) -> None:
    for route, policy in POLICIES.items():
        for scope in (*SCOPES, ""):
            key = place.new_key(scopes=[scope])["key"] if scope else None
            for credential in filter(None, (key, place.issuer.token(scope=scope, devices=["farm1-*"]))):
                answer = place.ask(route, credential)
                if policy in {ANYBODY, KNOWN, scope} or scope in policy.split(" or "):
                    assert answer.is_success, (route, scope, answer.text)
                else:
                    problem = problem_of(answer)
                    assert (answer.status_code, problem["code"]) == (403, "scope_missing"), (route, scope)
                    assert policy.partition(" ")[0] in problem["reason"]


def test_a_device_of_others_is_neither_commanded_nor_seen(place: Place) -> None:
    place.ask(("POST", "/messaging/send"), place.issuer.token(), OTHER)
    narrow = place.issuer.token(devices=["farm1-*"], sub="narrow")
    for route, policy in POLICIES.items():
        answer = place.ask(route, narrow, OTHER)
        match route:
            case (_, "/messaging/send"):
                assert (answer.status_code, problem_of(answer)["code"]) == (403, "out_of_reach"), route
            case (_, path) if path.startswith("/messaging/messages/{id}"):
                assert (answer.status_code, problem_of(answer)["code"]) == (404, "message_not_found")
            case (_, "/messaging/bulk"):
                assert answer.json()["summary"] == {"403": 1}
            case (_, path) if path.startswith("/devices/{imei}"):
                assert (answer.status_code, problem_of(answer)["code"]) == (404, "device_not_found"), route
                continue
            case (_, "/devices/import"):
                [row] = answer.json()["rows"]
                assert (row["outcome"], row["code"]) == ("refused", "device_not_found")
                continue
            case (_, "/keys/{id}/revoke" | "/keys/{id}/expire"):
                pass
            case _:
                assert answer.is_success, (route, policy, answer.text)
        assert OTHER not in answer.text or answer.status_code == 403 or route[1] == "/messaging/bulk", route


def test_an_operation_beyond_the_caller_is_neither_sent_nor_seen(place: Place) -> None:
    narrow = place.issuer.token(operations=["close"], sub="narrow")
    assert place.ask(("POST", "/messaging/send"), narrow).status_code == 403
    assert place.ask(("GET", "/messaging/messages/{id}"), narrow).status_code == 404
    assert place.http.get("/reporting/all", headers={"Authorization": f"Bearer {narrow}"}).json() == []


def test_no_hostile_credential_opens_anything(place: Place) -> None:
    expired = place.command(
        "keys",
        "create",
        "--name",
        "brief",
        *(part for scope in SCOPES for part in ("--scope", scope)),
        "--expires",
        "1s",
    )
    revoked = place.new_key(scopes=SCOPES, devices=["*"])
    place.command("keys", "revoke", revoked["id"])  # returns once no gateway accepts it, and so the other has ended
    hostile = {
        **hostile_tokens(place.issuer),
        "an expired key": expired,
        "a revoked key": revoked["key"],
        "a key cut off": revoked["key"][:-1],
    }
    asked = 0
    for route in POLICIES:
        for what, credential in hostile.items():
            answer = place.ask(route, credential)
            problem = problem_of(answer)
            assert (answer.status_code, problem["code"]) == (401, "credential_invalid"), (route, what, answer.text)
            assert "invalid_token" in answer.headers["www-authenticate"]
            asked += 1
    assert asked == len(POLICIES) * len(hostile)


def test_without_a_credential_only_health_is_told(place: Place) -> None:
    for route, policy in POLICIES.items():
        answer = place.ask(route, None)
        if policy == ANYBODY:
            assert answer.is_success
        else:
            assert (answer.status_code, problem_of(answer)["code"]) == (401, "unauthenticated")
            password = ['Basic realm="Chapar", charset="UTF-8"'] if route[0] == "GET" else []
            assert answer.headers.get_list("www-authenticate") == ['Bearer realm="Chapar"', *password]


def test_a_credential_is_taken_from_its_header_only(place: Place) -> None:
    token = place.issuer.token()
    for attempt in (
        {"params": {"access_token": token}},
        {"cookies": {"Authorization": f"Bearer {token}"}},
        {"headers": {"X-Api-Key": token}},
        {"headers": {"Proxy-Authorization": f"Bearer {token}"}},
    ):
        assert httpx.get(f"{place.gateway.url}/audit", **attempt).status_code in {401, 422}  # type: ignore[arg-type]
    assert place.http.get("/audit", headers={"Authorization": f"bearer   {token}"}).is_success
    assert place.http.get("/audit", headers={"Authorization": f"Token {token}"}).status_code == 401


def test_a_browser_reads_with_a_password_and_changes_nothing_with_it(place: Place) -> None:
    key = place.new_key(scopes=SCOPES, devices=["*"])["key"]
    assert place.http.get("/docs", auth=("", key)).is_success
    assert place.http.get("/messaging/messages", auth=("me", key)).is_success
    body = {"imei": OWN, "micro_op": "open"}
    assert place.http.post("/messaging/send", json=body, auth=("me", key)).status_code == 401
    assert place.http.get("/docs", headers={"Authorization": "Basic !!!"}).status_code == 401


def test_nobody_makes_a_key_with_more_rights_than_their_own(place: Place) -> None:
    narrow = {"Authorization": f"Bearer {place.issuer.token(scope='keys:write messages:read', devices=['farm1-*'])}"}
    for wider in (
        {"scopes": ["messages:send"], "devices": ["farm1-*"]},
        {"scopes": ["messages:read"]},
        {"scopes": ["messages:read"], "devices": ["farm1-*", "farm2-*"]},
    ):
        answer = place.http.post("/keys", json={"name": "wider", **wider}, headers=narrow)
        assert (answer.status_code, problem_of(answer)["code"]) == (403, "grant_too_wide")
    fitting = {"name": "fitting", "scopes": ["messages:read"], "devices": ["farm1-*"]}
    made = place.http.post("/keys", json=fitting, headers=narrow)
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    wide = place.new_key(devices=["*"])
    seen = place.http.get("/keys", headers=narrow)
    assert made.json()["id"] in seen.text
    assert wide["id"] not in seen.text
    assert place.http.post(f"/keys/{wide['id']}/revoke", headers=narrow).status_code == 404


def test_nobody_gives_away_more_time_than_their_own(place: Place) -> None:
    soon = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    for brief in (
        place.new_key(scopes=["keys:write"], expires_at=soon)["key"],
        place.issuer.token(exp=datetime.now(UTC).timestamp() + 60),
    ):
        headers = {"Authorization": f"Bearer {brief}"}
        asked = {"name": "long", "scopes": ["keys:write"], "devices": ["farm1-*"]}
        for end in (None, TOMORROW):
            answer = place.http.post("/keys", json=asked | {"expires_at": end}, headers=headers)
            assert (answer.status_code, problem_of(answer)["code"]) == (403, "grant_too_wide")
        child = place.http.post("/keys", json=asked, headers=headers).json()
        assert child["expires_at"] is not None
        assert datetime.fromisoformat(child["expires_at"]) <= datetime.now(UTC) + timedelta(minutes=1)
        for key in place.http.get("/keys", headers=headers).json()["keys"]:
            for end in (None, TOMORROW):  # its own, its child's, anybody's
                extended = place.http.post(f"/keys/{key['id']}/expire", json={"expires_at": end}, headers=headers)
                if key["expires_at"] is not None:
                    assert extended.status_code == 403, extended.text


def test_a_key_is_shown_once_and_kept_as_a_hash(place: Place) -> None:
    made = place.new_key()
    listed = place.http.get("/keys", headers=place.admin)
    assert made["id"] in listed.text
    assert made["key"] not in listed.text
    assert made["key"] not in "\n".join(place.gateway.lines)
    database = Path(place._env["CHAPAR_DATABASE_URL"].removeprefix("sqlite:///"))
    stored = b"".join(file.read_bytes() for file in database.parent.glob("chapar.db*"))
    assert made["id"].encode() in stored
    assert made["key"].encode() not in stored


def test_a_revoked_key_is_refused_at_once(place: Place) -> None:
    made = place.new_key()
    assert place.ask(("POST", "/messaging/send"), made["key"]).is_success
    answer = place.http.post(f"/keys/{made['id'].upper()}/revoke", headers=place.admin)
    assert answer.json()["revoked_at"] is not None
    assert place.ask(("POST", "/messaging/send"), made["key"]).status_code == 401


def test_the_trail_says_who_did_what_and_from_where(place: Place) -> None:
    made = place.new_key(scopes=["messages:send", "messages:cancel"])
    headers = {"Authorization": f"Bearer {made['key']}"}
    body = {"imei": OWN, "micro_op": "open", "wait": "none", "deliver_at": TOMORROW}
    sent = place.http.post("/messaging/send", json=body, headers=headers).json()
    place.http.post(f"/messaging/messages/{sent['id']}/cancel", headers=headers)
    place.http.post(f"/keys/{made['id']}/revoke", headers=place.admin)
    principal = f"key:{made['id'].upper()}"
    mine = place.http.get("/audit", params={"principal": principal}, headers=place.admin).json()["entries"]
    assert [(entry["action"], entry["subject"], entry["imei"], entry["address"]) for entry in reversed(mine)] == [
        ("message_sent", sent["id"], OWN, "127.0.0.1"),
        ("message_cancelled", sent["id"], OWN, "127.0.0.1"),
    ]
    its = place.http.get("/audit", params={"subject": made["id"]}, headers=place.admin).json()["entries"]
    assert [(entry["action"], entry["principal"]) for entry in reversed(its)] == [
        ("key_created", "jwt:admin"),
        ("key_revoked", "jwt:admin"),
    ]
    assert sent["id"] in place.command("audit", "--subject", sent["id"])
    page = place.http.get("/audit", params={"limit": 1}, headers=place.admin).json()
    assert page["next"] == page["entries"][0]["number"]


@pytest.mark.parametrize("field", ["subject", "principal"])
def test_what_no_database_holds_is_no_filter(place: Place, field: str) -> None:
    answer = place.http.get("/audit", params={field: "a\0b"}, headers=place.admin)
    assert (answer.status_code, problem_of(answer)["code"]) == (422, "field_invalid")


def test_an_address_is_not_what_a_caller_says_it_is(place: Place) -> None:
    body = {"imei": OWN, "micro_op": "open", "wait": "none", "deliver_at": TOMORROW}
    headers = {**place.admin, "X-Forwarded-For": "203.0.113.9"}
    sent = place.http.post("/messaging/send", json=body, headers=headers).json()
    (entry,) = place.http.get("/audit", params={"subject": sent["id"]}, headers=place.admin).json()["entries"]
    assert entry["address"] == "127.0.0.1"


def test_the_same_idempotency_key_of_two_callers_is_two_keys(place: Place) -> None:
    body = {"imei": OWN, "micro_op": "open", "wait": "none", "deliver_at": TOMORROW}
    ids = {
        place.http.post(
            "/messaging/send",
            json=body,
            headers={"Authorization": f"Bearer {place.issuer.token(sub=caller)}", "Idempotency-Key": "same"},
        ).json()["id"]
        for caller in ("anna", "bahram", "anna")
    }
    assert len(ids) == 2


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - that is the point
def test_an_open_gateway_is_on_this_machine_only(
    tmp_path: Path, mosquitto: Mosquitto, start_gateway: Callable[..., GatewayProcess], host: str
) -> None:
    env = {**mosquitto.settings_env, "CHAPAR_HOST": host, "CHAPAR_DATABASE_URL": f"sqlite:///{tmp_path / 'chapar.db'}"}
    gateway = start_gateway(env, until=None)
    assert gateway.program.wait() == 1
    assert "chapar keys create" in gateway.program.output
    gateway.close()
    commands = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **env}
    create = [find_command(), "keys", "create", "--name", "backend", "--scope", "messages:read"]
    key = subprocess.run(create, env=commands, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    gateway.start()
    assert httpx.get(f"{gateway.url}/messaging/messages").status_code == 401
    assert httpx.get(f"{gateway.url}/messaging/messages", headers={"Authorization": f"Bearer {key}"}).is_success


def test_the_first_key_closes_an_open_gateway(
    mosquitto: Mosquitto, start_gateway: Callable[..., GatewayProcess]
) -> None:
    gateway = start_gateway(mosquitto.settings_env)
    assert any("open to everybody on this machine" in line for line in gateway.lines)
    asked = {"name": "backend", "scopes": ["messages:read"]}
    made = httpx.post(f"{gateway.url}/keys", json=asked)
    assert made.status_code == 201
    assert httpx.get(f"{gateway.url}/messaging/messages").status_code == 401
    gateway.restart()
    assert httpx.get(f"{gateway.url}/messaging/messages").status_code == 401
    assert any("by API key or token only" in line for line in gateway.lines)


def test_rates_are_limited_and_told(mosquitto: Mosquitto, start_gateway: Callable[..., GatewayProcess]) -> None:
    rates = {"CHAPAR_MESSAGES_PER_SECOND": "0.01", "CHAPAR_REQUESTS_PER_SECOND": "1", "CHAPAR_BURST": "300"}
    gateway = start_gateway({**mosquitto.settings_env, **rates})
    item = {"imei": OWN, "micro_op": "open", "wait": "none"}
    first = httpx.post(f"{gateway.url}/messaging/bulk", json={"messages": [item] * 3})
    assert first.is_success
    assert '"messages";r=0;t=' in first.headers["ratelimit"]
    assert '"messages";q=3;w=300' in first.headers["ratelimit-policy"]
    second = httpx.post(f"{gateway.url}/messaging/send", json=item)
    assert (second.status_code, problem_of(second)["code"]) == (429, "rate_limited")
    assert int(second.headers["retry-after"]) > 0
    assert "CHAPAR_MESSAGES_PER_SECOND" in problem_of(second)["reason"]
