"""The loop: one worker thread that owns a network, and the way in and out for the event loop.

An iteration admits waiting sequences to free rows, runs a bounded amount of prompt, then goes on with those that
generate for a moment, all in one batch; it hands over what happened, and lets the finished and the abandoned go.
"""

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from collections.abc import Sequence as Many
from contextlib import aclosing, suppress
from functools import partial
from heapq import heappop, heappush

from app.deadline import Deadline
from app.engine.prefixes import cache_keys
from app.engine.runner import Runner
from app.engine.scheduler import Row, Scheduler
from app.engine.sequence import Progress, Request, Sequence
from app.errors import InternalError, OverloadedError, ServiceError, UnavailableError
from app.metrics import Metrics
from models.backends.base import Own
from models.decoding.completion import Completion

logger = logging.getLogger("carousel.engine")

STRETCH_SECONDS = 0.005
"""How long sequences generate before the engine looks for new ones: the longest that an arrival waits for that. With
64 rows a fifth of the throughput is gained over 2 ms, nothing more by 10 ms."""


FIRST_STRETCH_SECONDS = 0.001
"""The same while somebody waits for the first token of a stream."""

STALL_SECONDS = 30.0
"""An iteration takes milliseconds. One that takes longer than this will not end."""

LATE_SECONDS = 1.0
"""How long after its deadline a request is ended from outside, where the engine has not done so."""


PLACES_A_TRY = 4
"""Places that become free for each request that is told to come again: most go to requests that come for the first
time, and with fewer those that were refused come for nothing, which takes time from the others."""

