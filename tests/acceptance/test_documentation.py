"""The API explains itself: completely, and without a route to the internet."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from support.builtin import BuiltinBroker
from support.gateway import GatewayProcess

OPERATIONS = {
    ("post", "/messaging/send"): {201, 202, 400, 406, 408, 409, 413, 415, 422, 429, 503},
    ("post", "/messaging/bulk"): {200, 400, 408, 413, 415, 422},
    ("post", "/messaging/messages/{id}/cancel"): {200, 202, 404, 406, 409, 422, 503},
    ("post", "/messaging/messages/{id}/resend"): {201, 202, 404, 406, 409, 422, 429, 503},
    ("get", "/messaging/messages"): {200, 422, 503},
    ("get", "/messaging/messages/{id}"): {200, 404, 422, 503},
    ("get", "/reporting/all"): {200, 422, 503},
    ("get", "/reporting/summary"): {200, 422, 503},
    ("get", "/health/live"): {200},
    ("get", "/health/ready"): {200, 503},
}
"""What each may answer; an operation that is not here is held to the general rules only."""

ANY_REQUEST = {400, 401, 403, 408, 414, 421, 429, 431, 503}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), BuiltinBroker().settings_env) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def document(gateway: GatewayProcess) -> Any:
    return httpx.get(f"{gateway.url}/openapi.json").json()


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def resolved(document: Any, schema: Any) -> Any:
    """The schema behind a reference."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def has_example(document: Any, schema: Any) -> bool:
    """Whether a reader sees what a value may look like."""
    schema = resolved(document, schema)
    if schema.get("type") == "array":
        return has_example(document, schema["items"])
    if {"examples", "example", "const", "enum", "default"} & schema.keys():
        return True
    return any(has_example(document, member) for member in schema.get("properties", {}).values())


def test_every_operation_has_a_summary_and_a_description(document: Any) -> None:
    for method, path, operation in operations(document):
        assert operation["summary"], (method, path)
        assert operation["description"], (method, path)
        assert operation["tags"], (method, path)


def test_every_operation_has_a_name_for_the_function_of_a_client(document: Any) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert all(
        re.fullmatch(
            r"(send|list|show|explain|follow|cancel|resend|report|summarize|create|revoke|expire|put|forget|purge|pause|resume|import|export)_[a-z_]+",
            name,
        )
        for name in names
    ), names
    assert len(set(names)) == len(names)
    assert {"send_message", "list_messages", "list_keys"} <= set(names)


def test_the_document_says_whose_it_is_and_what_its_parts_are(document: Any) -> None:
    assert document["info"]["license"] == {"name": "MIT", "identifier": "MIT"}
    assert document["info"]["contact"]["name"]
    assert document["servers"]
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    assert described == {tag for _, _, operation in operations(document) for tag in operation["tags"]}


def test_every_parameter_is_described(document: Any) -> None:
    for method, path, operation in operations(document):
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), (method, path, parameter["name"])


def test_every_body_has_a_schema_with_an_example(document: Any) -> None:
    for method, path, operation in operations(document):
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        for body in [*bodies, *(answer for status, answer in operation["responses"].items() if status != "204")]:
            assert body["content"], (method, path)
            for media_type, content in body["content"].items():
                if media_type in {"application/json", "application/problem+json"}:
                    assert has_example(document, content["schema"]), (method, path, media_type)


def test_every_operation_documents_what_it_may_answer(document: Any) -> None:
    documented = {
        (method, path): {int(status) for status in operation["responses"]}
        for method, path, operation in operations(document)
    }
    for (method, path), statuses in OPERATIONS.items():
        assert documented[method, path] == statuses | ANY_REQUEST, path


def test_every_problem_is_documented_as_one(document: Any) -> None:
    for method, path, operation in operations(document):
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and path != "/health/ready":
                assert list(answer["content"]) == ["application/problem+json"], (method, path, status)


def test_every_reference_and_link_leads_somewhere(document: Any) -> None:
    text = json.dumps(document)
    names = re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', text)
    assert {"SendRequest", "Problem", "MessageView"} <= set(names) == set(document["components"]["schemas"])
    assert text.count('"$ref"') == len(names)
    known = {operation["operationId"] for _, _, operation in operations(document)}
    sent = document["paths"]["/messaging/send"]["post"]["responses"]
    assert {link["operationId"] for status in ("201", "202") for link in sent[status]["links"].values()} <= known


def test_what_needs_no_key_says_so(document: Any) -> None:
    assert document["security"] == [{"bearer": []}]
    without = {path for _, path, operation in operations(document) if operation.get("security") == []}
    assert without == {"/health/live", "/health/ready"}


def test_a_wrong_method_is_told_every_right_one(gateway: GatewayProcess, document: Any) -> None:
    for path, methods in document["paths"].items():
        answer = httpx.request("PATCH", f"{gateway.url}{path.replace('{id}', '1')}")
        assert answer.status_code == 405, path
        taken = {method.upper() for method in methods} | ({"HEAD"} if "get" in methods else set())
        assert answer.headers["allow"].split(", ") == sorted(taken)


def test_a_query_parameter_is_absent_and_never_null(document: Any) -> None:
    for method, path, operation in operations(document):
        for parameter in operation.get("parameters", []):
            assert "anyOf" not in parameter["schema"], (method, path, parameter["name"])


def test_what_the_document_shows_as_an_example_is_answered_as_it_says(gateway: GatewayProcess, document: Any) -> None:
    schema = resolved(
        document, document["paths"]["/messaging/send"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    )
    [example] = schema["examples"]
    answer = httpx.post(f"{gateway.url}/messaging/send", json=example)
    assert answer.status_code == 201
    shown = resolved(
        document,
        document["paths"]["/messaging/send"]["post"]["responses"]["201"]["content"]["application/json"]["schema"],
    )
    assert answer.json().keys() == {*shown["required"]}
    assert shown["properties"].keys() - {*shown["required"]} == {"reply"}, "which is left out where there is none"


def test_the_pages_and_all_they_load_are_served_by_chapar(gateway: GatewayProcess) -> None:
    page = httpx.get(f"{gateway.url}/docs")
    assert page.status_code == 200
    loaded = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert len(loaded) >= 3
    for asset in loaded:
        assert not re.match(r"/|\w+:", asset), "no other host, and below whatever path"
        answer = httpx.get(f"{gateway.url}/{asset}")
        assert (answer.status_code, len(answer.content) > 100) == (200, True), asset
        if asset.endswith(".css"):
            assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", answer.text), asset
    assert not re.search(r"[\"'](?:https?:)?//(?!127\.0\.0\.1)", page.text)


def test_no_header_is_filled_in_beforehand(document: Any) -> None:
    """Swagger UI fills in an example, and with that key every call behind the first sends nothing."""
    for method, path, operation in operations(document):
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "header":
                assert not parameter.keys() & {"example", "examples"}, (method, path, parameter["name"])
                assert not parameter["schema"].keys() & {"example", "examples", "default", "enum"}, (method, path)


def test_the_examples_of_times_to_come_are_taken(gateway: GatewayProcess, document: Any) -> None:
    schemas = document["components"]["schemas"]
    [due] = schemas["SendRequest"]["properties"]["deliver_at"]["examples"]
    command = {"imei": "8612", "micro_op": "push_down", "deliver_at": due}
    assert httpx.post(f"{gateway.url}/messaging/send", json=command).status_code == 202
    for model in ("KeyRequest", "EndRequest"):
        [ends] = schemas[model]["properties"]["expires_at"]["examples"]
        assert datetime.fromisoformat(ends) > datetime.now(UTC) + timedelta(days=300)
