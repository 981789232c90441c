"""The results for people, in Markdown."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple
from statistics import median

from benchmarks import comparators
from benchmarks.beside import READERS
from benchmarks.figures import Check, Memory, OnDatabase, Results, Row
from benchmarks.load import p50_of, p99_of, rate_of
from benchmarks.measuring import BULK_CALLERS, CONNECTIONS
from benchmarks.sends import MEMORY_FROM
from benchmarks.targets import Target, table

_COLUMNS = (
    *("connections", "sends/s", "p50 ms", "p99 ms", "empty endpoint/s", "p50 ms", "p99 ms"),
    *("ratio", "gateway µs", "writer µs", "failed"),
)
_NOTE = (
    "Every 201 is two commits and a PUBACK between them; no device listens, unless a line says so. "
    "Rates and times are medians of {pairs} runs of {seconds} s, taken in turns with the empty endpoint. On a shared "
    "machine they move by tens of percent from hour to hour; the **ratio**, whose two sides ran within seconds of each "
    "other, is what to compare. Gateway and writer µs are processor time per send (user and system)."
)


def markdown(results: Results) -> str:
    """The whole report."""
    return "\n".join([*_lines(results), ""])


def _lines(results: Results) -> Iterator[str]:
    yield "# Chapar, measured"
    yield ""
    yield " · ".join(f"{name} {value}" for name, value in results.machine.items())
    yield ""
    yield _NOTE.format(pairs=results.plan.pairs, seconds=results.plan.seconds)
    for name, found in (("SQLite", results.sqlite), ("PostgreSQL", results.postgres)):
        if found.rows:
            yield from ("", f"## {name}", "", *_database(found))
    yield from ("", "## What was asked", "", *table(_targets(results)))
    yield from ("", "## Whether this may be believed", "", *_verdict(results))


def _targets(results: Results) -> Iterator[Target]:
    """The targets of the themes asked for, also where a figure is missing."""
    if "sends" in results.themes:
        yield from _targets_of_sends(results.sqlite)
    if "others" in results.themes:
        for comparator in comparators.ALL:
            pairs = results.others.get(comparator.name)
            yield Target(f"sends at 64 ÷ {comparator.name}", pairs.ratio if pairs else None, comparator.target)
    if "databases" in results.themes:
        yield Target("PostgreSQL ÷ SQLite", results.databases.ratio if results.databases else None, 0.8)
    if "rows" in results.themes:
        found, count = results.rows, f"{results.plan.rows:,}"
        yield Target(f"rate with {count} rows ÷ with none", found.sends.ratio if found.sends else None, 0.9)
        page = found.pages.p99 if found.pages else None
        yield Target("p99 of a filtered page there", page, 20, " ms", at_most=True)
        message = found.messages.p99 if found.messages else None
        yield Target("p99 of one message by id there", message, 20, " ms", at_most=True)
        beside = found.reading.ratio if found.reading else None
        yield Target(f"rate beside {READERS} slow readers ÷ without", beside, 0.9)


def _targets_of_sends(found: OnDatabase) -> Iterator[Target]:
    one, at_64, bulk, memory = found.at(1), found.at(CONNECTIONS), found.bulk, found.memory
    ratio = at_64.pairs.ratio if at_64 else None
    yield Target("sends at 64 connections ÷ empty FastAPI endpoint", ratio, 1.25)
    of_floor = one.of_floor if one else None
    yield Target("one connection: p50 ÷ (endpoint + fsync + PUBACK)", of_floor, 1.5, at_most=True)
    times_as_many = bulk.rate / rate_of(at_64.pairs.first) if bulk and at_64 else None
    yield Target("bulk, messages/s ÷ sends/s at 64", times_as_many, 4)
    of_send = sum(astuple(at_64.processor)) if at_64 else None
    yield Target("processor time of a send", of_send, 110, " µs", at_most=True)
    of_message = sum(astuple(bulk.processor)) if bulk else None
    yield Target("processor time of a message in bulk", of_message, 30, " µs", at_most=True)
    grown = (sum(memory.after) - sum(memory.before)) / 2**20 if memory else None
    note = f"over {memory.sends:,} sends" if memory else ""
    yield Target("memory grown", grown, 10, " MiB", at_most=True, note=note)


def _database(found: OnDatabase) -> Iterator[str]:
    yield from (*_table(found.rows), "")
    one, bulk = found.at(1), found.bulk
    if one is not None:
        yield _one_caller(one)
    if bulk is not None:
        yield (
            f"- bulk, 1,000 messages a call, {BULK_CALLERS} callers: {bulk.rate:,.0f} messages/s; "
            f"gateway {bulk.processor.gateway:.0f} µs, writer {bulk.processor.writer:.0f} µs a message"
        )
    if found.listening is not None:
        yield (
            f"- with a device listening to all at 64 connections: {rate_of(found.listening.first):,.0f} sends/s, "
            f"without {rate_of(found.listening.second):,.0f}"
        )
    if found.memory is not None:
        yield _memory(found.memory)


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield f"| {' | '.join(_COLUMNS)} |"
    yield f"|{' ---: |' * len(_COLUMNS)}"
    for row in rows:
        sides = " | ".join(
            f"{rate_of(loads):,.0f} | {p50_of(loads):.2f} | {p99_of(loads):.1f}"
            for loads in (row.pairs.first, row.pairs.second)
        )
        times = f"{row.processor.gateway:.0f} | {row.processor.writer:.0f}"
        yield f"| {row.connections} | {sides} | **{row.pairs.ratio:.2f}** | {times} | {row.pairs.failed} |"


def _one_caller(row: Row) -> str:
    """What one caller waits for, next to what cannot be avoided."""
    sent, empty = p50_of(row.pairs.first), p50_of(row.pairs.second)
    fsync, puback = (median(times) for times in zip(*(astuple(floor) for floor in row.floors), strict=True))
    floor = empty + fsync + puback
    return (
        f"- one connection: p50 {sent:.2f} ms. Empty endpoint {empty:.2f} + one fsync {fsync:.2f} + one PUBACK "
        f"{puback:.2f} = {floor:.2f} ms; with the second commit's fsync {floor + fsync:.2f} ms"
    )


def _memory(memory: Memory) -> str:
    grown = [
        f"{who} {before / 2**20:.0f} to {after / 2**20:.0f} MiB"
        for who, before, after in zip(("gateway", "writer"), memory.before, memory.after, strict=True)
    ]
    return f"- memory from {MEMORY_FROM:,} sends on, over {memory.sends:,} more: {', '.join(grown)}"


def _verdict(results: Results) -> Iterator[str]:
    for what, why in results.failures.items():
        yield f"- **FAILED**: {what}: {' '.join(why.split())}"
    for sentence in results.missing:
        yield f"- not installed: {sentence}"
    for name, check in results.checks.items():
        yield _check(name, check)
    yield f"- answers that should not have come, in the figures above: {results.failed}"
    yield f"- all in all: **{'Sound' if results.sound else 'NOT SOUND'}**"


def _check(name: str, check: Check) -> str:
    statuses = ", ".join(f"{count:,} {status}" for status, count in check.statuses.items())
    return (
        f"- {name}: {check.created:,} answers 201, {check.rows:,} rows ({statuses}), {check.failed} failures. wrk "
        f"hangs up on up to {check.cut_short:,} sends at the ends of its runs; these are delivered too. "
        f"**{'Sound' if check.sound else 'NOT SOUND'}**"
    )
