"""Training the speller of a word-level model: on the types that its vocabulary left out, each counted once, since the
unknown words of another text are mostly new ones too."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.network import LanguageModel, NetworkConfig
from models.speller import END, VOCABULARY_SIZE, Speller
from training.batching import mix
from training.loss import linear_cross_entropy
from training.optimisation import make_optimizer, rate_factor

HELD_OUT = 50
"""Every so many-th type is not trained on, to tell how well the others taught."""
BATCH_SIZE = 256
LEAST_STEPS, MOST_STEPS, EPOCHS = 200, 6_000, 8
LEARNING_RATE, DROPOUT = 4e-3, 0.0
LONGEST = 48
"""Bytes; longer types (rows of dashes, addresses) teach nothing of spelling."""
FEWEST = 50
"""Types, at least, to learn from."""


def can_learn_spelling(types: Sequence[str]) -> bool:
    """Whether there are enough of them."""
    return len(_encoded(types)) >= FEWEST


def train_speller(types: Sequence[str], seed: int = 0, on_step: Callable[[int, int], None] | None = None) -> Speller:
    """Train on types. on_step: told of steps done and steps in all. Raises `ValueError` when there are too few."""
    if not can_learn_spelling(types):
        raise ValueError(f"{len(types)} words outside the vocabulary are too few to learn spelling from")
    learned = [spelling for place, spelling in enumerate(_encoded(types)) if place % HELD_OUT]
    hidden = 256 if len(learned) > 20_000 else 128
    torch.manual_seed(seed)
    model = LanguageModel(NetworkConfig(VOCABULARY_SIZE, 48, (hidden,)))
    optimizer = make_optimizer(model, "adamw", 0.01)
    batches = math.ceil(len(learned) / BATCH_SIZE)
    steps = min(MOST_STEPS, max(LEAST_STEPS, EPOCHS * batches))
    for step in range(steps):
        generator = torch.Generator().manual_seed(mix(seed, 4, step // batches))
        # Neighbours are of one length, so that little is padding; which batch comes when is chance.
        order = torch.randperm(batches, generator=generator)
        shift = int(torch.randint(BATCH_SIZE, (), generator=generator)) - BATCH_SIZE // 2
        first = max(0, int(order[step % batches]) * BATCH_SIZE + shift)
        batch = learned[first : first + BATCH_SIZE] or learned[-BATCH_SIZE:]
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate_factor("cosine", step / steps, step, 100)
        torch.autograd.backward(_loss(model, batch))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if on_step is not None:
            on_step(step + 1, steps)
    return Speller(model.eval().requires_grad_(False))


def held_out_types(types: Sequence[str]) -> list[str]:
    """Those that `train_speller` does not look at."""
    return [spelling.decode() for spelling in _encoded(types)[::HELD_OUT]]


def _encoded(types: Sequence[str]) -> list[bytes]:
    """The shortest first."""
    return sorted((t.encode() for t in types if 0 < len(t.encode()) <= LONGEST), key=lambda b: (len(b), b))


def _loss(model: LanguageModel, batch: Sequence[bytes]) -> Tensor:
    """Mean nats per byte, ends included."""
    lengths = torch.tensor([len(spelling) + 1 for spelling in batch])
    inputs = torch.full((len(batch), int(lengths.max())), END)
    targets = torch.full_like(inputs, END)
    for row, spelling in enumerate(batch):
        ids = torch.tensor(list(spelling)) + 1
        inputs[row, 1 : len(ids) + 1] = ids
        targets[row, : len(ids)] = ids
    features, _ = model.features(inputs, model.config.state_layout.zeros(len(batch)))
    real = torch.arange(inputs.shape[1]) < lengths[:, None]
    return linear_cross_entropy(features[real], model.output.weight, model.output.bias, targets[real])
