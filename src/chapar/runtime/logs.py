"""The log: events on standard error, one line each, whoever speaks and whatever was said.

What the standard library logs (uvicorn, SQLAlchemy, asyncio) and what Python says of an exception that nobody caught
take the same way. A line that cannot be written, or not even made, is lost, and nothing waits for it.
"""

import logging
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import cache
from types import TracebackType
from typing import Any, Final, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from chapar.model.lines import json_line, plain
from chapar.runtime.streams import LineWriter

_END_OF_LINE: Final = " ⏎ "  # between the lines of a traceback where people read it

#: The request that is being handled (ASCII), in all that is logged meanwhile.
REQUEST_ID: Final[ContextVar[bytes | None]] = ContextVar("request_id", default=None)

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def configure(level: str, log_format: Literal["console", "json"]) -> None:
    """Log events from `level` on to standard error: for people, or one JSON object a line."""
    least = logging.getLevelNamesMapping()[level.upper()]
    last: list[Processor] = (
        [structlog.processors.JSONRenderer(lambda event, **_: json_line(event))]
        if log_format == "json"
        else [_harmless, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    steps: list[Processor] = [
        _ids,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _traceback,
        *last,
    ]
    lines = _lines()
    structlog.configure(
        processors=[_whatever_it_says(steps)],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=lambda *_: _Logger(lines.write),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(least, logging.WARNING), handlers=[_FromStandardLibrary()], force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


@cache
def _lines() -> LineWriter:
    return LineWriter(2, on_recovery=lambda lost: log.warning("log_lines_lost", lines=lost))


def lines_lost() -> int:
    """Return how many lines could not be written until now."""
    return _lines().lost


class _Logger:
    """The target of structlog's finished lines, by the name of their level."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = write


def _whatever_it_says(steps: Sequence[Processor]) -> Processor:
    """The steps from an event to a line, of which none may fail: not with an object that fails to describe itself."""

    def line(logger: WrappedLogger, method: str, event: EventDict) -> EventDict | str:
        name = event["event"]
        made: Any = event
        try:
            for step in steps:
                made = step(logger, method, made)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a line, it is no reason to fail
            return json_line({"event": f"{name!s}", "level": method, "unshown": type(error).__name__})
        return str(made)

    return line


class _FromStandardLibrary(logging.Handler):
    """Hands records of the standard library's loggers on."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record as an event of ours."""
        try:
            event = record.getMessage().strip()
        except Exception:  # noqa: BLE001 - the arguments do not fit the message; whatever is wrong, it is no reason to fail
            event = str(record.msg)
        level = max(known for known in _LEVELS if known <= max(record.levelno, logging.DEBUG))
        log.log(level, event, logger=record.name, exc_info=record.exc_info)


_LEVELS: Final = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


def _ids(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if (request_id := REQUEST_ID.get()) is not None:
        event["request_id"] = request_id.decode()
    return event


def _traceback(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The exception as text, without the values of variables: those may be secrets."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exception()
    elif isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["traceback"] = "".join(traceback.format_exception(error)).strip()
    return event


def _harmless(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if "traceback" in event:
        lines = (line.strip() for line in event["traceback"].splitlines())
        event["traceback"] = _END_OF_LINE.join(line for line in lines if line.strip("^~"))
    return {name: _shown(value) for name, value in event.items()}


def _shown(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    return plain(value if isinstance(value, str) else repr(value))


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        log.critical("crashed", exc_info=error)


def _uncaught_in_thread(what: threading.ExceptHookArgs) -> None:
    if not issubclass(what.exc_type, SystemExit):
        log.critical("thread_crashed", thread=what.thread and what.thread.name, exc_info=what.exc_value)


def _unraisable(what: "sys.UnraisableHookArgs") -> None:
    log.error("exception_ignored", note=what.err_msg, of=repr(what.object), exc_info=what.exc_value)
