"""What the service does under hardship: worst requests, overload, slow clients, failures all around.

    python -m benchmarks.hardship worst       the worst request of each route: processor, /health meanwhile, memory
    python -m benchmarks.hardship overload    ten times as many clients as requests are admitted
    python -m benchmarks.hardship slow        a hundred that send a byte a second and a hundred that never read
    python -m benchmarks.hardship company     200 seeded requests among others that are cancelled, late or wrong
    python -m benchmarks.hardship lifecycle   a thousand reloads, broken versions among them, under load

Each prints a table. Two quiet cores; each measures what stands at its head in one run.
"""

import asyncio
import json
import os
import random
import re
import shutil
import socket
import statistics
import string
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.client import HOST, Connection
from benchmarks.servers import ROOT, Server

cli = typer.Typer(add_completion=False, no_args_is_help=True, help="What the service does under hardship.")
console = Console(width=150)

CheckpointOption = Annotated[Path, typer.Option(help="The checkpoint that is served.")]
WORD, CHARACTER = ROOT / "checkpoints/english-word", ROOT / "checkpoints/shakespeare-char"

SETTLE_SECONDS = 12.0
"""Between the coming of slow clients and the measurement. Until the kernels' buffers are full (some 3,500 tokens for
each client here), a client that does not read cannot be told from another."""

HEALTH_EVERY = 0.02
"""Seconds between two looks at /health."""


# -- looking at a server -----------------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return 1024 * int(line.split()[1])


def peak_bytes(pid: int) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


async def health(port: int, over: asyncio.Event) -> list[float]:
    """Seconds that /health takes, asked again and again until `over`."""
    found = []
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}", timeout=120) as client:
        while not over.is_set():
            began = time.perf_counter()
            await client.get("/health")
            found.append(time.perf_counter() - began)
            await asyncio.sleep(HEALTH_EVERY)
    return found


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


async def meanwhile(port: int, work: Awaitable[Any]) -> tuple[Any, list[float]]:
    """The result of work, and how long /health took meanwhile."""
    over = asyncio.Event()
    watching = asyncio.create_task(health(port, over))
    try:
        result = await work
    finally:
        over.set()
    return result, await watching


# -- the worst request -------------------------------------------------------------------------------------------------


def worst_bodies() -> dict[str, tuple[str, Any]]:
    """The heaviest requests that the default limits let in, and some that they do not: route and body by name."""
    words = re.findall(r"[a-z]{2,9}", " ".join(page.read_text() for page in (ROOT / "docs").glob("*.md")))
    prose = " ".join(words) * 200
    draw = random.Random(0)
    unknown = " ".join("".join(draw.choices(string.ascii_lowercase, k=9)) for _ in range(190_000))
    big = 1_900_000
    return {
        "generate: the longest prompt, n 64": ("/generate", {"prompt": prose[:600_000], "n": 64, "max_tokens": 1}),
        "generate: the longest prompt refused": ("/generate", {"prompt": prose[:big], "n": 64, "max_tokens": 1}),
        "generate: most tokens": ("/generate", {"prompt": "", "n": 64, "max_tokens": 4096, "ignore_eos": True}),
        "generate: most tokens, spelled, reported": (
            "/generate",
            {"prompt": "", "n": 64, "max_tokens": 700, "allow_unk": "spell", "logprobs": 1, "ignore_eos": True},
        ),
        "completions: echo of a long prompt": (
            "/v1/completions",
            {"prompt": prose[:250_000], "max_tokens": 0, "echo": True, "logprobs": 1},
        ),
        "score: a long text": ("/score", {"text": prose[:600_000]}),
        "score: unknown words": ("/score", {"text": unknown[:900_000]}),
        "score: one unknown word": ("/score", {"text": "q" * 4096}),
        "score: 1,024 texts with a context": (
            "/score",
            {"text": [f"{i}" for i in range(1024)], "context": prose[:1800]},
        ),
        "score: lines": ("/score", {"text": "a\n" * 65_000}),
        "next: the longest text": ("/next", {"text": prose[:100_000]}),
        "next: a long word": ("/next", {"text": "z" * 4096}),
        "rescore: 1,024 hypotheses": (
            "/rescore",
            {"hypotheses": [{"text": f"{prose[i : i + 400]}", "score": 0} for i in range(1024)]},
        ),
        "rescore: 950,000 wrong elements": ("/rescore", {"hypotheses": [1] * 950_000}),
        "score: 170,000 unknown fields": ("/score", {"text": "a", **{f"f{i}": 1 for i in range(170_000)}}),
        "tokenize: the longest text": ("/tokenize", {"prompt": prose[:big], "return_token_strs": True}),
        "detokenize: most ids": ("/detokenize", {"tokens": [7] * 131_072}),
        "detokenize: 650,000 wrong ids": ("/detokenize", {"tokens": [-1] * 650_000}),
    }


