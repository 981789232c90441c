"""Every sentence stands in both catalogs, is filled in as it asks for, and stands nowhere else."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from string import Formatter

import pytest

from chapar.cli.sentences import SENTENCES
from chapar.errors import (
    CATALOGS,
    AccessError,
    BodyTooSlow,
    BrokerRefused,
    BrokerSilent,
    BrokerUnanswered,
    Catalogs,
    ChaparError,
    DatabaseFileGone,
    FieldInvalid,
    LinkError,
    NoAnswer,
    Phrase,
    PortTaken,
    PublicationInvalid,
    QueueFull,
    RateLimited,
    RequestError,
    StoreError,
    StoreUnavailable,
    Text,
)
from chapar.model.times import span
from chapar.web.console.words import WORDS

SOURCE = Path(__file__).parents[2] / "src" / "chapar"
FAMILIES = {AccessError, LinkError, RequestError, StoreError}  # never raised themselves, so without a sentence
ENGLISH, PERSIAN = CATALOGS["en"], CATALOGS["fa"]


def every_error(kind: type[ChaparError] = ChaparError) -> Iterator[type[ChaparError]]:
    if kind.__module__.startswith("chapar.errors."):
        yield kind
    for child in kind.__subclasses__():
        yield from every_error(child)


def placeholders(text: Text) -> set[str]:
    """What a sentence names, with how it is shown."""
    forms = [text] if isinstance(text, str) else list(text.values())
    return {f"{name}:{spec}" for form in forms for _, name, spec, _ in Formatter().parse(form) if name is not None}


def names(key: str, catalog: Mapping[str, Text] = ENGLISH) -> set[str]:
    """The facts that a sentence needs."""
    counted = set() if isinstance(catalog[key], str) else {"count"}
    return counted | {placeholder.partition(":")[0] for placeholder in placeholders(catalog[key])}


@cache
def calls() -> list[tuple[Path, ast.Call]]:
    """Every call of the source, behind its file."""
    trees = [(file, ast.parse(file.read_text())) for file in SOURCE.rglob("*.py")]
    return [(file, node) for file, tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]


def phrases(function: str = "Phrase") -> Iterator[tuple[str, str, set[str]]]:
    """Every `Phrase(…)` of the source: where, its key, with `*` for what a family fills in, and its facts' names."""
    for file, call in calls():
        if isinstance(call.func, ast.Name) and call.func.id == function:
            for key in keys_of(call.args[0]):
                yield f"{file.name}:{call.lineno}", key, {str(fact.arg) for fact in call.keywords}


def keys_of(key: ast.expr) -> list[str]:
    return [*keys_of(key.body), *keys_of(key.orelse)] if isinstance(key, ast.IfExp) else [key_of(key)]


def key_of(key: ast.expr) -> str:
    if isinstance(key, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in key.values)
    assert isinstance(key, ast.Constant), ast.unparse(key)
    return str(key.value)


def test_persian_stands_in_the_catalogs_alone() -> None:
    for file in SOURCE.rglob("*.py"):
        assert not re.search("[\u0600-\u06ff]", file.read_text()), file


@pytest.mark.parametrize("catalogs", [CATALOGS, SENTENCES, WORDS], ids=["errors", "cli", "console"])
def test_both_catalogs_have_the_same_sentences_in_the_same_order(catalogs: Catalogs) -> None:
    assert list(catalogs["en"]) == list(catalogs["fa"])


@pytest.mark.parametrize("catalogs", [CATALOGS, SENTENCES, WORDS], ids=["errors", "cli", "console"])
def test_a_sentence_names_the_same_facts_in_both_languages(catalogs: Catalogs) -> None:
    assert {key: placeholders(text) for key, text in catalogs["en"].items()} == {
        key: placeholders(text) for key, text in catalogs["fa"].items()
    }


@pytest.mark.parametrize("catalogs", [CATALOGS, SENTENCES, WORDS], ids=["errors", "cli", "console"])
def test_each_catalog_is_in_its_language(catalogs: Catalogs) -> None:
    for key, english in catalogs["en"].items():
        has_words = re.search("[a-z]", re.sub(r"{.*?}", "", str(english)))
        assert not has_words or re.search("[\u0600-\u06ff]", str(catalogs["fa"][key])), key
        assert not re.search("[\u0600-\u06ff]", str(english)), key


@pytest.mark.parametrize("error", sorted(set(every_error()) - FAMILIES, key=str), ids=lambda error: error.__name__)
def test_every_error_has_its_own_sentence_and_the_facts_for_it(error: type[ChaparError]) -> None:
    assert "code" in vars(error)
    facts = {field.name for field in fields(error)} | {
        name for kind in error.__mro__ for name, value in vars(kind).items() if isinstance(value, property)
    }
    assert names(f"error.{error.code}") <= facts


def test_no_fact_of_an_error_is_an_english_phrase() -> None:
    errors = {error.__name__ for error in every_error()} | {"Phrase"}
    for file, call in calls():
        if getattr(call.func, "id", "") in errors:
            facts = [*call.args, *(fact.value for fact in call.keywords)]
            texts = [part.value for fact in facts for part in ast.walk(fact) if isinstance(part, ast.Constant)]
            assert not [text for text in texts if re.search("[a-z] [a-z]", str(text))], f"{file}:{call.lineno}"


