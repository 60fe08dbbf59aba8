"""Runs and checkpoints side by side: what came of them, the mean of their weights, the best learning rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.checkpoint.format import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from models.network import LanguageModel
from training.plots import PlotError, read_log
from training.run import open_run
from training.trainer import Report, read_position


@dataclass(frozen=True)
class RunSummary:
    """What a run has come to. valid: (step, minutes, nats per token) of each validation."""

    name: str
    parameters: int
    steps: int
    tokens: int
    minutes: float
    best_nats: float | None
    best_step: int | None
    valid: list[tuple[int, float, float]]

    @property
    def best_perplexity(self) -> float | None:
        return math.exp(self.best_nats) if self.best_nats is not None and self.best_nats < 700 else None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "parameters": self.parameters,
            "steps": self.steps,
            "tokens": self.tokens,
            "minutes": self.minutes,
            "best_step": self.best_step,
            "best_perplexity": self.best_perplexity,
        }


def summarise(directory: Path) -> RunSummary:
    """A run, finished or not. Raises `RunError` where there is none."""
    run = open_run(directory)
    try:
        entries = read_log(directory / "log.jsonl")
    except PlotError:
        entries = []
    valid = [(e["step"], e["seconds"] / 60, e["valid_nats"]) for e in entries if "valid_nats" in e]
    best = min(valid, key=lambda row: row[2], default=None)
    position = read_position(directory)
    with torch.device("meta"):
        parameters = LanguageModel(run.config.network).num_parameters()
    return RunSummary(
        directory.name,
        parameters,
        position.step,
        position.step * run.config.training.batch_size * run.config.training.bptt_length,
        position.seconds / 60,
        best[2] if best else None,
        best[0] if best else None,
        valid,
    )


def average_checkpoints(directories: Sequence[Path], out: Path) -> Checkpoint:
    """Write the mean of the weights of checkpoints of one network and one vocabulary, as they come from one run
    (Polyak & Juditsky 1992). Raises `CheckpointError` where they differ."""
    loaded = [load_checkpoint(directory) for directory in directories]
    first = loaded[0]
    for directory, other in zip(directories, loaded, strict=True):
        if other.model.config != first.model.config or other.tokenizer.tokens != first.tokenizer.tokens:
            raise CheckpointError(directory, f"is of another network or vocabulary than {directories[0]}")
    model = LanguageModel(first.model.config)
    sources = [dict(checkpoint.model.named_parameters()) for checkpoint in loaded]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.stack([source[name] for source in sources]).mean(dim=0))
    about = {"name": out.name, "description": "mean of " + ", ".join(directory.name for directory in directories)}
    card = f"# {out.name}\n\nThe {about['description']}.\n"
    save_checkpoint(out, model, first.tokenizer, first.storage, about, card, first.speller)
    return load_checkpoint(out)


def suggest_rate(reports: Sequence[Report]) -> float | None:
    """Where the smoothed loss of a range test falls fastest, by the logarithm of the rate; None: it never falls."""
    rates = [report.learning_rate for report in reports]
    losses, average = [], 0.0
    for count, report in enumerate(reports, 1):
        average = 0.9 * average + 0.1 * (report.loss_nats or 0.0)
        losses.append(average / (1 - 0.9**count))
    least = min(range(len(losses)), key=losses.__getitem__, default=0)
    span = max(1, len(losses) // 20)
    slopes = {place: losses[place] - losses[place - span] for place in range(span, least + 1)}
    steepest = min(slopes, key=slopes.__getitem__, default=None)
    return rates[steepest] if steepest is not None and slopes[steepest] < 0 else None


def diverged(reports: Sequence[Report]) -> bool:
    """Whether a range test has seen enough: the loss is far above the least of it."""
    losses = [report.loss_nats for report in reports if report.loss_nats is not None]
    return len(losses) > 10 and (not math.isfinite(losses[-1]) or losses[-1] > 1.5 * min(losses) + 1)
