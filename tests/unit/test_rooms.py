"""The house stays one: who may take all settings, where a name is imported from, and how many ways lead between rooms.

Which room may import which, import-linter holds (`pyproject.toml`).
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import chapar

ROOT = Path(chapar.__file__).parent
TESTS = Path(__file__).parents[1]
PAGES = ("CONTRIBUTING.md", "docs/en/how-it-works.md", "docs/fa/how-it-works.md")
MOST_WAYS = 70  # between rooms; 69 are enough for all that there is, now that there are events

WIRING = ("app", "runtime")  # may take all settings, to hand on what each part uses
FRONT_PAGES = frozenset({"chapar.errors"})  # the tree of all errors, whose branches are modules of their own


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package, by its name."""
    files = {file: file.relative_to(ROOT.parent).with_suffix("").parts for file in ROOT.rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): parsed(file) for file, parts in files.items()}


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def rooms_of(module: str) -> str:
    """The room of a module; the web has two, and the package's own entry is in none."""
    parts = module.removesuffix(".__main__").split(".")[1:]
    return ".".join(parts[: 2 if parts[:1] == ["web"] else 1])


@cache
def made_in(module: str) -> set[str]:
    """The names that a module makes itself, and its sub-modules."""
    names = {other.rpartition(".")[2] for other in modules() if other.rpartition(".")[0] == module}
    for statement in statements(modules()[module].body):
        match statement:
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
                names.add(name)
            case ast.Assign(targets):
                names |= {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
            case ast.AnnAssign(ast.Name(name)):
                names.add(name)
    return names


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those under a condition included."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try):
            yield from statements([*statement.body, *statement.orelse])


def imported(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """What a module imports of the package: from where, which name, and under which."""
    for node in nested(tree):
        if isinstance(node, ast.ImportFrom) and node.module in modules():
            assert node.module is not None
            for alias in node.names:
                yield node.module, alias.name, alias.asname or alias.name


def nested(node: ast.AST) -> Iterator[ast.AST]:
    """The statements within a node at any depth, and what holds them, without the many nodes of expressions."""
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, part, ()):
            yield child
            yield from nested(child)


def borrowed_names(tree: ast.Module) -> list[str]:
    """The names that a module imports from one that has them from another."""
    return [
        f"{name} from {module}"
        for module, name, _ in imported(tree)
        if module not in FRONT_PAGES and name not in made_in(module)
    ]


def borrowed_attributes(tree: ast.Module) -> list[str]:
    """The names that a module looks up in one that has them from another."""
    whole = {here: f"{module}.{name}" for module, name, here in imported(tree) if f"{module}.{name}" in modules()}
    return [
        f"{whole[node.value.id]}.{node.attr}"
        for node in (ast.walk(tree) if whole else ())
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in whole
        if whole[node.value.id] not in FRONT_PAGES and not node.attr.startswith("__")
        if node.attr not in made_in(whole[node.value.id])
    ]


def test_every_name_is_imported_from_where_it_is_made() -> None:
    found = {module: borrowed_names(tree) + borrowed_attributes(tree) for module, tree in modules().items()}
    found |= {str(file.relative_to(TESTS)): borrowed_names(parsed(file)) for file in TESTS.rglob("*.py")}
    assert {module: names for module, names in found.items() if names} == {}


def test_a_borrowed_name_is_noticed() -> None:
    assert borrowed_names(ast.parse("from chapar.cli.table import plain, print_table")) == [
        "plain from chapar.cli.table"
    ]
    assert borrowed_attributes(ast.parse("from chapar.cli import table\ntable.plain(table.print_table)")) == [
        "chapar.cli.table.plain"
    ]


def takes_settings(tree: ast.AST) -> Iterator[str]:
    """The functions that take all settings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            annotations = [ast.unparse(argument.annotation) for argument in arguments if argument.annotation]
            if "Settings" in annotations:
                yield node.name


def test_only_the_wiring_takes_all_settings() -> None:
    found = {}
    for module, tree in modules().items():
        room = rooms_of(module)
        # The command line reads them, and hands them on; what it builds takes what it uses.
        parts = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)] if room == "cli" else [tree]
        if room not in WIRING and (functions := [name for part in parts for name in takes_settings(part)]):
            found[module] = functions
    assert found == {}


@pytest.mark.parametrize("page", PAGES)
def test_every_room_is_on_the_pages_that_show_them(page: str) -> None:
    rows = set(
        re.findall(r"^\| (?:`|<code[^>]*>)([a-z/]+)/(?:`|</code>) \|", (TESTS.parent / page).read_text(), re.MULTILINE)
    )
    folders = {file.parent.relative_to(ROOT) for file in ROOT.rglob("__init__.py")}
    rooms = {folder.as_posix() for folder in folders if len(folder.parts) == (2 if folder.parts[:1] == ("web",) else 1)}
    assert rows == rooms


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|toml|md))`", (TESTS.parent / page).read_text()))
    folders = (TESTS.parent, ROOT)
    assert [name for name in sorted(named) if not any((folder / name).exists() for folder in folders)] == []
    assert named


def test_few_ways_lead_from_room_to_room() -> None:
    ways = {
        (rooms_of(importer), rooms_of(module if module.count(".") else f"{module}.{name}"))
        for importer, tree in modules().items()
        for module, name, _ in imported(tree)
    }
    between = {(here, there) for here, there in ways if here and there and here != there}
    assert len(between) <= MOST_WAYS, sorted(between)