MAX_COMING = 10_000
"""Refused requests that are counted as coming again."""


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
        self.host = runner.host
        self.bytes = runner.bytes + cache_bytes
        self._runner = runner
        self._metrics = metrics.of(name)
        self._scheduler = Scheduler(max_rows, prompt_tokens_per_step, runner.longest_feed)
        self._cache = runner.cache(cache_bytes)
        self._max_requests = max_requests
        self._pace = Pace()
        self._in_flight = 0
        self._arrived: deque[Request] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._broken = False
        self._iterating_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)

    # -- for the event loop ----------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; requests under way fail with `UnavailableError`."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join(None if self.fault is None else 0)

    @property
    def fault(self) -> str | None:
        """Why the engine answers nothing any more; None: it does."""
        if self._broken:
            return f"the engine of {self.name} has failed"
        if self.step_age_seconds > STALL_SECONDS:
            return f"the engine of {self.name} has been in one step for more than {STALL_SECONDS:g} seconds"
        return None

    @property
    def step_age_seconds(self) -> float:
        """How long the iteration that the engine is in has taken so far; 0: it is in none."""
        since = self._iterating_since
        return 0.0 if since is None else time.monotonic() - since

    async def run(self, sequences: Many[Sequence], deadline: Deadline, owner: str = "") -> None:
        """Work on sequences until all are finished; what was found out is then in them. Raises `ServiceError`."""
        async with aclosing(self.stream(sequences, deadline, owner, followed=False)) as events:
            async for _ in events:
                pass

    async def stream(
        self, sequences: Many[Sequence], deadline: Deadline, owner: str = "", followed: bool = True
    ) -> AsyncGenerator[list[Progress]]:
        """Drawn tokens of sequences as they come, several at once. Leaving early cancels the request.

        owner: see `app.tasks.task.Call`. Raises `OverloadedError` before anything is done, `DeadlineError`,
        `InternalError` or `UnavailableError` on the way.
        """
        deadline.check()
        loop = asyncio.get_running_loop()
        for sequence in sequences:
            sequence.plan(self._runner.samples)
        request = Request(list(sequences), deadline, loop, followed, owner)
        self._submit(request)
        # The engine ends what is late by itself; this holds where the engine does not come to it.
        late = loop.call_later(deadline.remaining + LATE_SECONDS, request.events.put_nowait, deadline.error())
        ended = False
        try:
            while (event := await self._next_event(request)) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
            ended = True
        finally:
            late.cancel()
            if not ended:
                self._cancel(request)

    async def _next_event(self, request: Request) -> list[Progress] | Exception | None:
        """The next that there is to tell of a request. One that rested, as its reader lagged, goes on."""
        lagged = request.lags
        event = await request.next_event()
        if lagged and not request.lags:
            with self._wake:
                self._wake.notify()
        return event

    @property
    def full(self) -> bool:
        """Whether as many requests are held as may be."""
        return self._in_flight >= self._max_requests

    def check_room(self) -> None:
        """Raises `OverloadedError` where it is `full`: asked early, a refusal costs little."""
        if self.full:
            self._metrics.refused.inc()
            raise OverloadedError(
                f"the model holds {self._max_requests} requests, as many as it may; try again later",
                retry_after=self._pace.seconds_until_room(self._in_flight),
            )

    def _submit(self, request: Request) -> None:
        with self._wake:
            if self._stopping:
                raise UnavailableError("the server is shutting down")
            if self._broken:
                raise UnavailableError("the model has failed; the server is about to end")
            self.check_room()
            self._in_flight += 1
            self._arrived.append(request)
            self._wake.notify()
        self._metrics.requests.inc()

    def _cancel(self, request: Request) -> None:
        with self._wake:
            request.cancelled = True
            self._wake.notify()

    # -- on the worker thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        """The thread. Whatever ends it, nobody is left waiting."""
        error: ServiceError = UnavailableError("the server is shutting down")
        try:
            self._work()
        except BaseException:
            logger.critical("the engine of %s failed", self.name, exc_info=True)
            error = InternalError(_MODEL_FAILED)
        with self._wake:
            self._broken = not self._stopping
            left = [*self._scheduler.requests(), *self._arrived]
            self._arrived.clear()
            self._in_flight = 0
        _deliver([(request, error) for request in left])

    def _work(self) -> None:
        while self._take_arrivals():
            self._iterating_since = time.monotonic()
            try:
                self._drop_abandoned()
                if not self._scheduler.idle:
                    with self._metrics.step_seconds.time():
                        self._iterate()
            except Exception:
                logger.exception("an iteration of %s failed", self.name)
                for request in self._scheduler.requests():
                    self._end(request, InternalError(_MODEL_FAILED))
            self._show_load()
            self._iterating_since = None

    def _take_arrivals(self) -> bool:
        """Wait for something to do and take what has arrived; False when the engine is to stop."""
        with self._wake:
            while not self._arrived and not self._stopping and self._scheduler.idle:
                self._wake.wait(None if self._scheduler.empty else LATE_SECONDS)
            while self._arrived:
                self._scheduler.add(self._arrived.popleft())
            return not self._stopping

    def _drop_abandoned(self) -> None:
        for request in self._scheduler.requests():
            if request.cancelled:
                self._metrics.cancelled.inc()
                self._end(request, None)
            elif request.deadline.remaining < 0:
                self._end(request, request.deadline.error())

    def _iterate(self) -> None:
        """One iteration; see the top of this file."""
        admitted = self._admit()
        self._metrics.batch_size.observe(len(self._scheduler.running))
        self._settle(self._run_prompts(admitted))
        self._settle(self._generate())

    def _admit(self) -> list[Row]:
        """Give rows to those that wait. Where all are taken, those that have had theirs for long make room."""
        now = time.monotonic()
        for row in self._scheduler.park(now):
            row.sequence.state, row.sequence.parked = self._runner.state_of(row.sequence), True
        admitted = self._scheduler.admit(now)
        return [row for row in admitted if row.sequence.parked or self._alone(row, partial(self._prepare, row))]

    def _prepare(self, row: Row) -> None:
        self._runner.check(row.sequence)
        self._use_cache(row)
        if not row.request.admitted:
            row.request.admitted = True
            self._metrics.request_queue_time_seconds.observe(time.monotonic() - row.request.arrived)

    def _alone(self, row: Row, work: Callable[[], None]) -> bool:
        """Do what concerns one row. Where it fails, that row's request fails and no other. Whether it went well."""
        try:
            work()
        except Exception:
            logger.exception("a request to %s failed", self.name)
            self._end(row.request, InternalError(_MODEL_FAILED))
            return False
        return True

    def _run_prompts(self, admitted: list[Row]) -> list[Row]:
        """Run a bounded amount of prompt, and draw the first token after each prompt that is over.

        Returns the rows it did something for.
        """
        worked_on = list(admitted)
        sampling = self._runner.start([row.sequence for row in admitted]) if admitted else []
        for row in admitted:
            row.sequence.parked = False
        chunks = self._scheduler.prompt_chunks()
        if chunks:
            sampling += self._runner.consume([(row.sequence, length) for row, length in chunks])
            for row, _ in chunks:
                self._remember(row.sequence)
            self._metrics.prompt_tokens.inc(sum(length for _, length in chunks))
            worked_on += [row for row, _ in chunks]
        by_sequence = {id(row.sequence): row for row in worked_on}
        for sequences, logits in sampling:
            self._draw([by_sequence[id(sequence)] for sequence in sequences], logits)
        return list(by_sequence.values())

    def _generate(self) -> list[Row]:
        """Go on with the sequences that generate. Returns their rows."""
        longest = self._runner.longest_feed
        generating = [row for row in self._scheduler.running if not row.sequence.pending or row.sequence.rides(longest)]
        by_step = [row for row in generating if row.sequence.step_by_step]
        if by_step:
            self._draw(by_step, self._runner.step([row.sequence for row in by_step]))
        at_once = [row for row in generating if not row.sequence.step_by_step] if by_step else generating
        if at_once:
            for row in at_once:
                if row.sequence.pending == 1:  # fed one by one where a step takes longer than a stretch
                    self._remember(row.sequence)
            begins = any(row.request.followed and row.sequence.pending for row in at_once)
            seconds = FIRST_STRETCH_SECONDS if begins else STRETCH_SECONDS
            started = time.monotonic()
            drawn, passed = self._runner.decode([row.sequence for row in at_once], seconds)
            for sequence, state in passed:
                if (key := sequence.cache_keys.get(sequence.consumed - 1)) is not None:
                    self._cache.keep(key, state)
            for row, token_ids in zip(at_once, drawn, strict=True):
                if token_ids:  # none while it still consumes its prompt
                    self._alone(row, partial(self._accept, row, token_ids, started))
            self._metrics.generation_tokens.inc(sum(map(len, drawn)))
        return generating

    def _use_cache(self, row: Row) -> None:
        """Begin a sequence where the cache knows it already. What is to be drawn next follows from a last input that is
        run anew, where that costs nothing, else from the state after all of them."""
        sequence = row.sequence
        if sequence.skippable():
            inputs = sequence.inputs[:-1] if sequence.draws_alone else sequence.inputs
            sequence.cache_keys = cache_keys(inputs, row.request.owner)
            sequence.cached, sequence.state = self._cache.find(sequence.cache_keys)
            sequence.consumed = sequence.cached
            self._metrics.cache_queries.inc()
            self._metrics.cache_hits.inc(bool(sequence.cached))
            self._metrics.cached_tokens.inc(sequence.cached)
        if sequence.rides(self._runner.longest_feed):
            self._metrics.prompt_tokens.inc(sequence.pending)

    def _remember(self, sequence: Sequence) -> None:
        """Keep the state of a sequence if it has come to where prompts are cached."""
        key = sequence.cache_keys.get(sequence.consumed)
        if key is not None and sequence.consumed != sequence.cached:
            self._cache.keep(key, self._runner.state_of(sequence))

    def _draw(self, rows: list[Row], logits: Own) -> None:
        """Draw the next token of rows. logits: (B, V)."""
        drawn = self._runner.draw([row.sequence for row in rows], logits)
        for row, (token_id, score) in zip(rows, drawn, strict=True):
            if score is not None:
                row.sequence.drawn_scores.append(score)
            self._alone(row, partial(self._accept, row, [token_id]))
        self._metrics.generation_tokens.inc(len(rows))

    def _accept(self, row: Row, token_ids: Many[int], started: float | None = None) -> None:
        """Take drawn tokens into their sequence, up to where it ends: what comes after a stop string is not wanted.

        started: when the stretch in which they were drawn began; None: they are one, drawn now.
        """
        sequence, completion = row.sequence, row.sequence.completion
        assert completion is not None
        now = time.monotonic()
        if not completion.token_ids:
            sequence.timed_from, sequence.untimed = (now, 1) if started is None else (started, 0)
            self._metrics.time_to_first_token_seconds.observe(now - row.request.arrived)
        if row.request.followed:
            self._follow(row, completion, token_ids)
        else:
            completion.accept_all(token_ids)
        count = len(completion.token_ids)
        if completion.finish_reason is not None and count > 1:  # nothing comes between one token
            seconds = (now - sequence.timed_from) / (count - sequence.untimed)
            self._metrics.time_per_output_token_seconds.observe(seconds)
        if completion.finish_reason is not None and sequence.keep_state:
            if completion.finish_reason == "eos":  # not consumed: the state is the one before it
                sequence.final_state = self._runner.state_of(sequence)
            else:
                sequence.inputs.append(completion.token_ids[-1])

    def _follow(self, row: Row, completion: Completion, token_ids: Many[int]) -> None:
        """Take drawn tokens one by one, each with the text that it makes certain."""
        for token_id in token_ids:
            if completion.finish_reason is None:
                text = completion.accept(token_id)
                score = row.sequence.drawn_scores[-1] if row.sequence.report_tokens else None
                ended = completion.finish_reason is not None
                row.sequence.unsent.append(Progress(row.index, token_id, text, score, ended))

    def _settle(self, rows: Many[Row]) -> None:
        """Tell requests what was done for their rows, in one call into the event loop for all, and free rows."""
        told: dict[Request, list[Progress]] = {}
        finished = []
        for row in rows:
            sequence = row.sequence
            if row.request.ended:
                continue
            if sequence.finished:
                finished.append(row)
                row.request.unfinished -= 1
                told.setdefault(row.request, []).extend(sequence.unsent)
            elif sequence.unsent and sequence.generating:  # between the two the last token waits for its state
                told.setdefault(row.request, []).extend(sequence.unsent)
                sequence.unsent.clear()
        events: list[Event] = []
        for request, progress in told.items():
            if progress:
                events.append((request, progress))
            if not request.unfinished:
                self._account_for(request)
                events.append((request, None))
        self._metrics.scored_tokens.inc(sum(len(row.sequence.scores) for row in finished))
        self._scheduler.drop(finished)
        _deliver(events)

    def _end(self, request: Request, error: ServiceError | None) -> None:
        """Let a request go before it is finished."""
        if request.ended:
            return
        request.ended = True
        self._scheduler.drop_request(request)
        self._account_for(request)
        if error is not None:
            _deliver([(request, error)])

    def _account_for(self, request: Request) -> None:
        with self._wake:
            self._in_flight -= 1
            self._pace.note()
        self._metrics.e2e_request_latency_seconds.observe(time.monotonic() - request.arrived)

    def _show_load(self) -> None:
        self._metrics.num_requests_running.set(len(self._scheduler.running))
        self._metrics.num_requests_waiting.set(self._scheduler.waiting)
        self._metrics.requests_in_flight.set(self._in_flight)


