"""Hold what callers were told against what is in the table and what the devices heard."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from support.api import UNFINISHED, Row
from support.devices import Heard
from support.senders import Answer

_SHOWN = 10  # violations in one failure

Hearings = Mapping[str, Sequence[int]]  # message id → the attempts that were heard


def hearings(heard: Iterable[Heard]) -> dict[str, list[int]]:
    """Which attempts at each message were heard. Needs MQTT 5.

    An attempt that the broker itself delivers again after a reconnect (DUP) counts once.
    """
    found: dict[str, list[int]] = {}
    for each in heard:
        properties = dict(each.user_properties)
        assert each.correlation_data is not None
        assert properties["message-id"] == each.correlation_data.decode(), "both carry the message's id"
        attempts = found.setdefault(properties["message-id"], [])
        attempt = int(properties.get("attempt", 1))
        if not (each.dup and attempt in attempts):
            attempts.append(attempt)
    return found


def check_promises(answers: Iterable[Answer], rows: Mapping[str, Row], heard: Hearings) -> Counter[str]:
    """Raise AssertionError naming each broken promise; else count what was promised.

    `rows` is the whole table when everything is over, and `heard` what reached the devices.
    """
    wrong = [f"{row['id']} is still {row['status']}" for row in rows.values() if row["status"] in UNFINISHED]
    told = {}
    tally: Counter[str] = Counter()
    for answer in answers:
        tally[f"{answer.status} {answer.code or ''}".rstrip()] += 1
        if answer.id is not None:
            told[answer.id] = answer
            wrong += _broken(answer, rows.get(answer.id), heard.get(answer.id, ()))
        elif answer.status in {201, 202}:
            wrong.append(f"no id in {answer}")
    operations = {row["micro_op"]: row for row in rows.values()}
    wrong += [
        f"{answer} and yet heard or published: {row}"
        for answer in answers
        if answer.status in {406, 503}
        and (row := operations.get(answer.micro_op))
        and (row["status"] != "rejected" or row["id"] in heard)
    ]
    for message_id, attempts in heard.items():
        wrong += _misheard(message_id, attempts, rows.get(message_id))
    wrong += [
        f"published and never heard: {row}"
        for row in rows.values()
        if row["status"] == "published" and row["id"] not in heard
    ]
    if wrong:
        raise AssertionError("\n".join([f"{len(wrong)} broken promises:", *wrong[:_SHOWN]]))
    tally["heard twice"] = sum(len(attempts) > 1 for attempts in heard.values())
    return tally


def _broken(answer: Answer, row: Row | None, attempts: Sequence[int]) -> list[str]:
    if row is None:
        return [f"no row: {answer}"]
    wrong = []
    if (row["imei"], row["micro_op"]) != (answer.imei, answer.micro_op):
        wrong.append(f"another message: {answer}: {row}")
    match answer.status:
        case 201 if row["status"] != "published" or not attempts:
            wrong.append(f"201, and {row['status']}, heard {attempts}: {row}")
        case 201 if datetime.fromisoformat(row["published_at"]).timestamp() > answer.told_at:
            wrong.append(f"sent again after 201: {row}")
        case 202 if answer.location != f"/messaging/messages/{answer.id}":
            wrong.append(f"Location of {answer}")
        case 406 if row["status"] != "rejected" or attempts:
            wrong.append(f"406, and {row['status']}, heard {attempts}: {row}")
    return wrong


def _misheard(message_id: str, attempts: Sequence[int], row: Row | None) -> list[str]:
    if row is None:
        return [f"{message_id} was heard and is not in the table"]
    wrong = []
    if len(attempts) > 1 and not row["possible_duplicate"]:
        wrong.append(f"heard {attempts} and not marked as possible duplicate: {row}")
    if len(set(attempts)) < len(attempts) or max(attempts) > row["attempts"]:
        wrong.append(f"heard {attempts}, more than the attempts there were: {row}")
    if row["at_most_once"] and len(attempts) > 1:
        wrong.append(f"heard {attempts} and promised at most once: {row}")
    if row["status"] not in {"published", "unconfirmed"}:
        wrong.append(f"heard, and {row['status']}: {row}")
    return wrong
