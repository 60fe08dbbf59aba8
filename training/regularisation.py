"""Keeps a network from learning its text by heart, by noise in its values and weights and by penalties on activations.

Each part is off at 0. Merity et al. 2018 ("Regularizing and Optimizing LSTM Language Models", AWD-LSTM) use all parts.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.kernels import dropout as native


@dataclass(frozen=True)
class Regularisation:
    """Shares are probabilities below 1. Raises `ValueError`, naming the field, on a value that makes no sense."""

    dropout: float = 0.0
    """Share of non-recurrent values that are dropped: between layers, and before the first and after the last layer if
    the next two options are not set. (Zaremba et al. 2014, figure 2.)"""
    input_dropout: float | None = None
    """Share that is dropped of the first layer's inputs."""
    output_dropout: float | None = None
    """Share that is dropped of the last layer's outputs."""
    locked: bool = False
    """Drop the same values for all tokens of a window, as "variational" dropout does. (Gal & Ghahramani
    2016, section 4.)"""
    word_dropout: float = 0.0
    """Share of token types that are dropped, at every place in the batch. (Gal & Ghahramani 2016, section 4.2.)"""
    dropconnect: float = 0.0
    """Share of recurrent weights that are dropped for a whole window. (Wan et al. 2013; Merity et al. 2018,
    section 2.)"""
    activation_l2: float = 0.0
    """Weight of a penalty on activations (AR): the mean square of the last layer's outputs after dropout. (Merity et
    al. 2017, section 3.)"""
    temporal_l2: float = 0.0
    """Weight of a penalty on their changes (TAR): the mean square of the differences from token to token, before
    dropout. (Merity et al. 2017, section 3.)"""

    def __post_init__(self) -> None:
        for name in ("dropout", "input_dropout", "output_dropout", "word_dropout", "dropconnect"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name}: {value} is not a probability below 1")
        for name in ("activation_l2", "temporal_l2"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: {getattr(self, name)} is negative")


class TrainingNoise:
    """The noise of one window, from torch's generator; a `models.encoder.Noise`. The window may come in pieces: masks
    that are the same for the whole window are made once."""

    def __init__(self, config: Regularisation, layers: int, vocabulary_size: int) -> None:
        self._config = config
        self._vocabulary_size = vocabulary_size
        between = [config.dropout] * (layers - 1)
        first = config.dropout if config.input_dropout is None else config.input_dropout
        last = config.dropout if config.output_dropout is None else config.output_dropout
        self._shares = [first, *between, last]
        self._masks: dict[str, Tensor] = {}
        self._outputs: list[Tensor] = []
        self._dropped: list[Tensor] = []

    def embeddings(self, x: Tensor, token_ids: Tensor) -> Tensor:
        share = self._config.word_dropout
        if not share:
            return x
        types = self._once("words", x.new_empty(()), share, (self._vocabulary_size, 1))  # (V, 1): not occurrences
        return x * types[token_ids]

    def connections(self, x: Tensor, depth: int) -> Tensor:
        share = self._shares[depth]
        dropped = x
        if share and self._config.locked:
            dropped = x * self._once(f"connections {depth}", x, share, (*x.shape[:1], 1, *x.shape[2:]))
        elif share:
            dropped = native.dropout(x, share) if native.usable(x) else x * _mask(x, share, x.shape)
        if depth == len(self._shares) - 1:
            self._outputs.append(x)
            self._dropped.append(dropped)
        return dropped

    def recurrent(self, from_hidden: Tensor, depth: int) -> Tensor:
        share = self._config.dropconnect
        if not share:
            return from_hidden
        return from_hidden * self._once(f"recurrent {depth}", from_hidden, share, from_hidden.shape)

    def penalty(self) -> Tensor:
        """The sum of the penalties, in nats, to add to the loss once all pieces of the window are computed."""
        config = self._config
        penalty = torch.zeros((), device=self._outputs[0].device)
        if config.activation_l2:
            penalty = penalty + config.activation_l2 * _joined(self._dropped).float().square().mean()
        if config.temporal_l2 and sum(piece.shape[1] for piece in self._outputs) > 1:
            penalty = penalty + config.temporal_l2 * _joined(self._outputs).float().diff(dim=1).square().mean()
        return penalty

    def _once(self, name: str, like: Tensor, share: float, shape: tuple[int, ...]) -> Tensor:
        """A mask that all pieces of the window share."""
        if name not in self._masks:
            self._masks[name] = _mask(like, share, shape)
        return self._masks[name]


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)


def _mask(like: Tensor, share: float, shape: tuple[int, ...]) -> Tensor:
    """Zeros for `share` of the entries, to the nearest step; the other entries have the value that keeps the mean.

    Each random number makes four entries, because making random numbers takes most of the time.
    """
    count = math.prod(shape)
    numbers = torch.empty(-(-count // 4), dtype=torch.int64, device=like.device).random_(-(2**63), None)
    levels = numbers.view(torch.int16)[:count].view(shape)
    dropped = native.in_steps(share)
    return (levels >= dropped - 2**15).to(like.dtype).div_(1 - dropped / native.STEPS)
