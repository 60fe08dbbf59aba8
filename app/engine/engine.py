"""The loop: one worker thread that owns a network, and the way in and out for the event loop.

An iteration admits waiting sequences to free rows, runs a bounded amount of prompt, makes one batched step for those
that generate, draws, hands over what happened, and lets the finished and the abandoned go.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator
from collections.abc import Sequence as Many
from contextlib import aclosing, suppress

import torch

from app.engine.prefixes import PrefixCache, cache_keys
from app.engine.runner import Runner
from app.engine.scheduler import Row, Scheduler
from app.engine.sequence import Progress, Request, Sequence
from app.errors import DeadlineError, InternalError, OverloadedError, ServiceError, UnavailableError
from app.metrics import Metrics

logger = logging.getLogger("carousel.engine")


class Engine:
    """Runs the sequences of one model. `submit` and `cancel` may be called from any thread."""

    def __init__(
        self,
        name: str,
        runner: Runner,
        metrics: Metrics,
        max_rows: int,
        max_requests: int,
        prompt_tokens_per_step: int,
        cache_bytes: int = 0,
    ) -> None:
        self.name = name
        self.backend = runner.backend
        self._runner = runner
        self._metrics = metrics
        self._scheduler = Scheduler(max_rows, prompt_tokens_per_step)
        self._cache = PrefixCache(cache_bytes)
        self._max_requests = max_requests
        self._in_flight = 0
        self._arrived: deque[Request] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name=f"engine-{name}", daemon=True)

    # -- for the event loop ----------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; requests under way fail with `UnavailableError`."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    async def run(self, sequences: Many[Sequence], timeout_seconds: float) -> None:
        """Work on sequences until all are finished; what was found out is then in them. Raises `ServiceError`."""
        async with aclosing(self.stream(sequences, timeout_seconds)) as events:
            async for _ in events:
                pass

    async def stream(self, sequences: Many[Sequence], timeout_seconds: float) -> AsyncGenerator[list[Progress]]:
        """Progress of sequences as it comes, several at once when the reader lags. Leaving early cancels the request.

        Raises `OverloadedError` before anything is done, `DeadlineError` or `UnavailableError` on the way.
        """
        loop = asyncio.get_running_loop()
        request = Request(list(sequences), time.monotonic() + timeout_seconds, loop)
        self._submit(request)
        finished = 0
        try:
            while finished < len(request.sequences):
                event = await request.events.get()
                if isinstance(event, Exception):
                    raise event
                finished += sum(progress.finished for progress in event)
                yield event
        finally:
            if finished < len(request.sequences):
                self._cancel(request)

    def _submit(self, request: Request) -> None:
        with self._wake:
            if self._stopping:
                raise UnavailableError("the server is shutting down")
            if self._in_flight >= self._max_requests:
                self._metrics.refused.labels(self.name).inc()
                raise OverloadedError(
                    f"{self._in_flight} requests are already held for {self.name!r} (limit {self._max_requests}); "
                    "try again later",
                    retry_after=1,
                )
            self._in_flight += 1
            self._arrived.append(request)
            self._wake.notify()
        self._metrics.requests.labels(self.name).inc()

    def _cancel(self, request: Request) -> None:
        with self._wake:
            request.cancelled = True
            self._wake.notify()

    # -- on the worker thread --------------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._take_arrivals():
            try:
                self._drop_abandoned()
                if not self._scheduler.idle:
                    with self._metrics.step_seconds.labels(self.name).time():
                        self._iterate()
            except Exception:
                logger.exception("an iteration of %s failed", self.name)
                for request in self._scheduler.requests():
                    self._end(request, InternalError("the model failed; the server's log has the details"))
            self._show_load()
        for request in self._scheduler.requests():
            self._end(request, UnavailableError("the server is shutting down"))

    def _take_arrivals(self) -> bool:
        """Wait for something to do and take what has arrived; False when the engine is to stop."""
        with self._wake:
            while not self._arrived and not self._stopping and self._scheduler.idle:
                self._wake.wait()
            while self._arrived:
                self._scheduler.add(self._arrived.popleft())
            return not self._stopping

    def _drop_abandoned(self) -> None:
        now = time.monotonic()
        for request in self._scheduler.requests():
            if request.cancelled:
                self._metrics.cancelled.labels(self.name).inc()
                self._end(request, None)
            elif now > request.deadline:
                self._end(request, DeadlineError("the request's time is over (timeout_seconds)"))

    def _iterate(self) -> None:
        """One iteration; see the top of this file."""
        admitted = self._scheduler.admit()
        for row in admitted:
            self._use_cache(row.sequence)
            if row.request.rows == 1:
                self._metrics.queue_seconds.labels(self.name).observe(time.monotonic() - row.request.arrived)
        running = list(self._scheduler.running)
        by_sequence = {id(row.sequence): row for row in running}
        self._metrics.batch_rows.labels(self.name).observe(len(running))
        new = set(map(id, admitted))
        drawing = [r for r in running if id(r) not in new and not r.sequence.pending and r.sequence.generating]
        logits = [self._runner.step([row.sequence for row in drawing])] if drawing else []
        if admitted:
            done, first_logits = self._runner.start([row.sequence for row in admitted])
            drawing += [by_sequence[id(sequence)] for sequence in done]
            logits.append(first_logits)
        for length, rows in self._scheduler.prompt_chunks():
            sequences = [row.sequence for row in rows]
            done, first_logits = self._runner.consume(sequences, length)
            self._remember(sequences)
            self._metrics.prompt_tokens.labels(self.name).inc(length * len(rows))
            drawing += [by_sequence[id(sequence)] for sequence in done]
            logits.append(first_logits)
        progress = self._draw(drawing, torch.cat(logits)) if drawing else {}
        self._hand_over(running, progress)
        self._scheduler.drop_finished()

    def _use_cache(self, sequence: Sequence) -> None:
        """Begin a sequence where the cache knows it already."""
        if not sequence.skippable():
            return
        sequence.cache_keys = cache_keys(sequence.inputs)
        sequence.cached, sequence.state = self._cache.find(sequence.cache_keys)
        sequence.consumed = sequence.cached
        self._metrics.cache_queries.labels(self.name).inc()
        self._metrics.cache_hits.labels(self.name).inc(bool(sequence.cached))
        self._metrics.cached_tokens.labels(self.name).inc(sequence.cached)

    def _remember(self, sequences: Many[Sequence]) -> None:
        for sequence in sequences:
            if (key := sequence.cache_keys.get(sequence.consumed)) is not None:
                self._cache.keep(key, self._runner.state_of(sequence))

    def _draw(self, rows: list[Row], logits: torch.Tensor) -> dict[int, Progress]:
        """Draw for rows; returns their progress by the id of the row."""
        drawn = self._runner.draw([row.sequence for row in rows], logits)
        self._metrics.generated_tokens.labels(self.name).inc(len(rows))
        progress = {}
        for row, (token_id, score) in zip(rows, drawn, strict=True):
            completion = row.sequence.completion
            assert completion is not None
            text = completion.accept(token_id)
            reason = completion.finish_reason
            progress[id(row)] = Progress(row.index, reason is not None, token_id, text, score)
            if reason is not None and row.sequence.keep_state:
                if reason == "eos":  # not consumed: the state is the one before it
                    row.sequence.final_state = self._runner.state_of(row.sequence)
                else:
                    row.sequence.inputs.append(token_id)
                    row.sequence.last_progress = progress.pop(id(row))
        return progress

    def _hand_over(self, rows: list[Row], progress: dict[int, Progress]) -> None:
        """Tell each request once what this iteration did for it: one call into its event loop for all."""
        told: dict[Request, list[Progress]] = {}
        for row in rows:
            if row.sequence.finished:
                row.request.unfinished -= 1
                self._metrics.scored_tokens.labels(self.name).inc(len(row.sequence.scores))
                event = progress.get(id(row)) or row.sequence.last_progress or Progress(row.index, finished=True)
            elif id(row) in progress:
                event = progress[id(row)]
            else:
                continue
            told.setdefault(row.request, []).append(event)
        for request in told:
            if not request.unfinished:
                self._account_for(request)
        _deliver(list(told.items()))

    def _end(self, request: Request, error: ServiceError | None) -> None:
        """Let a request go before it is finished."""
        self._scheduler.drop_request(request)
        self._account_for(request)
        if error is not None:
            self._metrics.failed.labels(self.name, error.code).inc()
            _deliver([(request, error)])

    def _account_for(self, request: Request) -> None:
        with self._wake:
            self._in_flight -= 1
        self._metrics.request_seconds.labels(self.name).observe(time.monotonic() - request.arrived)

    def _show_load(self) -> None:
        self._metrics.sequences_running.labels(self.name).set(len(self._scheduler.running))
        self._metrics.sequences_waiting.labels(self.name).set(self._scheduler.waiting)
        self._metrics.requests_in_flight.labels(self.name).set(self._in_flight)


def _deliver(events: Many[tuple[Request, list[Progress] | Exception]]) -> None:
    """Put events into the queues of their requests, with one call for each event loop."""

    def put(events: list[tuple[Request, list[Progress] | Exception]]) -> None:
        for request, event in events:
            request.events.put_nowait(event)

    loops = {request.loop for request, _ in events}
    for loop in loops:
        with suppress(RuntimeError):  # a loop that has been closed has nobody waiting
            loop.call_soon_threadsafe(put, [(request, event) for request, event in events if request.loop is loop])
