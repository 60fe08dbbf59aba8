"""The part of a network that answers: the hidden vectors of an encoder in, what a task predicts out.

A task that predicts something else than tokens (classes of a text, tags of its words) says so by `outputs` of the
configuration; its own file does what comes before and after. A head of another kind is a class here.

Axes: B sequences in the batch, T tokens in the window, V vocabulary, H hidden, P features that meet the output matrix.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.config import NetworkConfig
from models.encoder import OneHot


class LanguageModelHead(nn.Module):
    """Optional projection -> output layers with tanh, where the configuration has any -> logits, one an output."""

    def __init__(self, config: NetworkConfig, embedding: nn.Embedding | OneHot) -> None:
        """embedding: the encoder's, whose matrix is the output matrix where the configuration says `tied`."""
        super().__init__()
        self.projection = (
            nn.Linear(config.hidden_sizes[-1], config.projection_size) if config.projection_size else nn.Identity()
        )
        widths = (config.projection_size or config.hidden_sizes[-1], *config.output_layers)
        self.output_layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        # A tied matrix takes no memory of its own, not even while the network is made.
        self.output = nn.Linear(config.feature_size, config.output_size, device="meta" if config.tied else None)
        self.output.bias = nn.Parameter(torch.zeros(config.output_size))
        if config.tied:
            assert isinstance(embedding, nn.Embedding)
            self.output.weight = embedding.weight

    def features(self, hidden: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, P), what the output matrix is multiplied with."""
        x = self.projection(hidden.transpose(0, 1))
        for layer in self.output_layers:
            x = torch.tanh(layer(x))
        features: Tensor = x.transpose(0, 1)
        return features

    def logits(self, features: Tensor) -> Tensor:
        """(..., P) -> (..., V), unnormalised."""
        return self.output(features)  # type: ignore[no-any-return]
