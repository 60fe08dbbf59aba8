"""The load generator, a process of its own: `python -m benchmarks.load` reads a `Load` from stdin, writes a `Result`.

Clients are closed loops: each sends its next request when its last is answered. All start together after one warm-up
request each.

- Not streamed: no request is begun after the window; those under way are waited for. Rates are what was answered, over
  the time to the last answer: a server gains nothing by being slow at the edge of a window.
- Streamed: rates are the tokens that come during one window, which opens when every client has had its first token.

After `limit_seconds` nothing is waited for any more; what is then under way is `abandoned`, and counts nowhere.
"""

import asyncio
import json
import sys
import time
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import cycle, pairwise
from typing import Any

import uvloop

from benchmarks.client import Connection


@dataclass(frozen=True)
class Load:
    port: int
    path: str
    bodies: list[str]
    warmup: str
    stream: bool
    once: bool
    clients: int
    window_seconds: float
    limit_seconds: float


@dataclass
class Result:
    """tokens: generated, or scored. texts: scored. Times as `quantiles` has them; those to the first token and between
    tokens are of streams, where tokens that were read at once count as one arrival. client_cpu: share of one core that
    this process took."""

    seconds: float
    requests: int
    failed: int
    abandoned: int
    tokens: int
    texts: int
    client_cpu: float
    backend: str | None
    error: str | None
    request_ms: dict[str, float] | None
    first_token_ms: dict[str, float] | None
    between_tokens_ms: dict[str, float] | None


@dataclass(eq=False)
class Exchange:
    """One request: when it was sent, when each token of its stream came, when it was answered, and with what."""

    sent: float
    token_times: list[float] = field(default_factory=list)
    answered: float | None = None
    answer: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    _tail: bytes = b""

    def take_piece(self, piece: bytes, arrived: float) -> None:
        """Note the tokens in a piece of a stream. The pattern can be nothing but a key: in a string its quotes are
        escaped."""
        pattern = b'"text":'
        seen = self._tail + piece
        self.token_times += [arrived] * seen.count(pattern)
        self._tail = seen[-(len(pattern) - 1) :]

    def finish(self, status: int, body: bytes) -> None:
        """Read the answer; of a stream its last event before `data: [DONE]`."""
        self.answered = time.perf_counter()
        content = body.rsplit(b"data: ", 2)[-2] if body.startswith(b"data: ") else body
        if status != 200 or b'"error":' in content:
            self.error = f"{status}: {content[:300].decode(errors='replace')}"
            return
        self.answer = json.loads(content)
        if self.token_times:  # an event may hold several tokens when its reader lags
            self.token_times += [self.answered] * (self.tokens - len(self.token_times))

    @property
    def tokens(self) -> int:
        if "scores" in self.answer:
            return sum(score["tokens"] for score in self.answer["scores"])
        return int(self.answer.get("usage", {}).get("completion_tokens", 0))


