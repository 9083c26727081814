"""Metrics of a server in Prometheus's format."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class EngineCollector(Collector):
    """The statistics of the engine, read when they are asked for: totals are counters, other numbers gauges."""

    def __init__(self, statistics: Callable[[], Mapping[str, float]]) -> None:
        self.statistics = statistics

    def collect(self) -> Iterable[Metric]:
        """The metrics."""
        for name, value in self.statistics().items():
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            full = f"t5x_like_engine_{name}"
            yield family(full.removesuffix("_total"), f"{name} of the engine", value=value)


class Metrics:
    """Counts the requests of a server."""

    def __init__(self, statistics: Callable[[], Mapping[str, float]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(statistics))
        self.requests = Counter(
            "t5x_like_http_requests", "Requests by path and status", ("path", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "t5x_like_http_request_seconds",
            "Time to the end of an answer",
            ("path",),
            registry=self.registry,
            buckets=SECONDS,
        )
        self.first_token_seconds = Histogram(
            "t5x_like_first_token_seconds",
            "Time to the first piece of a stream",
            registry=self.registry,
            buckets=SECONDS,
        )

    def count(self, path: str, status: int, seconds: float) -> None:
        """Counts a request that has ended."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """All metrics."""
        return generate_latest(self.registry)
