"""What is counted outside the library is shown as the library would show it."""

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from chapar.runtime.metrics import Metrics

DURATIONS = (0.0, 0.0004, 0.0005, 0.00051, 0.001, 0.7, 10.0, 10.1, 3600.0)


def shown(metrics: Metrics, stage: str) -> list[str]:
    lines = metrics.exposition().decode().splitlines()
    return [line for line in lines if line.startswith("chapar_stage_seconds") and f'stage="{stage}"' in line]


def test_stages_fall_into_the_same_buckets_as_the_librarys_own() -> None:
    metrics = Metrics()
    registry = CollectorRegistry()
    buckets = [float(line.partition('le="')[2].partition('"')[0]) for line in shown(metrics, "whole") if "le=" in line]
    own = Histogram("chapar_stage_seconds", "", ["stage"], buckets=buckets, registry=registry)
    for seconds in DURATIONS:
        metrics.whole.observe(seconds)
        own.labels("whole").observe(seconds)
    expected = [line for line in generate_latest(registry).decode().splitlines() if "whole" in line]
    assert shown(metrics, "whole") == expected
    assert shown(metrics, "whole") == expected, "handed over once"
    assert shown(metrics, "commit")[-1].endswith(" 0.0")
