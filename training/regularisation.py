"""What keeps a network from learning its text by heart: noise on the way through it, and penalties on activations.

Each piece is off at 0. Merity et al. 2018 ("Regularizing and Optimizing LSTM Language Models", AWD-LSTM) use them all.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Regularisation:
    """Shares are probabilities below 1. Raises `ValueError`, naming the field, on a value that makes no sense."""

    dropout: float = 0.0
    """Of the non-recurrent connections: between layers, and where the two below are None, before and after them all
    (Zaremba et al. 2014, figure 2)."""
    input_dropout: float | None = None
    """Of what the first layer gets."""
    output_dropout: float | None = None
    """Of what the last layer gives."""
    locked: bool = False
    """One mask for all tokens of a window, "variational" dropout (Gal & Ghahramani 2016, section 4)."""
    word_dropout: float = 0.0
    """Of whole word types: every occurrence in the batch is zeroed (Gal & Ghahramani 2016, section 4.2)."""
    dropconnect: float = 0.0
    """Of the recurrent weights, the same for a whole window (Wan et al. 2013; Merity et al. 2018, section 2)."""
    activation_l2: float = 0.0
    """AR: this much of the mean square of what the last layer gives, after dropout (Merity et al. 2017, section 3)."""
    temporal_l2: float = 0.0
    """TAR: this much of the mean square of what changes there from token to token, before dropout (the same)."""

    def __post_init__(self) -> None:
        for name in ("dropout", "input_dropout", "output_dropout", "word_dropout", "dropconnect"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name}: {value} is not a probability below 1")
        for name in ("activation_l2", "temporal_l2"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: {getattr(self, name)} is negative")


class TrainingNoise:
    """The noise of one step, drawn from torch's generator; a `models.network.Noise`. `penalty` is to be added to the
    loss, in nats, once the features are made."""

    def __init__(self, config: Regularisation, layers: int) -> None:
        self._config = config
        between = [config.dropout] * (layers - 1)
        first = config.dropout if config.input_dropout is None else config.input_dropout
        last = config.dropout if config.output_dropout is None else config.output_dropout
        self._shares = [first, *between, last]
        self.penalty = torch.zeros(())

    def embeddings(self, x: Tensor, token_ids: Tensor) -> Tensor:
        share = self._config.word_dropout
        if not share:
            return x
        kept = torch.rand(int(token_ids.max()) + 1, device=x.device) >= share  # (V',): word types, not occurrences
        return x * (kept[token_ids] / (1 - share)).to(x.dtype).unsqueeze(-1)

    def connections(self, x: Tensor, depth: int) -> Tensor:
        share = self._shares[depth]
        dropped = _drop(x, share, (*x.shape[:1], 1, *x.shape[2:]) if self._config.locked else x.shape)
        if depth == len(self._shares) - 1:
            self._penalise(x, dropped)
        return dropped

    def recurrent(self, from_hidden: Tensor) -> Tensor:
        return _drop(from_hidden, self._config.dropconnect, from_hidden.shape)

    def _penalise(self, given: Tensor, dropped: Tensor) -> None:
        config = self._config
        self.penalty = torch.zeros((), device=given.device)
        if config.activation_l2:
            self.penalty = self.penalty + config.activation_l2 * dropped.float().square().mean()
        if config.temporal_l2 and given.shape[1] > 1:
            self.penalty = self.penalty + config.temporal_l2 * given.float().diff(dim=1).square().mean()


def _drop(x: Tensor, share: float, mask_shape: tuple[int, ...]) -> Tensor:
    """x with `share` of the mask's entries zeroed, the others scaled so that the mean stays."""
    if not share:
        return x
    mask = torch.empty(mask_shape, dtype=x.dtype, device=x.device).bernoulli_(1 - share).div_(1 - share)
    return x * mask
