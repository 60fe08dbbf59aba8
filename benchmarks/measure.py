"""What is measured, and measuring it: the same load against both servers, and the engine against its floor."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.floor import measure_roof
from benchmarks.load import Load, Result
from benchmarks.servers import ROOT, Kind, Server, environment
from benchmarks.shapes import Shape
from benchmarks.workloads import make_workload
from models.checkpoint.format import load_checkpoint
from models.text.tokenizer import Tokenizer

PARTS = ("decode", "prefill", "mixed", "score", "next", "prompt", "engine")


@dataclass(frozen=True)
class Options:
    """window_seconds: of one measurement. limit_seconds: when to stop waiting for a slow server. scale: of workloads.
    dtype: CAROUSEL_DTYPE of ours."""

    window_seconds: float = 5.0
    limit_seconds: float = 120.0
    repeats: int = 2
    max_clients: int = 256
    scale: float = 1.0
    dtype: str = "auto"


@dataclass(frozen=True)
class Point:
    """One load. naive: whether the naive server is put under it as well."""

    part: str
    workload: str
    clients: int
    naive: bool = True


POINTS = (
    *(Point("decode", workload, n) for workload in ("decode", "decode-stream") for n in (1, 8, 64, 256)),
    *(Point("prefill", "prefill", n, naive=n < 64) for n in (1, 8, 64)),
    *(Point("mixed", "mixed-stream", n, naive=n < 64) for n in (8, 64)),
    Point("score", "score", 1),
    Point("score", "score", 8),
    Point("score", "score-list64", 1),
    Point("score", "score-list64", 8, naive=False),
    Point("score", "nbest10", 1),
    Point("score", "nbest10-apart", 1),
    Point("score", "unrelated10", 1, naive=False),
    Point("next", "next", 1, naive=False),
    Point("prompt", "prompt-cold", 1),
    Point("prompt", "prompt-warm", 1, naive=False),
)

Record = dict[str, Any]
Report = Callable[[Record], None]


def measure_server(shape: Shape, kind: Kind, folder: Path, parts: set[str], options: Options, report: Report) -> None:
    """Put one server under every load of the given parts. folder: holds the shape's checkpoint alone."""
    chosen = [point for point in POINTS if point.part in parts and (point.naive or kind == "ours")]
    chosen = [point for point in chosen if point.clients <= options.max_clients]
    if not chosen:
        return
    checkpoint = folder / shape.name
    tokenizer = load_checkpoint(checkpoint).tokenizer
    with Server(kind, checkpoint, folder.parent / f"{shape.name}-{kind}.log", options.dtype) as server:
        for point in chosen:
            consumed = server.metric("carousel_prompt_tokens_total")
            results = _repeated(server, point, tokenizer, options)
            consumed = server.metric("carousel_prompt_tokens_total") - consumed
            texts = sum(result.texts for result in results)
            best = max(results, key=rate)
            record = asdict(best) | {
                "part": point.part,
                "shape": shape.name,
                "server": kind,
                "backend": best.backend or ("naive" if kind == "naive" else None),
                "workload": point.workload,
                "clients": point.clients,
                "tokens_per_second": best.tokens / best.seconds,
                "requests_per_second": best.requests / best.seconds,
                "steps_per_text": consumed / texts if consumed and texts else None,
                "spread": 1 - min(map(rate, results)) / rate(best) if len(results) > 1 and rate(best) else None,
                "repeats": [asdict(result) for result in results],
            }
            report(record)


def rate(result: Result) -> float:
    """Tokens per second, or requests where none are counted."""
    return (result.tokens or result.requests) / result.seconds


def _repeated(server: Server, point: Point, tokenizer: Tokenizer, options: Options) -> list[Result]:
    """The same load again, with other texts; not if one round took much longer than the window."""
    results: list[Result] = []
    for repeat in range(options.repeats):
        workload = make_workload(point.workload, tokenizer, seed=repeat, scale=options.scale)
        load = Load(
            port=server.port,
            clients=point.clients,
            window_seconds=options.window_seconds,
            limit_seconds=options.limit_seconds,
            **asdict(workload),
        )
        result = run_load(load)
        results.append(result)
        if result.abandoned and server.kind == "naive":
            server.restart()  # its threads would go on working for clients that have left
        if result.seconds > 3 * options.window_seconds:
            break
    return results


def run_load(load: Load) -> Result:
    """One measurement by a load generator in its own process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=json.dumps(asdict(load)),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        timeout=3 * load.limit_seconds + 60,
        check=True,
    )
    return Result(**json.loads(done.stdout))


def measure_engine(shape: Shape, folder: Path, options: Options, report: Report) -> None:
    """The engine without HTTP, sampling included, beside the floor of its number type."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.alone", str(options.window_seconds), str(options.max_clients)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=environment(CAROUSEL_CHECKPOINTS=str(folder), CAROUSEL_DTYPE=options.dtype),
        timeout=1800,
        check=True,
    )
    found: list[Record] = json.loads(done.stdout)
    roof = measure_roof(shape, found[0]["backend"].split("-")[1], options.window_seconds)
    for record in found:
        if "requests_of" in record:
            report({"part": "engine", "shape": shape.name, "server": "ours", **record})
            continue
        floor = {"roof": asdict(roof), "floor_ms": roof.floor_ms(record["rows"])}
        report({"part": "engine", "shape": shape.name, "server": "ours", **record, **floor})
