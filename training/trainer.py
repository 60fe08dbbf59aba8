"""The training loop: truncated backpropagation through time with AdamW, validation, early stopping, exact resumption.

It knows token ids, not text, and prints nothing: whoever calls it is told of every step and validation.
"""

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.network import LanguageModel, NetworkConfig
from models.scoring import token_logprobs
from training.batching import Batches, Partition, mix
from training.loss import linear_cross_entropy

Precision = Literal["auto", "float32", "bfloat16"]

VALIDATION_TOKENS = 1 << 17
"""A validation during training looks at this many tokens at most; `evaluate` looks at all."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what to change."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained. Raises `ValueError`, naming the field, on a value that makes no sense."""

    steps: int
    batch_size: int = 32
    bptt_length: int = 64
    partition: Partition = "sequential"
    reset_probability: float = 0.03
    dropout: float = 0.0
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    precision: Precision = "auto"
    validate_every: int = 200
    patience: int = 10
    """Validations without improvement before training stops."""
    checkpoint_every: int = 100
    max_minutes: float | None = None
    """Fit the schedule to this much training time when the steps would take longer; not reproducible bit for bit."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "bptt_length", "validate_every", "patience", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is less than 1")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)} is not above 0")
        for name in ("dropout", "reset_probability"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not a probability below 1")
        if self.warmup_steps < 0 or self.weight_decay < 0:
            raise ValueError("warmup_steps and weight_decay cannot be negative")
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise ValueError(f"max_minutes: {self.max_minutes} is not above 0")
        for name, choices in (("partition", get_args(Partition)), ("precision", get_args(Precision))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(choices)}")


@dataclass(frozen=True)
class Position:
    """Where a run stands; with the tensors beside it, all that resuming needs."""

    step: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_nats: float = math.inf
    validations_since_best: int = 0
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
        device: str = "cpu",
    ) -> None:
        """train_ids, valid_ids: (N,), int32. Raises `ValueError` when there are too few for one batch."""
        self.config = config
        self.directory = directory
        self.device = torch.device(device)
        torch.manual_seed(config.seed)
        self.model = LanguageModel(network).to(self.device)
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() <= 1]
        self._optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            fused=True,
        )
        self.batches = Batches(
            train_ids,
            eos_id,
            config.batch_size,
            config.bptt_length,
            config.partition,
            config.reset_probability,
            config.seed,
        )
        self._valid = _parallel_streams(valid_ids, eos_id, config.batch_size)
        self._state = network.state_layout.zeros(config.batch_size, self.device)
        self.dtype = resolve_precision(config.precision, self.device)
        self.position = Position()
        self._stop_requested = False

    # -- the loop --------------------------------------------------------------------------------------------------

    def run(self, on_report: Callable[[Report], None]) -> Position:
        """Train until the schedule ends, validation stops improving, or Ctrl-C or SIGTERM asks to stop.

        Always leaves a checkpoint to resume from. `position.stopped` is None when training was only interrupted.
        """
        started = time.monotonic() - self.position.seconds
        with _stop_on_signals(self), (self.directory / "log.jsonl").open("a", encoding="utf-8") as log:

            def tell(report: Report) -> None:
                values = {key: value for key, value in asdict(report).items() if value is not None}
                log.write(json.dumps(values) + "\n")
                log.flush()
                on_report(report)

            while self.position.stopped is None and not self._stop_requested:
                report = self._step(time.monotonic() - started)
                if report.step % 10 == 0:
                    tell(report)
                else:
                    on_report(report)
                step = report.step
                self.position = replace(self.position, step=step, seconds=time.monotonic() - started)
                finished = self._progress(step, self.position.seconds) >= 1
                if step % self.config.validate_every == 0 or finished:
                    valid_nats = self._validate()
                    tell(replace(report, loss_nats=None, gradient_norm=None, valid_nats=valid_nats))
                    self._remember_best(valid_nats)
                    if self.position.stopped is None and finished:
                        self.position = replace(self.position, stopped="the schedule ended")
                if step % self.config.checkpoint_every == 0 or self.position.stopped:
                    self.save()
        self.save()
        return self.position

    def _step(self, seconds: float) -> Report:
        config, number = self.config, self.position.step
        started = time.monotonic()
        batch = self.batches[number]
        learning_rate = self._learning_rate(number, seconds)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        torch.manual_seed(mix(config.seed, 3, number))  # dropout masks depend on the step alone
        inputs, targets = batch.inputs.to(self.device), batch.targets.to(self.device)
        state = self._state.masked_fill(batch.fresh.to(self.device)[:, None], 0.0)
        with self._autocast():
            features, state = self.model.features(inputs, state, config.dropout)
        features = features.to(self.dtype).flatten(0, 1)
        loss = linear_cross_entropy(features, self.model.output.weight, self.model.output.bias, targets.flatten())
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"step {number}: the gradient is not finite (loss {loss.item():.3f}): "
                "start anew with a smaller learning_rate or clip_norm"
            )
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._state = state.detach()  # the gradient stops at the window's edge
        return Report(
            step=number + 1,
            tokens=(number + 1) * self.batches.tokens_per_batch,
            seconds=seconds,
            learning_rate=learning_rate,
            loss_nats=loss.item(),
            gradient_norm=norm.item(),
            tokens_per_second=self.batches.tokens_per_batch / (time.monotonic() - started),
            progress=self._progress(number + 1, seconds),
        )

    def _progress(self, step: int, seconds: float) -> float:
        """Share of the schedule that is done, by steps, or by time where that comes first."""
        by_time = seconds / (60 * self.config.max_minutes) if self.config.max_minutes else 0.0
        return min(1.0, max(step / self.config.steps, by_time))

    def _learning_rate(self, step: int, seconds: float) -> float:
        """Linear warm-up, then a half cosine down to a hundredth (Loshchilov & Hutter 2017, equation 5, one period)."""
        warmup = min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        cosine = 0.5 * (1 + math.cos(math.pi * self._progress(step, seconds)))
        return self.config.learning_rate * warmup * (0.01 + 0.99 * cosine)

    @torch.inference_mode()
    def _validate(self) -> float:
        """Mean nats per token over parallel streams, each from the zero state and carried."""
        inputs, targets = self._valid
        state = self.model.config.state_layout.zeros(len(inputs), self.device)
        total = 0.0
        for start in range(0, inputs.shape[1], 128):
            window = slice(start, start + 128)
            with self._autocast():
                features, state = self.model.features(inputs[:, window].to(self.device), state)
                flat = targets[:, window].to(self.device).flatten()
                total += token_logprobs(self.model, features.flatten(0, 1), flat).double().sum().item()
        return -total / targets.numel()

    def _remember_best(self, valid_nats: float) -> None:
        position = self.position
        if valid_nats < position.best_nats:
            position = replace(position, best_nats=valid_nats, best_step=position.step, validations_since_best=0)
            _save_atomically(named_weights(self.model), self.directory / "best.safetensors", {})
        else:
            position = replace(position, validations_since_best=position.validations_since_best + 1)
            if position.validations_since_best >= self.config.patience:
                reason = f"no improvement in {self.config.patience} validations"
                position = replace(position, stopped=reason)
        self.position = position

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    # -- what is kept ----------------------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """Stop after the step that is running."""
        self._stop_requested = True

    def save(self) -> None:
        """Write all that resuming needs, in one file that is there whole or not at all."""
        tensors = {f"model.{name}": tensor for name, tensor in named_weights(self.model).items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = value
        tensors["state"] = self._state
        position = {key: value for key, value in asdict(self.position).items() if value != math.inf}
        _save_atomically(tensors, self.directory / "trainer.safetensors", {"position": json.dumps(position)})

    def load(self) -> None:
        """Continue from what `save` wrote, or from the start where it never did; later log lines are dropped."""
        path = self.directory / "trainer.safetensors"
        if not path.exists():
            _drop_log_after(self.directory / "log.jsonl", 0)
            return
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.position = read_position(self.directory)
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[f"model.{name}"])
                prefix = f"optimizer.{name}."
                self._optimizer.state[parameter] = {
                    key.removeprefix(prefix): value.to(self.device if value.dim() else "cpu")
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
        self._state = tensors["state"].to(self.device)
        _drop_log_after(self.directory / "log.jsonl", self.position.step)


def read_position(directory: Path) -> Position:
    """Where the run in `directory` stands, as of its last `save`; the start where there is none."""
    path = directory / "trainer.safetensors"
    if not path.exists():
        return Position()
    with safe_open(path, framework="pt") as file:
        return Position(**json.loads(file.metadata()["position"]))


def named_weights(model: LanguageModel) -> dict[str, Tensor]:
    """The model's tensors by name, a tied matrix once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The type of the matrix products: bfloat16 under `auto` where the processor multiplies it natively."""
    if precision != "auto":
        return torch.float32 if precision == "float32" else torch.bfloat16
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


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