def test_no_two_errors_share_a_code() -> None:
    codes = [error.code for error in every_error()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize(("place", "key", "facts"), list(phrases()))
def test_every_phrase_is_in_the_catalogs_and_has_the_facts_for_it(place: str, key: str, facts: set[str]) -> None:
    family = [known for known in ENGLISH if re.fullmatch(re.escape(key).replace(r"\*", r"\w+"), known)]
    assert family, place
    if "*" in key:
        assert "None" in facts or all(names(known) <= facts for known in family), place  # `**facts` are somebody else's
    else:
        assert names(key) == facts, place


def test_every_sentence_is_used() -> None:
    used = {f"error.{error.code}" for error in every_error()}
    for _, key, _ in phrases():
        used |= {known for known in ENGLISH if re.fullmatch(re.escape(key).replace(r"\*", r"\w+"), known)}
    assert set(ENGLISH) <= used


@pytest.mark.parametrize(("place", "key", "facts"), list(phrases("say")))
def test_every_sentence_of_a_command_is_in_its_catalogs_and_has_the_facts_for_it(
    place: str, key: str, facts: set[str]
) -> None:
    english = SENTENCES["en"]
    family = [known for known in english if re.fullmatch(re.escape(key).replace(r"\*", r"\w+"), known)]
    assert family, place
    assert "None" in facts or all(names(known, english) <= facts for known in family), place


def test_every_sentence_of_a_command_is_said() -> None:
    said = [re.escape(key).replace(r"\*", r"\w+") for _, key, _ in phrases("say")]
    worded = [rf"{kind}\.\w+" for _, kind, _ in phrases("word")]
    assert [key for key in SENTENCES["en"] if not any(re.fullmatch(known, key) for known in said + worded)] == []


@pytest.mark.parametrize(
    ("error", "english", "persian"),
    [
        (NoAnswer("mqtt://b", Phrase("link.step_tls"), 5.0), "the TLS handshake within 5 s", "در ۵ ثانیه به آغاز TLS"),
        (BrokerSilent("mqtt://b:1883", 15.04321), "silent for 15.0 s", "۱۵٫۰ ثانیه"),
        (BrokerUnanswered("mqtt://b:1883", 29.6), "for 30 s", "۳۰ ثانیه"),
        (BodyTooSlow(10.0), "within 10 s", "در ۱۰ ثانیه"),
        (BrokerRefused("id", "Quota exceeded", 0x97), "Quota exceeded (0x97)", "Quota exceeded (0x97)"),
        (PublicationInvalid("size", 1000, 1234, 0x95), "is 1000, and", "پیام ۱۲۳۴ دارد"),
        (PortTaken("127.0.0.1", 8000, "CHAPAR_PORT"), "Port 8000 on", "درگاه 8000 روی"),
        (QueueFull("CHAPAR_MAX_QUEUE", 20, "0197", 3), "the oldest is 0197.", "می‌دهد و قدیمی‌ترین آن‌ها 0197 است."),
        (QueueFull("CHAPAR_MAX_QUEUE", 20, None, 3), "unfinished messages. Try", "۲۰ پیام ناتمام می‌دهد. ۳ ثانیهٔ"),
        (FieldInvalid("name", Phrase("rule.name", limit=100)), "must be 1 to 100 pr", "باید ۱ تا ۱۰۰ نویسهٔ"),
        (StoreUnavailable(DatabaseFileGone("c.db")), "read now: c.db was", "خوانده نمی‌شود: فایل c.db"),
        (QueueFull("CHAPAR_MAX_QUEUE", 1, None, 3), "allows 1 unfinished message.", "۱ پیام ناتمام می‌دهد"),
        (StoreUnavailable("It sleeps."), "It sleeps. Try again;", "It sleeps. دوباره تلاش کنید؛"),
        (RateLimited("X", Phrase("limit.messages", count=1, seconds=5), 3), "1 message in 5 s", "۱ پیام در ۵ ثانیه"),
        (FieldInvalid("x", Phrase("rule.too_far", longest=span(86_400))), "at most 1 day ahead", "تا ۱ روز دیگر"),
        (FieldInvalid("x", Phrase("rule.too_far", longest=span(30 * 86_400.0))), "30 days", "تا ۳۰ روز دیگر"),
        (FieldInvalid("x", Phrase("rule.too_far", longest=span(5400))), "90 minutes", "تا ۹۰ دقیقه"),
        (FieldInvalid("x", Phrase("rule.too_far", longest=span(0.5))), "0.5 seconds", "تا ۰٫۵ ثانیه"),
    ],
)  # fmt: skip
def test_facts_are_said_as_a_reader_of_the_language_expects(error: ChaparError, english: str, persian: str) -> None:
    assert english in error.sentence("en")
    assert str(error) == error.sentence("en")
    assert persian in error.sentence("fa")


def test_to_try_again_is_said_where_waiting_helps() -> None:
    assert "Try again" not in StoreUnavailable(DatabaseFileGone("c.db")).sentence("en")
    limit = Phrase("limit.messages", count=5, seconds=5)
    assert "try again in 3 s" in RateLimited("X", limit, 3).sentence("en")
    too_many = RateLimited("X", limit, 3, fits=False)
    assert "try again" not in too_many.sentence("en")
    assert "دوباره تلاش کنید" not in too_many.sentence("fa")


@pytest.mark.parametrize(
    ("count", "english", "persian"),
    [(1, "There is 1 more.", "۱ خطای دیگر هم هست."), (2, "There are 2 more.", "۲ خطای دیگر هم هست.")],
)
def test_words_that_depend_on_a_number_follow_it(count: int, english: str, persian: str) -> None:
    phrase = Phrase("part.further", count=count)
    assert (phrase.sentence("en"), phrase.sentence("fa")) == (english, persian)
