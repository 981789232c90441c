"""The recipes of deploy/, run and checked as far as any machine can."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from chapar.delivery.replies import MAX_WAITING
from support.builtin import BuiltinBroker
from support.gateway import GatewayProcess, find_command
from support.mosquitto import Mosquitto
from support.ports import free_port
from support.processes import Program
from support.systemd import Systemd
from support.units import UNITS, Unit

DEPLOY = UNITS.parent
SERVICES = ["chapar.service", "chapar-backup.service"]
EXPOSURE = 14  # tenths, as `systemd-analyze security` counts it: 0 is best, 100 worst


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), BuiltinBroker().settings_env) as gateway:
        yield gateway


@pytest.fixture
def systemd_analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return program


@pytest.fixture(scope="module")
def promtool() -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (package prometheus)")
    return program


@pytest.mark.parametrize("service", SERVICES)
def test_systemd_understands_every_line_of_a_unit(service: str, systemd_analyze: str, tmp_path: Path) -> None:
    for unit in UNITS.glob("chapar*"):
        text = unit.read_text().replace("/opt/chapar/bin/chapar", str(find_command()))
        (tmp_path / unit.name).write_text(text)
    drop_in = tmp_path / "chapar.service.d"
    drop_in.mkdir()
    (drop_in / "postgresql.conf").write_text(
        (UNITS / "postgresql.conf").read_text().replace("/opt/chapar/bin/chapar", str(find_command()))
    )
    timers = list(tmp_path.glob("*.timer")) if service == "chapar-backup.service" else []
    checked = subprocess.run(
        [systemd_analyze, "verify", "--man=no", tmp_path / service, *timers],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in checked.stderr.splitlines() if "chapar" in line]
    assert (checked.returncode, ours) == (0, []), checked.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_no_more_exposed_than_the_page_says(service: str, systemd_analyze: str) -> None:
    command = [systemd_analyze, "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE}", UNITS / service]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    for language, figure in (("en", "says 1.4"), ("fa", "برابر ۱٫۴")):
        assert figure in (DEPLOY.parent / "docs" / language / "operations.md").read_text()


def test_the_service_runs_as_its_unit_says(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """With its environment, credentials, folder and socket, and no memory that is both written and executed."""
    settings = tmp_path / "etc/chapar"
    (settings / "credentials").mkdir(parents=True)
    (settings / "credentials/broker.url").write_text(f"{mosquitto.url}\n")
    (settings / "chapar.env").write_text(f"CHAPAR_PORT={(port := free_port())}\n")
    systemd = Systemd(tmp_path)
    unit = Unit(tmp_path, "chapar.service")
    deny_write_execute = "import ctypes,os,sys; ctypes.CDLL(None).prctl(65,1,0,0,0); os.execv(sys.argv[1],sys.argv[1:])"
    name, *arguments = unit.command
    assert name == "chapar"
    env = {"PATH": os.environ["PATH"], **unit.environment(), **systemd.env}
    command = [sys.executable, "-c", deny_write_execute, str(find_command()), *arguments]
    program = Program(command, folder=unit.folder, env=env)
    try:
        systemd.wait_for("READY=1")
        systemd.wait_for("WATCHDOG=1")
        program.wait_for_line("broker_link_up")
        sent = httpx.post(f"http://127.0.0.1:{port}/messaging/send", json={"imei": "1", "micro_op": "x"}, timeout=30)
        assert sent.status_code == 201
        assert (unit.folder / "chapar.db").exists()
        assert program.end(signal.SIGTERM) == 0
    finally:
        program.close()
        systemd.close()


def test_with_postgresql_the_service_migrates_first(postgres_url: str, tmp_path: Path) -> None:
    (tmp_path / "etc/chapar/credentials").mkdir(parents=True)
    (tmp_path / "etc/chapar/credentials/broker.url").write_text("mqtt://127.0.0.1")
    (tmp_path / "etc/chapar/credentials/database.url").write_text(postgres_url)
    unit = Unit(tmp_path, "chapar.service", "postgresql.conf")
    assert unit["ExecStartPre"] == ["/opt/chapar/bin/chapar migrate"]
    env = {"PATH": os.environ["PATH"], **unit.environment()}
    migrated = subprocess.run([find_command(), "migrate"], cwd=unit.folder, env=env, capture_output=True, check=False)
    assert (migrated.returncode, migrated.stderr) == (0, b"")


def test_a_nightly_backup_is_restored_in_the_drill(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """The unit of the timer makes it beside the running gateway; another machine restores it as the page says."""
    (tmp_path / "etc/chapar").mkdir(parents=True)
    (tmp_path / "etc/chapar/chapar.env").write_text("CHAPAR_BROKER_CA_FILE=/etc/chapar/ca.pem\n")
    unit = Unit(tmp_path, "chapar-backup.service")
    env = {"PATH": f"{find_command().parent}:{os.environ['PATH']}", **unit.environment()}
    for folder in unit["StateDirectory"][-1].split():
        (unit.folder.parent / folder).mkdir(parents=True, exist_ok=True)
    with GatewayProcess(unit.folder, mosquitto.settings_env) as gateway:
        for number in range(3):
            httpx.post(f"{gateway.url}/messaging/send", json={"imei": f"{number}", "micro_op": "x"}, timeout=30)
        mosquitto.stop()
        waiting = {"imei": "1", "micro_op": "later", "wait": "none"}
        assert httpx.post(f"{gateway.url}/messaging/send", json=waiting, timeout=30).status_code == 202
        program, *arguments = shlex.split(unit["ExecStart"][-1].replace("%%", "%").replace("/opt/chapar/bin/", ""))
        subprocess.run([program, *arguments], cwd=unit.folder, env=env, check=True, capture_output=True)
        before = httpx.get(f"{gateway.url}/reporting/summary").json()["statuses"]
    [backup] = (unit.folder / "backups").glob("chapar-[1-7].db")
    page = (DEPLOY.parent / "docs/en/backup.md").read_text()
    [restore] = re.findall(r"^(chapar restore) \S+( --unsent cancel)$", page[page.index("## A drill") :], re.MULTILINE)
    machine = tmp_path / "drill"
    machine.mkdir()
    shutil.copy(backup, machine)
    subprocess.run(shlex.split(f" {backup.name} ".join(restore)), cwd=machine, env=env, check=True, capture_output=True)
    with GatewayProcess(machine, BuiltinBroker().settings_env) as restored:
        after = httpx.get(f"{restored.url}/reporting/summary").json()["statuses"]
    assert (before, after) == ({"published": 3, "queued": 1}, {"published": 3, "cancelled": 1})


def queries() -> dict[str, str]:
    """Every query of the board and of the alerts, by a name of its own."""
    board = json.loads((DEPLOY / "grafana/chapar.json").read_text())
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in board["panels"]
        for target in panel.get("targets", [])  # a row has none
    }
    rules = yaml.safe_load((DEPLOY / "prometheus/chapar-alerts.yml").read_text())
    found |= {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}
    return {name: query.replace("$__rate_interval", "1m").replace("$instance", ".*") for name, query in found.items()}


def test_every_query_asks_for_what_a_gateway_measures(gateway: GatewayProcess) -> None:
    httpx.post(f"{gateway.url}/messaging/send", json={"imei": "1", "micro_op": "x"}, timeout=30)
    exposition = httpx.get(f"{gateway.url}/metrics").text
    families = dict(re.findall(r"^# TYPE (\w+) (\w+)$", exposition, re.MULTILINE))
    suffixes = {"histogram": ("_bucket", "_sum", "_count")}
    known = {f"{name}{suffix}" for name, kind in families.items() for suffix in suffixes.get(kind, ("",))}
    asked = {name for query in queries().values() for name in re.findall(r"\bchapar_\w+", query)}
    assert asked
    assert asked <= known, asked - known
    unwatched = {name for name in families if not any(query.startswith(name) for query in asked)}
    assert not unwatched, "neither the board nor an alert shows these"


def test_every_label_that_a_query_names_is_one_of_the_metric(gateway: GatewayProcess) -> None:
    metrics = (DEPLOY.parent / "src/chapar/runtime/metrics.py").read_text()
    declared = dict(re.findall(r'"(chapar_\w+)",\s+"[^"]*",\s+\["(\w+)"', metrics))
    declared["chapar_messages_finished"] = "status reason"
    always = {"instance", "job", "le"}
    for name, query in queries().items():
        for metric, matchers in re.findall(r"(chapar_\w+)\{([^}]*)\}", query):
            family = re.sub(r"_(total|bucket|sum|count)$", "", metric)
            labels = set(re.findall(r"(\w+)=", matchers))
            assert labels <= always | set(declared.get(family, "").split()), name
    stages = set(re.findall(r'stage="(\w+)"', " ".join(queries().values())))
    assert stages <= set(re.findall(r'stage="(\w+)"', httpx.get(f"{gateway.url}/metrics").text))


def test_prometheus_understands_every_query(promtool: str, tmp_path: Path) -> None:
    subprocess.run(
        [promtool, "check", "rules", DEPLOY / "prometheus/chapar-alerts.yml"], check=True, capture_output=True
    )
    rules = [{"record": f"query:{place}", "expr": query} for place, query in enumerate(queries().values())]
    (tmp_path / "queries.yml").write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    checked = subprocess.run([promtool, "check", "rules", tmp_path / "queries.yml"], capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


FIRING = {
    "ChaparDown": {'up{job="chapar"}': "0x40"},
    "ChaparBrokerAway": {"chapar_link_up": "0x40"},
    "ChaparDatabaseAway": {"chapar_database_up": "0x40"},
    "ChaparSessionsFlap": {"chapar_link_reconnects_total": "0+1x40"},
    "ChaparBrokerLeavesMessages": {"chapar_link_unanswered_total": "0x30 1x10"},
    "ChaparQueueGrows": {'chapar_queue_messages{status="queued"}': "2000+100x40"},
    "ChaparMessagesHeld": {"chapar_queue_held_messages": "3x40"},
    "ChaparQueueNearlyFull": {'chapar_queue_messages{status="queued"}': "900000x40"},
    "ChaparManyRejected": {
        'chapar_messages_finished_total{status="published"}': "0+8x40",
        'chapar_messages_finished_total{status="rejected",reason="packet_too_large"}': "0+1x40",
    },
    "ChaparCommitsSlow": {
        'chapar_stage_seconds_bucket{stage="commit",le="1"}': "0+90x40",
        'chapar_stage_seconds_bucket{stage="commit",le="5"}': "0+100x40",
        'chapar_stage_seconds_bucket{stage="commit",le="+Inf"}': "0+100x40",
    },
    "ChaparCallersTurnedAway": {'chapar_requests_turned_away_total{code="credential_invalid"}': "0+120x40"},
    "ChaparKeySetAway": {"chapar_key_set_failures_total": "0+1x40"},
    "ChaparNotReceiving": {'chapar_receiver_links_up{link="life"}': "0x40"},
    "ChaparReceiverMute": {'chapar_receiver_links_mute{link="replies"}': "1x40"},
    "ChaparReplySessionForgotten": {"chapar_reply_sessions_lost_total": "0x30 1x10"},
    "ChaparDeliveriesUnreadable": {'chapar_deliveries_undecodable_total{link="replies"}': "0x30 1x10"},
    "ChaparRepliesDropped": {'chapar_replies_ignored_total{why="not_stored"}': "_x30 1x10"},
    "ChaparFault": {
        'chapar_loop_failures_total{loop="link"}': "_x30 1x10"
    },  # a loop is shown from its first failure on
    "ChaparLogLost": {"chapar_log_lines_lost_total": "0x30 5x10"},
}
"""What makes each alert fire, minute by minute."""


def test_every_alert_fires_for_what_it_warns_of_alone(promtool: str, tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "prometheus/chapar-alerts.yml", tmp_path)
    rules = yaml.safe_load((tmp_path / "chapar-alerts.yml").read_text())
    assert {rule["alert"] for group in rules["groups"] for rule in group["rules"]} == FIRING.keys()
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": series, "values": values} for series, values in given.items()],
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": "40m",
                    "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1}],
                }
            ],
        }
        for alert, given in FIRING.items()
    ]
    cases = {"rule_files": ["chapar-alerts.yml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "cases.yml").write_text(json.dumps(cases))
    tested = subprocess.run(
        [promtool, "test", "rules", tmp_path / "cases.yml"], capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.long
def test_prometheus_answers_every_query(gateway: GatewayProcess, tmp_path: Path) -> None:
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("prometheus is not installed")
    port, target = free_port(), gateway.url.removeprefix("http://")
    scrape = {"job_name": "chapar", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
    (tmp_path / "prometheus.yml").write_text(json.dumps({"scrape_configs": [scrape]}))
    listening = [f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.path=data"]
    program = Program([prometheus, "--config.file=prometheus.yml", *listening], folder=tmp_path)

    def answers(query: str) -> list[Any]:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}, timeout=30)
        assert answer.status_code == 200, answer.text
        found: list[Any] = answer.json()["data"]["result"]
        return found

    try:
        program.wait_until_accepts(port)
        deadline = time.monotonic() + 60
        while httpx.get(f"http://127.0.0.1:{port}/-/ready", timeout=30).status_code != 200:
            assert time.monotonic() < deadline, program.output
            time.sleep(0.1)
        while not answers("sum(rate(chapar_messages_finished_total[1m])) > 0"):
            assert time.monotonic() < deadline, program.output
            httpx.post(f"{gateway.url}/messaging/send", json={"imei": "1", "micro_op": "x"}, timeout=30)
            time.sleep(0.2)
        silent = {name for name, query in queries().items() if not answers(query)}
    finally:
        program.close()
    alerts = set(re.findall(r"alert: (\w+)", (DEPLOY / "prometheus/chapar-alerts.yml").read_text()))
    happened = {
        "Turned away a second, by code A",
        "Why messages were not delivered, a second A",
        "Faults A",
        "Received from devices a second, by connection A",
        "Replies with their message a second, by how it was found A",
        "Replies without a message a second, by reason A",
        "Not stored or lost, in the last hour C",
    }
    assert silent - alerts <= happened | {"The link, in the last hour C"}
    assert alerts <= silent, "an alert fires while all is well"


def test_prometheus_takes_the_scrape(promtool: str, tmp_path: Path) -> None:
    for file in (DEPLOY / "prometheus").glob("*.yml"):
        (tmp_path / file.name).write_text(file.read_text().replace("/etc/prometheus/", f"{tmp_path}/"))
    (tmp_path / "chapar.key").write_text("chapar_key")
    checked = subprocess.run(
        [promtool, "check", "config", tmp_path / "prometheus.yml"], capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_what_the_broker_keeps_for_the_gateway_fits_into_one_connection() -> None:
    """Mosquitto 2.0.11 may send all of it at once."""
    conf = (DEPLOY / "mosquitto/chapar.conf").read_text()
    [bound] = re.findall(r"^max_queued_messages (\d+)$", conf, re.MULTILINE)
    assert 1000 < int(bound) <= MAX_WAITING
    for language, figure in (("en", f"{int(bound):,}"), ("fa", "۵۰٬۰۰۰")):
        assert figure in (DEPLOY.parent / "docs" / language / "replies.md").read_text()


@pytest.mark.parametrize("language", ["en", "fa"])
def test_every_alert_is_explained(language: str) -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus/chapar-alerts.yml").read_text())
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    page = (DEPLOY.parent / "docs" / language / "operations.md").read_text()
    assert re.findall(r"^\| `(Chapar\w+)` \|", page, re.MULTILINE) == alerts


def test_a_board_has_no_two_panels_in_one_place() -> None:
    board = json.loads((DEPLOY / "grafana/chapar.json").read_text())
    taken = [
        (x, y)
        for panel in board["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


class TestCompose:
    compose: Any = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    page = (DEPLOY.parent / "docs/en/operations.md").read_text()

    def test_the_page_makes_every_secret_and_file_that_is_mounted(self) -> None:
        files = {Path(secret["file"]).name for secret in self.compose["secrets"].values()}
        mounted = [volume.split(":")[0] for volume in self.compose["services"]["mosquitto"]["volumes"]]
        files |= {Path(volume).name for volume in mounted if volume.startswith("./secrets/")}
        made = {"ca.pem", "mqtt.pem", "mqtt.key"}  # by the script `certificates`
        made |= set(re.findall(r"> (\S+)$", self.page, re.MULTILINE)) | set(
            re.findall(r"^touch (\S+)", self.page, re.MULTILINE)
        )
        assert files <= made
        for volume in mounted:
            if volume.startswith("./mosquitto/"):
                assert (DEPLOY / volume).is_file()

    def test_every_secret_a_service_names_is_there(self) -> None:
        for service in self.compose["services"].values():
            assert set(service.get("secrets", [])) <= set(self.compose["secrets"])
            for value in (service.get("environment") or {}).values():
                if value.startswith("/run/secrets/"):
                    assert Path(value).name in service["secrets"]

    def test_the_gateway_is_confined_and_not_open_to_the_network(self) -> None:
        gateway = self.compose["services"]["chapar"]
        assert gateway["read_only"]
        assert gateway["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in gateway["ports"])
        assert self.compose["services"]["postgres"].get("ports") is None

    def test_every_image_can_be_another(self) -> None:
        for name, service in self.compose["services"].items():
            assert "build" in service or re.match(r"\$\{[A-Z_]+:-", service["image"]), name
        assert "${BASE_IMAGE:-" in self.compose["services"]["chapar"]["build"]["args"]["BASE_IMAGE"]
