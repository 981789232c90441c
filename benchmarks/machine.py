"""What the figures were measured on."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import pysqlite3.dbapi2 as sqlite

_DISTRIBUTIONS = ("chapar-gateway", "fastapi", "starlette", "uvicorn", "pydantic", "sqlalchemy", "mqtt5")


def describe() -> dict[str, str]:
    """What to know of the machine and of the software, each in a few words."""
    load, _, _ = os.getloadavg()
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": _processor(),
        "kernel": platform.release(),
        "load before": f"{load:.1f}",
        "Python": platform.python_version(),
        **{name: version(name) for name in _DISTRIBUTIONS},
        "SQLite": sqlite.sqlite_version,
        "Mosquitto": _mosquitto(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _mosquitto() -> str:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    said = subprocess.run(
        ["mosquitto", "-h"], check=False, capture_output=True, text=True, env=os.environ | {"PATH": path}
    )
    return said.stdout.partition("version ")[2].partition("\n")[0]
