"""How long training will take and how much memory it will need, before it starts: orders of magnitude, from the
network's shape."""

from dataclasses import dataclass
from itertools import pairwise

import torch

from models.config import NetworkConfig
from models.encoder import Encoder
from models.network import LanguageModel
from models.process import cores
from training.config import TrainingConfig, resolve_precision

NATIVE_FLOPS, PLAIN_FLOPS = 1.6e11, 6e10
"""Sustained by one core while training, with and without native bfloat16 products."""
SECONDS_PER_TOKEN = 1.5e-5
"""Time of a token that does not depend on the size of the network."""
PROCESS_BYTES = 4e8
"""Memory of Python and torch."""


NGRAM_SECONDS_PER_TOKEN, MOST_COUNTED = 5e-6, 16_000_000
SPELLER_SHARE = 0.15
"""Of the minutes that a command may take: what learning to spell gets at most."""
SPELLER_SECONDS_PER_STEP = 0.05


@dataclass(frozen=True)
class Estimate:
    seconds: float
    bytes: float


def operations_per_token(network: NetworkConfig, outputs: int | None = None) -> int:
    """Multiplications and additions of a token's matrix products, one forward and two backward. outputs: types of the
    vocabulary that the loss uses; None: all."""
    with torch.device("meta"):
        layers = Encoder(network).layer_weights()
    recurrent = sum(layer.from_input.numel() + layer.from_hidden.numel() for layer in layers)
    dense = (network.hidden_sizes[-1], *filter(None, [network.projection_size]), *network.output_layers)
    between = sum(a * b for a, b in pairwise(dense))
    return 6 * (recurrent + between + network.feature_size * (outputs or network.vocabulary_size))


def seconds_per_token(network: NetworkConfig, native: bool, cores: int, outputs: int | None = None) -> float:
    """native: whether the processor has instructions for bfloat16. outputs: as for `operations_per_token`."""
    speed = cores * (NATIVE_FLOPS if native else PLAIN_FLOPS)
    return operations_per_token(network, outputs) / speed + SECONDS_PER_TOKEN


def estimate(network: NetworkConfig, config: TrainingConfig) -> Estimate:
    """Time and memory of a training on this machine, once the text is tokenized."""
    native = resolve_precision(config.precision, torch.device("cpu")) == torch.bfloat16
    used = min(4, torch.get_num_threads(), cores())
    full = seconds_per_token(network, native, used)
    sampled = seconds_per_token(network, native, used, config.sampled_softmax) if config.sampled_softmax else full
    window = config.batch_size * config.bptt_length
    mean = config.full_softmax_from * sampled + (1 - config.full_softmax_from) * full
    seconds = config.steps * window * mean
    if config.max_minutes is not None:
        seconds = min(seconds, 60 * config.max_minutes)
    with torch.device("meta"):
        parameters = LanguageModel(network).num_parameters()
    copies = 4 + (config.averaging != "none")  # weights, gradients, two moments; an average
    activations = window * 4 * 12 * sum(network.hidden_sizes)
    return Estimate(seconds, PROCESS_BYTES + 4 * copies * parameters + activations)


def seconds_after_training(network: NetworkConfig, train_tokens: int, held_out_tokens: int) -> float:
    """Time of counting n-grams, evaluating and writing samples; learning to spell has a share of its own."""
    evaluating = held_out_tokens * seconds_per_token(network, native=False, cores=1)
    return 3 + NGRAM_SECONDS_PER_TOKEN * min(train_tokens, MOST_COUNTED) + evaluating


def training_minutes(max_minutes: float, spent: float) -> float:
    """What is left for training of the minutes that the whole command may take. spent: seconds, of all before and
    after it but the speller. At least a third, so that what is left is a model."""
    return max(max_minutes / 3, max_minutes * (1 - SPELLER_SHARE) - spent / 60)


def most_speller_steps(max_minutes: float | None) -> int | None:
    """Steps of learning to spell that fit into its share; None where minutes are not limited."""
    return None if max_minutes is None else max(50, int(SPELLER_SHARE * 60 * max_minutes / SPELLER_SECONDS_PER_STEP))