class Run:
    """The clients, and what they have seen."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._bodies: Iterator[str] = iter(load.bodies) if load.once else cycle(load.bodies)
        self._connections = [Connection(load.port) for _ in range(load.clients)]
        self._exchanges: list[Exchange] = []
        self._closes = 0.0
        self._flowing: set[Connection] = set()
        self._all_flow = asyncio.Event()

    async def measure(self) -> Result:
        load = self._load
        await _wait([self._exchange(connection, load.warmup) for connection in self._connections], load.limit_seconds)
        cold = [exchange for exchange in self._exchanges if not exchange.answered]
        if cold:
            self._exchanges = cold
            return self._result(0.0, load.limit_seconds, 0.0)
        self._exchanges.clear()
        self._flowing.clear()
        self._all_flow.clear()
        opened = time.perf_counter()
        self._closes = opened + (load.limit_seconds if load.stream else load.window_seconds)
        clients = [self._client(connection) for connection in self._connections]
        if load.stream:
            under_way = await _wait(clients, load.limit_seconds, until=self._all_flow)
            cpu, opened = time.process_time(), time.perf_counter()
            self._closes = opened + load.window_seconds
            await _wait(under_way, load.window_seconds)
        else:
            cpu = time.process_time()
            await _wait(clients, load.limit_seconds)
        ended = time.perf_counter()
        return self._result(opened, ended, (time.process_time() - cpu) / (ended - opened))

    async def _client(self, connection: Connection) -> None:
        """A closed loop, until its time is over, there is nothing left to ask, or a request fails."""
        while time.perf_counter() < self._closes:
            body = next(self._bodies, None)
            if body is None or (await self._exchange(connection, body)).error:
                return

    async def _exchange(self, connection: Connection, body: str) -> Exchange:
        exchange = Exchange(time.perf_counter())
        self._exchanges.append(exchange)

        def on_piece(piece: bytes, arrived: float) -> None:
            exchange.take_piece(piece, arrived)
            if exchange.token_times and connection not in self._flowing:
                self._flowing.add(connection)
                if len(self._flowing) == len(self._connections):
                    self._all_flow.set()

        try:
            answer = await connection.post(self._load.path, body.encode(), on_piece if self._load.stream else None)
            exchange.finish(answer.status, answer.body)
        except OSError as error:
            exchange.error = str(error)
        return exchange

    def _result(self, opened: float, ended: float, client_cpu: float) -> Result:
        errors = [exchange.error for exchange in self._exchanges if exchange.error]
        done = [exchange for exchange in self._exchanges if exchange.answered and not exchange.error]
        times = [exchange.token_times for exchange in self._exchanges if exchange.token_times]
        answered = [exchange for exchange in done if exchange.answered and exchange.answered >= opened]
        if self._load.stream:
            tokens = sum(opened <= moment <= ended for moments in times for moment in moments)
        else:
            tokens = sum(exchange.tokens for exchange in done)
            ended = max((exchange.answered or 0.0 for exchange in done), default=ended)
        return Result(
            seconds=ended - opened,
            requests=len(answered),
            failed=len(errors),
            abandoned=len(self._exchanges) - len(done) - len(errors),
            tokens=tokens,
            texts=sum(len(exchange.answer.get("scores", ())) for exchange in answered),
            client_cpu=client_cpu,
            backend=next((exchange.answer.get("backend") for exchange in done), None),
            error=next(iter(errors), None),
            request_ms=quantiles([exchange.answered - exchange.sent for exchange in done if exchange.answered]),
            first_token_ms=quantiles(
                [exchange.token_times[0] - exchange.sent for exchange in self._exchanges if exchange.token_times]
            ),
            between_tokens_ms=quantiles(
                [later - earlier for moments in times for earlier, later in pairwise(moments) if later > earlier]
            ),
        )


async def _wait(
    work: Iterable[Coroutine[Any, Any, Any] | asyncio.Task[Any]], seconds: float, until: asyncio.Event | None = None
) -> list[asyncio.Task[Any]]:
    """Let work go on until all is done or time is over; with an event, until that is set or some of the work is done.

    Returns the work as tasks, and raises what they raised. Those under way are left alone.
    """
    tasks = [item if isinstance(item, asyncio.Task) else asyncio.ensure_future(item) for item in work]
    events = [asyncio.ensure_future(until.wait())] if until else []
    when = asyncio.FIRST_COMPLETED if until else asyncio.ALL_COMPLETED
    await asyncio.wait([*tasks, *events], timeout=seconds, return_when=when)
    for task in tasks:
        if task.done():
            task.result()
    return tasks


def quantiles(seconds: list[float]) -> dict[str, float] | None:
    """p50, p90, p99 and the largest in ms; None of nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    found = {f"p{p}": 1000 * ordered[len(ordered) * p // 100] for p in (50, 90, 99)}
    return found | {"max": 1000 * ordered[-1]}


if __name__ == "__main__":
    measured = uvloop.run(Run(Load(**json.load(sys.stdin))).measure())
    json.dump(asdict(measured), sys.stdout)
