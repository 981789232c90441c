"""How long and how often is measured."""

from typing import NamedTuple


class Plan(NamedTuple):
    """One run of the benchmark."""

    connections: tuple[int, ...]  #: callers at a time, on SQLite
    connections_postgres: tuple[int, ...]
    seconds: int  #: of one run of wrk
    pairs: int  #: runs of each kind, taken in turns
    bulk_calls: int  #: of 1,000 messages
    sends_for_memory: int
    seconds_for_memory: int  #: after which fewer must do
    rows: int  #: in the table that is called full
    with_listener: bool  #: whether it is repeated with a device listening


FULL = Plan((1, 16, 64, 256), (1, 16, 64, 256), 5, 3, 40, 1_000_000, 600, 10_000_000, with_listener=True)
SHORT = Plan((1, 16, 64, 256), (64,), 1, 3, 8, 100_000, 8, 100_000, with_listener=False)
