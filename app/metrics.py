"""Every metric of the service, declared once: the name in Prometheus, with its unit, and the meaning."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar, overload

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from app.errors import ServiceError
from models.process import memory_limit

Kind = TypeVar("Kind", Counter, Gauge, Histogram)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKEN_SECONDS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metric(Generic[Kind]):
    """Declares a metric of `ModelMetrics`; an instance of that has the collector, labelled, under the same name.

    labels: what the figures are told apart by; of a metric of the whole server: nothing.
    """

    def __init__(
        self,
        kind: type[Kind],
        name: str,
        meaning: str,
        buckets: Sequence[float] | None = None,
        labels: Sequence[str] = ("model_name",),
    ) -> None:
        self.kind: type[Kind] = kind
        self.name = f"carousel_{name}"
        self.meaning = meaning
        self.labels = labels
        self._options: dict[str, Any] = {} if buckets is None else {"buckets": buckets}

    def collector(self, registry: CollectorRegistry) -> Kind:
        labelled: Kind = self.kind(self.name, self.meaning, self.labels, registry=registry, **self._options)
        return labelled

    @overload
    def __get__(self, instance: None, owner: type) -> "Metric[Kind]": ...

    @overload
    def __get__(self, instance: object, owner: type) -> Kind: ...

    def __get__(self, instance: object | None, owner: type) -> "Metric[Kind] | Kind":
        """The declaration; instances have an attribute of their own, which Python finds first."""
        assert instance is None
        return self


class ModelMetrics:
    """The metrics of one model. A new metric is a line here."""

    num_requests_running = Metric(Gauge, "num_requests_running", "Sequences that hold a slot of the engine.")
    num_requests_waiting = Metric(Gauge, "num_requests_waiting", "Sequences that wait for a slot.")
    requests_in_flight = Metric(Gauge, "requests_in_flight", "Requests that the engine holds, running and waiting.")
    requests = Metric(Counter, "requests_total", "Requests that the engine accepted.")
    cancelled = Metric(Counter, "requests_cancelled_total", "Requests dropped because their client went away.")
    refused = Metric(Counter, "requests_refused_total", "Requests refused because too many were waiting.")
    prompt_tokens = Metric(Counter, "prompt_tokens_total", "Prompt tokens consumed.")
    generation_tokens = Metric(Counter, "generation_tokens_total", "Tokens generated.")
    scored_tokens = Metric(Counter, "scored_tokens_total", "Tokens scored.")
    cache_queries = Metric(Counter, "prefix_cache_queries_total", "Prompts looked up in the prefix cache.")
    cache_hits = Metric(Counter, "prefix_cache_hits_total", "Prefix-cache hits.")
    cached_tokens = Metric(Counter, "cached_tokens_total", "Prompt tokens whose state was in the prefix cache.")
    time_to_first_token_seconds = Metric(
        Histogram,
        "time_to_first_token_seconds",
        "Time from a request's arrival to the first token of a completion.",
        _SECONDS,
    )
    time_per_output_token_seconds = Metric(
        Histogram,
        "time_per_output_token_seconds",
        "Mean time between the tokens of a completion.",
        _TOKEN_SECONDS,
    )
    step_seconds = Metric(Histogram, "step_seconds", "Time of one iteration of the engine.", _SECONDS)
    batch_size = Metric(Histogram, "batch_size", "Sequences that one iteration of the engine worked on.", _ROWS)
    request_queue_time_seconds = Metric(
        Histogram, "request_queue_time_seconds", "Time from a request's arrival to its first slot.", _SECONDS
    )
    e2e_request_latency_seconds = Metric(
        Histogram, "e2e_request_latency_seconds", "Time from a request's arrival to its end.", _SECONDS
    )

    def __init__(self, metrics: "Metrics", model_name: str) -> None:
        """The label is looked up here and not at every step; the figures are shown, at zero, from now on."""
        for attribute, collector in metrics.collectors.items():
            setattr(self, attribute, collector.labels(model_name))


ERRORS = Metric(
    Counter, "request_errors_total", "Requests answered by an error, by its code.", labels=("model_name", "code")
)
"""Apart, as an error may belong to no model, and has a code."""

STALLED = Metric(Counter, "clients_stalled_total", "Connections cut off because their client read nothing.")
"""Apart, too: a connection may belong to no model."""

READY = Metric(Gauge, "ready", "1 where the server takes requests; else 0, as `/ready` says.", labels=())
STEP_AGE = Metric(
    Gauge, "step_age_seconds", "How long the longest of the iterations that engines are in has taken so far.", labels=()
)
CHECKPOINTS_REFUSED = Metric(Gauge, "checkpoints_refused", "Checkpoints on disk that cannot be served.", labels=())
MEMORY_LIMIT = Metric(
    Gauge, "memory_limit_bytes", "Memory that the process may fill: its control group's, else the machine's.", labels=()
)

OF_SERVER: tuple[Metric[Any], ...] = (
    ERRORS,
    STALLED,
    READY,
    STEP_AGE,
    CHECKPOINTS_REFUSED,
    MEMORY_LIMIT,
)

SERVER_ERRORS = sorted(
    {kind.code for kind in ServiceError.__subclasses__() if kind.status == 429 or kind.status >= 500}
)
"""Codes of errors that the server is to blame for. They are shown, at zero, before the first one: an alert sees a count
grow, and not that it is there."""

DECLARED: dict[str, Metric[Any]] = {
    name: metric for name, metric in vars(ModelMetrics).items() if isinstance(metric, Metric)
}


class Metrics:
    """The metrics of one application: two applications in a process do not share figures."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.collectors = {name: metric.collector(self.registry) for name, metric in DECLARED.items()}
        self._errors = ERRORS.collector(self.registry)
        self._stalled = STALLED.collector(self.registry)
        self._show_errors("")
        self.ready = READY.collector(self.registry)
        self.step_age_seconds = STEP_AGE.collector(self.registry)
        self.checkpoints_refused = CHECKPOINTS_REFUSED.collector(self.registry)
        MEMORY_LIMIT.collector(self.registry).set(memory_limit())
        ProcessCollector(registry=self.registry)

    def of(self, model_name: str) -> ModelMetrics:
        self._show_errors(model_name)
        return ModelMetrics(self, model_name)

    def _show_errors(self, model_name: str) -> None:
        for code in SERVER_ERRORS:
            self._errors.labels(model_name, code)

    def count_error(self, model_name: str, code: str) -> None:
        """model_name: the model that was asked, empty where the request did not get as far."""
        self._errors.labels(model_name, code).inc()

    def count_stalled(self, model_name: str) -> None:
        """model_name: the model that was asked, empty where the request did not get as far."""
        self._stalled.labels(model_name).inc()

    @staticmethod
    def table() -> str:
        """Every metric with its type and meaning, as Markdown."""
        rows = [
            "# Metrics\n\nWhat `GET /metrics` shows, in the format of Prometheus; on Linux also what all processes "
            "show (`process_resident_memory_bytes`, `process_start_time_seconds`, `process_open_fds`, …). "
            "[A dashboard](../deploy/grafana-dashboard.json) shows them, [alerts](operations.md#alerts) watch them. "
            "Made by `python -m app metrics`.\n",
            "| metric | type | labels | meaning |",
            "|---|---|---|---|",
        ]
        for metric in (*DECLARED.values(), *OF_SERVER):
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            rows += [f"| `{metric.name}` | {metric.kind.__name__.lower()} | {labels} | {metric.meaning} |"]
        return "\n".join(rows) + "\n"
