"""What Prometheus is told."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(frozen=True)
class Gauge:
    """A figure that is read when it is asked for: its name, what it says, and its value for each model."""

    name: str
    help: str
    values: Callable[[], dict[str, float]]


class Figures(Collector):
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.gauges: list[Gauge] = []
        of = ["model"]
        self._read = Counter("polytask_prompt_tokens", "Tokens of prompts.", of, registry=self.registry)
        self._wrote = Counter("polytask_completion_tokens", "Tokens written.", of, registry=self.registry)
        self._drew = Counter("polytask_pictures", "Pictures drawn.", of, registry=self.registry)
        self._first = Histogram(
            "polytask_first_token_seconds", "From a request's arrival to its first piece.", of,
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._between = Histogram(
            "polytask_between_tokens_seconds", "From one piece of a request to the next.", of,
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._requests = Histogram(
            "polytask_request_seconds", "From a request's first byte to the answer's last.",
            ["route", "method", "status"], buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.registry.register(self)

    def meter(self, model: str) -> "ModelMeter":
        return ModelMeter(self, model)

    def ended(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(route, method, str(status)).observe(seconds)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for gauge in self.gauges:
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=["model"])
            for model, value in gauge.values().items():
                family.add_metric([model], value)
            yield family

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)


class ModelMeter:
    """What one model's worker reports to."""

    def __init__(self, figures: Figures, model: str):
        self._read, self._wrote = figures._read.labels(model), figures._wrote.labels(model)
        self._drew = figures._drew.labels(model)
        self._first, self._between = figures._first.labels(model), figures._between.labels(model)

    def read(self, tokens: int) -> None:
        self._read.inc(tokens)

    def wrote(self, tokens: int) -> None:
        self._wrote.inc(tokens)

    def drew(self, pictures: int) -> None:
        self._drew.inc(pictures)

    def first(self, seconds: float) -> None:
        self._first.observe(seconds)

    def between(self, seconds: float) -> None:
        self._between.observe(seconds)


def merged(texts: Mapping[str, bytes]) -> bytes:
    """The figures of several servers as one text; a label `replica` says whose they are."""
    families: dict[str, Metric] = {}
    for replica, text in texts.items():
        for family in text_string_to_metric_families(text.decode()):
            kept = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for name, labels, value, *_ in family.samples:
                kept.add_sample(name, {**labels, "replica": replica}, value)
    registry = CollectorRegistry()
    registry.register(_Found(families.values()))
    return generate_latest(registry)


class _Found(Collector):
    """Figures as they were found."""

    def __init__(self, families: Iterable[Metric]):
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families
