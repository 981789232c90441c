"""Text for the terminal: made harmless where it is from elsewhere, times and numbers as a person reads them."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from datetime import datetime

from chapar.errors import Language, OutputLost, persian_date, persian_digits
from chapar.model.times import datetime_of
from chapar.runtime import streams

PATIENCE = 1.0  # seconds after which a person wants to know what takes so long

_CLEAR_LINE = "\r\x1b[K"


def local_time(time: datetime, language: Language) -> str:
    """`2026-11-24 06:30:00` in this machine's time zone; in Persian of the Jalali calendar."""
    with contextlib.suppress(OverflowError):  # of the last hours of 9999; they are shown in UTC
        time = time.astimezone()
    if language == "fa":
        return f"{persian_date(time)} {persian_digits(f'{time:%H:%M:%S}')}"
    return f"{time:%Y-%m-%d %H:%M:%S}"


def local_time_of(milliseconds: int, language: Language) -> str:
    """Likewise of a time in ms since the epoch."""
    return local_time(datetime_of(milliseconds), language)


def check_output() -> None:
    """Raise OutputLost where something printed could not be written; for commands that print and do nothing else."""
    sys.stdout.flush()
    problem = streams.output_problem()
    if problem is not None:
        raise OutputLost(problem.strerror or str(problem), reader_is_gone=streams.reader_is_gone(problem))


def show_progress(sentence: str) -> None:
    """Put a sentence in place of the last one, on standard error and only on a terminal; `""` clears it."""
    if sys.stderr.isatty():
        sys.stderr.write(_CLEAR_LINE + sentence)
        sys.stderr.flush()


@contextlib.contextmanager
def progress(sentence: str) -> Iterator[None]:
    """Show the sentence where the block takes longer than a second, until it ends."""
    timer = threading.Timer(PATIENCE, show_progress, (sentence,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        show_progress("")