_MODEL_FAILED = "the model failed; the server's log has the details"


class Pace:
    """How fast requests have ended lately, and how many that were refused will come again: what tells those that are
    refused when to come."""

    def __init__(self) -> None:
        self._ended: deque[float] = deque(maxlen=64)
        self._coming: list[float] = []  # a heap of the times that the refused were told

    def note(self) -> None:
        """A request has ended now."""
        self._ended.append(time.monotonic())

    def seconds_until_room(self, held: int) -> int:
        """Whole seconds, 1 to 60, for a request that is refused while so many are held: twice as long as these take,
        and `PLACES_A_TRY` times as long as those that will come again, as others come meanwhile."""
        now = time.monotonic()
        while self._coming and self._coming[0] < now:
            heappop(self._coming)
        told = self._told(now, held)
        if len(self._coming) < MAX_COMING:
            heappush(self._coming, now + told)
        return told

    def _told(self, now: float, held: int) -> int:
        if len(self._ended) < 2:
            return 1
        pace = (len(self._ended) - 1) / max(1e-3, now - self._ended[0])
        queue = 2 * held + PLACES_A_TRY * (1 + len(self._coming))
        return min(60, max(1, math.ceil(queue / pace)))


Event = tuple[Request, list[Progress] | Exception | None]


def _deliver(events: Many[Event]) -> None:
    """Put events into the queues of their requests, with one call for each event loop."""

    def put(events: list[Event]) -> None:
        for request, event in events:
            request.tell(event)

    for loop in {request.loop for request, _ in events}:
        with suppress(RuntimeError):  # a loop that has been closed has nobody waiting
            loop.call_soon_threadsafe(put, [(request, event) for request, event in events if request.loop is loop])
