"""Every metric for Prometheus.

This process counts its own requests and events. The projector keeps its counts in Redis, where each scrape reads them.
"""

from collections.abc import Iterator
from typing import Any, Final, cast

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from kinfold_services.state.status import WorkspaceReport

OUTCOMES: Final = ("folded", "no-op", "stale", "duplicate", "rejected")


class Metrics:
    """The metrics of one process, in their own registry."""

    def __init__(self) -> None:
        cast("Any", disable_created_metrics)()  # otherwise each counter has a second series, its time of creation
        self._registry: Final = CollectorRegistry()
        registry = self._registry
        self.events: Final = Counter(
            "kinfold_gateway_events", "Events appended to the log", ["workspace", "type"], registry=registry
        )
        self.refused: Final = Counter(
            "kinfold_gateway_refused", "Events rejected before the log", ["workspace", "reason"], registry=registry
        )
        self.ignored: Final = Counter(
            "kinfold_gateway_segment_ignored",
            "Parts of Segment calls that were ignored, by reason",
            ["workspace", "what"],
            registry=registry,
        )
        self.requests: Final = Counter(
            "kinfold_gateway_requests", "Requests by method and status", ["method", "status"], registry=registry
        )
        self.connections_refused: Final = Counter(
            "kinfold_gateway_connections_refused",
            "Connections closed for a limit: too-many, headers-too-large, too-slow, bad-request",
            ["why"],
            registry=registry,
        )
        self.append_s: Final = Histogram(
            "kinfold_gateway_append_seconds",
            "Time to append the events of a request to the log",
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
            registry=registry,
        )
        self.subscribers: Final = Gauge(
            "kinfold_gateway_subscribers", "Readers of the change feed", ["workspace"], registry=registry
        )
        self.cut_off: Final = Counter(
            "kinfold_gateway_cut_off",
            "Feed readers that were cut off as too slow",
            ["workspace"],
            registry=registry,
        )
        self.changes: Final = Counter(
            "kinfold_gateway_changes", "Changes read from the feed, once for all readers", ["workspace"], registry=registry
        )
        self._projected: Final = _ProjectedCollector()
        registry.register(self._projected)

    def render(self, reports: list[WorkspaceReport]) -> bytes:
        """All metrics in Prometheus's text format."""
        self._projected.latest = reports
        return generate_latest(self._registry)


class _ProjectedCollector(Collector):
    def __init__(self) -> None:
        self.latest: list[WorkspaceReport] = []

    def collect(self) -> Iterator[Metric]:
        label = ["workspace"]
        entries = CounterMetricFamily("kinfold_entries", "Folded log entries by outcome", labels=["workspace", "outcome"])
        blocked = CounterMetricFamily("kinfold_blocked_identifiers", "Blocked identifiers that were ignored", labels=label)
        id_reused = CounterMetricFamily("kinfold_id_reused", "Events with the id of an earlier, different event", labels=label)
        untrusted = CounterMetricFamily(
            "kinfold_untrusted", "Values, removals and links of pages that were dropped", labels=label
        )
        lag = GaugeMetricFamily("kinfold_lag_entries", "Log entries that are not folded yet", labels=label)
        contacts = GaugeMetricFamily("kinfold_contacts", "Living contacts", labels=label)
        visitors = GaugeMetricFamily("kinfold_visitors", "Visitors", labels=label)
        commit = GaugeMetricFamily("kinfold_last_commit_timestamp_seconds", "Time of the projector's last commit", labels=label)
        batch = SummaryMetricFamily("kinfold_batch_seconds", "Duration of the projector's batches", labels=label)
        lost = CounterMetricFamily("kinfold_entries_lost", "Log entries removed before they were folded", labels=label)
        rebuilds = CounterMetricFamily("kinfold_rebuilds", "Rebuilds of the state by the projector itself", labels=label)
        damaged = GaugeMetricFamily("kinfold_damaged", "1 if no projector can serve the workspace", labels=label)
        directory = GaugeMetricFamily(
            "kinfold_directory_lag_seconds", "Age of the oldest change that the directory has not applied", labels=label
        )
        for each in self.latest:
            status, name = each.status, [each.status.workspace]
            counts = msgspec.to_builtins(status)
            for outcome in OUTCOMES:
                entries.add_metric([*name, outcome], counts[outcome])
            blocked.add_metric(name, status.blocked_identifiers)
            id_reused.add_metric(name, status.id_reused)
            untrusted.add_metric(name, status.untrusted)
            lag.add_metric(name, status.lag)
            lost.add_metric(name, status.entries_lost)
            rebuilds.add_metric(name, status.rebuilds)
            damaged.add_metric(name, status.damage is not None)
            contacts.add_metric(name, status.contacts)
            visitors.add_metric(name, status.visitors)
            if each.committed_at_ms is not None:
                commit.add_metric(name, each.committed_at_ms / 1000)
            batch.add_metric(name, each.batches, each.batch_s)
            if status.directory is not None:
                directory.add_metric(name, status.directory.lag_ms / 1000)
        counts = entries, blocked, id_reused, untrusted, lost, rebuilds
        yield from (*counts, lag, damaged, contacts, visitors, commit, batch, directory)
