"""Options of several commands: the gateway's URL, and points in time."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from chapar.errors import Phrase, UsageInvalid
from chapar.model.times import TimeInvalid, check_time

DEFAULT_URL = "http://127.0.0.1:8000"  # where `chapar serve` listens unless told otherwise

Url = Annotated[str, typer.Option("--url", envvar="CHAPAR_URL", metavar="URL", help="The gateway to call.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON as the gateway answers it, for programs.")]

_SPAN = re.compile(r"(\d+) ?([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def moment(option: str, text: str | None, *, ahead: bool = False) -> datetime | None:
    """The time that `text` means: `15m` ago (or `ahead`), or a date and time, in this machine's zone if it names none.

    Raises UsageInvalid.
    """
    if text is None:
        return None
    span = _SPAN.fullmatch(text)
    try:
        if span is not None:
            seconds = int(span[1]) * _SECONDS[span[2]]
            time = datetime.now(UTC) + timedelta(seconds=seconds if ahead else -seconds)
        else:
            written = datetime.fromisoformat(text)
            check_time(written)
            time = written.astimezone(UTC)
        check_time(time)
    except TimeInvalid as error:
        raise UsageInvalid(Phrase("usage.option", option=option, rule=error.rule)) from None
    except (ValueError, OverflowError):
        problem = Phrase("usage.time_ahead", option=option) if ahead else Phrase("usage.time_ago", option=option)
        raise UsageInvalid(problem) from None
    return time
