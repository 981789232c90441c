"""The console in a browser, in either language and at either width."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from support import chromium
from support.gateway import GatewayProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LOCALES = {"en": "en-GB", "fa": "fa-IR"}
NARROW, WIDE = 360, 1280  # pixels
ABBREVIATIONS = {"API", "CSV", "ID", "JSON", "MQTT", "QoS", "UTC"}  # which Persian writes as they are

PICTURES = Path(__file__).parents[2] / "artefacts" / "console"  # which Git ignores

_AXE = Path(__file__).parent / "axe" / "axe.min.js"

# Every rule; of one that is kept, not every place where it is: to collect these takes longer than to find them.
_FAULTS = """async () => {
  const found = await axe.run({resultTypes: ["violations"]});
  return [found.passes.length, found.violations.map((broken) => `${broken.id}: ${broken.nodes[0].html}`)];
}"""

# The text of a page but for what is code, or in another language on purpose.
_PROSE = """() => {
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (!parent.closest('bdi, [dir="ltr"], time, script, [lang="en"], textarea')) texts.push(walker.currentNode.data);
  }
  return texts.join("\\n").replace(/[\\u2066\\u2068][^\\u2069]*\\u2069/g, "");
}"""


@contextmanager
def opened(
    browser: "Browser", gateway: GatewayProcess, language: str = "en", width: int = WIDE, excused: Sequence[str] = ()
) -> Iterator["Page"]:
    """A page whose end checks that it asked nothing of anybody else, and that nothing in it failed or was refused.

    `excused`: parts of what the browser may say of failures that the test brings about.
    """
    asked: list[str] = []
    faults: list[str] = []
    size = {"width": width, "height": 800}
    with chromium.page_of(
        browser, locale=LOCALES[language], timezone_id="Asia/Tehran", viewport=size, has_touch=width == NARROW
    ) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        yield page
        assert [url for url in asked if not url.startswith(f"{gateway.url}/")] == []
        assert [fault for fault in faults if not any(part in fault for part in excused)] == []


def sign_in(page: "Page", gateway: GatewayProcess, key: str, path: str = "/") -> None:
    """Open a page of the console, and sign in with a key where it is asked for."""
    page.goto(f"{gateway.url}/console{path}")
    page.locator("#key").fill(key)
    page.locator("main form button").click()
    page.locator("form[action$=sign-out]").wait_for()


def check_layout(page: "Page", language: str) -> None:
    """The page has its language's direction and words, and nothing of it is wider than the window."""
    root = page.locator("html")
    assert root.get_attribute("lang") == language
    assert root.get_attribute("dir") == ("rtl" if language == "fa" else "ltr")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "it is wider than the window"
    if language == "fa":
        words = set(re.findall("[A-Za-z]{2,}", page.evaluate(_PROSE)))
        assert words <= ABBREVIATIONS, words - ABBREVIATIONS


def faults_for_people(page: "Page") -> list[str]:
    """The rules of accessibility that a page breaks (axe-core), each with the first place."""
    page.evaluate(_AXE.read_text())
    passed, broken = page.evaluate(_FAULTS)
    assert passed, "nothing was checked"
    return list(broken)
