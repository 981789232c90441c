"""Options of several commands: the gateway's URL, and points in time."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Annotated

import typer
from typer._click import Command
from typer.core import TyperGroup, TyperOption

from chapar.errors import Phrase, UsageInvalid, ascii_digits, ascii_number, gregorian
from chapar.model.times import TimeInvalid, check_time

DEFAULT_URL = "http://127.0.0.1:8000"  # where `chapar serve` listens unless told otherwise

Url = Annotated[str, typer.Option("--url", envvar="CHAPAR_URL", metavar="URL", help="The gateway to call.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON as the gateway answers it, for programs.")]

_SPAN = re.compile(r"(\d+) ?([smhd])")
_DATE = re.compile(r"(\d{4})[-/](\d\d?)[-/](\d\d?)(?!\d)")
_JALALI = range(1348, 1440)  # years from 1970 to 2061; a later number is rather a year of the lunar calendar
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def moment(option: str, text: str | None, *, ahead: bool = False) -> datetime | None:
    """The time that `text` means: `15m` ago (or `ahead`), or a date and time, in this machine's zone if it names none.

    The digits may be Persian or Arabic, and the date Gregorian or Jalali. Raises UsageInvalid.
    """
    if text is None:
        return None
    text = ascii_digits(text)
    span = _SPAN.fullmatch(text)
    try:
        if span is not None:
            seconds = int(span[1]) * _SECONDS[span[2]]
            time = datetime.now(UTC) + timedelta(seconds=seconds if ahead else -seconds)
        else:
            written = datetime.fromisoformat(_DATE.sub(_iso, text))
            check_time(written)
            time = written.astimezone(UTC)
        check_time(time)
    except TimeInvalid as error:
        raise UsageInvalid(Phrase("usage.option", option=option, rule=error.rule)) from None
    except (ValueError, OverflowError):
        problem = Phrase("usage.time_ahead", option=option) if ahead else Phrase("usage.time_ago", option=option)
        raise UsageInvalid(problem) from None
    return time


def _iso(date: re.Match[str]) -> str:
    """The Gregorian date, with the time behind it as it is."""
    year, month, day = map(int, date.groups())
    return str(gregorian(year, month, day)) if year in _JALALI else f"{year}-{month:02}-{day:02}"


def ascii_numbers(command: Command, arguments: Sequence[str]) -> list[str]:
    """Give the numbers among a command's arguments the digits that the option parser reads; texts keep theirs."""
    for word in arguments:
        if isinstance(command, TyperGroup):
            command = command.commands.get(word, command)
    options = [option for option in command.params if isinstance(option, TyperOption)]
    numbers = {name for option in options if option.type_descriptor.annotation in {int, float} for name in option.opts}
    readable = []
    for before, argument in pairwise(["", *arguments]):
        option, sign, value = argument.partition("=")
        readable.append(
            ascii_number(argument)
            if before in numbers
            else option + sign + ascii_number(value)
            if option in numbers
            else argument
        )
    return readable
