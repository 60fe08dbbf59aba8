"""The training loop: steps, learning rate, clipping, reports, validation, early stopping, saving.

It knows neither texts nor what a network predicts (training/tasks/), and prints nothing: its caller gets a report of
every step and validation. With several processes (training/distributed.py) each has a share of the rows; the first one
writes.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor, nn

from models.network import set_weights
from models.process import release_memory
from training.averaging import WeightAverage
from training.config import TrainingConfig
from training.data.batching import mix
from training.distributed import ALONE, Group
from training.early_stopping import after_validation
from training.optimisation import OPTIMIZERS, rate_factor
from training.persistence import (
    BEST,
    DAMAGED,
    Position,
    Report,
    Saved,
    below,
    open_log,
    optimizer_tensors,
    read_best,
    read_saved,
    restore_optimizer,
    set_damaged_aside,
    truncate_log,
    write_best,
    write_saved,
)
from training.run import RunError, command_line, explained
from training.sealed import DamagedError
from training.tasks import Task


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what to change."""


class Trainer:
    """Trains the network of a task. `directory` holds the files of training/persistence.py."""

    def __init__(self, task: Task, config: TrainingConfig, directory: Path, group: Group = ALONE) -> None:
        self.task = task
        self.config = config
        self.directory = directory
        self.position = Position()
        self._group = group
        self._optimizer = OPTIMIZERS[config.optimizer](task.network, config.weight_decay)
        self._average = WeightAverage(config.averaging, config.average_decay, self._weights)
        self._state = task.first_state()
        self._stop_requested = False
        self._saved: Position | None = None
        """Of the last save."""

    @property
    def _weights(self) -> dict[str, Tensor]:
        """The network's tensors by name, a tied matrix once."""
        return {name: parameter.detach() for name, parameter in self.task.network.named_parameters()}

    def run(self, on_report: Callable[[Report], None]) -> Position:
        """Trains until the schedule ends, validation stops improving, or Ctrl-C or SIGTERM asks to stop.

        Always leaves a save to resume from. `position.stopped` is None when training was only interrupted. Raises
        `TrainingError` where numbers are not finite any more, and `OSError` where a file cannot be written; both say
        what is saved and what to do.
        """
        with self._explaining():
            self._train(on_report)
            self.save()
        return self.position

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = f"{self._kept()}. When that is mended, continue with\n  {command_line('resume', self.directory)}"
            raise explained(error, self.directory, advice) from error

    def _train(self, on_report: Callable[[Report], None]) -> None:
        started = time.monotonic() - self.position.seconds
        with _stop_on_signals(self), open_log(self.directory if self._group.is_first else None) as log:
            while self.position.stopped is None:
                seconds, stop = self._group.largest(time.monotonic() - started, self._stop_requested)
                if stop:
                    break
                report = self._step(seconds)
                if report.step % 10 == 0:
                    self._write(report, log)
                on_report(report)
                step = report.step
                (seconds,) = self._group.largest(time.monotonic() - started)
                self.position = replace(self.position, step=step, seconds=seconds)
                finished = self._share_done(step, seconds) >= 1
                if step % self.config.validate_every == 0 or finished:
                    validated = replace(report, loss=None, gradient_norm=None, validation=self._validate())
                    self._write(validated, log)
                    on_report(validated)
                    self._judge(validated)
                    if self.position.stopped is None and finished:
                        self.position = replace(self.position, stopped="the schedule ended")
                if step % self.config.checkpoint_every == 0 or self.position.stopped:
                    self.save()

    def _write(self, report: Report, log: TextIO | None) -> None:
        if log is not None:
            log.write(json.dumps(report.to_json(self.task.loss_unit, self.task.measure.unit)) + "\n")
            log.flush()

    def _step(self, seconds: float) -> Report:
        config, number = self.config, self.position.step
        started = time.monotonic()
        torch.manual_seed(mix(config.seed, 3, number, self._group.rank))  # noise depends on the step alone
        loss = self.task.loss(number, self._state, self._share_done(number, seconds))
        learning_rate = self._learning_rate(number, seconds)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate * loss.rate_scale
        torch.autograd.backward(loss.value + loss.penalty)
        norm = nn.utils.clip_grad_norm_(self.task.network.parameters(), config.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._average.update()
        self._state = loss.state  # the gradient stops at the window's edge
        self.task.make_batch(number + 1)  # while a GPU is at work: to look at a value is to wait for it
        value, gradient_norm = torch.stack((self._group.sum(loss.value.detach()) / self._group.size, norm)).tolist()
        if not math.isfinite(gradient_norm + value):  # nothing has been saved since
            raise self._diverged(number, f"the gradient is not finite (loss {value:.3f})")
        return Report(
            step=number + 1,
            tokens=(number + 1) * self.task.tokens_per_step,
            seconds=seconds,
            learning_rate=learning_rate,
            loss=value,
            gradient_norm=gradient_norm,
            tokens_per_second=loss.tokens / (time.monotonic() - started),
            share_done=self._share_done(number + 1, seconds),
        )

    def _share_done(self, step: int, seconds: float) -> float:
        """Share of the schedule that is done, by steps, or by time where that comes first."""
        by_time = seconds / (60 * self.config.max_minutes) if self.config.max_minutes else 0.0
        return min(1.0, max(step / self.config.steps, by_time))

    def _learning_rate(self, step: int, seconds: float) -> float:
        config = self.config
        factor = rate_factor(config.schedule, self._share_done(step, seconds), step, config.warmup_steps)
        return config.learning_rate * factor

    def _validate(self) -> float:
        """The task's measure, of the average of the weights where the run has begun one."""
        with self._average.standing_in():
            value = self.task.validate()
        release_memory()
        if not math.isfinite(value):
            raise self._diverged(self.position.step, f"the validation is {value}")
        return value

    def _diverged(self, step: int, what: str) -> TrainingError:
        best = f"\nIts best weights can be exported:  {command_line('export', self.directory)}"
        return TrainingError(
            f"step {step}: {what}: start anew with a smaller learning_rate or clip_norm (resumed, the run comes to the "
            f"same step again). {self._kept()}.{best if self.position.best_step else ''}"
        )

    def _kept(self) -> str:
        if self._saved is None:
            return "Nothing was saved yet"
        return f"The run is saved as of step {self._saved.step}"

    def _judge(self, report: Report) -> None:
        """Saves the weights if the validation is the best so far, and begins the average if it is due."""
        assert report.validation is not None
        measure = self.task.measure
        self.position = after_validation(self.position, report.validation, measure, self.config.patience)
        if self.position.best_step == report.step and self._group.is_first:
            self._write_best()
        if self._average.is_waiting:
            validations = (*self.position.validations, report.validation)
            self.position = replace(self.position, validations=validations)
            self._average.begin_if_due([measure.cost(value) for value in validations])

    def request_stop(self) -> None:
        """Stops after the step that is running."""
        self._stop_requested = True

    def _write_best(self) -> None:
        with self._average.standing_in():
            write_best(self.directory, self._weights)

    def save(self) -> None:
        """Writes all that resuming needs. Raises `TrainingError`, and keeps the last save, where a weight is not
        finite."""
        if self.position == self._saved:
            return
        network, average = self.task.network, self._average.average
        tensors = {f"model.{name}": tensor for name, tensor in self._weights.items()}
        if not all(math.isfinite(tensor.sum()) for tensor in tensors.values()):
            raise self._diverged(self.position.step, "the weights are not finite")
        optimizer = optimizer_tensors(self._optimizer, network)
        tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.items()}
        if average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in average.weights.items()}
            self.position = replace(self.position, averaged=average.count)
        tensors["state"] = self._group.gathered(self._state)
        if self._group.is_first:
            write_saved(self.directory, tensors, self.position.to_json(self.task.measure.unit))
        self._saved = self.position
        self._group.wait()

    def load(self) -> list[str]:
        """Continues from what `save` wrote, or from the start where it never did; drops later lines of the log.

        Returns what was damaged and how that was mended. Raises `RunError` where it cannot be, and `OSError` where a
        file cannot be read or written.
        """
        with self._explaining():
            return self._load()

    def _load(self) -> list[str]:
        saved = read_saved(self.directory)
        self._saved = saved.position if saved else None
        self.position = self._saved or Position()
        notes: list[str | None] = []
        if saved:
            self._restore(saved)
        if self._group.is_first:
            notes.append(self._mended_best())
            truncate_log(self.directory, self.position.step)
        if saved and saved.damage and self._group.is_first:
            set_damaged_aside(self.directory)
            notes.append(f"{saved.damage}: going on from the save before it; the damaged one is now {DAMAGED}")
        return [note for note in notes if note]

    def _restore(self, saved: Saved) -> None:
        tensors = saved.tensors
        set_weights(self.task.network, below("model.", tensors))
        restore_optimizer(self._optimizer, self.task.network, below("optimizer.", tensors))
        if average := below("average.", tensors):
            self._average.restore(average, saved.position.averaged)
        self._state = self._group.rows(tensors["state"]).to(self._state.device)

    def _mended_best(self) -> str | None:
        """Writes the best weights anew where their file is lost and they are those of the save; says so."""
        if self.position.best_step is None:
            return None
        try:
            read_best(self.directory)
        except (FileNotFoundError, DamagedError) as error:
            reason = error.reason if isinstance(error, DamagedError) else "is missing"
            if self.position.best_step != self.position.step:
                raise RunError(
                    f"{self.directory / BEST}: {reason}. It had the weights of the best validation (step "
                    f"{self.position.best_step}). Put back a copy; or remove it and trainer*.safetensors, and the run "
                    f"trains again from its first step, to the same bits:\n  {command_line('resume', self.directory)}"
                ) from None
            self._write_best()
            return f"{self.directory / BEST}: {reason}: written anew from the last save, which has the same weights"
        return None


@contextmanager
def _stop_on_signals(trainer: Trainer) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM stops after the running step; a second Ctrl-C stops at once."""

    def request_stop(_number: int, _frame: object) -> None:
        trainer.request_stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
