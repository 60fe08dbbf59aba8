"""Language modelling: every token is predicted from the ones before it."""

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from models.checkpoint.format import Checkpoint
from models.config import NetworkConfig, NumberType
from models.decoding.reference import token_logprobs
from models.network import LanguageModel, set_weights
from models.text.tokenizer import Tokenizer
from training.config import TrainingConfig, resolve_precision
from training.data.batching import Batch, Batches, batches_in_epoch
from training.data.reader import read_corpus
from training.defaults import choose_network, choose_training
from training.distributed import ALONE, Group
from training.estimate import seconds_after_training, training_minutes
from training.evaluation_figures import FIGURES
from training.export import export_run, sample_line
from training.initialisation import carry_over, initialise, set_unigram_bias
from training.kernels import accelerate
from training.loss import WindowLoss
from training.progress import Progress
from training.recipe import Recipe
from training.run import START, START_SPELLER, Run, save_speller
from training.sealed import read_tensors, write_tensors
from training.tasks import Loss, Measure, Prepared, Task

VALIDATION_TOKENS = 1 << 17
"""A validation during training looks at this many tokens at most; `evaluate` looks at all."""


class LanguageModelTask(Task):
    """Truncated backpropagation through time over windows of a token stream; validation in nats per token."""

    name = "language_model"
    measure = Measure("nats", "nats per token")
    figures = FIGURES
    network: LanguageModel

    def __init__(
        self,
        network: NetworkConfig,
        config: TrainingConfig,
        train_ids: Tensor,
        validation_ids: Tensor,
        eos_id: int,
        group: Group = ALONE,
        start: Mapping[str, Tensor] | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """train_ids, validation_ids: (N,), any integer type. start: weights to begin with, by name. tokenizer: for
        samples.

        Raises `ValueError` when there are too few tokens for one batch, and when the rows of a batch cannot be divided
        among the processes.
        """
        if config.batch_size % group.size:
            raise ValueError(f"batch_size: {config.batch_size} rows cannot be divided among {group.size} processes")
        self._config, self._group, self._tokenizer = config, group, tokenizer
        self.network = new_network(network, config, train_ids)
        if start is not None:
            set_weights(self.network, start)
        self.network.to(group.device)
        accelerate(self.network.encoder)
        self._dtype = resolve_precision(config.precision, group.device)
        self._window_loss = group.wrapped(WindowLoss(self.network, config, self._dtype))
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
        self.tokens_per_step = self.batches.tokens_per_batch
        self._validation = parallel_streams(validation_ids, eos_id, config.batch_size)
        self._made: tuple[int, Batch] | None = None

    @classmethod
    def prepare(
        cls, recipe: Recipe, data: Path, directory: Path, start: Checkpoint | None, progress: Progress
    ) -> Prepared:
        started = time.monotonic()
        if start:
            recipe = _continued(recipe, start)
        keep = start.tokenizer if start and recipe.corpus.vocabulary_size is None else None
        corpus, tokenizer, splits, files = read_corpus(recipe, data, directory, keep, progress)
        assert corpus.level is not None
        train_ids = splits["train"].ids
        network = choose_network(recipe.network, corpus.level, len(tokenizer), len(train_ids))
        native = resolve_precision("auto", torch.device("cpu")) == torch.bfloat16
        training = choose_training(recipe.training, network, len(train_ids), bool(corpus.shuffle_lines), native)
        batches_in_epoch(len(train_ids), training.batch_size, training.bptt_length)  # raises where there are none
        if start:
            model = new_network(network, training, train_ids)
            carry_over(model, tokenizer, start)
            write_tensors(directory / START, dict(model.named_parameters()))
            if start.speller and tokenizer is start.tokenizer:
                save_speller(start.speller, directory / START_SPELLER)
        if training.max_minutes is not None:
            after = seconds_after_training(
                network, len(train_ids), sum(len(splits[name].ids) for name in ("validation", "test"))
            )
            spent = time.monotonic() - started + after
            training = replace(training, max_minutes=training_minutes(training.max_minutes, spent))
        return Prepared(corpus, network, training, files)

    @classmethod
    def open(cls, run: Run, group: Group) -> Self:
        start = read_tensors(run.directory / START)[0] if (run.directory / START).is_file() else None
        train, validation = run.splits["train"].ids, run.splits["validation"].ids
        config, tokenizer = run.config, run.tokenizer
        return cls(config.network, config.training, train, validation, tokenizer.eos_id, group, start, tokenizer)

    @classmethod
    def export(
        cls, run: Run, out: Path, storage: NumberType | None, command: str | None, progress: Progress
    ) -> dict[str, Any]:
        return export_run(run, out, storage, command, progress)

    def first_state(self) -> Tensor:
        rows = self._config.batch_size // self._group.size
        return self.network.config.state_layout.zeros(rows, self._group.device)

    def make_batch(self, number: int) -> None:
        self._batch(number)

    def _batch(self, number: int) -> Batch:
        if self._made is None or self._made[0] != number:
            self._made = (number, self.batches[number])
        return self._made[1]

    def loss(self, number: int, state: Tensor, share_done: float) -> Loss:
        batch, device = self._batch(number), self._group.device
        inputs, targets, fresh = (
            self._group.rows(rows).to(device) for rows in (batch.inputs, batch.targets, batch.fresh)
        )
        sampled = share_done < self._config.full_softmax_from
        value, penalty, state = self._window_loss(inputs, targets, state.masked_fill(fresh[:, None], 0.0), sampled)
        # Merity et al. 2018, section 5: a short window's gradient is as long as a long one's, from fewer tokens.
        rate_scale = batch.inputs.shape[1] / self._config.bptt_length
        return Loss(value, penalty, state, batch.inputs.numel(), rate_scale)

    @torch.inference_mode()
    def validate(self) -> float:
        """Mean nats per token over parallel streams, each from the zero state, the state carried on."""
        group = self._group
        mine = slice(group.rank, None, group.size)
        inputs, targets = (streams[mine] for streams in self._validation)
        state = self.network.config.state_layout.zeros(len(inputs), group.device)
        total = torch.zeros((), dtype=torch.float64, device=group.device)
        for start in range(0, inputs.shape[1] if len(inputs) else 0, 128):
            window = slice(start, start + 128)
            with torch.autocast(group.device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16):
                features, state = self.network.features(inputs[:, window].to(group.device), state)
                flat = targets[:, window].to(group.device).flatten()
                total += token_logprobs(self.network, features.flatten(0, 1), flat).double().sum()
        return -group.sum(total).item() / self._validation[1].numel()

    def sample(self, number: int) -> str | None:
        return sample_line(self.network, self._tokenizer, number) if self._tokenizer else None


def new_network(network: NetworkConfig, config: TrainingConfig, train_ids: Tensor) -> LanguageModel:
    """The network before its first step: a function of the configurations, the seed and the text alone."""
    torch.manual_seed(config.seed)
    model = LanguageModel(network)
    initialise(model.encoder, config.initialisation, config.forget_bias)
    set_unigram_bias(model, train_ids)
    return model


def parallel_streams(ids: Tensor, eos_id: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Cuts the validation tokens into streams: inputs and targets, (B, T) each."""
    ids = ids[:VALIDATION_TOKENS].long()
    rows = max(1, min(batch_size, len(ids) // 64))
    length = len(ids) // rows
    stream = torch.cat([torch.tensor([eos_id]), ids])
    positions = torch.arange(rows)[:, None] * length + torch.arange(length)
    return stream[positions], stream[positions + 1]


def _continued(recipe: Recipe, start: Checkpoint) -> Recipe:
    """The recipe with what it leaves open taken from a checkpoint. Raises `ValueError` where the two contradict."""
    tokenizer, asked = start.tokenizer, recipe.corpus
    for name, value, has in (
        ("level", asked.level, tokenizer.level),
        ("boundary", asked.boundary, tokenizer.boundary),
        ("normalization", None if asked.normalization == "none" else asked.normalization, tokenizer.normalization),
    ):
        if value not in (None, has):
            raise ValueError(f"{name}: {value} cannot be: {start.name}, whose weights are taken, has {has}")
    corpus = replace(asked, level=tokenizer.level, boundary=tokenizer.boundary, normalization=tokenizer.normalization)
    network = {name: value for name, value in asdict(start.config).items() if name != "vocabulary_size"}
    return replace(recipe, corpus=corpus, network=network | dict(recipe.network))