@cli.command()
def worst(checkpoint: CheckpointOption = WORD, only: Annotated[str, typer.Option(help="Part of a name.")] = "") -> None:
    """Each of the worst requests: once alone, then four at once, with a look at /health and at memory."""
    rows = Table("request", "status", "s alone", "µs CPU/byte", "health p99 ms", "health max", "peak MB", "after MB")
    bodies = {name: one for name, one in worst_bodies().items() if only in name}

    async def measure(server: Server, route: str, body: bytes) -> list[str]:
        connections = [Connection(server.port) for _ in range(4)]
        before, began = cpu_seconds(server.pid), time.perf_counter()
        answer = await connections[0].post(route, body)
        seconds, cpu = time.perf_counter() - began, cpu_seconds(server.pid) - before
        _, waits = await meanwhile(server.port, asyncio.gather(*(one.post(route, body) for one in connections)))
        for connection in connections:
            connection.close()
        await asyncio.sleep(1.5)
        waits_ms = [1000 * wait for wait in waits]
        return [
            str(answer.status),
            f"{seconds:.2f}",
            f"{1e6 * cpu / len(body):.2f}",
            f"{quantile(waits_ms, 0.99):.0f}",
            f"{max(waits_ms):.0f}",
            f"{peak_bytes(server.pid) / 1e6:.0f}",
            f"{resident_bytes(server.pid) / 1e6:.0f}",
        ]

    with alone(checkpoint) as server:
        asyncio.run(_warm_up(server.port))
        console.print(f"{checkpoint.name}: {resident_bytes(server.pid) / 1e6:.0f} MB before")
        for name, (route, body) in bodies.items():
            rows.add_row(name, *asyncio.run(measure(server, route, json.dumps(body, separators=(",", ":")).encode())))
            console.print(f"  {name}", style="dim")
        console.print(rows)


async def _warm_up(port: int) -> None:
    connection = Connection(port)
    for _ in range(200):
        await connection.post("/generate", b'{"prompt": "It was", "max_tokens": 16}')
    connection.close()


