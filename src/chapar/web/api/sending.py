"""The answer to one message, whether it came alone or in bulk."""

from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

import orjson
from fastapi import Response
from pydantic import ValidationError

from chapar.delivery import outcomes
from chapar.delivery.idempotency import Replay, Use
from chapar.delivery.messages import Messaging
from chapar.errors import BodyTooDeep, ChaparError, FieldInvalid, Language, NotSent, Phrase
from chapar.model.json_text import MAX_PARAMS_DEPTH, depth_of, parse
from chapar.model.message import Command, Message, Status, Wait
from chapar.model.principal import Caller
from chapar.web.api.schemas import SendRequest, reply_json
from chapar.web.http.problems import PROBLEM_TYPE, invalid, problem, status_of

_JSON: Final = (b"content-type", b"application/json")
_PROBLEM: Final = (b"content-type", PROBLEM_TYPE.encode())
MAX_DEPTH: Final = 64  # levels; parameters have 32 of them

_FIRST_ERROR: Final = 400  # RFC 9110 §15.5


class Answer(NamedTuple):
    """The answer about one message."""

    status: int
    body: bytes  #: JSON
    message_id: str | None = None
    is_replay: bool = False  #: whether this is the answer of an earlier request with the same key
    language: Language | None = None  #: of the sentence in it

    def response(self, root_path: str, *headers: tuple[bytes, bytes]) -> Response:
        """The answer as an HTTP response of its own."""
        said = [*headers, _PROBLEM if self.status >= _FIRST_ERROR else _JSON]
        if self.message_id is not None:
            said.append((b"location", f"{root_path}/messaging/messages/{self.message_id}".encode()))
        if self.is_replay:
            said.append((b"idempotency-replayed", b"true"))
        if self.language is not None:
            said += [(b"content-language", self.language.encode()), (b"vary", b"Accept-Language")]
        return _Prepared(self.status, said, self.body)


class _Prepared(Response):
    """A response whose head is ready. Starlette's takes text, and looks for what may be missing."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status_code = status
        self.body = body
        self.raw_headers = [*headers, (b"content-length", b"%d" % len(body))]
        self.background = None


def read_command(body: bytes) -> Command:
    """The command in a JSON body; raises RequestError."""
    depth = depth_of(body)
    if depth > MAX_DEPTH:
        raise BodyTooDeep(MAX_DEPTH)
    try:
        request = SendRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from None
    command = request.command()
    if depth > 1 + MAX_PARAMS_DEPTH:  # no other field holds lists or objects
        raise FieldInvalid("params", Phrase("rule.params_depth", limit=MAX_PARAMS_DEPTH))
    # The schema cannot see fields given twice. With no more colons than fields there are none.
    if body.count(b":") > len(request.model_fields_set):
        parse(body)
    return command


async def send(messaging: Messaging, caller: Caller, command: Command, use: Use | None, language: Language) -> Answer:
    """Send a message and answer; the answer to the first use of a key is kept before it is given.

    Raises what `Messaging.send` raises, but for NotSent, which is an answer.
    """
    try:
        if use is not None:
            return _given(await messaging.send_once(caller, command, use, partial(answer_to, command.wait, language)))
        return sent_answer(await messaging.send(caller, command), command.wait)
    except NotSent as error:
        return refusal(error, language)


async def send_all(
    messaging: Messaging, caller: Caller, requests: Sequence[tuple[Command, Use | None]], language: Language
) -> list[Answer | ChaparError]:
    """Send many messages, all with a use of a key or none; give of each what `send` would have returned or raised.

    All wait for the same.
    """
    wait = requests[0][0].wait
    keyed = [(command, use) for command, use in requests if use is not None]
    if keyed:
        return [
            each if isinstance(each, ChaparError) else _given(each)
            for each in await messaging.send_all_once(caller, keyed, partial(answer_to, wait, language))
        ]
    sent = await messaging.send_all(caller, [command for command, _ in requests])
    return [each if isinstance(each, ChaparError) else sent_answer(each, wait) for each in sent]


def answer_to(wait: Wait, language: Language, sent: Message | NotSent) -> Answer:
    """The answer to who waits for `wait`: 201, 202 or 406."""
    return refusal(sent, language) if isinstance(sent, NotSent) else sent_answer(sent, wait)


def _given(given: Answer | Replay) -> Answer:
    if isinstance(given, Answer):
        return given
    return Answer(given.status, given.body.encode(), given.message_id, is_replay=True)


def sent_answer(message: Message, wait: Wait) -> Answer:
    """201 where what is waited for is proven, else 202."""
    is_proven = outcomes.is_proven(message, wait)
    body: dict[str, object] = {
        "detail": f"Send `{message.micro_op}` to topic `{message.topic}`",
        "id": message.id,
        "status": str(message.status),  # plain: a member of an enum takes longer to write
        "topic": message.topic,
    }
    if is_proven:
        body["subscribers"] = message.subscribers
    else:
        body["detail"] = f"Accepted `{message.micro_op}` for topic `{message.topic}`"
        if message.status is Status.QUEUED and message.reason is not None:
            body["reason"] = message.reason
    if message.reply is not None:
        body["reply"] = orjson.Fragment(reply_json(message.reply))
    return Answer(201 if is_proven else 202, orjson.dumps(body), message.id)


def refusal(error: ChaparError, language: Language, line: int | None = None) -> Answer:
    """The problem document of an error; `line`: where in the body its message stands."""
    message_id = error.id if isinstance(error, NotSent) else None
    return Answer(status_of(error), orjson.dumps(problem(error, language, line)), message_id, language=language)
