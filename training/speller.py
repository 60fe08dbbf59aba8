"""Trains the speller of a word-level model on the types that its vocabulary left out.

The commonest of these types are its lexicon. All of them, each counted once, teach the model of bytes, which spells the
words that the lexicon does not have. Held-out text decides how much weight each of the two gets.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from models.config import NetworkConfig
from models.network import LanguageModel, to_arrays
from models.words.lexicon import Lexicon
from models.words.speller import END, VOCABULARY_SIZE, Speller
from training.data.batching import mix
from training.loss import linear_cross_entropy
from training.optimisation import OPTIMIZERS, rate_factor
from training.progress import Advance, ignore

MOST_LISTED = 50_000
"""Words of a lexicon: a quarter of a megabyte."""
EM_STEPS = 100
BATCH_SIZE = 256
LEAST_STEPS, MOST_STEPS, EPOCHS = 200, 6_000, 8
LEARNING_RATE = 4e-3
LONGEST = 48
"""Bytes. Longer types (rows of dashes, addresses) teach nothing about spelling."""
FEWEST = 50
"""With fewer types than this, no speller is trained."""


def can_learn_spelling(types: Collection[str]) -> bool:
    """Whether there are enough types to learn from."""
    return len(_encoded(types)) >= FEWEST


def train_speller(
    unknown: Mapping[str, int],
    held_out: Mapping[str, int],
    seed: int = 0,
    on_step: Advance = ignore,
    most_steps: int | None = None,
) -> Speller:
    """unknown: how often the training text has each word that the vocabulary left out. held_out: the same for a text
    that was not trained on. on_step: called after each step. most_steps: None
    takes as many as the words need. Raises `ValueError` when there are too few words.
    """
    if not can_learn_spelling(unknown):
        raise ValueError(f"{len(unknown)} words outside the vocabulary are too few to learn spelling from")
    learned = _encoded(unknown)
    lexicon = _commonest({word.decode(): unknown[word.decode()] for word in learned})
    model = _train_network(learned, seed, on_step, most_steps)
    bytes_alone = Speller(model.config, to_arrays(model))
    return bytes_alone.with_lexicon(lexicon, share_of_lexicon(bytes_alone, lexicon, held_out))


def adapted_speller(speller: Speller, unknown: Mapping[str, int], held_out: Mapping[str, int]) -> Speller:
    """A speller that also knows the words of another text: its lexicon gets them and a new weight; the model of bytes
    stays as it is.

    unknown, held_out: as for `train_speller`.
    """
    counts = Counter(speller.lexicon.counts if speller.lexicon else {})
    counts.update({word.decode(): unknown[word.decode()] for word in _encoded(unknown)})
    if not counts:
        return speller
    lexicon = _commonest(counts)
    bytes_alone = speller.with_lexicon(None, 0.0)
    return bytes_alone.with_lexicon(lexicon, share_of_lexicon(bytes_alone, lexicon, held_out))


def _commonest(counts: Mapping[str, int]) -> Lexicon:
    return Lexicon(dict(sorted(counts.items(), key=lambda item: (-item[1], item[0].encode()))[:MOST_LISTED]))


def _train_network(learned: Sequence[bytes], seed: int, on_step: Advance, most_steps: int | None) -> LanguageModel:
    hidden = 256 if len(learned) > 20_000 else 128
    torch.manual_seed(seed)
    model = LanguageModel(NetworkConfig(VOCABULARY_SIZE, 48, (hidden,)))
    optimizer = OPTIMIZERS["adamw"](model, 0.01)
    batches = math.ceil(len(learned) / BATCH_SIZE)
    steps = min(MOST_STEPS, max(LEAST_STEPS, EPOCHS * batches), most_steps or MOST_STEPS)
    for step in range(steps):
        generator = torch.Generator().manual_seed(mix(seed, 4, step // batches))
        # Types of similar length are in one batch, so that little is padding; the order of batches is random.
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
        on_step(1, steps)
    return model.eval().requires_grad_(False)


def share_of_lexicon(bytes_alone: Speller, lexicon: Lexicon, held_out: Mapping[str, int]) -> float:
    """The weight of a lexicon, beside a model of bytes, that makes held-out unknown words most likely, by expectation
    maximisation (Jelinek & Mercer 1980). Two more words are taken as seen: one in the lexicon, one not."""
    seen = np.array(list(held_out.values()), np.float64)
    listed = np.array([lexicon.probability(word) for word in held_out])
    spelled = np.exp(bytes_alone.spelled_logprobs(list(held_out)))
    share = 0.5
    for _ in range(EM_STEPS):
        from_lexicon = share * listed / np.maximum(share * listed + (1 - share) * spelled, np.finfo(np.float64).tiny)
        share = (float(seen @ from_lexicon) + 1) / (float(seen.sum()) + 2)
    return share


def _encoded(types: Collection[str]) -> list[bytes]:
    """As UTF-8, shortest first, without types that are too long."""
    return sorted((t.encode() for t in types if 0 < len(t.encode()) <= LONGEST), key=lambda b: (len(b), b))


def _loss(model: LanguageModel, batch: Sequence[bytes]) -> Tensor:
    """Mean nats per byte; the ends of the types are predicted too."""
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
