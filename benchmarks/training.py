"""Training speed and memory beside the word language model script people start from, at the same shapes and batches.

    python -m benchmarks.training [--steps 12] [--shape examples,awd,default]

The script, `ScriptLoop` below, is the loop of PyTorch's word_language_model example, written anew: float32 `nn.LSTM`,
logits of every token at once, log-softmax, clipping at 0.25, plain SGD by hand. Each side runs in a process of its own,
which also tells its peak memory; sides take turns, twice, and the better of each counts.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

from models.process import prepare_process

prepare_process()

import torch  # noqa: E402
import typer  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks.floor import product_rate  # noqa: E402
from benchmarks.host import cpu_slug, describe_host  # noqa: E402
from models.network import LanguageModel, NetworkConfig  # noqa: E402
from training.config import TrainingConfig  # noqa: E402
from training.trainer import Trainer  # noqa: E402

Side = Literal["script", "ours"]

RESULTS = Path(__file__).parent / "results"
WARMUP_STEPS = 3
SCRIPT_CLIP, SCRIPT_RATE = 0.25, 20.0


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
        print(json.dumps((_run_script if side == "script" else _run_ours)(LOADS[shape], steps)))  # noqa: T201
        return
    names = shape.split(",")
    turns: list[tuple[str, Side]] = [(name, who) for name in names for _ in range(2) for who in ("script", "ours")]
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    console = Console(stderr=True)
    for name, who in track(turns, "training", console=console):
        found.setdefault((name, who), []).append(_in_a_process(name, who, steps))
    peak = product_rate("bfloat16", 4.0)
    records = [_compare(name, found[name, "script"], found[name, "ours"], peak) for name in names]
    header = describe_host()
    stem = RESULTS / f"{header['date'][:10]}-{cpu_slug(header['cpu'])}-training"
    stem.with_suffix(".json").write_text(json.dumps({"header": header, "records": records}, indent=1) + "\n")
    Console(width=120).print(_table(records, peak))
    console.print(f"wrote {stem}.json")


def _in_a_process(name: str, side: Side, steps: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.training", "--side", side, "--shape", name, "--steps", str(steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, cwd=RESULTS.parents[1])
    result: dict[str, float] = json.loads(done.stdout)
    return result


class ScriptLoop(nn.Module):
    """The example's model: what it would be at these shapes, tied, a projection where the shape has one."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = (config.embedding_size, *config.hidden_sizes)
        self.encoder = nn.Embedding(config.vocabulary_size, config.embedding_size)
        self.drop = nn.Dropout(0.2)
        self.layers = nn.ModuleList(nn.LSTM(width, hidden) for width, hidden in pairwise(widths))
        self.projection = (
            nn.Linear(config.hidden_sizes[-1], config.projection_size) if config.projection_size else nn.Identity()
        )
        self.decoder = nn.Linear(config.feature_size, config.vocabulary_size)
        self.decoder.weight = self.encoder.weight

    def forward(self, ids: Tensor, states: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """ids: (T, B). Returns log-probabilities, (T * B, V), and the states."""
        x = self.drop(self.encoder(ids))
        after = []
        for layer, state in zip(self.layers, states, strict=True):
            x, final = layer(x, state)
            x = self.drop(x)
            after.append(final)
        logits = self.decoder(self.projection(x)).view(-1, self.decoder.out_features)
        return torch.log_softmax(logits, dim=1), after


def _run_script(load: Load, steps: int) -> dict[str, float]:
    torch.manual_seed(0)
    model = ScriptLoop(load.network)
    ids = torch.randint(load.network.vocabulary_size, (load.bptt_length + 1, load.batch_size))
    states = [(torch.zeros(1, load.batch_size, h),) * 2 for h in load.network.hidden_sizes]

    def step() -> None:
        nonlocal states
        states = [(h.detach(), c.detach()) for h, c in states]
        model.zero_grad()
        logprobs, states = model(ids[:-1], states)
        loss = nn.functional.nll_loss(logprobs, ids[1:].reshape(-1))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), SCRIPT_CLIP)
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.data.add_(parameter.grad, alpha=-SCRIPT_RATE)
        loss.item()

    return _measured(_timed(step, steps), load)


def _timed(step: Callable[[], None], steps: int) -> list[float]:
    seconds = []
    for _ in range(WARMUP_STEPS + steps):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return seconds[WARMUP_STEPS:]


def _run_ours(load: Load, steps: int) -> dict[str, float]:
    """The trainer as it is: dropout, AdamW, clipping, reports; a text of random tokens."""
    count = load.batch_size * load.bptt_length * (steps + WARMUP_STEPS + 1) + load.bptt_length + 1
    ids = torch.randint(2, load.network.vocabulary_size, (count,), dtype=torch.int32)
    total = steps + WARMUP_STEPS
    config = TrainingConfig(
        steps=total,
        batch_size=load.batch_size,
        bptt_length=load.bptt_length,
        dropout=0.2,
        validate_every=total + 1,
        checkpoint_every=total + 1,
    )
    speeds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(load.network, config, ids, ids[:512], 1, Path(folder))
        trainer.run(lambda report: speeds.append(report.tokens_per_second or 0.0))
    tokens = load.batch_size * load.bptt_length
    return _measured([tokens / speed for speed in speeds[WARMUP_STEPS:total]], load)


def _measured(seconds: list[float], load: Load) -> dict[str, float]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"tokens_per_second": load.batch_size * load.bptt_length / median(seconds), "peak_mib": peak}


def _compare(name: str, script: list[dict[str, float]], ours: list[dict[str, float]], peak: float) -> dict[str, Any]:
    slow, fast = (max(run["tokens_per_second"] for run in runs) for runs in (script, ours))
    large, small = (min(run["peak_mib"] for run in runs) for runs in (script, ours))
    load = LOADS[name]
    return {
        "shape": name,
        "parameters": LanguageModel(load.network).num_parameters(),
        "batch": [load.batch_size, load.bptt_length],
        "script_tokens_per_second": slow,
        "tokens_per_second": fast,
        "speedup": fast / slow,
        "script_peak_mib": large,
        "peak_mib": small,
        "memory_share": small / large,
        "of_bfloat16_peak": load.operations_per_token() * fast / peak,
    }


def _table(records: list[dict[str, Any]], peak: float) -> Table:
    table = Table(title=f"best bfloat16 matrix product: {peak / 1e9:,.0f} GFLOP/s")
    for title in ("shape", "script tokens/s", "ours", "ratio", "script peak MiB", "ours", "share", "of the peak"):
        table.add_column(title, justify="left" if title == "shape" else "right")
    for r in records:
        table.add_row(
            r["shape"],
            f"{r['script_tokens_per_second']:,.0f}",
            f"{r['tokens_per_second']:,.0f}",
            f"{r['speedup']:.2f}x",
            f"{r['script_peak_mib']:,.0f}",
            f"{r['peak_mib']:,.0f}",
            f"{r['memory_share']:.0%}",
            f"{r['of_bfloat16_peak']:.0%}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
