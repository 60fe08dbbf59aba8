"""The training loop: truncated backpropagation through time, validation, early stopping, exact resumption.

It knows token ids, not text, and prints nothing: whoever calls it is told of every step and validation. With several
processes (training/distributed.py) each has a share of the rows; the first one writes.
"""

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.config import NetworkConfig
from models.decoding.reference import token_logprobs
from models.network import LanguageModel
from models.process import release_memory
from training.config import TrainingConfig, resolve_precision
from training.data.batching import Batch, Batches, mix
from training.distributed import ALONE, Group
from training.initialisation import initialise, set_unigram_bias
from training.kernels import accelerate
from training.loss import WindowLoss
from training.optimisation import Average, averaging_starts, make_optimizer, rate_factor

START = "start.safetensors"
"""Weights that a run begins with, where it does not begin anew."""
VALIDATION_TOKENS = 1 << 17
"""A validation during training looks at this many tokens at most; `evaluate` looks at all."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what to change."""


@dataclass(frozen=True)
class Position:
    """Where a run stands; with the tensors beside it, all that resuming needs."""

    step: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_nats: float = math.inf
    validations_since_best: int = 0
    validations: tuple[float, ...] = ()
    """In nats, so far, where the average of the weights waits for them to tell its beginning."""
    averaged: int = 0
    """Steps that are in the average of the weights."""
    stopped: str | None = None
    """Why training is over; None while it is not."""


@dataclass(frozen=True)
class Report:
    """What a step or a validation has to tell; the fields of one line of `log.jsonl`."""

    step: int
    tokens: int
    seconds: float
    learning_rate: float
    loss_nats: float | None = None
    gradient_norm: float | None = None
    tokens_per_second: float | None = None
    valid_nats: float | None = None
    progress: float = field(default=0.0, compare=False)


