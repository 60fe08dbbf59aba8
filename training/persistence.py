"""What a run needs to be resumed bit for bit, in files that appear whole or not at all.

trainer.safetensors   weights, optimizer, average, carried state; its metadata holds the position
best.safetensors      the weights with the best validation
log.jsonl             a line for every tenth step and for every validation
"""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from models.files import replacing, write_atomically

TRAINER, BEST, LOG = "trainer.safetensors", "best.safetensors", "log.jsonl"


@dataclass(frozen=True)
class Position:
    """Where a run stands; with the tensors beside it, all that resuming needs."""

    step: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best: float | None = None
    """The best validation, in the unit of the task's measure."""
    validations_since_best: int = 0
    validations: tuple[float, ...] = ()
    """All validations so far, while the average of the weights waits for them to stop improving."""
    averaged: int = 0
    """Steps that are in the average of the weights."""
    stopped: str | None = None
    """Why training is over; None while it is not."""

    def to_json(self, unit: str) -> dict[str, Any]:
        """unit: of the task's measure; the best value is stored as `best_<unit>`."""
        values = asdict(self)
        if self.best is None:
            del values["best"]
        return {f"best_{unit}" if name == "best" else name: value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Position":
        """Inverse of `to_json`, whatever the unit."""
        known = {name: value for name, value in values.items() if name in cls.__dataclass_fields__}
        best = next((value for name, value in values.items() if name not in known and name.startswith("best_")), None)
        return cls(**known | {"best": best, "validations": tuple(values.get("validations", ()))})


@dataclass(frozen=True)
class Report:
    """What a step or a validation has found. loss, validation: in the units of the task."""

    step: int
    tokens: int
    seconds: float
    learning_rate: float
    loss: float | None = None
    gradient_norm: float | None = None
    tokens_per_second: float | None = None
    validation: float | None = None
    share_done: float = 0.0
    """Of the schedule."""

    def to_json(self, loss_unit: str, unit: str) -> dict[str, Any]:
        """A line of the log. loss_unit, unit: of the task's loss and of its measure."""
        values = {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "learning_rate": self.learning_rate,
            f"loss_{loss_unit}": self.loss,
            "gradient_norm": self.gradient_norm,
            "tokens_per_second": self.tokens_per_second,
            f"valid_{unit}": self.validation,
            "progress": self.share_done,
        }
        return {key: value for key, value in values.items() if value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Report":
        """Inverse of `to_json`, whatever the units."""
        names = {key: _name_in_report(key) for key in values}
        return cls(**{name: values[key] for key, name in names.items() if name in cls.__dataclass_fields__})


def _name_in_report(key: str) -> str:
    prefixes = {"loss_": "loss", "valid_": "validation", "progress": "share_done"}
    return next((name for prefix, name in prefixes.items() if key.startswith(prefix)), key)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    write_atomically(path, save({name: one.detach().cpu().contiguous() for name, one in tensors.items()}, metadata))


def load_trainer(directory: Path) -> dict[str, Tensor]:
    """The tensors of the last save; none before the first."""
    path = directory / TRAINER
    if not path.exists():
        return {}
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_position(directory: Path) -> Position:
    """Where the run in `directory` stands, as of its last save; the start where there is none."""
    path = directory / TRAINER
    if not path.exists():
        return Position()
    with safe_open(path, framework="pt") as file:
        return Position.from_json(json.loads(file.metadata()["position"]))


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state by the name of the weight and of the value."""
    return {
        f"{name}.{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)  # SGD without momentum keeps a None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`."""
    for name, parameter in network.named_parameters():
        state = {
            key.removeprefix(f"{name}."): value.to(parameter.device)
            for key, value in tensors.items()
            if key.startswith(f"{name}.")
        }
        if state:
            optimizer.state[parameter] = state


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def open_log(directory: Path | None) -> AbstractContextManager[TextIO | None]:
    """The log to append to; None for a process that does not write."""
    return (directory / LOG).open("a", encoding="utf-8") if directory else nullcontext()


def read_log(directory: Path) -> list[Report]:
    """The reports in a run's log, without a line that a kill has cut short; none where there is no log."""
    return [Report.from_json(values) for values in map(_parsed, _lines(directory / LOG)) if values]


def truncate_log(directory: Path, step: int) -> None:
    """Keeps the log's lines up to `step`; drops a line that a kill has cut short."""
    path = directory / LOG
    kept = [line for line in _lines(path) if (values := _parsed(line)) and values["step"] <= step]
    with replacing(path) as file:
        file.writelines(line + "\n" for line in kept)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _parsed(line: str) -> dict[str, Any] | None:
    """None for a line that is not whole."""
    try:
        values: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return values
