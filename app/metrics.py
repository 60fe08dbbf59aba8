"""Every counter and histogram of the service, declared once, with its unit in its name."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """One set for one application: two applications in a process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        model = ["model_name"]

        def counter(name: str, text: str, labels: list[str]) -> Counter:
            return Counter(f"carousel_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"carousel_{name}", text, model, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"carousel_{name}", text, model, buckets=buckets, registry=self.registry)

        self.sequences_running = gauge("sequences_running", "Sequences that hold a row of the engine.")
        self.sequences_waiting = gauge("sequences_waiting", "Sequences that wait for a row.")
        self.requests_in_flight = gauge("requests_in_flight", "Requests that the engine holds, running and waiting.")
        self.requests = counter("requests_total", "Requests taken by the engine.", model)
        self.cancelled = counter("requests_cancelled_total", "Requests dropped because their client went away.", model)
        self.refused = counter("requests_refused_total", "Requests refused because too many were waiting.", model)
        self.failed = counter(
            "requests_failed_total", "Requests that ended in an error, by its code.", [*model, "code"]
        )
        self.prompt_tokens = counter("prompt_tokens_total", "Prompt tokens consumed.", model)
        self.generated_tokens = counter("generated_tokens_total", "Tokens generated.", model)
        self.scored_tokens = counter("scored_tokens_total", "Tokens scored.", model)
        self.cache_queries = counter("prefix_cache_queries_total", "Prompts looked up in the prefix cache.", model)
        self.cache_hits = counter("prefix_cache_hits_total", "Prompts of which a beginning was there.", model)
        self.cached_tokens = counter("cached_tokens_total", "Prompt tokens that were not run again.", model)
        self.step_seconds = histogram("step_seconds", "Time of one iteration of the engine.", _SECONDS)
        self.batch_rows = histogram("batch_rows", "Sequences that one iteration of the engine worked on.", _ROWS)
        self.queue_seconds = histogram("queue_seconds", "Time from a request's arrival to its first row.", _SECONDS)
        self.request_seconds = histogram("request_seconds", "Time from a request's arrival to its end.", _SECONDS)
