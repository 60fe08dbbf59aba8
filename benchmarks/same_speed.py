"""Are two source trees equally fast? Their servers and trainings take turns on one machine.

    python -m benchmarks.same_speed old new --rounds 7

Both servers run all the time; only one is under load. A round puts each load on the first tree, then on the second;
the next round begins with the second. Medians over the rounds are compared, and the spread of a tree's own rounds (half
the distance between the quartiles, over the median) says which difference means something. Each tree is asked by HTTP
and by command line alone, with the Python of its own `.venv`.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.load import Load
from benchmarks.same_answers import Tree, tree_server
from benchmarks.workloads import Texts, make_workload
from models.checkpoint.format import load_checkpoint

ROOT = Path(__file__).parents[1]
MODEL = "english-word"
LOADS = (("decode", 64), ("decode", 1), ("score-list64", 1), ("next", 1))
WINDOW_SECONDS = 4.0

TRAINING = (
    *("--level", "word", "--boundary", "line", "--hidden-sizes", "512,512", "--embedding-size", "256"),
    *("--projection-size", "256", "--batch-size", "64", "--bptt-length", "64", "--steps", "30"),
    *("--validate-every", "1000", "--min-count", "1"),
)

app = typer.Typer(add_completion=False)


@app.command()
def main(
    old: Annotated[Path, typer.Argument(help="A source tree with its .venv.", exists=True, file_okay=False)],
    new: Annotated[Path, typer.Argument(help="Another one.", exists=True, file_okay=False)],
    rounds: Annotated[int, typer.Option(min=1)] = 7,
    training: Annotated[bool, typer.Option(help="Whether trainings are timed, too.")] = True,
) -> None:
    """Print the median of each load on each tree, their ratio and the spread."""
    trees = [Tree(tree.resolve() / ".venv/bin/python", tree.resolve()) for tree in (old, new)]
    measured: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        corpus = Path(scratch) / "corpus.txt"
        corpus.write_text(_corpus(), encoding="utf-8")
        settings = {"CAROUSEL_DEFAULT_MODEL": MODEL}
        logs = [Path(scratch) / f"{side}.log" for side in range(2)]
        ports = [stack.enter_context(tree_server(*pair)) for pair in zip(trees, [settings] * 2, logs, strict=True)]
        for number in range(rounds):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            for workload, clients in LOADS:
                for side in order:
                    rate = _under_load(ports[side], workload, clients, seed=number)
                    _note(measured, f"{workload}, clients: {clients}", side, rate)
            for side in order if training else ():
                _note(
                    measured, "training", side, _training_rate(trees[side], corpus, Path(scratch) / f"{side}-{number}")
                )
            print(f"round {number + 1} of {rounds}", file=sys.stderr)  # noqa: T201
    _show(measured)


def _note(measured: dict[str, list[list[float]]], what: str, side: int, rate: float) -> None:
    measured.setdefault(what, [[], []])[side].append(rate)


def _under_load(port: int, workload: str, clients: int, seed: int) -> float:
    """Tokens a second, or requests where no tokens are counted."""
    made = make_workload(workload, load_checkpoint(ROOT / "checkpoints" / MODEL).tokenizer, seed)
    load = Load(
        port, made.path, made.bodies, made.warmup, made.stream, made.once, clients, WINDOW_SECONDS, limit_seconds=60
    )
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        cwd=ROOT, input=json.dumps(asdict(load)), capture_output=True, text=True, check=True,
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert not result["failed"], result["error"]
    return float(result["tokens"] or result["requests"]) / float(result["seconds"])


def _corpus() -> str:
    """Some 600,000 random words of the model's vocabulary, ten a line."""
    texts = Texts(load_checkpoint(ROOT / "checkpoints" / MODEL).tokenizer, seed=0)
    return "\n".join(texts.text(10).strip() for _ in range(60_000)) + "\n"


def _training_rate(tree: Tree, corpus: Path, scratch: Path) -> float:
    """Median tokens a second over the last steps of a short training."""
    command = [str(tree.python), "-m", "training", "train", str(corpus), *TRAINING]
    places = ["--out", str(scratch / "out" / "model"), "--run", str(scratch / "run")]
    subprocess.run([*command, *places], cwd=tree.folder, env=tree.environment(), check=True, capture_output=True)
    lines = (scratch / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rates = [json.loads(line).get("tokens_per_second") for line in lines]
    return float(statistics.median([rate for rate in rates if rate][-2:]))


def _show(measured: dict[str, list[list[float]]]) -> None:
    table = Table("load", "first", "second", "second / first", "spread")
    for what, (first, second) in measured.items():
        medians = statistics.median(first), statistics.median(second)
        spread = max(_spread(first), _spread(second))
        table.add_row(
            what, f"{medians[0]:,.0f}", f"{medians[1]:,.0f}", f"{medians[1] / medians[0]:.3f}", f"{spread:.1%}"
        )
    Console(width=100).print(table)


def _spread(rates: list[float]) -> float:
    if len(rates) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(rates, n=4)
    return (high - low) / 2 / middle


if __name__ == "__main__":
    app()
