"""A page as a browser shows it, with a browser that knows no other place."""

import shutil
import subprocess
from pathlib import Path

_PATIENCE = 60  # seconds
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


def installed() -> bool:
    """Whether this machine has Chromium."""
    return shutil.which("chromium") is not None


def rendered(url: str, profile: Path, *flags: str) -> str:
    """The page's DOM as HTML, once its scripts have come to rest; `profile` is a folder for this browser alone."""
    shown = subprocess.run(
        ["chromium", *_FLAGS, *flags, f"--user-data-dir={profile}", "--virtual-time-budget=10000", "--dump-dom", url],
        check=True,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
    )
    return shown.stdout