@contextmanager
def alone(checkpoint: Path, **settings: str) -> Iterator[Server]:
    """A server of one checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        copy = _copy(checkpoint, Path(folder))
        with Server("ours", copy, Path(folder) / "log", **settings) as server:
            yield server


def _copy(checkpoint: Path, folder: Path) -> Path:
    """A copy of a checkpoint in a folder of its own, so that nothing else is served."""
    return Path(shutil.copytree(checkpoint, folder / "models" / checkpoint.name))


# -- overload ----------------------------------------------------------------------------------------------------------


@cli.command()
def overload(
    checkpoint: CheckpointOption = WORD,
    clients: Annotated[int, typer.Option(help="How many ask.")] = 640,
    admitted: Annotated[int, typer.Option(help="How many requests are admitted.")] = 64,
    seconds: Annotated[float, typer.Option(help="How long.")] = 180.0,
) -> None:
    """Clients that wait as `Retry-After` says, beside as many as are admitted: tokens, refusals, memory, losses."""
    rows = Table(
        "clients", "tokens/s", "answered", "refused", "lost", "refusal median ms", "p99", "first MB", "last MB"
    )

    async def load(server: Server, count: int, seconds: float) -> list[str]:
        end = time.perf_counter() + seconds
        seen: Counter[str] = Counter()
        refusals: list[float] = []

        async def client(number: int) -> None:
            connection, draw = Connection(server.port), random.Random(number)
            while time.perf_counter() < end:
                body = {"prompt": "It was", "max_tokens": 64, "ignore_eos": True, "seed": number}
                began = time.perf_counter()
                try:
                    answer = await connection.post("/generate", json.dumps(body).encode())
                except ConnectionError:
                    seen["lost"] += 1
                    continue
                if answer.status == 200:
                    seen["answered"] += 1
                    seen["tokens"] += json.loads(answer.body)["usage"]["completion_tokens"]
                elif answer.status == 429:
                    seen["refused"] += 1
                    refusals.append(1000 * (time.perf_counter() - began))
                    wait = answer.retry_after * (0.5 + draw.random())
                    await asyncio.sleep(
                        min(wait, end - time.perf_counter())
                    )  # what is waited after the end tells nothing
                else:
                    seen["lost"] += 1
            connection.close()

        first = resident_bytes(server.pid)
        began = time.perf_counter()
        await asyncio.gather(*(client(number) for number in range(count)))
        took = time.perf_counter() - began
        return [
            str(count),
            f"{seen['tokens'] / took:,.0f}",
            str(seen["answered"]),
            str(seen["refused"]),
            str(seen["lost"]),
            f"{statistics.median(refusals):.1f}" if refusals else "-",
            f"{quantile(refusals, 0.99):.1f}" if refusals else "-",
            f"{first / 1e6:.0f}",
            f"{resident_bytes(server.pid) / 1e6:.0f}",
        ]

    with alone(checkpoint, CAROUSEL_MAX_REQUESTS=str(admitted)) as server:
        asyncio.run(load(server, admitted, 5))
        for count, length in ((admitted, seconds / 3), (clients, seconds), (admitted, seconds / 3)):
            rows.add_row(*asyncio.run(load(server, count, length)))
        console.print(rows)


# -- slow clients ------------------------------------------------------------------------------------------------------


@cli.command()
def slow(
    checkpoint: CheckpointOption = WORD,
    each: Annotated[int, typer.Option(help="Slow connections of each kind.")] = 100,
    seconds: Annotated[float, typer.Option(help="How long each state is measured.")] = 15.0,
) -> None:
    """Tokens of 8 good clients alone, and beside clients that send a byte a second or never read their stream."""
    rows = Table("beside", "tokens/s", "ratio", "health p99 ms")

    async def good(port: int, seconds: float) -> float:
        end, tokens = time.perf_counter() + seconds, 0

        async def client(number: int) -> None:
            nonlocal tokens
            connection = Connection(port)
            while time.perf_counter() < end:
                body = {"prompt": "It was", "max_tokens": 64, "ignore_eos": True, "seed": number}
                answer = await connection.post("/generate", json.dumps(body).encode())
                tokens += json.loads(answer.body)["usage"]["completion_tokens"]
            connection.close()

        await asyncio.gather(*(client(number) for number in range(8)))
        return tokens / seconds

    async def drip(port: int) -> None:
        """A request that comes byte by byte."""
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection(HOST, port)
                for byte in b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + b" " * 100:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(1)

    async def deaf(port: int) -> None:
        """A stream that nobody reads."""
        body = json.dumps({"max_tokens": 4096, "ignore_eos": True, "stream": True}).encode()
        head = b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: "
        with socket.create_connection((HOST, port)) as connection:
            connection.sendall(head + str(len(body)).encode() + b"\r\n\r\n" + body)
            await asyncio.sleep(600)

    async def main(server: Server) -> None:
        alone, waits = await meanwhile(server.port, good(server.port, seconds))
        rows.add_row("nobody", f"{alone:,.0f}", "1.00", f"{1000 * quantile(waits, 0.99):.0f}")
        for name, kind in (("a byte a second", drip), ("never read", deaf)):
            tasks = [asyncio.create_task(kind(server.port)) for _ in range(each)]
            await asyncio.sleep(SETTLE_SECONDS)
            rate, waits = await meanwhile(server.port, good(server.port, seconds))
            rows.add_row(name, f"{rate:,.0f}", f"{rate / alone:.2f}", f"{1000 * quantile(waits, 0.99):.0f}")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(2)
        again, waits = await meanwhile(server.port, good(server.port, seconds))
        rows.add_row("nobody again", f"{again:,.0f}", f"{again / alone:.2f}", f"{1000 * quantile(waits, 0.99):.0f}")

    with alone(checkpoint) as server:
        asyncio.run(_warm_up(server.port))
        asyncio.run(main(server))
        console.print(rows)


# -- company -----------------------------------------------------------------------------------------------------------


def _bodies(count: int) -> list[tuple[str, dict[str, Any]]]:
    """Seeded requests of every kind."""
    prompts = ["It was a dark and", "The old man sat", "She said that", ""]
    kinds: list[Callable[[int], tuple[str, dict[str, Any]]]] = [
        lambda i: ("/generate", {"prompt": prompts[i % 4], "max_tokens": 20 + i % 50, "seed": i}),
        lambda i: ("/generate", {"prompt": prompts[i % 4], "max_tokens": 30, "seed": i, "top_p": 0.8, "n": 3}),
        lambda i: ("/generate", {"prompt": prompts[i % 4], "max_tokens": 30, "seed": i, "frequency_penalty": 0.4}),
        lambda i: ("/score", {"text": [f"{prompts[i % 4]} number {i}.", "The cat."], "tokens": True}),
        lambda i: ("/next", {"text": f"{prompts[i % 4]} {'abcdefghij'[i % 10]}"}),
    ]
    return [kinds[i % len(kinds)](i) for i in range(count)]


@cli.command()
def company(
    checkpoint: CheckpointOption = WORD, count: Annotated[int, typer.Option(help="How many requests.")] = 200
) -> None:
    """Each request equal to its solo run, while others are cancelled, take too long, or are wrong at random."""

    def bare(answer: bytes) -> Any:
        """Without what may differ: the id, and what was found in the cache."""
        values = json.loads(answer)
        values.pop("id", None)
        values.get("usage", {}).pop("cached_tokens", None)
        return values

    async def main(port: int) -> None:
        bodies = [(route, json.dumps(body).encode()) for route, body in _bodies(count)]
        connection = Connection(port)
        alone = [bare((await connection.post(route, body)).body) for route, body in bodies]
        connection.close()
        seen: Counter[str] = Counter()
        over = asyncio.Event()

        extra: dict[str, dict[str, Any]] = {
            "late": {"timeout_seconds": 0.05},
            "wrong": {"top_p": 2},
            "huge": {"top_k": 10**12},
        }

        async def nuisance(number: int) -> None:
            draw = random.Random(number)
            async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}", timeout=30) as client:
                while not over.is_set():
                    kind = draw.choice(["cancelled", "late", "wrong", "huge"])
                    body: dict[str, Any] = {"prompt": "It", "max_tokens": 2000, "ignore_eos": True, "n": 4}
                    body |= extra.get(kind, {})
                    limit = draw.uniform(0.001, 0.1) if kind in ("cancelled", "huge") else 30
                    with suppress(httpx.HTTPError, TimeoutError):
                        async with asyncio.timeout(limit):
                            await client.post("/generate", json=body)
                    seen[kind] += 1

        async def ask(route: str, body: bytes) -> Any:
            mine = Connection(port)
            try:
                return bare((await mine.post(route, body)).body)
            finally:
                mine.close()

        others = [asyncio.create_task(nuisance(number)) for number in range(24)]
        different = 0
        for _ in range(3):
            together = await asyncio.gather(*(ask(*one) for one in bodies))
            different += sum(one != other for one, other in zip(alone, together, strict=True))
        over.set()
        await asyncio.gather(*others)
        console.print(f"{3 * count} answers, {different} different from the solo run; beside {dict(seen)}")
        if different:
            raise typer.Exit(1)

    with alone(checkpoint) as server:
        asyncio.run(main(server.port))


# -- life cycle --------------------------------------------------------------------------------------------------------


@cli.command()
def lifecycle(
    checkpoint: CheckpointOption = CHARACTER, reloads: Annotated[int, typer.Option(help="How many.")] = 1000
) -> None:
    """Reloads under load, a new version each time, every tenth one broken: nothing is lost, no answer is mixed."""

    async def main(server: Server, live: Path, versions: list[Path]) -> None:
        body = json.dumps({"prompt": "The", "max_tokens": 40, "seed": 1, "ignore_eos": True}).encode()
        url = f"http://{HOST}:{server.port}"
        expected = set()
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            for version in versions:
                _replace(live, version)
                await client.post("/models/reload")
                expected.add((await client.post("/generate", content=body)).json()["choices"][0]["text"])
            seen: Counter[str] = Counter()
            over = asyncio.Event()

            async def ask() -> None:
                connection = Connection(server.port)
                while not over.is_set():
                    try:
                        answer = await connection.post("/generate", body)
                    except ConnectionError:
                        seen["lost"] += 1
                        continue
                    text = json.loads(answer.body)["choices"][0]["text"] if answer.status == 200 else None
                    seen["right" if text in expected else "wrong" if text else f"status {answer.status}"] += 1
                connection.close()

            askers = [asyncio.create_task(ask()) for _ in range(8)]
            results: Counter[str] = Counter()
            for number in range(reloads):
                _replace(live, versions[number % len(versions)])
                if number % 10 == 9:
                    (live / "model.safetensors").write_bytes(b"broken")
                answer = (await client.post("/models/reload")).json()
                results[next(name for name, models in answer.items() if models)] += 1
            over.set()
            await asyncio.gather(*askers)
        console.print(f"{reloads} reloads: {dict(results)}; answers meanwhile: {dict(seen)}")
        console.print(f"{resident_bytes(server.pid) / 1e6:.0f} MB at the end")
        if set(seen) - {"right"}:
            raise typer.Exit(1)

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        live = _copy(checkpoint, Path(folder))
        other = Path(shutil.copytree(checkpoint, Path(folder) / "other"))
        # Another version: the same network with its words spelled in another order of the vocabulary would do, too.
        from models.checkpoint.format import load_checkpoint, save_checkpoint

        loaded = load_checkpoint(live)
        loaded.model.output.bias.data.mul_(0.5)
        save_checkpoint(other, loaded.model, loaded.tokenizer, loaded.storage, loaded.about, loaded.card)
        first = Path(shutil.copytree(live, Path(folder) / "first"))
        settings = {"CAROUSEL_OLD_VERSION_SECONDS": "1"}
        server = stack.enter_context(Server("ours", live, Path(folder) / "log", **settings))
        asyncio.run(main(server, live, [other, first]))


def _replace(live: Path, version: Path) -> None:
    """Put a version in place, as an export does: the folder is exchanged whole."""
    new = live.with_name(f".{live.name}-new")
    shutil.copytree(version, new)
    old = live.with_name(f".{live.name}-old")
    live.rename(old)
    new.rename(live)
    shutil.rmtree(old)


if __name__ == "__main__":
    cli()
