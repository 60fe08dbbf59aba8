"""Networks: an encoder and the head of a task, made from a configuration.

Axes: B sequences in the batch, T tokens in the window, V vocabulary, P features that meet the output matrix, S floats
of one sequence's state (models/state.py).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.config import NetworkConfig
from models.encoder import Encoder, LayerWeights, Noise
from models.heads import LanguageModelHead


class LanguageModel(nn.Module):
    """The recurrent language model: token ids and a state in, logits and the next state out. It keeps no state.

    `forward` is `features` followed by `logits`; training and scoring call the two apart, so that the (B, T, V) logits
    need never exist in one piece.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        encoder = Encoder(config)
        head = LanguageModelHead(config, encoder.embedding)
        # The parts of both are registered here, by the names under which checkpoints store their weights ...
        self.embedding, self.layers = encoder.embedding, encoder.layers
        self.projection, self.output_layers, self.output = head.projection, head.output_layers, head.output
        # ... and not once more as parts of the encoder and the head: a module in a tuple is not registered.
        self._parts = encoder, head

    @property
    def encoder(self) -> Encoder:
        return self._parts[0]

    @property
    def head(self) -> LanguageModelHead:
        return self._parts[1]

    def layer_weights(self) -> list[LayerWeights]:
        """The weights of the recurrent layers, first layer first."""
        return self.encoder.layer_weights()

    def features(self, token_ids: Tensor, state: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """What the output matrix is multiplied with, and the state after the last token.

        token_ids: (B, T), int64. state: (B, S), float32, or float64 where the weights are. noise: in training alone.
        Returns (B, T, P) and (B, S).
        """
        hidden, state = self.encoder(token_ids, state, noise)
        return self.head.features(hidden), state

    def logits(self, features: Tensor) -> Tensor:
        """(..., P) -> (..., V), unnormalised."""
        return self.head.logits(features)

    def forward(self, token_ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T), (B, S) -> logits (B, T, V) of the token that follows each position, state (B, S)."""
        features, state = self.features(token_ids, state)
        return self.logits(features), state

    def num_parameters(self) -> int:
        """Distinct numbers that are learned; a tied matrix counts once."""
        return sum(parameter.numel() for parameter in self.parameters())


def to_arrays(model: nn.Module) -> dict[str, np.ndarray[Any, Any]]:
    """The weights by the names that checkpoints store, float32, a tied matrix once."""
    return {name: parameter.detach().cpu().float().numpy() for name, parameter in model.named_parameters()}


def from_arrays(config: NetworkConfig, weights: Mapping[str, np.ndarray[Any, Any]]) -> LanguageModel:
    """Inverse of `to_arrays` for a language model: a network for running, not for training."""
    model = LanguageModel(config)
    set_weights(model, {name: torch.from_numpy(array) for name, array in weights.items()})
    return model.eval().requires_grad_(False)


@torch.no_grad()
def set_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies `weights`, by the names that checkpoints store, into the parameters of a network."""
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])
