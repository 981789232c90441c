"""Options of several commands: the gateway's URL, and points in time."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Annotated, Final, NamedTuple

import typer
from typer._click import Command
from typer.core import TyperGroup, TyperOption

from chapar.errors import Phrase, UsageInvalid, ascii_digits, ascii_number, gregorian
from chapar.model.device import State, read_label
from chapar.model.message import LONGEST_WAIT, Profile, Status, Wait, check_device_id, check_operation
from chapar.model.times import TimeInvalid, check_time

ACCEPTED: Final = 3  # exit code: saved, and what is waited for is not there yet
FAILED: Final = 4  # exit code: the device said that it failed
MARGIN: Final = 10.0  # seconds that a gateway may take for everything else

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="CHAPAR_URL",
        metavar="URL",
        help="The gateway to call. [default: the one on this machine, as CHAPAR_PORT says]",
        show_default=False,
    ),
]
MessageId = Annotated[
    str,
    typer.Argument(metavar="ID", help="The message's id, as `chapar messages` shows it.", show_default=False),
]
DevicePresence = Annotated[State | None, typer.Option("--presence", help="Those that are in this state now.")]
DeviceLabels = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="NAME:VALUE", help="Those with this label; may be repeated."),
]
DeviceProfile = Annotated[Profile | None, typer.Option("--profile", help="Those that take commands in this form.")]
Search = Annotated[
    str | None, typer.Option("--search", metavar="TEXT", help="Those with this in their id or their name.")
]
IdempotencyKey = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        metavar="KEY",
        help="Makes a repetition safe: what was sent or rejected with this key already gets the same answer, and is "
        "not sent again.",
    ),
]
WaitFor = Annotated[
    Wait,
    typer.Option(
        "--wait",
        help="`broker`: until the broker has it. `device`: until the device has said its last word. `none`: until it "
        "is saved; exit code 3.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        min=0.001,
        max=LONGEST_WAIT,
        metavar="SECONDS",
        help="How long to wait. [default: the gateway's CHAPAR_PUBLISH_TIMEOUT; for the device its time to reply too]",
        show_default=False,
    ),
]
Device = Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="This device only.")]
Operation = Annotated[str | None, typer.Option("--operation", metavar="OPERATION", help="This operation only.")]
Statuses = Annotated[list[Status] | None, typer.Option("--status", help="This state only; may be repeated.")]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Accepted then or later: `15m` ago, `2026-11-24T06:30`, Jalali."),
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Accepted before then.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON as the gateway answers it, for programs.")]

_SPAN = re.compile(r"(\d+) ?([smhd])")
_DATE = re.compile(r"(\d{4})[-/](\d\d?)[-/](\d\d?)(?!\d)")
_JALALI = range(1348, 1440)  # years from 1970 to 2061; a later number is rather a year of the lunar calendar
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Filters(NamedTuple):
    """Conditions on messages; what is None or empty does not narrow."""

    imei: str | None = None
    micro_op: str | None = None
    status: tuple[Status, ...] = ()
    since: datetime | None = None
    until: datetime | None = None


def filters_of(
    device: str | None, operation: str | None, status: list[Status] | None, since: str | None, until: str | None
) -> Filters:
    """The filters that the options say; raises FieldInvalid, UsageInvalid."""
    return Filters(
        imei=None if device is None else check_device_id(device, "--device"),
        micro_op=None if operation is None else check_operation(operation, "--operation"),
        status=tuple(status or ()),
        since=moment("--since", since),
        until=moment("--until", until),
    )


def exit_code(status: object, *, is_done: bool) -> int:
    """Return how a command ends that waited for a message: by the device's word, where it has said its last."""
    if status == Status.FAILED:
        return FAILED
    return 0 if is_done else ACCEPTED


def seconds(option: str, text: str | None) -> float | None:
    """The seconds that `text` means: `90`, `30s`, `15m`, `2h`, `7d`. Raises UsageInvalid."""
    if text is None:
        return None
    text = ascii_digits(text)
    span = _SPAN.fullmatch(text if text[-1:].isalpha() else f"{text}s")
    if span is None:
        raise UsageInvalid(Phrase("usage.span", option=option))
    return float(span[1]) * _SECONDS[span[2]]


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


def device_query(
    presence: State | None, labels: Sequence[str] | None, profile: Profile | None, search: str | None
) -> dict[str, str | list[str]]:
    """Conditions on devices as a gateway takes them; raises FieldInvalid."""
    given = {"presence": presence, "profile": profile, "q": search}
    return {
        "label": [":".join(read_label(text, "--label")) for text in labels or ()],
        **{name: str(value) for name, value in given.items() if value is not None},
    }
