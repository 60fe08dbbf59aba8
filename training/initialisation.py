"""How the weights of a network begin."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from models.cells import CELLS
from models.checkpoint.format import Checkpoint
from models.encoder import Encoder, LayerWeights
from models.network import LanguageModel
from models.text.tokenizer import Tokenizer

Initialisation = Literal["uniform", "xavier", "he", "orthogonal"]

COUNTED_TOGETHER = 1 << 22
"""Tokens that are counted together: a text may be larger than memory."""


@torch.no_grad()
def initialise(encoder: Encoder, scheme: Initialisation, forget_bias: float | None) -> None:
    """Sets the weights of every recurrent layer; takes its random numbers from torch's generator."""
    for weights in encoder.layer_weights():
        fill_layer(weights, scheme, forget_bias if CELLS[encoder.config.cell].has_forget_gate else None)


@torch.no_grad()
def set_unigram_bias(model: LanguageModel, ids: Tensor) -> None:
    """Sets the output layer's bias to the logarithm of each type's share of `ids` ((N,), integer): the untrained
    network then predicts as a unigram model does, and no step is spent on learning which types are rare (add-one
    smoothing)."""
    size = model.config.vocabulary_size
    counts = torch.zeros(size, dtype=torch.int64)
    for part in torch.split(ids, COUNTED_TOGETHER):
        counts += torch.bincount(part, minlength=size)
    model.output.bias.copy_(((counts + 1).double() / (len(ids) + size)).log())


@torch.no_grad()
def carry_over(model: LanguageModel, tokenizer: Tokenizer, start: Checkpoint) -> int:
    """Sets the weights to those of a checkpoint of the same network; where the vocabularies differ, the rows of tokens
    that both have. Returns how many these are. Raises `ValueError` when the networks differ in more.
    """
    mine, theirs = model.config, start.model.config
    if theirs != replace(mine, vocabulary_size=theirs.vocabulary_size):
        raise ValueError(f"{start.name} is of another network: leave the options of the network to it")
    places = {token: place for place, token in enumerate(start.tokenizer.tokens)}
    both = [(place, places[token]) for place, token in enumerate(tokenizer.tokens) if token in places]
    here, there = torch.tensor(both).T
    source = dict(start.model.named_parameters())
    for name, parameter in model.named_parameters():
        if name in ("embedding.weight", "output.weight", "output.bias"):
            parameter[here] = source[name][there]
        else:
            parameter.copy_(source[name])
    return len(both)


@torch.no_grad()
def fill_layer(weights: LayerWeights, scheme: Initialisation, forget_bias: float | None) -> None:
    """Fills each gate's matrices by themselves, in place.

    uniform: ±1/sqrt(H), biases too, torch's own. xavier: variance 2/(in + out) (Glorot & Bengio 2010, equation 16).
    he: variance 2/in (He et al. 2015, equation 10). orthogonal: recurrent matrices that keep lengths (Saxe et al.
    2014), input matrices as in xavier. Biases of the last three are 0. forget_bias: of an LSTM's forget gates; None:
    they stay as they are (Gers et al. 2000 and Jozefowicz et al. 2015 ask for 1 or more).
    """
    hidden = weights.from_hidden.shape[1]
    if scheme == "uniform":
        for tensor in (weights.from_input, weights.from_hidden, weights.input_bias, weights.hidden_bias):
            nn.init.uniform_(tensor, -(hidden**-0.5), hidden**-0.5)
    else:
        for bias in (weights.input_bias, weights.hidden_bias):
            bias.zero_()
        for gate in torch.split(weights.from_input, hidden):
            _FILL["xavier" if scheme == "orthogonal" else scheme](gate)
        for gate in torch.split(weights.from_hidden, hidden):
            _FILL[scheme](gate)
    if forget_bias is not None:
        forget = slice(hidden, 2 * hidden)
        weights.input_bias[forget] = forget_bias
        weights.hidden_bias[forget] = 0.0


def _he(matrix: Tensor) -> Tensor:
    return nn.init.kaiming_normal_(matrix, nonlinearity="relu")


_FILL: dict[Initialisation, Callable[[Tensor], Tensor]] = {
    "xavier": nn.init.xavier_uniform_,
    "he": _he,
    "orthogonal": nn.init.orthogonal_,
}
