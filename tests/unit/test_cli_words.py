"""Whatever the command line says, it can say in Persian: found in the commands, the enums and the source themselves."""

import re
from enum import StrEnum

import pytest
from typer import rich_utils
from typer.main import get_command

from chapar.cli.command import cli_of, run
from chapar.cli.persian_help import TEXTS, parts
from chapar.cli.sentences import SENTENCES, word
from chapar.delivery.proofs import Kind
from chapar.model.audit import Action
from chapar.model.message import Status
from chapar.model.reason import Reason
from chapar.model.reply import MatchedBy, Unmatched

PARTS = list(parts(get_command(cli_of())))
COMMANDS = [keys[0].removeprefix("chapar").split() for keys, part in PARTS if len(keys) == 1]
PERSIAN = re.compile("[\u0600-\u06ff]")


# What typer writes on help pages: its constants that hold words.
HEADINGS = {
    name: value
    for name, value in vars(rich_utils).items()
    if re.search("_(TITLE|STRING|TEXT)$", name) and re.search("[a-z]", str(value))
}


@pytest.fixture(autouse=True)
def persian(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HEADINGS.items():
        monkeypatch.setattr(rich_utils, name, value)  # and so they are English again for other tests
    monkeypatch.setenv("CHAPAR_LANGUAGE", "fa")


@pytest.mark.parametrize(("keys", "part"), PARTS, ids=[keys[0] for keys, _ in PARTS])
def test_every_help_text_stands_in_help_fa_toml(keys: list[str], part: object) -> None:
    assert part.help, f"{keys[0]} has no help text"
    found = [key for key in keys if key in TEXTS]
    assert found, f'add "{keys[0]}" to src/chapar/cli/help_fa.toml'
    persian = TEXTS[found[0]]
    assert PERSIAN.search(persian), persian
    typed = {code for code in re.findall("`([^`]+)`", part.help) if code.isascii()}
    assert {code for code in re.findall("`([^`]+)`", persian) if code.isascii()} == typed


def test_help_fa_toml_has_no_text_of_what_is_gone() -> None:
    assert set(TEXTS) <= {key for keys, _ in PARTS for key in keys}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_help_page_has_persian_headings(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAPAR_LANGUAGE", "en")
    run([*command, "--help"])
    english = capsys.readouterr().out
    monkeypatch.setenv("CHAPAR_LANGUAGE", "fa")
    run([*command, "--help"])
    persian = capsys.readouterr().out
    marks = [value.split("{}")[0] for name, value in HEADINGS.items()]
    assert [mark for mark in ["Usage", *marks] if mark in english and mark in persian] == []


@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        ("status", Status),
        ("reason", Reason),
        ("deed", Action),
        ("matched", MatchedBy),
        ("unmatched", Unmatched),
        ("proof", Kind),
    ],
)
def test_every_code_has_its_words(kind: str, codes: type[StrEnum]) -> None:
    assert {f"{kind}.{code}" for code in codes} == {key for key in SENTENCES["fa"] if key.startswith(f"{kind}.")}
    assert all(PERSIAN.search(word(kind, code, "fa")) for code in codes)


def test_a_code_that_only_a_newer_gateway_knows_is_shown_as_it_is() -> None:
    assert word("status", "teleported", "fa") == "teleported"
