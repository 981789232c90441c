"""The devices of the page on devices, with the Mosquitto that it sets up."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from support import mosquitto as mosquitto_support
from support.gateway import GatewayProcess
from support.ports import LOOPBACK, free_port
from support.processes import Program

ROOT = Path(__file__).parents[2]
PUMP = "861234567890123"
PASSWORDS = {"chapar": "gate", PUMP: "pump", "other": "other"}


def examples(language: str) -> dict[str, str]:
    """The devices of the page, by the language that they are written in."""
    page = (ROOT / "docs" / language / "devices.md").read_text()
    blocks = re.findall(r"^## (Python|MicroPython|ESP32).*?^```\w+\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return dict(blocks)


class SetUpMosquitto:
    """Mosquitto with the files of deploy/mosquitto, as the page sets it up, in a folder instead of /etc."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        certs = folder / "etc/mosquitto/certs"
        certs.mkdir(parents=True)
        subprocess.run([ROOT / "deploy/mosquitto/certificates", LOOPBACK], cwd=certs, check=True, capture_output=True)
        self.ca_file = certs / "ca.pem"
        shipped = (ROOT / "deploy/mosquitto/chapar.conf").read_text()
        conf = shipped.replace("/etc/mosquitto/", f"{folder}/etc/mosquitto/").replace("8883", str(self.port))
        as_root = "user root\n" if os.geteuid() == 0 else ""  # else it cannot read this folder
        (folder / "chapar.conf").write_text(f"{as_root}log_dest stderr\npersistence_location {folder}/\n{conf}")
        acl = (ROOT / "deploy/mosquitto/chapar.acl").read_text()
        (folder / "etc/mosquitto/chapar.acl").write_text(acl)
        passwords = folder / "etc/mosquitto/chapar.passwords"
        passwords.touch(mode=0o600)
        for name, password in PASSWORDS.items():
            subprocess.run(["mosquitto_passwd", "-b", passwords, name, password], check=True, capture_output=True)

    def start(self) -> Program:
        program = Program(["mosquitto", "-c", self.folder / "chapar.conf"], folder=self.folder, env=ENVIRONMENT)
        program.wait_until_accepts(self.port)
        return program


ENVIRONMENT = {"PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SetUpMosquitto]:
    if not mosquitto_support.installed():
        pytest.skip("Mosquitto is not installed")
    broker = SetUpMosquitto(tmp_path_factory.mktemp("mosquitto"))
    program = broker.start()
    yield broker
    program.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, broker: SetUpMosquitto) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "broker.url").write_text(f"mqtts://chapar:{PASSWORDS['chapar']}@{LOOPBACK}:{broker.port}\n")
    env = {"CHAPAR_BROKER_URL_FILE": "broker.url", "CHAPAR_BROKER_CA_FILE": str(broker.ca_file)}
    with GatewayProcess(folder, env) as gateway:
        yield gateway


@pytest.fixture
def start_device(broker: SetUpMosquitto, tmp_path: Path) -> Iterator[Callable[[], Program]]:
    """Start the device in Python as it stands on the page."""
    (tmp_path / "device.py").write_text(examples("en")["Python"])
    running: list[Program] = []

    def start() -> Program:
        env = {"DEVICE": PUMP, "PASSWORD": PASSWORDS[PUMP], "BROKER": LOOPBACK, "PORT": str(broker.port)}
        env |= {"CA_FILE": str(broker.ca_file)}
        running.append(Program([sys.executable, "device.py"], folder=tmp_path, env=env))
        running[-1].wait_for_line("listening")
        return running[-1]

    yield start
    for program in running:
        program.close()


def send(gateway: GatewayProcess, **fields: object) -> dict[str, object]:
    answer = httpx.post(f"{gateway.url}/messaging/send", json={"imei": PUMP} | fields, timeout=30)
    assert answer.status_code == 201, answer.text
    sent: dict[str, object] = answer.json()
    return sent


def publish_as_gateway(broker: SetUpMosquitto, payload: str) -> None:
    """What a copy looks like whose acknowledgement was lost."""
    login = ["-u", "chapar", "-P", PASSWORDS["chapar"], "--cafile", broker.ca_file, "-q", "1"]
    place = ["-h", LOOPBACK, "-p", str(broker.port), "-t", f"devices/{PUMP}"]
    subprocess.run(["mosquitto_pub", *place, *login, "-m", payload], check=True, env=ENVIRONMENT)


