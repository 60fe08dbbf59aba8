"""The engine alone, without HTTP, in a process of its own: `python -m benchmarks.alone SECONDS MAX_ROWS`.

The service's settings come from the environment, as the server's do. Prints a JSON list, an object for each of `RUNS`.
"""

from models.process import prepare_process, settle_process

prepare_process()

import asyncio  # noqa: E402
import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from itertools import cycle, pairwise  # noqa: E402
from typing import Any  # noqa: E402

import typer  # noqa: E402

from app.deadline import Deadline  # noqa: E402
from app.metrics import Metrics  # noqa: E402
from app.registry import ServedModel, load_model  # noqa: E402
from app.settings import Settings  # noqa: E402
from app.tasks.generate import GenerateRequest, answer, plan  # noqa: E402
from app.tasks.task import Call  # noqa: E402
from benchmarks.load import quantiles  # noqa: E402
from benchmarks.workloads import make_workload  # noqa: E402

RUNS: tuple[tuple[int, dict[str, Any], bool], ...] = (
    (1, {}, False),
    (8, {}, False),
    (64, {}, False),
    (256, {}, False),
    (64, {"top_k": 50}, False),
    (64, {"top_p": 0.9}, False),
    (1, {}, True),
    (64, {}, True),
)
"""(rows, sampling, whether another process keeps one core busy)"""

CLIENTS = (1, 8, 64, 256)
"""Closed loops that put the requests of the `decode` workload to the engine: what HTTP costs is what it does worse."""

TOKENS = 512
"""Tokens of each sequence: prompts, which are empty, take no time beside them."""

REQUEST_ROWS = 32
"""Rows of one request; the engine does not give all of them to one."""

_BUSY = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


def main(seconds: float, max_rows: int) -> None:
    """Tokens per second of the engine alone, sampling included."""
    print(json.dumps(asyncio.run(_measure(seconds, max_rows))))  # noqa: T201


async def _measure(seconds: float, max_rows: int) -> list[dict[str, Any]]:
    served = load_model(Settings(), None, Metrics())
    served.engine.start()
    settle_process()
    found = []
    try:
        for rows, sampling, neighbour in RUNS:
            if rows <= max_rows:
                with _busy_core(neighbour):
                    steps = await _step_seconds(served, rows, sampling, seconds)
                found.append(
                    {
                        "backend": served.engine.backend,
                        "rows": rows,
                        "sampling": sampling,
                        "neighbour": neighbour,
                        "tokens_per_second": rows * len(steps) / sum(steps),
                        "step_ms": quantiles(steps),
                    }
                )
        found += [await _closed_loops(served, clients, seconds) for clients in CLIENTS if clients <= max_rows]
    finally:
        served.engine.stop()
    return found


async def _closed_loops(served: ServedModel, clients: int, seconds: float) -> dict[str, Any]:
    """The same work as over HTTP, prompts included: each client asks again when it is answered."""
    settings = Settings()
    bodies = cycle(make_workload("decode", served.checkpoint.tokenizer, seed=0).bodies)
    began = time.perf_counter()
    tokens = 0

    async def client() -> None:
        nonlocal tokens
        while time.perf_counter() < began + seconds:
            call = Call(served, settings, Deadline.after(600))
            answered = await answer(GenerateRequest.model_validate_json(next(bodies)), call)
            tokens += answered.usage.completion_tokens

    await asyncio.gather(*(client() for _ in range(clients)))
    rate = tokens / (time.perf_counter() - began)
    return {"backend": served.engine.backend, "requests_of": clients, "rows": clients, "tokens_per_second": rate}


async def _step_seconds(served: ServedModel, rows: int, sampling: dict[str, Any], seconds: float) -> list[float]:
    """How long each step of `rows` sequences took; steps whose tokens were handed over together count alike."""
    await _handovers(served, rows, sampling, 16)
    steps: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for (earlier, _), (later, made) in pairwise(await _handovers(served, rows, sampling, TOKENS)):
            steps += [(later - earlier) / made] * made
    return steps


async def _handovers(served: ServedModel, rows: int, sampling: dict[str, Any], tokens: int) -> list[tuple[float, int]]:
    """When tokens were handed over in a round, and how many steps had made them.

    A round is `rows` sequences in requests that are small enough to run all at once.
    """

    async def follow(size: int) -> list[tuple[float, int]]:
        body = GenerateRequest(prompt=[""] * size, max_tokens=tokens, ignore_eos=True, **sampling)
        call = Call(served, Settings(), Deadline.after(600))
        drawn = served.engine.stream(plan(body, call).sequences, call.deadline)
        return [(time.perf_counter(), round(len(progress) / size)) async for progress in drawn]

    size = min(rows, REQUEST_ROWS)
    handovers, *_ = await asyncio.gather(*(follow(size) for _ in range(rows // size)))
    return handovers


@contextmanager
def _busy_core(wanted: bool) -> Iterator[None]:
    """A neighbour that computes without pause."""
    busy = subprocess.Popen([sys.executable, "-c", _BUSY]) if wanted else None
    try:
        yield
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()


if __name__ == "__main__":
    typer.run(main)
