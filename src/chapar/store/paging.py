"""Ends of pages: at the limit of rows, or before it, where their text would take too much memory."""

from collections.abc import Iterable
from itertools import accumulate, islice, takewhile
from typing import Final

PAGE_BYTES: Final = 256 * 1024
"""Bytes of text on a page of more than one row. A client who does not take the answer keeps a page in memory, and there
a character may take four times as much."""


def how_many_fit(sizes: Iterable[int], limit: int) -> int:
    """Count the first rows, at most `limit`, that are within `PAGE_BYTES` of text; one always is."""
    totals = takewhile(lambda total: total <= PAGE_BYTES, islice(accumulate(sizes), limit))
    return max(1, sum(1 for _ in totals))
