"""Runs and checkpoints side by side: their results, the mean of their weights, the best learning rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.checkpoint.format import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from models.network import LanguageModel, set_weights
from training.persistence import Report, read_log, read_position
from training.run import open_run
from training.tasks import Measure
from training.tasks.table import task_of


@dataclass(frozen=True)
class RunSummary:
    """What a run has reached. best: its best validation, in the unit of `measure`. validations: (step, minutes, value)
    of each."""

    name: str
    parameters: int
    steps: int
    tokens: int
    minutes: float
    measure: Measure
    best: float | None
    best_step: int | None
    validations: list[tuple[int, float, float]]

    @property
    def cost(self) -> float:
        """The run with the lowest cost is the best; infinite without a validation."""
        return math.inf if self.best is None else self.measure.cost(self.best)

    @property
    def best_perplexity(self) -> float | None:
        """None where the measure is not in nats."""
        has_one = self.best is not None and self.measure.unit == "nats" and self.best < 700
        return math.exp(self.best) if self.best is not None and has_one else None

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
    config, measure = run.config, task_of(run).measure
    validations = [(r.step, r.seconds / 60, r.validation) for r in read_log(directory) if r.validation is not None]
    best = min(validations, key=lambda row: measure.cost(row[2]), default=None)
    position = read_position(directory)
    with torch.device("meta"):
        parameters = LanguageModel(config.network).num_parameters()
    return RunSummary(
        directory.name,
        parameters,
        position.step,
        position.step * config.training.batch_size * config.training.bptt_length,
        position.seconds / 60,
        measure,
        best[2] if best else None,
        best[0] if best else None,
        validations,
    )


def average_checkpoints(directories: Sequence[Path], out: Path) -> Checkpoint:
    """Writes the mean of the weights of checkpoints that have the same network and vocabulary, as those of one run have
    (Polyak & Juditsky 1992). Raises `CheckpointError` where they differ."""
    loaded = [load_checkpoint(directory) for directory in directories]
    first = loaded[0]
    for directory, other in zip(directories, loaded, strict=True):
        if other.model.config != first.model.config or other.tokenizer.tokens != first.tokenizer.tokens:
            raise CheckpointError(directory, f"is of another network or vocabulary than {directories[0]}")
    model = LanguageModel(first.model.config)
    sources = [dict(checkpoint.model.named_parameters()) for checkpoint in loaded]
    set_weights(model, {name: torch.stack([one[name] for one in sources]).mean(dim=0) for name in sources[0]})
    about = {"name": out.name, "description": "mean of " + ", ".join(directory.name for directory in directories)}
    card = f"# {out.name}\n\nThe {about['description']}.\n"
    save_checkpoint(out, model, first.tokenizer, first.storage, about, card, first.speller)
    return load_checkpoint(out)


def suggest_rate(reports: Sequence[Report]) -> float | None:
    """The rate at which the smoothed loss of a range test falls fastest, on a logarithmic axis; None: it never does."""
    rates = [report.learning_rate for report in reports]
    losses, average = [], 0.0
    for count, report in enumerate(reports, 1):
        average = 0.9 * average + 0.1 * (report.loss or 0.0)
        losses.append(average / (1 - 0.9**count))
    least = min(range(len(losses)), key=losses.__getitem__, default=0)
    span = max(1, len(losses) // 20)
    slopes = {place: losses[place] - losses[place - span] for place in range(span, least + 1)}
    steepest = min(slopes, key=slopes.__getitem__, default=None)
    return rates[steepest] if steepest is not None and slopes[steepest] < 0 else None


def diverged(reports: Sequence[Report]) -> bool:
    """Whether a range test can end: the loss is far above its minimum."""
    losses = [report.loss for report in reports if report.loss is not None]
    return len(losses) > 10 and (not math.isfinite(losses[-1]) or losses[-1] > 1.5 * min(losses) + 1)
