"""What a run needs to be resumed bit for bit, in files that appear whole or not at all and hold sums of themselves.

trainer.safetensors         weights, optimizer, average, carried state; its metadata holds the position
trainer-before.safetensors  the same of the save before it, for when that one is damaged
best.safetensors            the weights with the best validation
log.jsonl                   a line for every tenth step and for every validation
"""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn

from models.files import replacing
from training.run import RunError, command_line
from training.sealed import DamagedError, read_tensors, write_tensors

TRAINER, BEFORE, BEST, LOG = "trainer.safetensors", "trainer-before.safetensors", "best.safetensors", "log.jsonl"
DAMAGED = "trainer-damaged.safetensors"
"""A last save that could not be read; the run went on from the one before it."""


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


@dataclass(frozen=True)
class Saved:
    """A save, as it is read. damage: why it is the one before the last; None where it is the last."""

    tensors: dict[str, Tensor]
    position: Position
    damage: str | None = None


def write_saved(directory: Path, tensors: Mapping[str, Tensor], position: Mapping[str, Any]) -> None:
    """Writes a save, and keeps the last one as the one before. Whenever this is cut short, one of the two is whole."""
    last, new = directory / TRAINER, directory / f".{TRAINER}.new"
    write_tensors(new, tensors, {"position": json.dumps(position)})
    if last.exists():
        last.replace(directory / BEFORE)
    new.replace(last)


def read_saved(directory: Path) -> Saved | None:
    """The last save, or the one before it where the last is damaged or was being replaced; None before the first.

    Raises `RunError` where no save is whole.
    """
    damages: list[str] = []
    for name in (TRAINER, BEFORE):
        try:
            return _read_save(directory / name, damages[0] if damages else None)
        except FileNotFoundError:
            continue
        except DamagedError as error:
            damages.append(str(error))
    if not damages:
        return None
    raise RunError(
        f"{'; '.join(damages)}. No whole save is left. Put back a copy of {TRAINER}; or remove {TRAINER}, {BEFORE} and "
        f"{BEST}, and the run trains again from its first step, to the same bits:\n"
        f"  {command_line('resume', directory)}"
    )


def _read_save(path: Path, damage: str | None) -> Saved:
    tensors, metadata = read_tensors(path)
    try:
        return Saved(tensors, Position.from_json(json.loads(metadata["position"])), damage)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedError(path, f"is damaged: its position cannot be read ({error})") from None


def read_position(directory: Path) -> Position:
    """Where the run in `directory` stands, as of its last whole save; the start where there is none."""
    saved = read_saved(directory)
    return saved.position if saved else Position()


def set_damaged_aside(directory: Path) -> None:
    """Keeps a damaged last save from taking the place of the whole one before it at the next save."""
    (directory / TRAINER).replace(directory / DAMAGED)


def write_best(directory: Path, weights: Mapping[str, Tensor]) -> None:
    write_tensors(directory / BEST, weights)


def read_best(directory: Path) -> dict[str, Tensor]:
    """The weights of the best validation. Raises `FileNotFoundError` and `DamagedError`."""
    return read_tensors(directory / BEST)[0]


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
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def _parsed(line: str) -> dict[str, Any] | None:
    """None for a line that is not whole."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) and isinstance(values.get("step"), int) else None
