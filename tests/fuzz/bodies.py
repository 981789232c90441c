"""What a caller may send as a body, and how it gets mangled: the input of the body's fuzzer."""

import csv
import io
import json
import random
from typing import Any, Final

HEAD: Final = 2  # bytes in front of the body: its media type, and how it is cut
MEDIA_TYPES: Final = ("application/json", "application/x-ndjson", "text/csv")
_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, 0, -1, 1.0, 1e308, float("nan"), float("inf"), 10**400),
    *("", "861234567890123", "۸۶۱", "a/+#", "\0", "\ud800", "\ufffe", "x" * 1100),
    *("2026-11-25T05:30:00+03:30", "20261125", "broker", "none"),
    *([], {}, [[]], {"a": {"b": [1]}}),
)
_FIELDS: Final = (
    *("imei", "micro_op", "params", "qos", "retain", "at_most_once"),
    *("expires_in", "deliver_at", "wait", "timeout", "messages", "é"),
)
_TOKENS: Final = (
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\u0000", b"\\ud800", b"1e999", b"-", b"\n", b"\r"),
    *(b"\xff", b"\xef\xbb\xbf", b"\x85", b"[" * 2000, b";", b'""', b"params.x", b"9E+18"),
)


def request(source: random.Random) -> bytes:
    """A body that is taken, mostly."""
    fields = {"imei": "861234567890123", "micro_op": "push_down"}
    messages = [fields | _some_fields(source) for _ in range(source.randrange(4))]
    match source.randrange(10):
        case 0:
            body = '{"messages":' + "[" * 1500  # deeper than Python's own stack
        case 1 | 2:
            body = json.dumps(messages[0] if messages else fields)
        case 3 | 4:
            body = json.dumps({"messages": messages})
        case 5 | 6:
            body = _csv(messages, source)
        case _:
            body = source.choice(["\n", "\r\n", "\n\n"]).join(map(json.dumps, messages))
    return source.randbytes(HEAD) + body.encode(errors="surrogatepass")


def mutated(data: bytes, source: random.Random) -> bytes:
    """The same with a value exchanged where it is JSON, or else with a token more or fewer."""
    head, body = data[:HEAD].ljust(HEAD, b"\0"), data[HEAD:]
    if source.random() < 0.2:
        head = source.randbytes(HEAD)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if document is not None and source.random() < 0.7:
        body = json.dumps(_exchanged(document, source), ensure_ascii=source.random() < 0.5).encode(
            errors="surrogatepass"
        )
    else:
        place = source.randrange(len(body) + 1)
        gap = source.choice([0, 0, 1, 5])
        body = body[:place] + source.choice(_TOKENS) + body[place + gap :]
    return head + body


def _csv(messages: list[dict[str, Any]], source: random.Random) -> str:
    columns = list({name: None for message in messages for name in message}) or ["imei"]
    text = io.StringIO(newline="")
    rows = csv.writer(text, delimiter=source.choice(",;\t"), lineterminator=source.choice(["\n", "\r\n"]))
    rows.writerow([column if source.random() < 0.7 else f"params.{column}" for column in columns])
    rows.writerows([str(message.get(column, "")) for column in columns] for message in messages)
    return source.choice(["", "\ufeff"]) + text.getvalue()


def _some_fields(source: random.Random) -> dict[str, Any]:
    return {source.choice(_FIELDS): source.choice(_VALUES) for _ in range(source.randrange(3))}


def _exchanged(value: Any, source: random.Random) -> Any:
    """The value with one of what it holds exchanged, or itself."""
    if isinstance(value, dict) and source.random() < 0.9:
        key = source.choice([*value, source.choice(_FIELDS)])
        return {**value, key: _exchanged(value.get(key), source)}
    if isinstance(value, list) and value and source.random() < 0.9:
        place = source.randrange(len(value))
        return [*value[:place], _exchanged(value[place], source), *value[place + source.randrange(2) :]]
    return source.choice(_VALUES)
