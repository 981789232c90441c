"""The OpenAPI document in the hands of other people's tools. They are downloaded for it: `-m long`."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.builtin import BuiltinBroker
from support.gateway import GatewayProcess

pytestmark = pytest.mark.long

LINTERS = ("@redocly/cli@2.77.0", "@stoplight/spectral-cli@6.16.3")
GENERATOR = "openapi-python-client==0.29.1"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), BuiltinBroker().settings_env) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def document(gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("document") / "openapi.json"
    file.write_text(httpx.get(f"{gateway.url}/openapi.json").text)
    return file


@pytest.fixture(scope="module")
def linters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("linters")
    install = ["npm", "install", "--silent", "--no-fund", "--no-audit", *LINTERS]
    installed = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"npm cannot install the linters: {installed.stderr[-300:]}")
    return folder / "node_modules/.bin"


def test_redocly_recommends_nothing_else(linters: Path, document: Path) -> None:
    lint = [linters / "redocly", "lint", "--extends=recommended", "--format=json", document]
    env = os.environ | {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    linted = subprocess.run(lint, env=env, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stderr
    found = json.loads(linted.stdout[linted.stdout.index("{") :])
    assert (found["totals"]["errors"], found["totals"]["warnings"]) == (0, 0), found["problems"]


def test_spectral_recommends_nothing_else(linters: Path, document: Path) -> None:
    rules = document.with_name("rules.yaml")
    rules.write_text('extends: ["spectral:oas"]\n')
    lint = [linters / "spectral", "lint", document, "--ruleset", rules, "--fail-severity=hint"]
    linted = subprocess.run(lint, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout


USE = """
import sys
from client import Client
from client.api.access import list_keys
from client.api.messaging import list_messages, send_message
from client.models import KeyList, MessagePage, Problem, SendRequest, SentAnswer

client = Client(base_url=sys.argv[1])
sent = send_message.sync(client=client, body=SendRequest(imei="8612", micro_op="push_down"))
assert isinstance(sent, SentAnswer), sent
listed = list_messages.sync(client=client, imei="8612")
assert isinstance(listed, MessagePage), listed
assert [message.id for message in listed.messages] == [sent.id]
assert isinstance(list_keys.sync(client=client), KeyList)
problem = send_message.sync(client=client, body=SendRequest(imei="no/device", micro_op="push_down"))
assert isinstance(problem, Problem), problem
assert (problem.status, problem.code) == (422, "field_invalid")
"""


def test_a_generated_client_sends_lists_and_reads_a_problem(
    gateway: GatewayProcess, document: Path, tmp_path: Path
) -> None:
    # In an environment of its own: the generator wants an older typer than we have.
    subprocess.run([sys.executable, "-m", "venv", "generator"], cwd=tmp_path, check=True)
    programs = tmp_path / "generator/bin"
    installed = subprocess.run(
        [programs / "pip", "install", "--quiet", GENERATOR], capture_output=True, text=True, check=False
    )
    if installed.returncode:
        pytest.skip(f"pip cannot install the generator: {installed.stderr[-300:]}")
    generate = ["generate", f"--path={document}", f"--output-path={tmp_path / 'client'}", "--meta=none"]
    subprocess.run([programs / "openapi-python-client", *generate], check=True, capture_output=True)
    (tmp_path / "use.py").write_text(USE)
    used = subprocess.run(
        [programs / "python", "use.py", gateway.url], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert used.returncode == 0, used.stderr
