"""The image of deploy/Dockerfile and the units of deploy/systemd, run for real in containers. Takes minutes."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from support.certificates import Certificates
from support.containers import ROOT, CannotRun, Podman, context, make_base, run, wait_until_ready
from support.mosquitto import Mosquitto
from support.ports import free_port

pytestmark = pytest.mark.long

BASE, IMAGE = f"localhost/chapar-base-{os.getpid()}", f"localhost/chapar-test-{os.getpid()}"
HARDENED = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
SCOPES = ["--scope=messages:send", "--scope=messages:read"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return context(tmp_path_factory.mktemp("context"))


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    with ExitStack() as made:
        try:
            make_base(tmp_path_factory.mktemp("base"), BASE)
            made.callback(run, "buildah", "rmi", "--force", BASE)
            podman = Podman(BASE)
        except CannotRun as reason:
            pytest.skip(f"no containers here: {reason}")
        yield podman


@pytest.fixture(scope="module")
def image(podman: Podman, sources: Path) -> Iterator[str]:
    assert podman
    build = ["buildah", "bud", "--isolation=chroot", "--format=docker", "--file=deploy/Dockerfile"]
    run(*build, f"--build-arg=BASE_IMAGE={BASE}", f"--tag={IMAGE}", ".", folder=sources)
    yield IMAGE
    run("buildah", "rmi", "--force", IMAGE)


@pytest.fixture
def volume(podman: Podman) -> Iterator[str]:
    name = f"chapar-test-{os.getpid()}"
    podman.call("volume", "create", name)
    yield f"--volume={name}:/var/lib/chapar"
    podman.call("volume", "rm", "--force", name)


def key_of(printed: str) -> dict[str, str]:
    [key] = re.findall(r"^chapar_\w+$", printed, re.MULTILINE)
    return {"Authorization": f"Bearer {key}"}


def check_delivers(url: str, key: dict[str, str]) -> None:
    sent = httpx.post(f"{url}/messaging/send", json={"imei": "1", "micro_op": "x"}, headers=key, timeout=30)
    assert sent.status_code == 201, sent.text


def test_the_image_delivers_as_process_1_of_a_read_only_root(
    podman: Podman, image: str, volume: str, mosquitto: Mosquitto
) -> None:
    port = free_port()
    env = [f"--env=CHAPAR_PORT={port}", f"--env=CHAPAR_BROKER_URL={mosquitto.url}"]
    key = key_of(podman.run(image, "keys", "create", "--name=owner", *SCOPES, options=[*HARDENED, volume]))
    gateway = podman.start(image, options=[*HARDENED, volume, *env])
    try:
        wait_until_ready(f"http://127.0.0.1:{port}")
        check_delivers(f"http://127.0.0.1:{port}", key)
        first, *others = podman.call("top", gateway, "pid", "user", "args").splitlines()[1:]
        assert first.split()[:2] == ["1", "chapar"]
        assert all(line.split()[1] == "chapar" for line in others)
        podman.call("healthcheck", "run", gateway)
        with pytest.raises(CannotRun, match="Read-only file system"):
            podman.call("exec", gateway, "touch", "/opt/chapar/x")
        podman.call("stop", "--time=30", gateway)
        assert podman.call("inspect", "--format={{.State.ExitCode}}", gateway).strip() == "0"
    finally:
        podman.call("rm", "--force", gateway)


def test_a_container_stops_at_once_also_before_it_serves(podman: Podman, image: str, volume: str) -> None:
    command = podman.start(image, "simulate", options=[*HARDENED, volume])
    try:
        podman.call("stop", "--time=60", command)
        assert podman.call("inspect", "--format={{.State.ExitCode}}", command).strip() != "137"  # killed
    finally:
        podman.call("rm", "--force", command)


def test_the_image_refuses_to_be_open_to_others(podman: Podman, image: str, volume: str) -> None:
    with pytest.raises(CannotRun, match="CHAPAR_HOST"):
        podman.run(image, options=[*HARDENED, volume, f"--env=CHAPAR_PORT={free_port()}"])


def test_the_image_runs_several_workers_as_compose_has_it(
    podman: Podman, image: str, mosquitto: Mosquitto, postgres_url: str, tmp_path: Path
) -> None:
    secrets = {"database.url": postgres_url, "broker.url": mosquitto.url}
    mounted = []
    for name, secret in secrets.items():
        (tmp_path / name).write_text(secret)
        os.chown(tmp_path / name, 10001, 10001)
        (tmp_path / name).chmod(0o400)
        mounted.append(f"--volume={tmp_path / name}:/run/secrets/{name}:ro")
    port = free_port()
    env = ["--env=CHAPAR_DATABASE_URL_FILE=/run/secrets/database.url", f"--env=CHAPAR_PORT={port}"]
    options = [*HARDENED, "--tmpfs=/tmp", *mounted, *env, "--env=CHAPAR_BROKER_URL_FILE=/run/secrets/broker.url"]
    podman.run(image, "migrate", options=options)
    key = key_of(podman.run(image, "keys", "create", "--name=owner", *SCOPES, options=options))
    gateway = podman.start(image, "serve", "--workers", "2", options=options)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}")
        check_delivers(f"http://127.0.0.1:{port}", key)
        podman.call("stop", "--time=30", gateway)
        assert podman.call("inspect", "--format={{.State.ExitCode}}", gateway).strip() == "0"
    finally:
        podman.call("rm", "--force", gateway)


AS_ROOT = """
set -eux
cd /root/chapar
export PIP_NO_INDEX=1 PIP_FIND_LINKS=/root/chapar/wheels
sudo() { if [ "$1" = -u ]; then runuser -u "$2" -- "${@:3}"; else "$@"; fi; }
"""


class Machine:
    """Debian with a running systemd, in a container, in which one works as the page says."""

    def __init__(self, podman: Podman, sources: Path) -> None:
        self._podman = podman
        self._id = podman.start(BASE, "/lib/systemd/systemd", options=["--systemd=always"])
        podman.call("cp", f"{sources}/.", f"{self._id}:/root/chapar")

    def does(self, commands: str) -> str:
        return self._podman.call("exec", self._id, "bash", "-c", AS_ROOT + commands)

    def state(self, name: str, unit: str = "chapar") -> str:
        return self.does(f"systemctl show --value --property={name} {unit}").strip()

    def wait_until(self, name: str, value: str, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while (now := self.state(name)) != value:
            assert time.monotonic() < deadline, (name, now, self.does("journalctl --no-pager -u chapar | tail -20"))
            time.sleep(0.5)

    def close(self) -> None:
        self._podman.call("rm", "--force", self._id)


def test_the_service_is_installed_as_the_page_says(podman: Podman, sources: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs/en/operations.md").read_text()
    install, configure, first_key = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[:3]
    [backup] = re.findall(r"^```sh\n([^`]*chapar-backup.*?)^```", page, re.MULTILINE | re.DOTALL)
    port = free_port()
    certificates = Certificates(tmp_path)
    machine = Machine(podman, sources)
    try:
        with Mosquitto(certificates=certificates) as broker:
            machine.does(f"cat >ca.pem <<'.'\n{certificates.ca_file.read_text()}.\necho {broker.url} >broker.url")
            machine.does(install)
            drop_in = f"[Service]\\nEnvironment=CHAPAR_PORT={port}\\n"
            folder = "/etc/systemd/system/chapar.service.d"
            machine.does(f"mkdir -p {folder}; printf '{drop_in}' >{folder}/port.conf")
            machine.does(configure)
            assert machine.state("ActiveState") == "active"
            assert machine.state("StatusText") == f"Serving http://127.0.0.1:{port}"
            wait_until_ready(f"http://127.0.0.1:{port}")
            check_delivers(f"http://127.0.0.1:{port}", {})
            machine.does(first_key)
            assert machine.does("stat -c '%U %a' /var/lib/chapar /var/lib/chapar/chapar.db").split() == [
                *("chapar", "700"),
                *("chapar", "600"),
            ]
            machine.does(backup)
            assert machine.state("Result", "chapar-backup") == "success"
            assert machine.does("stat -c '%U %a' /var/lib/chapar/backups/chapar-*.db").split() == ["chapar", "600"]
            upgrade = [line for line in install.splitlines() if "pip install" in line]
            machine.does("\n".join([*upgrade, "systemctl restart chapar"]))
            assert machine.state("ActiveState") == "active"
            # A writer that stands still is nothing that the gateway can mend by itself.
            main = machine.state("MainPID")
            machine.does(f"kill -STOP $(cat /proc/{main}/task/{main}/children)")
            machine.wait_until("NRestarts", "1")
            machine.wait_until("ActiveState", "active")
            wait_until_ready(f"http://127.0.0.1:{port}")
            machine.does("systemctl stop chapar")
            assert machine.state("Result") == "success"
    finally:
        machine.close()