def test_the_device_in_python_runs_each_command_once(
    gateway: GatewayProcess, broker: SetUpMosquitto, start_device: Callable[[], Program]
) -> None:
    assert send(gateway, imei="nobody", micro_op="push_down")["subscribers"] is False
    device = start_device()
    assert send(gateway, micro_op="push_down")["subscribers"] is True
    device.wait_for_line("run push_down {}")
    envelope = send(gateway, micro_op="open_valve", params={"seconds": 600})
    device.wait_for_line('run open_valve {"seconds": 600}')
    copy = {"id": envelope["id"], "micro_op": "open_valve", "params": {"seconds": 600}}
    for payload in (json.dumps(copy), "{not JSON", '{"id": 1}'):
        publish_as_gateway(broker, payload)
    device.wait_for_line("""not understood: b'{"id": 1}'""")
    device.close()
    assert send(gateway, micro_op="while_away", params={})["subscribers"] is True  # its session is there, it is not
    publish_as_gateway(broker, json.dumps(copy))
    again = start_device()
    again.wait_for_line("run while_away {}")
    send(gateway, micro_op="last")
    again.wait_for_line("run last {}")
    ran = [line for line in [*device.lines, *again.lines] if line.startswith("run ")]
    assert ran == ["run push_down {}", 'run open_valve {"seconds": 600}', "run while_away {}", "run last {}"]


def test_a_device_hears_no_other_and_writes_nothing(gateway: GatewayProcess, broker: SetUpMosquitto) -> None:
    place = ["-h", LOOPBACK, "-p", str(broker.port), "--cafile", str(broker.ca_file), "-u", "other", "-P", "other"]
    listening = ["stdbuf", "-oL", "mosquitto_sub", *place, "-t", "devices/#", "-v", "-F", "%t %p", "-d"]
    other = Program(listening, folder=broker.folder, env=ENVIRONMENT)
    try:
        other.wait_for_line("Subscribed")
        send(gateway, micro_op="push_down")
        subprocess.run(
            ["mosquitto_pub", *place, "-t", "devices/other", "-m", "forged", "-q", "1"], check=True, env=ENVIRONMENT
        )
        httpx.post(f"{gateway.url}/messaging/send", json={"imei": "other", "micro_op": "own"}, timeout=30)
        other.wait_for_line("devices/other own")
    finally:
        other.close()
    assert not [line for line in other.lines if line.startswith("devices/") and line != "devices/other own"]


