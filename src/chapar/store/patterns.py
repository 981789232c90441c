"""Patterns of devices and operations as conditions of a query."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, or_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import Boolean

from chapar.model.principal import EVERYTHING

_LIKE: Final = str.maketrans({"\\": r"\\", "%": r"\%", "_": r"\_", "*": "%", "?": "_"})


class _Fits(ColumnElement[bool]):
    """A test of a text by a pattern, letter by letter. What is like what differs: SQLite's LIKE takes `a` for `A`."""

    inherit_cache = False  # the pattern is in no key of a cache
    type = Boolean()

    def __init__(self, column: ColumnElement[Any], pattern: str) -> None:
        self.column = column
        self.pattern = pattern


@compiles(_Fits)
def _like(fits: _Fits, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401 - SQLAlchemy's own signature
    return compiler.process(fits.column.like(fits.pattern.translate(_LIKE), escape="\\"), **options)


@compiles(_Fits, "sqlite")
def _glob(fits: _Fits, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401 - SQLAlchemy's own signature
    return compiler.process(fits.column.op("GLOB")(fits.pattern.replace("[", "[[]")), **options)


def fits_any(column: ColumnElement[Any], patterns: Sequence[str]) -> list[ColumnElement[bool]]:
    """The condition that a column fits one of the patterns; none where they are all that there is."""
    return [] if tuple(patterns) == EVERYTHING else [or_(*(_Fits(column, pattern) for pattern in patterns))]
