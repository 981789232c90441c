"""Counters and measures of the gateway, for Prometheus. Every label has a bounded set of values."""

import os
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
WORKERS_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"  # where the workers of one gateway share their values

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_OPERATIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class _Children(dict[tuple[str, ...], Counter]):
    """The counters of a family by their labels; the library looks each up anew, behind a lock."""

    def __init__(self, family: Counter) -> None:
        super().__init__()
        self._family = family

    def __missing__(self, labels: tuple[str, ...]) -> Counter:
        self[labels] = self._family.labels(*labels)
        return self[labels]


class _Histogram(Histogram):
    """The library's histogram, which also takes many observations at once."""

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add observations: how many there were in each bucket, and their sum."""
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        self._sum.inc(total)


class Distribution:
    """Observations of one kind, such as durations of a stage. Counted here: for each, the library takes locks."""

    def __init__(self, histogram: _Histogram, bounds: Sequence[float]) -> None:
        self._histogram = histogram
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, amount: float) -> None:
        """Count one; `hand_over` shows it."""
        self._counts[bisect_left(self._bounds, amount)] += 1
        self._total += amount

    def hand_over(self) -> None:
        """Give the library what was counted since the last time."""
        self._histogram.add(self._counts, self._total)
        self._counts = [0] * len(self._counts)
        self._total = 0.0


class Metrics:
    """The measurements of one process; with `WORKERS_FOLDER` in the environment they are shown for all workers."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # the library has no annotations here
        registry = CollectorRegistry()
        self._registry = registry
        stages = _Histogram(
            "chapar_stage_seconds",
            "How long a stage of a message took.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )

        def stage(name: str) -> Distribution:
            return Distribution(stages.labels(name), _SECONDS)

        self.commit = stage("commit")  #: from the request being checked to its row being committed
        self.publish = stage("publish")  #: from the hand-over to the link to the broker's answer
        self.whole = stage("whole")  #: from the request being checked to its answer
        batches = _Histogram(
            "chapar_commit_batch_operations",
            "Operations that shared a commit.",
            buckets=_OPERATIONS,
            registry=registry,
        )
        self.batches = Distribution(batches, _OPERATIONS)
        self.reply = stage("reply")  #: from a reply being received to its being committed
        self.replies_matched = _Children(  #: by how the message was found
            Counter("chapar_replies_matched", "Replies stored with their message.", ["by"], registry=registry)
        )
        unmatched = Counter(
            "chapar_replies_unmatched", "Replies stored without a message.", ["reason"], registry=registry
        )
        self.replies_unmatched = _Children(unmatched)  #: by why they belong to none
        ignored = Counter(
            "chapar_replies_ignored",
            "Deliveries on reply topics that are no replies, or that could not be stored.",
            ["why"],
            registry=registry,
        )
        self.replies_ignored = _Children(ignored)  #: by why
        self.writer_deaths = Counter(
            "chapar_writer_deaths", "Writer processes that ended by themselves.", registry=registry
        )
        self._log_lines_lost = Counter(
            "chapar_log_lines_lost", "Lines of the log that could not be written.", registry=registry
        )
        self._lines_lost = 0
        accepted = Counter(
            "chapar_messages_accepted",
            "Messages committed, by the status they began in.",
            ["status"],
            registry=registry,
        )
        self.accepted = _Children(accepted)  #: by status
        finished = Counter(
            "chapar_messages_finished",
            "Messages that ended, by status and reason.",
            ["status", "reason"],
            registry=registry,
        )
        self.finished = _Children(finished)  #: by status and reason
        turned_away = Counter(
            "chapar_requests_turned_away",
            "Requests answered at the entrance: wrong or missing credentials, rates, or no way to check them.",
            ["code"],
            registry=registry,
        )
        self.turned_away = _Children(turned_away)  #: by the code of the problem
        loop_failures = Counter(
            "chapar_loop_failures",
            "Turns of background loops that ended with an exception that nobody expected; the log has its traceback.",
            ["loop"],
            registry=registry,
        )
        self.loop_failures = _Children(loop_failures)  #: by the name of the loop
        self.key_set_failures = Counter(
            "chapar_key_set_failures", "Fetches of the issuer's key set that brought no usable keys.", registry=registry
        )
        self.reconnects = Counter("chapar_link_reconnects", "Sessions after the first.", registry=registry)
        self.unanswered = Counter(
            "chapar_link_unanswered",
            "Publications in doubt because the broker was alive and did not answer.",
            registry=registry,
        )
        strays = Counter(
            "chapar_link_stray_packets",
            "Packets of the broker that nobody waited for, by their type: answered as MQTT asks, and dropped.",
            ["packet"],
            registry=registry,
        )
        self.strays = _Children(strays)  #: by the type of the packet
        deliveries = Counter(
            "chapar_deliveries_received",
            "Messages of devices that the broker delivered, by the link on which they came.",
            ["link"],
            registry=registry,
        )
        self.deliveries = _Children(deliveries)  #: by link
        undecodable = Counter(
            "chapar_deliveries_undecodable",
            "Messages that could not be read, as text that is not UTF-8: acknowledged in their turn, and dropped.",
            ["link"],
            registry=registry,
        )
        self.undecodable = _Children(undecodable)  #: by link
        self.sessions_lost = Counter(
            "chapar_reply_sessions_lost",
            "Sessions for replies that a broker should have kept and did not; what it had for them is lost.",
            registry=registry,
        )
        self.receiving = Gauge(
            "chapar_receiver_links_up",
            "Links that are subscribed to what devices publish.",
            ["link"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.mute = Gauge(
            "chapar_receiver_links_mute",
            "Links whose subscription the broker granted, and that do not receive their probe.",
            ["link"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.listeners = Gauge(
            "chapar_event_listeners",
            "Listeners to events that are connected.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        cut = Counter(
            "chapar_event_listeners_cut",
            "Listeners to events that were cut off, by why.",
            ["why"],
            registry=registry,
        )
        self.listeners_cut = _Children(cut)  #: by why
        # Each worker counts the whole queue, so one of them is enough; of the links each has its own.
        self.queue = Gauge(
            "chapar_queue_messages",
            "Unfinished messages, by status.",
            ["status"],
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.held = Gauge(
            "chapar_queue_held_messages",
            "Messages that wait until `chapar queue release`, since a backup was restored.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.paused = Gauge(
            "chapar_devices_paused",
            "Devices for which nothing leaves, because somebody has paused their queue.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.oldest = Gauge(
            "chapar_queue_oldest_seconds",
            "Age of the unfinished message that was accepted first.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.link_up = Gauge(
            "chapar_link_up", "Sessions with a broker.", multiprocess_mode="livesum", registry=registry
        )
        self.database_up = Gauge(
            "chapar_database_up",
            "Workers whose commits succeed.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.in_flight = Gauge(
            "chapar_link_in_flight",
            "Publications that the broker has not acknowledged.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.window = Gauge(
            "chapar_link_window",
            "Publications that may be unacknowledged at a time.",
            multiprocess_mode="livesum",
            registry=registry,
        )

    def hand_over(self) -> None:
        """Show what was counted outside the library; to be called every now and then, for other workers to see it."""
        for distribution in (self.commit, self.publish, self.whole, self.reply, self.batches):
            distribution.hand_over()

    def lines_lost(self, total: int) -> None:
        """Count lines of the log that were lost up to `total` in this process."""
        self._log_lines_lost.inc(total - self._lines_lost)
        self._lines_lost = total

    def exposition(self) -> bytes:
        """All of it in Prometheus's text format."""
        self.hand_over()
        if WORKERS_FOLDER not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call] # the library has no annotations here
        return generate_latest(together)
