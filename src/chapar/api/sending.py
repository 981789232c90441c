"""The answer to one message, whether it came alone or in bulk."""

from contextlib import nullcontext
from typing import Final, NamedTuple

from fastapi import Response
from pydantic import ValidationError
from pydantic_core import to_json

from chapar.api.body import check_depth, parse
from chapar.api.limits import Limits
from chapar.api.problems import PROBLEM_TYPE, invalid, problem, status_of
from chapar.api.schemas import SendRequest
from chapar.errors import ChaparError, Language, NotSent
from chapar.gateway import Gateway, Replay, Use
from chapar.message import Command, Message, Status, Wait
from chapar.principal import Caller

_JSON: Final = "application/json"
_FIRST_ERROR: Final = 400  # RFC 9110 §15.5


class Answer(NamedTuple):
    """What a caller is told of one message."""

    status: int
    body: bytes  #: JSON
    message_id: str | None = None
    is_replay: bool = False  #: whether this is the answer of an earlier request with the same key
    language: Language | None = None  #: of the sentence in it

    def response(self, **headers: str) -> Response:
        """The answer as an HTTP response of its own."""
        if self.message_id is not None:
            headers["Location"] = f"/messaging/messages/{self.message_id}"
        if self.is_replay:
            headers["Idempotency-Replayed"] = "true"
        if self.language is not None:
            headers |= {"Content-Language": self.language, "Vary": "Accept-Language"}
        return Response(self.body, self.status, headers, PROBLEM_TYPE if self.status >= _FIRST_ERROR else _JSON)


def read_command(body: bytes) -> Command:
    """The command in a JSON body; raises RequestError."""
    check_depth(body)
    try:
        command = SendRequest.model_validate_json(body).command()
    except ValidationError as error:
        raise invalid(error) from None
    parse(body)  # for what the schema cannot see: fields given twice
    return command


class Sending:
    """Sends what callers ask for, within their limits, and answers."""

    def __init__(self, gateway: Gateway, limits: Limits) -> None:
        self._gateway = gateway
        self._limits = limits

    async def send(self, caller: Caller, command: Command, use: Use | None, language: Language) -> Answer:
        """Send a message and answer; the answer to the first use of a key is kept before it is given.

        Raises RateLimited, and what `Gateway.send` raises, but for NotSent, which is an answer.
        """
        try:
            with nullcontext() if command.wait is Wait.NONE else self._limits.waiting(caller):
                sent = await self._gateway.send(caller, command, use=use)
        except NotSent as error:
            answer = refusal(error, language)
        else:
            if isinstance(sent, Replay):
                return _replayed(sent)
            answer = sent_answer(sent)
        if use is not None:
            replay = await self._gateway.answered(use, answer.status, answer.body.decode())
            if replay is not None:
                return _replayed(replay)
        return answer


def _replayed(replay: Replay) -> Answer:
    return Answer(replay.status, replay.body.encode(), replay.message_id, is_replay=True)


def sent_answer(message: Message) -> Answer:
    """201 where the broker has the message, else 202."""
    body: dict[str, object] = {
        "detail": f"Send `{message.micro_op}` to topic `{message.topic}`",
        "id": message.id,
        "status": message.status.value,
        "topic": message.topic,
    }
    if message.status is Status.PUBLISHED:
        body["subscribers"] = message.subscribers
        return Answer(201, to_json(body), message.id)
    body["detail"] = f"Accepted `{message.micro_op}` for topic `{message.topic}`"
    return Answer(202, to_json(body), message.id)


def refusal(error: ChaparError, language: Language) -> Answer:
    """The problem document of an error."""
    message_id = error.id if isinstance(error, NotSent) else None
    return Answer(status_of(error), to_json(problem(error, language)), message_id, language=language)
