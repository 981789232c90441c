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


def listen_as_gateway(broker: SetUpMosquitto) -> Program:
    """What devices publish, a line each: topic, whether it is retained, payload, correlation data."""
    login = ["-u", "chapar", "-P", PASSWORDS["chapar"], "--cafile", broker.ca_file, "-q", "1"]
    topics = ["-t", "devices/+/reply", "-t", "devices/+/presence"]
    place = ["-h", LOOPBACK, "-p", str(broker.port), "-V", "5", "-i", "listener"]
    listening = ["stdbuf", "-oL", "mosquitto_sub", *place, *login, *topics, "-d", "-F", "said %t %r %p %D"]
    listener = Program(listening, folder=broker.folder, env=ENVIRONMENT)
    listener.wait_for_line("Subscribed")
    return listener


def test_the_device_in_python_runs_each_command_once_and_replies(
    gateway: GatewayProcess, broker: SetUpMosquitto, start_device: Callable[[], Program]
) -> None:
    assert send(gateway, imei="nobody", micro_op="push_down")["subscribers"] is False
    listener = listen_as_gateway(broker)
    device = start_device()
    text = send(gateway, micro_op="push_down")
    assert text["subscribers"] is True
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
    listener.wait_for_line('"micro_op": "last"')
    listener.close()
    ran = [line for line in [*device.lines, *again.lines] if line.startswith("run ")]
    assert ran == ["run push_down {}", 'run open_valve {"seconds": 600}', "run while_away {}", "run last {}"]
    said = [line.removeprefix(f"said devices/{PUMP}/") for line in listener.lines if line.startswith("said ")]
    assert [line for line in said if line.startswith("presence")] == [
        "presence 0 online ",
        "presence 0 offline ",
        "presence 0 online ",
    ]
    replies = [line.removeprefix("reply 0 ") for line in said if line.startswith("reply")]
    first, second = str(text["id"]), str(envelope["id"])
    assert f"""{{"id": "{first}", "micro_op": "push_down", "status": "ok"}} {first}""" in replies
    opened = f"""{{"id": "{second}", "micro_op": "open_valve", "status": "ok"}} """
    assert [line for line in replies if line.startswith(opened)] == [opened + second, opened, opened]
    assert len(replies) == 6


def test_a_device_hears_no_other_and_writes_only_what_it_replies_and_announces(
    gateway: GatewayProcess, broker: SetUpMosquitto
) -> None:
    place = ["-h", LOOPBACK, "-p", str(broker.port), "--cafile", str(broker.ca_file), "-u", "other", "-P", "other"]
    listening = ["stdbuf", "-oL", "mosquitto_sub", *place, "-t", "devices/#", "-v", "-F", "%t %p", "-d"]
    gateways = listen_as_gateway(broker)
    other = Program(listening, folder=broker.folder, env=ENVIRONMENT)
    try:
        other.wait_for_line("Subscribed")
        send(gateway, micro_op="push_down")
        for topic in ("other", f"{PUMP}/reply", f"{PUMP}/presence", "other/reply", "other/presence"):
            forged = ["-t", f"devices/{topic}", "-m", f"from other on {topic}", "-q", "1"]
            subprocess.run(["mosquitto_pub", *place, *forged], check=True, env=ENVIRONMENT)
        httpx.post(f"{gateway.url}/messaging/send", json={"imei": "other", "micro_op": "own"}, timeout=30)
        other.wait_for_line("devices/other own")
        gateways.wait_for_line("from other on other/presence")
    finally:
        other.close()
        gateways.close()
    assert not [line for line in other.lines if line.startswith("devices/") and line != "devices/other own"]
    assert [line.partition("from other on ")[2].strip() for line in gateways.lines if "from other" in line] == [
        "other/reply",
        "other/presence",
    ]


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
    lost = False
    sessions = [[b'{"id":"a","micro_op":"open","params":{"s":1}}', b'{"id":"a","micro_op":"open","params":{"s":1}}',
                 b"text", b"", b'{"id":1}', OSError(-1)],
                [b'{"id":"a","micro_op":"open","params":{"s":1}}', b'{"id":"b","micro_op":"shut","params":{}}'],
                [b"", SystemExit()]]
    def __init__(self, client_id, server, port, user, password, *, keepalive, ssl):
        assert (client_id, user, keepalive, ssl.verify_mode) == ("861234567890123", client_id, 30, 2)
        self.events = MQTTClient.sessions.pop(0)
    def set_callback(self, callback): self.callback = callback
    def set_last_will(self, topic, message, retain=False, qos=0):
        assert (topic, message, retain, qos) == (b"devices/861234567890123/presence", b"offline", True, 1)
    def connect(self, clean_session=True): assert not clean_session
    def subscribe(self, topic, qos=0): assert (topic, qos) == (b"devices/861234567890123", 1)
    def publish(self, topic, message, retain=False, qos=0):
        assert qos == 1
        if b"shut" in message and not MQTTClient.lost:
            MQTTClient.lost = True
            raise OSError(-1)
        print(topic.decode(), message.decode(), retain)
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


