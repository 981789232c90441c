"""Meanings of a database's exceptions: whose fault it is, what is certain after it, and a sentence for people.

The exceptions of SQLAlchemy and of the drivers go no further than this package.
"""

from typing import cast

from sqlalchemy import Dialect
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, ProgrammingError, SQLAlchemyError

# SQLite's primary result codes (https://sqlite.org/rescode.html)
_SQLITE_BUSY = 5
_SQLITE_FULL = 13

# SQLSTATE classes in which a COMMIT may have happened although its answer is an error
# (https://www.postgresql.org/docs/current/errcodes-appendix.html): 08 connection exception, 57 operator
# intervention (a session ended while it waited for a standby), 58 system error, XX internal error.
_UNCERTAIN_CLASSES = ("08", "57", "58", "XX")


def cause(error: BaseException) -> str:
    """Return what happened, as one sentence that names no secret and no parameter."""
    original = error.orig if isinstance(error, DBAPIError) else error
    lines = [line.strip() for line in str(original).splitlines() if line.strip()]
    text = lines[0] if lines else type(original).__name__
    return text if text.endswith((".", "?", "!")) else f"{text}."


def translated(error: Exception, dialect: Dialect, *, connection_invalidated: bool) -> DBAPIError:
    """An exception of the driver as SQLAlchemy would have raised it."""
    wrapped = DBAPIError.instance(
        "",
        None,
        error,
        dialect.loaded_dbapi.Error,
        hide_parameters=True,
        connection_invalidated=connection_invalidated,
        dialect=dialect,
    )
    return cast("DBAPIError", wrapped)


def is_operations_fault(error: Exception) -> bool:
    """Return whether one operation's values are to blame, so that the others would have succeeded without it."""
    if not isinstance(error, DBAPIError):
        # A value that the driver cannot even hand over, such as an integer beyond 64 bits.
        return not isinstance(error, SQLAlchemyError)
    if isinstance(error, DataError | IntegrityError):
        return True
    return (
        isinstance(error, InterfaceError | ProgrammingError)
        and not error.connection_invalidated
        and _sqlite_code(error) is None
        and _sqlstate(error) is None
    )


def nothing_committed(error: DBAPIError) -> bool:
    """Return whether a COMMIT that raised `error` is certain to have left nothing, once a ROLLBACK succeeded."""
    code = _sqlite_code(error)
    if code is not None:
        return code in {_SQLITE_BUSY, _SQLITE_FULL}
    state = _sqlstate(error)
    return state is not None and not error.connection_invalidated and not state.startswith(_UNCERTAIN_CLASSES)


def _sqlite_code(error: DBAPIError) -> int | None:
    extended = getattr(error.orig, "sqlite_errorcode", None)
    return extended & 0xFF if isinstance(extended, int) else None


def _sqlstate(error: DBAPIError) -> str | None:
    state = getattr(error.orig, "sqlstate", None)
    return state if isinstance(state, str) else None
