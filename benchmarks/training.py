"""Training speed and memory beside the word language model script people start from, at the same shapes and batches.

    python -m benchmarks.training [--steps 12] [--shape examples,awd,default]

The script is benchmarks/script.py. Ours is the trainer, with SGD as the script has it, and once more as recipes use it,
with AdamW and a sampled softmax, which is another loss. Each runs in a process by itself, which also tells its peak
memory, what its libraries take left out; they take turns, and the best of each counts.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, get_args

from models.process import prepare_process

prepare_process()

import torch  # noqa: E402
import typer  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.floor import product_rate  # noqa: E402
from benchmarks.host import cpu_slug, describe_host  # noqa: E402
from benchmarks.script import CLIP, RATE, WARMUP_STEPS, peak_mib  # noqa: E402
from models.config import NetworkConfig  # noqa: E402
from models.network import LanguageModel  # noqa: E402
from training.config import TrainingConfig  # noqa: E402
from training.tasks.language_model import LanguageModelTask  # noqa: E402
from training.trainer import Trainer  # noqa: E402

Side = Literal["script", "ours", "sampled"]

RESULTS = Path(__file__).parent / "results"
SAMPLES = 4096
TURNS = 3


@dataclass(frozen=True)
class Load:
    """A network and the batch that it is trained with."""

    network: NetworkConfig
    batch_size: int
    bptt_length: int

    def operations_per_token(self) -> int:
        """Multiplications and additions of matrix products: one forward, two backward."""
        config = self.network
        widths = (config.embedding_size, *config.hidden_sizes)
        recurrent = sum(4 * hidden * (width + hidden) for width, hidden in pairwise(widths))
        projection = config.hidden_sizes[-1] * (config.projection_size or 0)
        return 6 * (recurrent + projection + config.feature_size * config.vocabulary_size)


LOADS = {
    "examples": Load(NetworkConfig(33_278, 200, (200, 200), tied=True), 20, 35),
    "awd": Load(NetworkConfig(33_278, 400, (1150, 1150, 400), tied=True), 80, 70),
    "default": Load(NetworkConfig(20_000, 256, (512, 512), projection_size=256, tied=True), 64, 64),
}


def main(
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed, of each side in each turn.")] = 12,
    shape: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(LOADS),
    side: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Tokens per second of forward, backward and step, and peak memory."""
    if side is not None:
        print(json.dumps(_run_ours(LOADS[shape], steps, SAMPLES if side == "sampled" else 0)))  # noqa: T201
        return
    names = shape.split(",")
    turns: list[tuple[str, Side]] = [(name, who) for name in names for _ in range(TURNS) for who in get_args(Side)]
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    console = Console(stderr=True)
    for name, who in track(turns, "training", console=console):
        found.setdefault((name, who), []).append(_in_a_process(name, who, steps))
    peak = product_rate("bfloat16", 4.0)
    records = [_compare(name, {side: found[name, side] for side in get_args(Side)}, peak) for name in names]
    header = describe_host()
    stem = RESULTS / f"{header['date'][:10]}-{cpu_slug(header['cpu'])}-training"
    stem.with_suffix(".json").write_text(json.dumps({"header": header, "records": records}, indent=1) + "\n")
    Console(width=120).print(_table(records, peak))
    console.print(f"wrote {stem}.json")


def _in_a_process(name: str, side: Side, steps: int) -> dict[str, float]:
    module, options = "benchmarks.training", ["--side", side]
    if side == "script":  # nothing of ours in its process, not even how that uses the machine
        load = LOADS[name]
        config = load.network
        module, options = "benchmarks.script", []
        options += ["--vocabulary-size", str(config.vocabulary_size), "--embedding-size", str(config.embedding_size)]
        options += ["--hidden-sizes", ",".join(map(str, config.hidden_sizes))]
        options += ["--projection-size", str(config.projection_size or 0)]
        options += ["--batch-size", str(load.batch_size), "--bptt-length", str(load.bptt_length)]
    else:
        options += ["--shape", name]
    command = [sys.executable, "-m", module, *options, "--steps", str(steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, cwd=RESULTS.parents[1])
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _run_ours(load: Load, steps: int, sampled_softmax: int) -> dict[str, float]:
    """The trainer as it is: dropout, clipping, reports; a text of random tokens."""
    # torch's optimizers import a compiler when the first one is made, and never use it here.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0)
    before = peak_mib()
    count = load.batch_size * load.bptt_length * (steps + WARMUP_STEPS + 1) + load.bptt_length + 1
    ids = torch.randint(2, load.network.vocabulary_size, (count,), dtype=torch.int32)
    total = steps + WARMUP_STEPS
    config = TrainingConfig(
        steps=total,
        batch_size=load.batch_size,
        bptt_length=load.bptt_length,
        dropout=0.2,
        optimizer="adamw" if sampled_softmax else "sgd",
        learning_rate=2e-3 if sampled_softmax else RATE,
        clip_norm=CLIP,
        sampled_softmax=sampled_softmax,
        full_softmax_from=1.0,
        validate_every=total + 1,
        checkpoint_every=total + 1,
    )
    speeds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(LanguageModelTask(load.network, config, ids, ids[:512], 1), config, Path(folder))
        trainer.run(lambda report: speeds.append(report.tokens_per_second or 0.0))
    speed = median(speeds[WARMUP_STEPS:total])
    return {"tokens_per_second": speed, "peak_mib": peak_mib(), "libraries_mib": before}


def _compare(name: str, runs: dict[Side, list[dict[str, float]]], peak: float) -> dict[str, Any]:
    load = LOADS[name]
    speeds = {side: max(run["tokens_per_second"] for run in found) for side, found in runs.items()}
    memory = {side: min(run["peak_mib"] - run["libraries_mib"] for run in found) for side, found in runs.items()}
    return {
        "shape": name,
        "parameters": LanguageModel(load.network).num_parameters(),
        "batch": [load.batch_size, load.bptt_length],
        "tokens_per_second": speeds,
        "memory_mib": memory,
        "libraries_mib": {side: found[0]["libraries_mib"] for side, found in runs.items()},
        "speedup": speeds["ours"] / speeds["script"],
        "sampled_speedup": speeds["sampled"] / speeds["script"],
        "memory_share": memory["ours"] / memory["script"],
        "of_bfloat16_peak": load.operations_per_token() * speeds["ours"] / peak,
    }


def _table(records: list[dict[str, Any]], peak: float) -> Table:
    table = Table(title=f"best bfloat16 matrix product: {peak / 1e9:,.0f} GFLOP/s")
    for title in (
        "shape",
        "tokens/s: script",
        "ours",
        "ratio",
        "sampled",
        "ratio",
        "MiB: script",
        "ours",
        "share",
        "of peak",
    ):
        table.add_column(title, justify="left" if title == "shape" else "right")
    for record in records:
        speeds, memory = record["tokens_per_second"], record["memory_mib"]
        table.add_row(
            record["shape"],
            f"{speeds['script']:,.0f}",
            f"{speeds['ours']:,.0f}",
            f"{record['speedup']:.2f}x",
            f"{speeds['sampled']:,.0f}",
            f"{record['sampled_speedup']:.2f}x",
            f"{memory['script']:,.0f}",
            f"{memory['ours']:,.0f}",
            f"{record['memory_share']:.0%}",
            f"{record['of_bfloat16_peak']:.0%}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
