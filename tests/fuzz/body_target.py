"""The fuzzer of what reads a request's body: `python -m fuzz.body_target [libFuzzer's options]`."""

import asyncio
import json
import random
import re
import sys
from typing import Final

import atheris
from fastapi import Request
from starlette.types import Message

with atheris.instrument_imports(
    include=[
        "chapar.model.json_text",
        "chapar.web.http.body",
        "chapar.web.api.items",
        "chapar.web.api.rows",
        "chapar.web.api.sending",
        "chapar.web.api.schemas",
        "chapar.model.message",
    ]
):
    from chapar.web.api import items, rows, sending
    from chapar.web.http.body import read_body

from chapar.errors import ChaparError
from chapar.model.message import Command, has_forbidden_character
from chapar.model.principal import ANYBODY, Caller
from chapar.web.http.rates import BodyBudget
from fuzz.bodies import HEAD, MEDIA_TYPES, mutated
from fuzz.streams import chunks

_LIMIT: Final = 64 * 1024
_DEVICE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


async def _take(data: bytes) -> None:
    """Read a body as the routes do; raises AssertionError where what comes of it is neither a command nor a problem."""
    media_type, cut = data[:HEAD].ljust(HEAD, b"\0")
    named = MEDIA_TYPES[media_type % len(MEDIA_TYPES)]
    pieces = list(chunks(data[HEAD:], cut))

    async def receive() -> Message:
        piece = pieces.pop(0) if pieces else b""
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    budget = BodyBudget(largest=_LIMIT, largest_bulk=_LIMIT, each=_LIMIT, together=_LIMIT)
    share = budget.share(Caller(ANYBODY, ""))
    scope = {"type": "http", "headers": [(b"content-type", named.encode())], "body_share": share}
    request = Request(scope, receive)
    try:
        _, body = await read_body(request, MEDIA_TYPES, limit=_LIMIT, setting="LIMIT")
        if media_type >= 2 * len(MEDIA_TYPES):
            _check(body)
        if named == MEDIA_TYPES[2]:
            _check_rows(body)
            return
        for place in items.in_lines(body) if named == MEDIA_TYPES[1] else items.in_list(body):
            if place is not None:
                _check(body[place])
    except ChaparError as error:
        _check_problem(error)


def _check_rows(body: bytes) -> None:
    """Raises ChaparError for a header that is none."""
    places = [place for place in rows.in_rows(body) if place is not None]
    columns = rows.Columns(body[places[0]]) if places else None
    for place in places[1:]:
        assert columns is not None
        try:
            item = columns.message(body[place])
        except ChaparError as error:
            _check_problem(error)
        else:
            assert isinstance(json.loads(item), dict), item
            _check(item)


def _check(item: bytes) -> None:
    try:
        command = sending.read_command(item)
    except ChaparError as error:
        _check_problem(error)
    else:
        _check_command(command)


def _check_command(command: Command) -> None:
    assert _DEVICE_ID.fullmatch(command.imei), command
    assert command.micro_op.strip(), command
    assert not has_forbidden_character(command.micro_op), command
    assert command.params is None or isinstance(json.loads(command.params.encode()), dict), command
    assert command.qos in {0, 1, 2}, command


def _check_problem(error: ChaparError) -> None:
    for language in ("en", "fa"):
        answer = sending.refusal(error, language)
        assert 400 <= answer.status < 500, error
        assert json.loads(answer.body)["reason"], error


def _mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's own mutations, or those that know JSON."""
    source = random.Random(seed)
    if source.random() < 0.3:
        return atheris.Mutate(data, max_size)
    return mutated(data, source)[:max_size]


def main() -> None:
    loop = asyncio.new_event_loop()
    atheris.Setup(sys.argv, lambda data: loop.run_until_complete(_take(data)), custom_mutator=_mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