class Trainer:
    """Trains one network. `directory` holds `trainer.safetensors`, `best.safetensors` and `log.jsonl`."""

    def __init__(
        self,
        network: NetworkConfig,
        config: TrainingConfig,
        train_ids: Tensor,
        valid_ids: Tensor,
        eos_id: int,
        directory: Path,
        group: Group = ALONE,
    ) -> None:
        """train_ids, valid_ids: (N,), int32. Raises `ValueError` when there are too few for one batch, and when the
        rows cannot be divided among the processes."""
        if config.batch_size % group.size:
            raise ValueError(f"batch_size: {config.batch_size} rows cannot be divided among {group.size} processes")
        self.config = config
        self.directory = directory
        self.device = group.device
        self._group = group
        torch.manual_seed(config.seed)
        self.model = LanguageModel(network)
        initialise(self.model, config.initialisation, config.forget_bias)
        set_unigram_bias(self.model, train_ids)
        if (directory / START).is_file():
            self._set_weights(load_file(directory / START))
        self.model.to(self.device)
        accelerate(self.model.encoder)
        self.dtype = resolve_precision(config.precision, self.device)
        self._loss = group.wrapped(WindowLoss(self.model, config, self.dtype))
        self._optimizer = make_optimizer(self.model, config.optimizer, config.weight_decay)
        self._average = self._new_average() if config.averaging == "ema" else None
        self.batches = Batches(
            train_ids,
            eos_id,
            config.batch_size,
            config.bptt_length,
            config.partition,
            config.reset_probability,
            config.seed,
            config.truncation,
        )
        self._made: tuple[int, Batch] | None = None
        self._valid = _parallel_streams(valid_ids, eos_id, config.batch_size)
        self._state = network.state_layout.zeros(config.batch_size // group.size, self.device)
        self.position = Position()
        self._stop_requested = False

    def _set_weights(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(weights[name])

    # -- the loop --------------------------------------------------------------------------------------------------

    def run(self, on_report: Callable[[Report], None]) -> Position:
        """Train until the schedule ends, validation stops improving, or Ctrl-C or SIGTERM asks to stop.

        Always leaves a checkpoint to resume from. `position.stopped` is None when training was only interrupted.
        """
        started = time.monotonic() - self.position.seconds
        with _stop_on_signals(self), self._log() as log:

            def tell(report: Report) -> None:
                values = {key: value for key, value in asdict(report).items() if value is not None}
                log.write(json.dumps(values) + "\n")
                log.flush()
                on_report(report)

            while self.position.stopped is None:
                seconds, stop = self._group.largest(time.monotonic() - started, self._stop_requested)
                if stop:
                    break
                report = self._step(seconds)
                if report.step % 10 == 0:
                    tell(report)
                else:
                    on_report(report)
                step = report.step
                (seconds,) = self._group.largest(time.monotonic() - started)
                self.position = replace(self.position, step=step, seconds=seconds)
                finished = self._progress(step, seconds) >= 1
                if step % self.config.validate_every == 0 or finished:
                    valid_nats = self._validate()
                    release_memory()
                    tell(replace(report, loss_nats=None, gradient_norm=None, valid_nats=valid_nats))
                    self._remember_best(valid_nats)
                    self._begin_average(valid_nats)
                    if self.position.stopped is None and finished:
                        self.position = replace(self.position, stopped="the schedule ended")
                if step % self.config.checkpoint_every == 0 or self.position.stopped:
                    self.save()
        self.save()
        return self.position

    def _step(self, seconds: float) -> Report:
        config, number = self.config, self.position.step
        started = time.monotonic()
        batch = self._batch(number)
        window = batch.inputs.shape[1]
        learning_rate = self._learning_rate(number, seconds)
        for group in self._optimizer.param_groups:
            # Merity et al. 2018, section 5: a short window's gradient is as long as a long one's, from fewer tokens.
            group["lr"] = learning_rate * window / config.bptt_length
        torch.manual_seed(mix(config.seed, 3, number, self._group.rank))  # noise depends on the step alone
        inputs, targets, fresh = (
            self._group.rows(rows).to(self.device) for rows in (batch.inputs, batch.targets, batch.fresh)
        )
        sampled = self._progress(number, seconds) < config.full_softmax_from
        loss, penalty, state = self._loss(inputs, targets, self._state.masked_fill(fresh[:, None], 0.0), sampled)
        torch.autograd.backward(loss + penalty)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._average is not None:
            self._average.update(self._weights)
        self._state = state  # the gradient stops at the window's edge
        self._batch(number + 1)  # while a GPU is at work; to look at a value is to wait for it
        loss_nats, gradient_norm = torch.stack((self._group.sum(loss.detach()) / self._group.size, norm)).tolist()
        if not math.isfinite(gradient_norm):  # nothing has been saved since
            raise TrainingError(
                f"step {number}: the gradient is not finite (loss {loss_nats:.3f}): "
                "start anew with a smaller learning_rate or clip_norm"
            )
        return Report(
            step=number + 1,
            tokens=(number + 1) * self.batches.tokens_per_batch,
            seconds=seconds,
            learning_rate=learning_rate,
            loss_nats=loss_nats,
            gradient_norm=gradient_norm,
            tokens_per_second=batch.inputs.numel() / (time.monotonic() - started),
            progress=self._progress(number + 1, seconds),
        )

    def _batch(self, number: int) -> Batch:
        """Made once for all that ask for it in turn."""
        if self._made is None or self._made[0] != number:
            self._made = (number, self.batches[number])
        return self._made[1]

    def _progress(self, step: int, seconds: float) -> float:
        """Share of the schedule that is done, by steps, or by time where that comes first."""
        by_time = seconds / (60 * self.config.max_minutes) if self.config.max_minutes else 0.0
        return min(1.0, max(step / self.config.steps, by_time))

    def _learning_rate(self, step: int, seconds: float) -> float:
        config = self.config
        factor = rate_factor(config.schedule, self._progress(step, seconds), step, config.warmup_steps)
        return config.learning_rate * factor

    @torch.inference_mode()
    def _validate(self) -> float:
        """Mean nats per token over parallel streams, each from the zero state and carried; of the average of the
        weights, where there is one."""
        mine = slice(self._group.rank, None, self._group.size)
        inputs, targets = (streams[mine] for streams in self._valid)
        state = self.model.config.state_layout.zeros(len(inputs), self.device)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        with self._averaged():
            for start in range(0, inputs.shape[1] if len(inputs) else 0, 128):
                window = slice(start, start + 128)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                    features, state = self.model.features(inputs[:, window].to(self.device), state)
                    flat = targets[:, window].to(self.device).flatten()
                    total += token_logprobs(self.model, features.flatten(0, 1), flat).double().sum()
        return -self._group.sum(total).item() / self._valid[1].numel()

    def _remember_best(self, valid_nats: float) -> None:
        position = self.position
        if valid_nats < position.best_nats:
            position = replace(position, best_nats=valid_nats, best_step=position.step, validations_since_best=0)
            if self._group.is_first:
                with self._averaged():
                    _save_atomically(self._weights, self.directory / "best.safetensors", {})
        else:
            position = replace(position, validations_since_best=position.validations_since_best + 1)
            if position.validations_since_best >= self.config.patience:
                reason = f"no improvement in {self.config.patience} validations"
                position = replace(position, stopped=reason)
        self.position = position

    # -- the average of the weights --------------------------------------------------------------------------------

    @property
    def _weights(self) -> dict[str, Tensor]:
        """The model's tensors by name, a tied matrix once."""
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    def _new_average(self, count: int = 0) -> Average:
        decay = self.config.average_decay if self.config.averaging == "ema" else None
        return Average(self._weights, decay, count)

    def _averaged(self) -> AbstractContextManager[None]:
        return self._average.in_place_of(self._weights) if self._average else nullcontext()

    def _begin_average(self, valid_nats: float) -> None:
        if self.config.averaging == "triggered" and self._average is None:
            validations = (*self.position.validations, valid_nats)
            self.position = replace(self.position, validations=validations)
            if averaging_starts(validations):
                self._average = self._new_average()

    # -- what is kept ----------------------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """Stop after the step that is running."""
        self._stop_requested = True

    def save(self) -> None:
        """Write all that resuming needs, in one file that is there whole or not at all."""
        tensors = {f"model.{name}": tensor for name, tensor in self._weights.items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):  # SGD without momentum keeps a None
                    tensors[f"optimizer.{name}.{key}"] = value
        if self._average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self._average.weights.items()}
            self.position = replace(self.position, averaged=self._average.count)
        tensors["state"] = self._group.gathered(self._state)
        if self._group.is_first:
            position = {key: value for key, value in asdict(self.position).items() if value != math.inf}
            _save_atomically(tensors, self.directory / "trainer.safetensors", {"position": json.dumps(position)})
        self._group.wait()

    def load(self) -> None:
        """Continue from what `save` wrote, or from the start where it never did; later log lines are dropped."""
        path = self.directory / "trainer.safetensors"
        self.position = read_position(self.directory)
        if self._group.is_first:
            _drop_log_after(self.directory / "log.jsonl", self.position.step)
        if not path.exists():
            return
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
                prefix = f"optimizer.{name}."
                kept = {
                    key.removeprefix(prefix): value.to(self.device)
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
                if kept:
                    self._optimizer.state[parameter] = kept
            if any(name.startswith("average.") for name in tensors):
                self._average = self._new_average(self.position.averaged)
                for name, average in self._average.weights.items():
                    average.copy_(tensors[f"average.{name}"])
        self._state = self._group.rows(tensors["state"]).to(self.device)

    def _log(self) -> AbstractContextManager[TextIO]:
        path = self.directory / "log.jsonl" if self._group.is_first else Path(os.devnull)
        return path.open("a", encoding="utf-8")


def read_position(directory: Path) -> Position:
    """Where the run in `directory` stands, as of its last `save`; the start where there is none."""
    path = directory / "trainer.safetensors"
    if not path.exists():
        return Position()
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()["position"])
    return Position(**{**values, "validations": tuple(values.get("validations", ()))})


def _parallel_streams(ids: Tensor, eos_id: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Cut the validation tokens into streams: inputs and targets, (B, T) each."""
    ids = ids[:VALIDATION_TOKENS].long()
    rows = max(1, min(batch_size, len(ids) // 64))
    length = len(ids) // rows
    stream = torch.cat([torch.tensor([eos_id]), ids])
    positions = torch.arange(rows)[:, None] * length + torch.arange(length)
    return stream[positions], stream[positions + 1]


def _save_atomically(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    temporary = path.with_suffix(".tmp")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def _drop_log_after(path: Path, step: int) -> None:
    """Keep the lines up to `step`; a line that a kill cut short goes too."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            values: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue
        if values["step"] <= step:
            kept.append(line + "\n")
    path.write_text("".join(kept), encoding="utf-8")


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
