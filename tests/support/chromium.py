"""Debian's Chromium, driven as a person drives it. It knows no other place than this machine."""

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PATIENCE = 60_000  # ms; on a busy machine it takes half a minute to begin
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


def missing() -> str | None:
    """Why no browser can be driven here; None where one can."""
    if shutil.which("chromium") is None:
        return "Chromium is not installed"
    if importlib.util.find_spec("playwright") is None:
        return "playwright, which drives Chromium, is not to be had for this machine"
    return None


@contextmanager
def launched() -> Iterator["Browser"]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - not on every machine

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=list(_FLAGS), timeout=PATIENCE)
        yield browser
        browser.close()


@contextmanager
def page_of(browser: "Browser", **context: Any) -> Iterator["Page"]:
    """A page of a browser that remembers nothing."""
    with browser.new_context(**context) as fresh:
        fresh.set_default_timeout(PATIENCE)
        yield fresh.new_page()


@contextmanager
def asked_for_passwords(page: "Page", passwords: list[str]) -> Iterator[list[str]]:
    """Type these passwords, one each time the page asks for one, then give up; gives where it asked."""
    session = page.context.new_cdp_session(page)
    asked: list[str] = []

    def answer(event: dict[str, Any]) -> None:
        asked.append(event["request"]["url"])
        reply = {"response": "CancelAuth"}
        if passwords:
            reply = {"response": "ProvideCredentials", "username": "me", "password": passwords.pop(0)}
        session.send("Fetch.continueWithAuth", {"requestId": event["requestId"], "authChallengeResponse": reply})

    session.on("Fetch.authRequired", answer)
    session.on(
        "Fetch.requestPaused", lambda event: session.send("Fetch.continueRequest", {"requestId": event["requestId"]})
    )
    session.send("Fetch.enable", {"handleAuthRequests": True})
    yield asked
    session.detach()