def test_the_device_in_micropython_runs_each_command_once_and_replies(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(examples("en")["MicroPython"])
    (tmp_path / "board.py").write_text(MICROPYTHON)
    ran = subprocess.run([sys.executable, "board.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    online = f"devices/{PUMP}/presence online True"
    opened = f"""devices/{PUMP}/reply {{"id": "a", "micro_op": "open", "status": "ok"}} False"""
    assert [line for line in ran.stdout.splitlines() if not line.startswith("not understood")] == [
        "authority ca.pem",
        online,
        "listening",
        "run open {'s': 1}",
        opened,
        opened,
        "no connection: OSError(-1)",
        "authority ca.pem",
        online,
        "listening",
        opened,
        "run shut {}",
        "no connection: OSError(-1)",
        "authority ca.pem",
        online,
        "listening",
        f"""devices/{PUMP}/reply {{"id": "b", "micro_op": "shut", "status": "ok"}} False""",
    ]
    assert ran.stdout.count("not understood") == 4


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
  explicit String(int number) : std::string(std::to_string(number)) {}
  bool startsWith(const String &other) const { return rfind(other, 0) == 0; }
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
  std::map<std::string, int> numbers;
  void begin(const char *) {}
  String getString(const char *key, const char *otherwise) {
    return values.count(key) ? values[key] : String(otherwise);
  }
  void putString(const char *key, const String &value) { values[key] = value; }
  int getInt(const char *key, int otherwise) { return numbers.count(key) ? numbers[key] : otherwise; }
  void putInt(const char *key, int value) { numbers[key] = value; }
};
struct JsonVariantConst {
  String text;
  template <class T> bool is() const { return text != ""; }
  operator String() const { return text; }
  void operator=(const String &value) { text = value; }
};
struct JsonDocument {
  std::map<std::string, JsonVariantConst> values;
  JsonVariantConst &operator[](const char *key) { return values[key]; }
};
bool deserializeJson(JsonDocument &document, char *payload, int length) {
  std::string text(payload, length);  // "id operation"
  if (text.find(' ') == std::string::npos) return true;
  document["id"] = text.substr(0, 36);
  document["micro_op"] = text.substr(37);
  return false;
}
void serializeJson(JsonDocument &document, String &text) {
  for (auto &[name, value] : document.values) text += name + "=" + value.text + " ";
}
struct MQTTClient {
  void (*callback)(MQTTClient *, char[], char[], int);
  bool up = false, clean = true, willing = false, lost = false;
  int turn = 0;
  MQTTClient(int size) { if (size < 1024) exit(1); }
  void begin(const char *, uint16_t, WiFiClientSecure &) {}
  void onMessageAdvanced(void (*given)(MQTTClient *, char[], char[], int)) { callback = given; }
  void setKeepAlive(int) {}
  void setCleanSession(bool given) { clean = given; }
  void dropOverflow(bool) {}
  void setWill(const char *topic, const char *payload, bool retained, int qos) {
    willing = retained && qos == 1;
    printf("will %s %s\n", topic, payload);
  }
  bool connect(const char *, const char *, const char *) { return up = !clean && willing; }
  void disconnect() { up = false; }
  bool subscribe(const char *topic, int qos) { return printf("subscribed %s %d\n", topic, qos); }
  bool publish(const char *topic, const char *payload, bool retained, int qos) {
    if (turn == 30 && !lost) return up = !(lost = true);  // once there is no PUBACK
    return printf("%s %s%s %d\n", topic, payload, retained ? " retained" : "", qos);
  }
  bool loop() {
    if (!up) return false;
    char text[64];
    if (turn == 100) exit(0);
    snprintf(text, sizeof text, "%036d open_valve", turn / 2);
    callback(this, (char *)"", turn == 99 ? (char *)"text" : text, turn == 99 ? 4 : 47);
    return up = turn++ != 50;  // once the connection falls
  }
};
"""


def test_the_device_with_arduino_runs_each_command_once_and_replies(tmp_path: Path) -> None:
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
    assert ran.count(f"will devices/{PUMP}/presence offline") == 1
    assert ran.count(f"subscribed devices/{PUMP} 1") == 3
    assert ran.count(f"devices/{PUMP}/presence online retained 1") == 3
    assert ran.count("listening") == 3
    assert ran.count("run open_valve") == 50
    assert ran.count("not understood") == 1
    replies = [line for line in ran if line.startswith(f"devices/{PUMP}/reply ")]
    assert replies == [
        f"devices/{PUMP}/reply id={turn // 2:036} micro_op=open_valve status=ok  1" for turn in range(99)
    ]
