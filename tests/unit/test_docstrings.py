"""The source speaks plainly: docstrings begin with a verb or a noun, and figures that age stay out of it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "chapar"
MODULES = sorted(SOURCE.rglob("*.py"))
CONJUNCTIONS = re.compile(r"(what|who)(ever)?|where|when|how|which|whether|why|as|so|that|if|in|from|for|also|its")


def docstrings(module: Path) -> Iterator[tuple[str, str]]:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", module.stem), text


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(SOURCE)))
def test_a_docstring_begins_with_a_verb_or_a_noun(module: Path) -> None:
    begins = {name: text.split(maxsplit=1)[0].lower().strip(",.:;") for name, text in docstrings(module)}
    assert {name: word for name, word in begins.items() if CONJUNCTIONS.fullmatch(word)} == {}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(SOURCE)))
def test_measured_times_stand_in_the_documentation(module: Path) -> None:
    """A figure in microseconds is one machine's on one day; `docs/en/performance.md` says whose."""
    assert "µs" not in module.read_text()
