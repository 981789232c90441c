"""What a gateway says of itself at `/metrics`, read with Prometheus's own parser."""

from collections.abc import Mapping

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families


class Measures:
    """One reading. A sample that is not there counts as 0, as it does for Prometheus's `increase`."""

    def __init__(self, text: str) -> None:
        self.families: Mapping[str, Metric] = {family.name: family for family in text_string_to_metric_families(text)}
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self._samples.get((name, frozenset(labels.items())), 0.0)

    def labelled(self, name: str) -> dict[tuple[str, ...], float]:
        """Every sample of this name that is not 0, by the values of its labels in the order of their names."""
        return {
            tuple(value for _, value in sorted(labels)): value
            for (of, labels), value in self._samples.items()
            if of == name and value
        }


def measures(api: httpx.Client) -> Measures:
    answer = api.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Measures(answer.raise_for_status().text)
