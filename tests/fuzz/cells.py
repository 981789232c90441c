"""Formulas as operations and parameters: in the CSV report a spreadsheet reads text, and nothing else."""

import csv
import io
import itertools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

import httpx

from fuzz import stage
from fuzz.campaign import Outcome
from fuzz.stage import open_stage

_SIGNS: Final = "=+-@＝＋－＠"  # OWASP, CSV injection
_FORMULAS: Final = ("1+1", "cmd|' /C calc'!A0", 'HYPERLINK("http://example.org","x")', "SUM(1;2)", 'DDE("a";"b";"c")')
_FRONTS: Final = ("", " ", "  ", '"', "'", ";", "; ", ';"', "x;", "a,", "\u00a0", "\u200b", "\ufeff", "\t", "\r", "\n")
_SEPARATORS: Final = {"comma": 44, "semicolon": 59}  # as LibreOffice numbers them
_TIMEOUT: Final = 120  # seconds for LibreOffice to read one file

_TABLE: Final = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
_OFFICE: Final = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
_TEXT: Final = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"


def missing() -> str | None:
    """What this machine lacks for it."""
    if shutil.which("soffice") is None:
        return "LibreOffice is not installed (package libreoffice-calc-nogui); scripts/fuzz --long installs it"
    return stage.missing()


def run(wanted: int) -> Outcome:
    """`wanted` formulas, and one that is not made harmless, to see that a formula would be noticed."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="chapar-fuzz-") as folder:
        control = io.StringIO()
        csv.writer(control).writerows([["micro_op"], ["=1+1"]])
        if not _formulas(_read(control.getvalue().encode(), "comma", Path(folder))):
            outcome.findings.append("LibreOffice runs no formulas here, so this says nothing")
        written = _formula_texts(wanted)
        report = _report(written, outcome)
        for separator in _SEPARATORS:
            rows = _read(report, separator, Path(folder))
            outcome.findings += [f"a formula where a {separator} separates: {each}" for each in _formulas(rows)]
            if separator == "comma":
                _compare(rows, written, outcome)
    return outcome


def _formula_texts(wanted: int) -> list[str]:
    """Formulas of every sign behind every front, one after the other in each."""
    formulas = itertools.cycle(_FORMULAS)
    texts = [f"{front}{sign}{next(formulas)}" for front, sign in itertools.product(_FRONTS, _SIGNS)]
    return list(itertools.islice(itertools.cycle(texts), wanted))


def _report(texts: list[str], outcome: Outcome) -> bytes:
    """The CSV report of a gateway to which each was sent, as operation and as parameter."""
    with open_stage() as place, httpx.Client(base_url=place.gateway.url, timeout=30.0) as api:
        for number, text in enumerate(texts):
            fields = {"imei": f"-{number}", "params": {text: [text]}, "wait": "none"}
            as_operation = api.post("/messaging/send", json={**fields, "micro_op": text})
            if as_operation.status_code == 422:  # tabs and line ends are in no operation
                outcome.count("refused as operations")
                api.post("/messaging/send", json={**fields, "micro_op": "none"}).raise_for_status()
            else:
                as_operation.raise_for_status()
            outcome.cases += 1
        report = api.get("/reporting/all", params={"format": "csv"}).raise_for_status().content
        place.judge(outcome)
    return report


def _read(table: bytes, separator: str, folder: Path) -> list[list[tuple[str, str | None, str]]]:
    """The rows that LibreOffice makes of a CSV file: of each cell its type, its formula and its text."""
    file = folder / "report.csv"
    file.write_bytes(table)
    command = [
        "soffice",
        f"-env:UserInstallation={(folder / 'profile').as_uri()}",
        "--headless",
        "--convert-to",
        "fods",
        f"--infilter=CSV:{_SEPARATORS[separator]},34,76,1",  # quotes are ", and it is UTF-8
        "--outdir",
        str(folder),
        str(file),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT)
    document = ET.parse(folder / "report.fods")  # noqa: S314 - LibreOffice wrote it just now
    return [
        [cell for element in row.iter(f"{_TABLE}table-cell") for cell in _cells(element)]
        for row in document.iter(f"{_TABLE}table-row")
    ]


def _cells(element: ET.Element) -> list[tuple[str, str | None, str]]:
    repeated = int(element.get(f"{_TABLE}number-columns-repeated", "1"))
    text = "\n".join(_text(paragraph) for paragraph in element.iter(f"{_TEXT}p"))
    cell = (element.get(f"{_OFFICE}value-type", ""), element.get(f"{_TABLE}formula"), text)
    return [cell] * min(repeated, 50)  # the last one fills the sheet


def _text(element: ET.Element) -> str:
    text = element.text or ""
    for child in element:
        if child.tag == f"{_TEXT}s":
            text += " " * int(child.get(f"{_TEXT}c", "1"))
        elif child.tag == f"{_TEXT}tab":
            text += "\t"
        text += _text(child) + (child.tail or "")
    return text


def _formulas(rows: list[list[tuple[str, str | None, str]]]) -> list[Any]:
    return [cell for row in rows for cell in row if cell[1] is not None or cell[0] == "error"]


def _compare(rows: list[list[tuple[str, str | None, str]]], texts: list[str], outcome: Outcome) -> None:
    """Each text is there, as text, with no more than apostrophes added."""
    names = [text for _, _, text in rows[0]]
    by_device = {row[names.index("imei")][2].lstrip("'"): row for row in rows[1:] if len(row) >= len(names)}
    for number, text in enumerate(texts):
        row = by_device[f"-{number}"]
        kind, _, shown = row[names.index("micro_op")]
        device = row[names.index("imei")]
        if device[0] != "string" or kind != "string" or (shown != "none" and _bare(shown) != _bare(text)):
            outcome.findings.append(f"{text!r} is read as {shown!r} ({kind}), its device as {device}")


def _bare(text: str) -> str:
    return text.replace("'", "")
