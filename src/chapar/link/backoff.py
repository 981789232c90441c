"""How long to wait before the next try."""

import random
from typing import Final

SHORTEST_GAP: Final = 0.1  # seconds
LONGEST_GAP: Final = 5.0  # seconds; what comes back is found within this


def gap(outage: float) -> float:
    """Seconds to wait before the next try, `outage` seconds after it last worked.

    Half the outage, so that gaps grow by 1.5 and what comes back is found after at most half as long again as it
    was away; jittered, so that many gateways do not come back in step.
    """
    return min(max(outage / 2, SHORTEST_GAP), LONGEST_GAP) * random.uniform(0.5, 1)  # noqa: S311 - no secret
