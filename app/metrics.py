"""Every counter and histogram of the service, declared once, with its unit in its name."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKEN_SECONDS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
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

        self.num_requests_running = gauge("num_requests_running", "Sequences that hold a row of the engine.")
        self.num_requests_waiting = gauge("num_requests_waiting", "Sequences that wait for a row.")
        self.requests_in_flight = gauge("requests_in_flight", "Requests that the engine holds, running and waiting.")
        self.requests = counter("requests_total", "Requests taken by the engine.")
        self.cancelled = counter("requests_cancelled_total", "Requests dropped because their client went away.")
        self.refused = counter("requests_refused_total", "Requests refused because too many were waiting.")
        self.errors = counter("request_errors_total", "Requests answered by an error, by its code.", "code")
        self.prompt_tokens = counter("prompt_tokens_total", "Prompt tokens consumed.")
        self.generation_tokens = counter("generation_tokens_total", "Tokens generated.")
        self.scored_tokens = counter("scored_tokens_total", "Tokens scored.")
        self.cache_queries = counter("prefix_cache_queries_total", "Prompts looked up in the prefix cache.")
        self.cache_hits = counter("prefix_cache_hits_total", "Prompts of which a beginning was there.")
        self.cached_tokens = counter("cached_tokens_total", "Prompt tokens that were not run again.")
        self.time_to_first_token_seconds = histogram(
            "time_to_first_token_seconds", "Time from a request's arrival to the first token of a completion.", _SECONDS
        )
        self.time_per_output_token_seconds = histogram(
            "time_per_output_token_seconds", "Mean time between the tokens of a completion.", _TOKEN_SECONDS
        )
        self.step_seconds = histogram("step_seconds", "Time of one iteration of the engine.", _SECONDS)
        self.batch_size = histogram("batch_size", "Sequences that one iteration of the engine worked on.", _ROWS)
        self.request_queue_time_seconds = histogram(
            "request_queue_time_seconds", "Time from a request's arrival to its first row.", _SECONDS
        )
        self.e2e_request_latency_seconds = histogram(
            "e2e_request_latency_seconds", "Time from a request's arrival to its end.", _SECONDS
        )

    def of(self, model_name: str) -> "ModelMetrics":
        """Those of one model. They are there, at zero, from now on."""
        return ModelMetrics(self, model_name)


class ModelMetrics:
    """The metrics of one model: the label is looked up once, and not at every step."""

    def __init__(self, metrics: Metrics, model_name: str) -> None:
        self.num_requests_running = metrics.num_requests_running.labels(model_name)
        self.num_requests_waiting = metrics.num_requests_waiting.labels(model_name)
        self.requests_in_flight = metrics.requests_in_flight.labels(model_name)
        self.requests = metrics.requests.labels(model_name)
        self.cancelled = metrics.cancelled.labels(model_name)
        self.refused = metrics.refused.labels(model_name)
        self.prompt_tokens = metrics.prompt_tokens.labels(model_name)
        self.generation_tokens = metrics.generation_tokens.labels(model_name)
        self.scored_tokens = metrics.scored_tokens.labels(model_name)
        self.cache_queries = metrics.cache_queries.labels(model_name)
        self.cache_hits = metrics.cache_hits.labels(model_name)
        self.cached_tokens = metrics.cached_tokens.labels(model_name)
        self.time_to_first_token_seconds = metrics.time_to_first_token_seconds.labels(model_name)
        self.time_per_output_token_seconds = metrics.time_per_output_token_seconds.labels(model_name)
        self.step_seconds = metrics.step_seconds.labels(model_name)
        self.batch_size = metrics.batch_size.labels(model_name)
        self.request_queue_time_seconds = metrics.request_queue_time_seconds.labels(model_name)
        self.e2e_request_latency_seconds = metrics.e2e_request_latency_seconds.labels(model_name)
        self.registry = metrics.registry
