"""Every counter and histogram of the service, declared once, with its unit in its name."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """One set for one application: two applications in a process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        model = ["model_name"]

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"carousel_{name}", text, [*model, *labels], registry=self.registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"carousel_{name}", text, model, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"carousel_{name}", text, model, buckets=buckets, registry=self.registry)

        self.sequences_running = gauge("sequences_running", "Sequences that hold a row of the engine.")
        self.sequences_waiting = gauge("sequences_waiting", "Sequences that wait for a row.")
        self.requests_in_flight = gauge("requests_in_flight", "Requests that the engine holds, running and waiting.")
        self.requests = counter("requests_total", "Requests taken by the engine.")
        self.cancelled = counter("requests_cancelled_total", "Requests dropped because their client went away.")
        self.refused = counter("requests_refused_total", "Requests refused because too many were waiting.")
        self.failed = counter("requests_failed_total", "Requests that ended in an error, by its code.", "code")
        self.prompt_tokens = counter("prompt_tokens_total", "Prompt tokens consumed.")
        self.generated_tokens = counter("generated_tokens_total", "Tokens generated.")
        self.scored_tokens = counter("scored_tokens_total", "Tokens scored.")
        self.cache_queries = counter("prefix_cache_queries_total", "Prompts looked up in the prefix cache.")
        self.cache_hits = counter("prefix_cache_hits_total", "Prompts of which a beginning was there.")
        self.cached_tokens = counter("cached_tokens_total", "Prompt tokens that were not run again.")
        self.step_seconds = histogram("step_seconds", "Time of one iteration of the engine.", _SECONDS)
        self.batch_rows = histogram("batch_rows", "Sequences that one iteration of the engine worked on.", _ROWS)
        self.queue_seconds = histogram("queue_seconds", "Time from a request's arrival to its first row.", _SECONDS)
        self.request_seconds = histogram("request_seconds", "Time from a request's arrival to its end.", _SECONDS)

    def of(self, model_name: str) -> "ModelMetrics":
        """Those of one model. They are there, at zero, from now on."""
        return ModelMetrics(self, model_name)


class ModelMetrics:
    """The metrics of one model: the label is looked up once, and not at every step."""

    def __init__(self, metrics: Metrics, model_name: str) -> None:
        self.sequences_running = metrics.sequences_running.labels(model_name)
        self.sequences_waiting = metrics.sequences_waiting.labels(model_name)
        self.requests_in_flight = metrics.requests_in_flight.labels(model_name)
        self.requests = metrics.requests.labels(model_name)
        self.cancelled = metrics.cancelled.labels(model_name)
        self.refused = metrics.refused.labels(model_name)
        self.prompt_tokens = metrics.prompt_tokens.labels(model_name)
        self.generated_tokens = metrics.generated_tokens.labels(model_name)
        self.scored_tokens = metrics.scored_tokens.labels(model_name)
        self.cache_queries = metrics.cache_queries.labels(model_name)
        self.cache_hits = metrics.cache_hits.labels(model_name)
        self.cached_tokens = metrics.cached_tokens.labels(model_name)
        self.step_seconds = metrics.step_seconds.labels(model_name)
        self.batch_rows = metrics.batch_rows.labels(model_name)
        self.queue_seconds = metrics.queue_seconds.labels(model_name)
        self.request_seconds = metrics.request_seconds.labels(model_name)
        self.registry = metrics.registry
        self._failed = metrics.failed
        self._model_name = model_name

    def failed(self, code: str) -> Counter:
        """Requests that ended in this error."""
        return self._failed.labels(self._model_name, code)
