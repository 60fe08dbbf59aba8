"""What a session costs: bytes of a state, which the client keeps, and memory of the server, which keeps nothing.

    python -m benchmarks.sessions [--sessions 10000] [--shape default]

A session is two requests: a prompt, answered with a few tokens and a state; then the state alone, answered likewise.
The server's resident memory is sampled from /proc (Linux) while sessions come and go: with the prefix cache off, where
all that grows would be a session that was kept, and with default settings, where the cache fills as well. Two cores
take about a minute and a half.
"""

import asyncio
import json
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console
from rich.progress import Progress

from benchmarks.client import Connection
from benchmarks.report import table
from benchmarks.servers import Server
from benchmarks.shapes import SHAPES, TINY_SHAPES, Shape, write_checkpoint
from benchmarks.workloads import Texts
from models.checkpoint.format import load_checkpoint

CLIENTS = 16
PROMPT_TOKENS = 8
MAX_TOKENS = 4
WARM_UP, STEP = 0.10, 0.05
"""Shares of the sessions: before the first sample, and between samples."""

MEGABYTE = 1e6
SETTINGS: dict[str, dict[str, str]] = {"cache off": {"CAROUSEL_PREFIX_CACHE_BYTES": "0"}, "default settings": {}}


@dataclass(frozen=True)
class Memory:
    """resident: megabytes, by sessions that are over. peak: the most, in megabytes, since the server started."""

    resident: dict[int, float]
    peak: float

    @property
    def growth(self) -> tuple[float, float]:
        """From the first sample to the last: megabytes, and as a share of the first."""
        samples = list(self.resident.values())
        return samples[-1] - samples[0], samples[-1] / samples[0] - 1


def main(
    sessions: Annotated[int, typer.Option(help="Sessions of each run.", min=20)] = 10_000,
    shape: Annotated[str, typer.Option(help="Shape of the network that serves them.")] = "default",
) -> None:
    """Bytes of a state, and the server's memory over many sessions."""
    known = {each.name: each for each in (*SHAPES, *TINY_SHAPES)}
    if shape not in known:
        raise typer.BadParameter(f"{shape}: there are {', '.join(known)}", param_hint="--shape")
    with tempfile.TemporaryDirectory(prefix="carousel-sessions-") as folder:
        sizes = [measure_state(each, Path(folder) / "states") for each in SHAPES]
        print(table(["network", "floats", "bytes of a state"], sizes), end="\n\n")  # noqa: T201
        checkpoint = Path(folder) / "sessions" / shape
        write_checkpoint(known[shape], checkpoint.parent)
        found = {}
        for name, settings in SETTINGS.items():
            server = Server("ours", checkpoint, Path(folder) / "server.log", **settings)
            found[name] = measure_memory(name, server, checkpoint, sessions)
    print(markdown(found))  # noqa: T201


def measure_state(shape: Shape, folder: Path) -> list[str]:
    """A row: network, floats, and the length of the string that a server returns: the same however long the text."""
    network = write_checkpoint(shape, folder / shape.name).network
    checkpoint = folder / shape.name / shape.name
    texts = Texts(load_checkpoint(checkpoint).tokenizer, seed=0)
    with Server("ours", checkpoint, folder / f"{shape.name}.log") as server:
        states = [uvloop.run(_state_after(server.port, texts.text(tokens))) for tokens in (0, 1000)]
    lengths = sorted({len(state) for state in states})
    return [shape.name, f"{network.state_layout.size:,}", " or ".join(f"{length:,}" for length in lengths)]


async def _state_after(port: int, text: str) -> str:
    connection = Connection(port)
    try:
        return await _turn(connection, {"prompt": text, "max_tokens": 0})
    finally:
        connection.close()


def measure_memory(name: str, server: Server, checkpoint: Path, sessions: int) -> Memory:
    """The server's memory while sessions come and go."""
    texts = Texts(load_checkpoint(checkpoint).tokenizer, seed=1)
    marks = {round(sessions * (WARM_UP + STEP * i)) for i in range(round((1 - WARM_UP) / STEP) + 1)}
    resident: dict[int, float] = {}
    with server, Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(f"sessions, {name}", total=sessions)

        def ended(number: int) -> None:
            progress.update(task, completed=number)
            if number in marks:
                resident[number] = _megabytes(server.pid, "VmRSS")

        uvloop.run(_hold(server.port, islice(texts.fresh(PROMPT_TOKENS), sessions), ended))
        return Memory(resident, _megabytes(server.pid, "VmHWM"))


async def _hold(port: int, prompts: Iterator[str], ended: Callable[[int], None]) -> None:
    """A session for each prompt, `CLIENTS` at once. ended: called with the number of sessions that are over."""
    numbers = count(1)

    async def client() -> None:
        connection = Connection(port)
        try:
            for prompt in prompts:
                state = await _turn(connection, {"prompt": prompt, "max_tokens": MAX_TOKENS})
                await _turn(connection, {"state": state, "max_tokens": MAX_TOKENS})
                ended(next(numbers))
        finally:
            connection.close()

    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(client())


async def _turn(connection: Connection, body: dict[str, Any]) -> str:
    """One request of a session; returns the state at its end."""
    answer = await connection.post("/generate", json.dumps({**body, "ignore_eos": True, "return_state": True}).encode())
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {answer.body[:300].decode(errors='replace')}")
    return str(json.loads(answer.body)["choices"][0]["state"])


def _megabytes(pid: int, field: str) -> float:
    """A size that Linux tells of a process: `VmRSS`, now; `VmHWM`, at its highest."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kibibytes) * 1024 / MEGABYTE


def markdown(found: dict[str, Memory]) -> str:
    """A column for each run, a row for each sample; then what came of it."""
    counts = next(iter(found.values())).resident
    rows = [[f"{n:,}", *(f"{memory.resident[n]:.1f}" for memory in found.values())] for n in counts]
    rows.append(["growth, first to last", *("{:+.1f} ({:+.2%})".format(*memory.growth) for memory in found.values())])
    rows.append(["highest since the start", *(f"{memory.peak:.1f}" for memory in found.values())])
    return table(["sessions", *(f"resident MB, {name}" for name in found)], rows)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no server is left behind
    typer.run(main)