def test_nobody_comes_in_without_a_password(broker: SetUpMosquitto) -> None:
    place = ["-h", LOOPBACK, "-p", str(broker.port), "--cafile", str(broker.ca_file)]
    answer = subprocess.run(
        ["mosquitto_pub", *place, "-t", "devices/other", "-m", "forged"],
        check=False,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert "not authorised" in answer.stderr.lower()


MICROPYTHON = '''
"""The modules of a board, of which `umqtt` gives the device what a broker would, and then ends it."""
import os, random, sys, time, types

def module(name, **members):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(members)

class WLAN:
    connected = False
    def __init__(self, interface): pass
    def active(self, on): pass
    def isconnected(self): return WLAN.connected
    def connect(self, name, password): WLAN.connected = True

class TLS:
    def __init__(self, protocol): pass
    def load_verify_locations(self, *, cafile): print("authority", cafile)

class MQTTClient:
    sessions = [[b'{"id":"a","micro_op":"open","params":{"s":1}}', b'{"id":"a","micro_op":"open","params":{"s":1}}',
                 b"text", b"", b'{"id":1}', OSError(-1)],
                [b'{"id":"a","micro_op":"open","params":{"s":1}}', b'{"id":"b","micro_op":"shut","params":{}}',
                 SystemExit()]]
    def __init__(self, client_id, server, port, user, password, *, keepalive, ssl):
        assert (client_id, user, keepalive, ssl.verify_mode) == ("861234567890123", client_id, 30, 2)
        self.events = MQTTClient.sessions.pop(0)
    def set_callback(self, callback): self.callback = callback
    def connect(self, clean_session=True): assert not clean_session
    def subscribe(self, topic, qos=0): assert (topic, qos) == (b"devices/861234567890123", 1)
    def ping(self): pass
    def check_msg(self):
        event = self.events.pop(0)
        if isinstance(event, BaseException):
            raise event
        self.callback(b"devices/861234567890123", event)

module("network", WLAN=WLAN, STA_IF=0)
module("ntptime", settime=lambda: None)
module("umqtt")
module("umqtt.simple", MQTTClient=MQTTClient)
module("ssl", SSLContext=TLS, PROTOCOL_TLS_CLIENT=0, CERT_REQUIRED=2)
time.sleep = lambda seconds: None
exec(compile(open("main.py").read(), "main.py", "exec"))
'''


def test_the_device_in_micropython_runs_each_command_once(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(examples("en")["MicroPython"])
    (tmp_path / "board.py").write_text(MICROPYTHON)
    ran = subprocess.run([sys.executable, "board.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    assert [line for line in ran.stdout.splitlines() if not line.startswith("not understood")] == [
        "authority ca.pem",
        "listening",
        "run open {'s': 1}",
        "no connection: OSError(-1)",
        "authority ca.pem",
        "listening",
        "run shut {}",
    ]
    assert ran.stdout.count("not understood") == 3


def test_both_pages_show_the_same_devices() -> None:
    assert examples("fa") == examples("en")
    assert examples("en").keys() == {"Python", "MicroPython", "ESP32"}


ARDUINO = r"""
// As much of a board and of the sketch's libraries as it uses; the broker gives it each command twice.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <algorithm>
typedef unsigned char byte;
enum { OUTPUT, HIGH };
template <class T> T min(T a, T b) { return std::min(a, b); }
struct String : std::string {
  String(const char *text = "") : std::string(text) {}
  String(const std::string &text) : std::string(text) {}
  int indexOf(const String &other) const { return (int)find(other); }
  String substring(int from) const { return substr(from); }
};
struct { void begin(int) {} void println(const String &text) { puts(text.c_str()); } } Serial;
void pinMode(int, int) {}
void digitalWrite(int, int) {}
void delay(unsigned long) {}
unsigned long millis() { return 0; }
long random(long most) { return most / 2; }
void configTime(int, int, const char *) {}
struct { void begin(const char *, const char *) {} } WiFi;
struct WiFiClientSecure { void setCACert(const char *) {} };
struct Preferences {
  std::map<std::string, String> values;
  void begin(const char *) {}
  String getString(const char *key, const char *otherwise) {
    return values.count(key) ? values[key] : String(otherwise);
  }
  void putString(const char *key, const String &value) { values[key] = value; }
};
struct JsonVariantConst {
  String text;
  bool there;
  template <class T> bool is() const { return there; }
  operator String() const { return text; }
};
struct JsonDocument {
  std::map<std::string, String> values;
  JsonVariantConst operator[](const char *key) { return {values[key], values[key] != ""}; }
};
bool deserializeJson(JsonDocument &document, byte *payload, unsigned int length) {
  std::string text((char *)payload, length);  // "id operation"
  if (text.find(' ') == std::string::npos) return true;
  document.values["id"] = text.substr(0, 36);
  document.values["micro_op"] = text.substr(37);
  return false;
}
struct PubSubClient {
  void (*callback)(char *, byte *, unsigned int);
  bool up = false;
  int turn = 0;
  PubSubClient(WiFiClientSecure &) {}
  void setServer(const char *, uint16_t) {}
  void setCallback(void (*given)(char *, byte *, unsigned int)) { callback = given; }
  bool setBufferSize(uint16_t) { return true; }
  void setKeepAlive(uint16_t) {}
  bool connect(const char *, const char *, const char *, const char *, int, bool, const char *, bool clean) {
    return up = !clean;
  }
  void subscribe(const char *topic, int qos) { printf("subscribed %s %d\n", topic, qos); }
  bool loop() {
    if (!up) return false;
    char text[64];
    if (turn == 100) exit(0);
    snprintf(text, sizeof text, "%036d open_valve", turn / 2);
    callback((char *)"", (byte *)(turn == 99 ? "text" : text), turn == 99 ? 4 : 47);
    return up = turn++ != 50;  // once the connection falls
  }
};
"""


def test_the_device_with_arduino_runs_each_command_once(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    (tmp_path / "arduino").write_text(ARDUINO)
    sketch = examples("en")["ESP32"]
    for header in re.findall(r"#include <(\w+\.h)>", sketch):
        (tmp_path / header).write_text('#include "arduino"\n' if header != "time.h" else "#include_next <time.h>\n")
    (tmp_path / "sketch.cpp").write_text(f"{sketch}\nint main() {{ setup(); while (true) loop(); }}\n")
    subprocess.run(
        ["g++", "-std=c++17", "-Wall", "-Werror", "-I.", "sketch.cpp", "-o", "sketch"], cwd=tmp_path, check=True
    )
    ran = subprocess.run([tmp_path / "sketch"], check=True, capture_output=True, text=True).stdout.splitlines()
    assert ran.count(f"subscribed devices/{PUMP} 1") == 2
    assert ran.count("listening") == 2
    assert ran.count("run open_valve") == 50
    assert ran.count("not understood") == 1
