"""What the code can do and what the pages say of it are the same, in both languages."""

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import pytest
import typer

from chapar import errors
from chapar.cli.command import cli_of
from chapar.cli.sentences import word
from chapar.delivery.causes import Cause
from chapar.delivery.proofs import Kind
from chapar.errors import ChaparError
from chapar.model.audit import Action
from chapar.model.message import Status
from chapar.model.principal import Scope
from chapar.model.reason import Reason
from chapar.model.reply import WORDS, Unmatched
from chapar.runtime.secret_files import secrets_of
from chapar.runtime.settings import Settings
from chapar.web.http.problems import STATUSES, status_of

ROOT = Path(__file__).parents[2]
PERSIAN_OR_ASCII_DIGITS = str.maketrans("۰۱۲۳۴۵۶۷۸۹", "0123456789")


def every_error(kind: type[ChaparError] = ChaparError) -> Iterator[type[ChaparError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from every_error(child)


@pytest.mark.parametrize("language", ["en", "fa"])
def test_every_setting_is_documented(language: str) -> None:
    page = (ROOT / "docs" / language / "settings.md").read_text()
    documented = set(re.findall(r"^\| `(CHAPAR_[A-Z_]+)`", page, re.MULTILINE))
    assert documented == {f"CHAPAR_{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize("language", ["en", "fa"])
def test_every_secret_is_documented_with_its_file(language: str) -> None:
    page = (ROOT / "docs" / language / "settings.md").read_text()
    for name in secrets_of(Settings):
        assert f"`CHAPAR_{name.upper()}_FILE`" in page


@pytest.mark.parametrize("language", ["en", "fa"])
def test_every_command_is_documented(language: str) -> None:
    page = (ROOT / "docs" / language / "command-line.md").read_text()
    cli = cli_of()
    commands = {
        *names_of(cli),
        *(f"{group.name} {name}" for group in cli.registered_groups for name in names_of(group.typer_instance)),
    }
    assert set(re.findall(r"^\| `chapar ([a-z ]+)`", page, re.MULTILINE)) == commands


def names_of(group: typer.Typer) -> Iterator[str]:
    for command in group.registered_commands:
        assert command.callback is not None
        yield command.name or command.callback.__name__


@pytest.mark.parametrize(("kind", "codes"), [("status", Status), ("deed", Action)])
def test_every_persian_word_for_a_code_is_documented_with_it(kind: str, codes: type[StrEnum]) -> None:
    page = (ROOT / "docs" / "fa" / "command-line.md").read_text().replace("\n", " ")
    assert [code for code in codes if f"`{code}` «{word(kind, code, 'fa')}»" not in page] == []


@pytest.mark.parametrize("language", ["en", "fa"])
def test_every_reason_is_documented(language: str) -> None:
    page = (ROOT / "docs" / language / "sending.md").read_text()
    assert re.findall(r"^\| `([a-z_0-9]+)` \|", page, re.MULTILINE)[-len(Reason) :] == [
        reason.value for reason in Reason
    ]


@pytest.mark.parametrize("language", ["en", "fa"])
def test_every_reason_of_a_reply_without_a_message_is_documented(language: str) -> None:
    page = (ROOT / "docs" / language / "replies.md").read_text()
    assert re.findall(r"^\| `([a-z]+_[a-z]+|ambiguous)` \|", page, re.MULTILINE) == [each.value for each in Unmatched]


@pytest.mark.parametrize("language", ["en", "fa"])
def test_every_word_of_a_reply_is_documented_with_its_status(language: str) -> None:
    page = (ROOT / "docs" / language / "replies.md").read_text()
    rows = re.findall(r"^\| (.*?) \| `(acknowledged|succeeded|failed)`", page, re.MULTILINE)
    documented = {word: Status(status) for words, status in rows for word in re.findall(r"`([a-z]+)`", words)}
    assert documented | {"": Status.SUCCEEDED} == WORDS


@pytest.mark.parametrize("language", ["en", "fa"])
def test_every_cause_and_every_kind_of_evidence_is_documented(language: str) -> None:
    page = (ROOT / "docs" / language / "explain.md").read_text()
    documented = re.findall(r"^\| `([a-z_0-9]+)` \|", page, re.MULTILINE)
    assert documented == [*(cause.value for cause in Cause), *(kind.value for kind in Kind)]


@pytest.mark.parametrize("language", ["en", "fa"])
def test_every_scope_is_documented(language: str) -> None:
    page = (ROOT / "docs" / language / "security.md").read_text()
    assert re.findall(r"^\| `([a-z]+:[a-z]+)`", page, re.MULTILINE) == [scope.value for scope in Scope]


@pytest.mark.parametrize("language", ["en", "fa"])
def test_every_action_of_the_audit_trail_is_documented(language: str) -> None:
    page = (ROOT / "docs" / language / "security.md").read_text()
    assert all(f"`{action}`" in page for action in Action)


def test_both_languages_have_the_same_pages_with_the_same_parts() -> None:
    pages = {language: sorted((ROOT / "docs" / language).glob("*.md")) for language in ("en", "fa")}
    assert [page.name for page in pages["en"]] == [page.name for page in pages["fa"]]
    for english, persian in zip(pages["en"], pages["fa"], strict=True):
        assert parts_of(english) == parts_of(persian), english.name


def parts_of(page: Path) -> dict[str, object]:
    """What a page consists of besides its words: levels of headings, columns of tables, kinds of examples."""
    text = page.read_text()
    examples = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return {
        "headings": re.findall(r"^#+", prose, re.MULTILINE),
        "tables": [row.count("|") for row in re.findall(r"^\|.*", prose, re.MULTILINE)],
        "examples": [example.partition("\n")[0] for example in examples],
    }


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*/*.md")], ids=lambda page: page.name)
def test_every_link_leads_to_something_that_is_there(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors_of(file), (target, anchor)


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("language", ["en", "fa"])
def test_every_error_code_is_documented_with_its_status(language: str) -> None:
    page = (ROOT / "docs" / language / "errors.md").read_text()
    documented: dict[str, str] = {}
    for codes, second in re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", page, re.MULTILINE):
        documented |= {code: second.translate(PERSIAN_OR_ASCII_DIGITS) for code in re.findall(r"`(\w+)`", codes)}
    assert set(documented) == {error.code for error in every_error()}
    for error in every_error():
        if error in STATUSES:
            assert documented[error.code] == str(STATUSES[error]), error


def test_the_tree_at_the_top_of_the_errors_is_the_tree_of_classes() -> None:
    lines = re.findall(r"^([│├└─ ]*)([A-Z]\w+)(?:\s|$)", errors.__doc__ or "", re.MULTILINE)
    drawn = [(len(indent) // 4, name) for indent, name in lines]
    names = [name for _, name in drawn]
    tree = drawn[names.index("ChaparError") : names.index("Only")]
    parents: dict[int, str] = {}
    for depth, name in tree:
        parents[depth] = name
        if depth:
            assert vars(errors)[name].__base__.__name__ == parents[depth - 1], name
    declared = {kind.__name__ for kind in every_error() if kind.__module__.startswith("chapar.errors.")}
    assert {name for _, name in tree} == declared


def test_every_error_has_a_status() -> None:
    for error in every_error():
        assert any(kind in STATUSES for kind in error.__mro__)
    assert status_of(errors.BrokerUnreachable("id")) == 406
    assert status_of(errors.DatabaseInUse("chapar.db")) == 503
