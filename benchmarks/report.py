"""The results for people, in Markdown."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple

from benchmarks import comparators
from benchmarks.beside import READERS
from benchmarks.figures import OnDatabase, Results
from benchmarks.load import Row, p50_of, p99_of, rate_of
from benchmarks.measuring import BULK_CALLERS, CONNECTIONS, MEMORY_FROM, Memory
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
    if results.sqlite is not None:
        yield from _database("SQLite", results.sqlite)
        yield from _one_caller(results, results.sqlite)
    if results.postgres is not None:
        yield from _database("PostgreSQL", results.postgres)
    yield from ("", "## What was asked", "", *table(_targets(results)))


def _targets(results: Results) -> Iterator[Target]:
    at_64 = results.sqlite and results.sqlite.at(CONNECTIONS)
    if results.sqlite is not None and at_64 is not None:
        yield Target("sends at 64 connections ÷ empty FastAPI endpoint", at_64.ratio, 1.25)
    for comparator in comparators.ALL:
        if comparator.name in results.others:
            pairs = results.others[comparator.name]
            measured = pairs and pairs.ratio
            yield Target(f"… ÷ {comparator.name}", measured, comparator.target, note="" if pairs else "not installed")
    if results.sqlite is not None and at_64 is not None:
        bulk, memory = results.sqlite.bulk, results.sqlite.memory
        sent, floor = _one_caller_waits(results, results.sqlite)
        yield Target("one connection: p50 ÷ (endpoint + fsync + PUBACK)", sent / floor, 1.5, at_most=True)
        yield Target("bulk, messages/s ÷ sends/s at 64", bulk.rate / rate_of(at_64.sends), 4)
        yield Target("processor time of a send", sum(astuple(at_64.processor)), 110, " µs", at_most=True)
        yield Target("processor time of a message in bulk", sum(astuple(bulk.processor)), 30, " µs", at_most=True)
        if memory is not None:
            grown = (sum(memory.after) - sum(memory.before)) / 2**20
            note = f"over {memory.sends:,} sends"
            yield Target("memory grown", grown, 10, " MiB", at_most=True, note=note)
    if results.databases is not None:
        yield Target("PostgreSQL ÷ SQLite", results.databases.ratio, 0.8)
    if results.rows is not None:
        rows = results.rows
        yield Target(f"rate with {rows.rows:,} rows ÷ with none", rows.sends.ratio, 0.9)
        yield Target("p99 of a filtered page there", rows.page, 20, " ms", at_most=True)
        yield Target("p99 of one message by id there", rows.message, 20, " ms", at_most=True)
        yield Target(f"rate beside {READERS} slow readers ÷ without", rows.reading.ratio, 0.9)


def _database(name: str, found: OnDatabase) -> Iterator[str]:
    yield from ("", f"## {name}", "", *_table(found.rows), "")
    bulk = found.bulk
    yield (
        f"- bulk, 1,000 messages a call, {BULK_CALLERS} callers: {bulk.rate:,.0f} messages/s; "
        f"gateway {bulk.processor.gateway:.0f} µs, writer {bulk.processor.writer:.0f} µs a message"
    )
    if found.listening is not None:
        unheard, heard = found.listening
        yield (
            f"- with a device listening to all at 64 connections: {rate_of(heard):,.0f} sends/s, "
            f"without {rate_of(unheard):,.0f}"
        )
    if found.memory is not None:
        yield _memory(found.memory)
    yield _check(found)


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield f"| {' | '.join(_COLUMNS)} |"
    yield f"|{' ---: |' * len(_COLUMNS)}"
    for row in rows:
        sides = " | ".join(
            f"{rate_of(loads):,.0f} | {p50_of(loads):.2f} | {p99_of(loads):.1f}" for loads in (row.sends, row.empty)
        )
        times = f"{row.processor.gateway:.0f} | {row.processor.writer:.0f}"
        yield f"| {row.connections} | {sides} | **{row.ratio:.2f}** | {times} | {row.failed} |"


def _one_caller_waits(results: Results, found: OnDatabase) -> tuple[float, float]:
    """What one caller waits for, next to what cannot be avoided; ms."""
    row = found.rows[0]
    return p50_of(row.sends), p50_of(row.empty) + results.fsync + results.puback


def _one_caller(results: Results, found: OnDatabase) -> Iterator[str]:
    sent, floor = _one_caller_waits(results, found)
    empty = floor - results.fsync - results.puback
    yield (
        f"- one connection: p50 {sent:.2f} ms. Empty endpoint {empty:.2f} + one fsync {results.fsync:.2f} + one PUBACK "
        f"{results.puback:.2f} = {floor:.2f} ms; with the second commit's fsync {floor + results.fsync:.2f} ms"
    )


def _memory(memory: Memory) -> str:
    grown = [
        f"{who} {before / 2**20:.0f} to {after / 2**20:.0f} MiB"
        for who, before, after in zip(("gateway", "writer"), memory.before, memory.after, strict=True)
    ]
    return f"- memory from {MEMORY_FROM:,} sends on, over {memory.sends:,} more: {', '.join(grown)}"


def _check(found: OnDatabase) -> str:
    statuses = ", ".join(f"{count:,} {status}" for status, count in found.statuses.items())
    return (
        f"- checked afterwards: {found.created:,} answers 201, {found.kept:,} rows ({statuses}), "
        f"{found.failed} failures. wrk hangs up on up to {found.cut_short:,} calls at the ends of its runs; "
        f"these are delivered too. **{'Sound' if found.sound else 'NOT SOUND'}**"
    )
