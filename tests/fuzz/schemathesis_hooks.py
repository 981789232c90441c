"""What schemathesis has to be told about this API: how NDJSON is written, and which rules no schema can say."""

import atexit
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, Final

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import RejectedPositiveData

_BEYOND_SCHEMAS: Final = {
    "field_invalid": {
        "collapse_key",
        "deliver",
        "deliver_at",
        "expires_at",
        "expires_in",
        "Last-Event-ID",
        "label",
        "labels",
        "micro_op",
        "name",
        "only_if_online",
        "operations",
        "params",
        "reply_within",
        "since",
        "wait",
    },
    "events_gone": set[str](),
    "idempotency_key_mismatch": set[str](),
    "idempotency_key_in_flight": set[str](),
    "expired": set[str](),
    "presence_unknown": set[str](),
    "body_too_deep": set[str](),
    "body_too_large": set[str](),
    "head_too_large": set[str](),
    "target_too_long": set[str](),
}
"""The codes, and for invalid fields the fields, with which a request that fits its schema may be refused."""

_TRUE: Final = frozenset({"true", "t", "1", "yes", "y", "on"})  # as pydantic reads it

_FIRST_ERROR: Final = 400  # RFC 9110 §15.5

_WAITS: Final = ("broker", "device")
_PATIENCE: Final = 0.2  # seconds
_FOREVER: Final = 300  # seconds: the longest wait that the document allows

statuses = Counter[str]()
"""What was answered; written where the campaign looks for it once all is done."""


@atexit.register
def _write_statuses() -> None:
    Path(os.environ["CHAPAR_FUZZ_STATUSES"]).write_text(json.dumps(statuses))


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case, _kwargs: dict[str, Any]) -> None:
    """Nobody ends the key that all of this is done with, nor waits long for what never comes: answers, and events."""
    if case.path == "/events" and str((case.query or {}).get("follow", "true")).lower() in _TRUE:
        case.query = {**(case.query or {}), "follow": "false"}
    if case.path.startswith("/keys/") and (case.path_parameters or {}).get("id") == os.environ["CHAPAR_FUZZ_KEY_ID"]:
        case.path_parameters["id"] = "another"
    for asked in (case.query, case.body):
        if isinstance(asked, dict) and _waits(asked) and _is_long(asked.get("timeout", _FOREVER)):
            asked["timeout"] = _PATIENCE


@schemathesis.hook
def after_call(_context: schemathesis.HookContext, _case: schemathesis.Case, response: schemathesis.Response) -> None:
    statuses[str(response.status_code)] += 1


@schemathesis.hook
def before_load_schema(_context: schemathesis.HookContext, document: dict[str, Any]) -> None:
    """In the short form nothing is said of the largest bulk call: each takes as long as all other requests together."""
    if os.environ["CHAPAR_FUZZ_SHORT"]:
        bodies = document["paths"]["/messaging/bulk"]["post"]["requestBody"]["content"]
        del bodies["application/json"]["schema"]["properties"]["messages"]["maxItems"]


@schemathesis.serializer("application/x-ndjson")
def ndjson(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    """The document can only say that this body is text; what is not text is a message."""
    if isinstance(value, bytes):
        return value
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode(errors="surrogatepass")


@schemathesis.hook
def filter_failure(
    _context: schemathesis.HookContext, failure: Exception, case: schemathesis.Case, response: schemathesis.Response
) -> bool:
    """Whether a failure is a finding."""
    match failure:
        case RejectedPositiveData() if case.media_type == "text/csv":
            return False  # which columns there are, the document can only say in words
        case RejectedPositiveData():
            return not _is_beyond_schemas(json.loads(response.content))
        case AcceptedNegativeData() if case.path == "/messaging/bulk":
            # A bulk call refuses its messages one by one.
            return all(answer["status"] < _FIRST_ERROR for answer in json.loads(response.content)["answers"])
        case _:
            return True


def _waits(asked: dict[str, Any]) -> bool:
    """Whether it says how, or for how long, it waits; what says neither waits some seconds for the broker."""
    return "timeout" in asked or asked.get("wait") in _WAITS


def _is_long(timeout: Any) -> bool:
    """Whether it is a valid time to wait, and longer than ours; what is not valid stays as it is."""
    try:
        return not isinstance(timeout, bool) and _PATIENCE < float(timeout) <= _FOREVER
    except (TypeError, ValueError, OverflowError):
        return False


def _is_beyond_schemas(problem: dict[str, Any]) -> bool:
    fields = {error["field"] for error in problem.get("errors", [])}
    return problem["code"] in _BEYOND_SCHEMAS and fields <= _BEYOND_SCHEMAS[problem["code"]]
