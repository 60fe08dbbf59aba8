"""The recurrent language model: token ids and a state in, logits and the next state out. Nothing is kept on the module.

Axes: B sequences in the batch, T tokens in the window, V vocabulary, E embedding, H hidden, P features that meet the
output matrix, S floats of one sequence's state (models/state.py).
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.cells import CELLS
from models.config import Cell, NetworkConfig


class LayerWeights(NamedTuple):
    """One recurrent layer with G gates (4 for the LSTM, in the order i, f, g, o; 3 for the GRU: r, z, n; 1).

    from_input: (G * H, inputs). from_hidden: (G * H, H). input_bias, hidden_bias: (G * H,). peepholes: (3, H), of the
    gates i, f, o, where the cell has them.
    """

    from_input: Tensor
    from_hidden: Tensor
    input_bias: Tensor
    hidden_bias: Tensor
    peepholes: Tensor | None = None


class OneHot(nn.Module):
    """Stands where an embedding would: `weight` is the identity over sqrt(V), which `features` multiplies with. It is
    no parameter."""

    weight: Tensor

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(vocabulary_size) * vocabulary_size**-0.5, persistent=False)

    def forward(self, token_ids: Tensor) -> Tensor:
        return F.embedding(token_ids, self.weight)


class PeepholeLSTM(nn.LSTM):
    """The weights of a layer with peepholes, whose other names are torch's."""

    def __init__(self, inputs: int, hidden: int, batch_first: bool) -> None:
        super().__init__(inputs, hidden, batch_first=batch_first)
        self.weight_peephole = nn.Parameter(torch.empty(3, hidden).uniform_(-(hidden**-0.5), hidden**-0.5))


class Noise(Protocol):
    """What training does to values on their way through the network (training/regularisation.py)."""

    def embeddings(self, x: Tensor, token_ids: Tensor) -> Tensor:
        """x: (B, T, E), of token_ids: (B, T)."""

    def connections(self, x: Tensor, depth: int) -> Tensor:
        """x: (B, T, width), what layer `depth` is about to get; depth L: what the last one has given."""

    def recurrent(self, from_hidden: Tensor, depth: int) -> Tensor:
        """from_hidden: (G * H, H), the recurrent weights of layer `depth`."""


class LayerKernel(Protocol):
    """Runs an LSTM layer in training faster than torch does: `training.kernels.lstm`, which the trainer hands over."""

    def usable(self, x: Tensor) -> bool:
        """Whether it can run a layer over `x` here and now."""

    def run_layer(
        self, x: Tensor, from_input: Tensor, from_hidden: Tensor, bias: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x: (B, T, inputs); weights as in `LayerWeights`, both biases added; h, c: (B, H).

        Returns h of each token, (B, T, H), and the last h and c, (B, H).
        """


_FUSED: dict[Cell, Any] = {"rnn": torch.rnn_tanh, "gru": torch.gru, "lstm": torch.lstm}
"""torch's fused layers, which nn.LSTM and its kin call, with weights that need not be parameters."""

_LAYERS: dict[Cell, Any] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM, "lstm_peephole": PeepholeLSTM}


class LanguageModel(nn.Module):
    """Embedding -> stack of recurrent layers -> optional projection -> logits.

    `forward` is `features` followed by `logits`; training and scoring call the two apart, so that the (B, T, V) logits
    need never exist in one piece.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.layer_kernel: LayerKernel | None = None
        """What runs LSTM layers in training instead of torch, where it can."""
        self.embedding: nn.Embedding | OneHot
        if config.one_hot:
            self.embedding = OneHot(config.vocabulary_size)
        else:
            self.embedding = nn.Embedding(config.vocabulary_size, config.embedding_size)
            # Unit variance at the first layer, once `features` has multiplied by sqrt(E).
            nn.init.normal_(self.embedding.weight, std=config.embedding_size**-0.5)
        widths = (config.embedding_size, *config.hidden_sizes)
        layer = _LAYERS[config.cell]
        self.layers = nn.ModuleList(layer(width, hidden, batch_first=True) for width, hidden in pairwise(widths))
        self.projection = (
            nn.Linear(config.hidden_sizes[-1], config.projection_size) if config.projection_size else nn.Identity()
        )
        dense = (config.projection_size or config.hidden_sizes[-1], *config.output_layers)
        self.output_layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(dense))
        # A tied matrix takes no memory of its own, not even while the network is made.
        self.output = nn.Linear(config.feature_size, config.vocabulary_size, device="meta" if config.tied else None)
        self.output.bias = nn.Parameter(torch.zeros(config.vocabulary_size))
        if config.tied:
            assert isinstance(self.embedding, nn.Embedding)
            self.output.weight = self.embedding.weight

    def layer_weights(self) -> list[LayerWeights]:
        """The recurrent layers' weights, first layer first, for whoever runs them without torch's modules."""
        return [
            LayerWeights(
                layer.get_parameter("weight_ih_l0"),
                layer.get_parameter("weight_hh_l0"),
                layer.get_parameter("bias_ih_l0"),
                layer.get_parameter("bias_hh_l0"),
                getattr(layer, "weight_peephole", None),
            )
            for layer in self.layers
        ]

    def features(self, token_ids: Tensor, state: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """What the output matrix is multiplied with, and the state after the last token.

        token_ids: (B, T), int64. state: (B, S), float32, or float64 where the weights are. noise: in training
        alone.
        Returns (B, T, P) and (B, S).
        """
        # (B, T, E), in memory (T, B, E), as layers want it.
        x = self.embedding(token_ids.t()).transpose(0, 1) * self.config.embedding_size**0.5
        if noise:
            x = noise.embeddings(x, token_ids)
        finals = []
        for depth, (weights, initial) in enumerate(
            zip(self.layer_weights(), self.config.state_layout.split(state), strict=True)
        ):
            if noise:
                x = noise.connections(x, depth)
                weights = weights._replace(from_hidden=noise.recurrent(weights.from_hidden, depth))
            x, final = self._run_layer(x, weights, initial)
            finals.append(final)
        if noise:
            x = noise.connections(x, len(finals))
        made = self.dense(self.projection(x.transpose(0, 1))).transpose(0, 1)
        return made, self.config.state_layout.join(finals).to(state.dtype)

    def dense(self, x: Tensor) -> Tensor:
        """Through the output layers, where there are any."""
        for layer in self.output_layers:
            x = torch.tanh(layer(x))
        return x

    def _run_layer(
        self, x: Tensor, weights: LayerWeights, initial: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x: (B, T, inputs) -> h of each token, (B, T, H), and the layer's last state, (B, H) each."""
        if self.config.cell not in _FUSED:
            return self._run_token_by_token(x, weights, initial)
        kernel = self.layer_kernel
        if kernel is not None and self.config.cell == "lstm" and kernel.usable(x):
            bias = weights.input_bias + weights.hidden_bias
            x, *last = kernel.run_layer(x, weights.from_input, weights.from_hidden, bias, *initial)
            return x, tuple(last)
        if x.is_cuda and torch.is_autocast_enabled("cuda"):
            return self._run_fused_in_autocast(x, weights, initial)
        return self._run_fused(x, list(weights[:4]), initial)

    def _run_fused_in_autocast(
        self, x: Tensor, weights: LayerWeights, initial: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Autocast by itself runs torch's layers in float16 on a GPU, whatever type it was asked for; the gradient of a
        mean over many tokens is too small for that."""
        dtype = torch.get_autocast_dtype("cuda")
        flat = torch.cat([weight.flatten() for weight in weights[:4]]).to(dtype)  # in one piece, as cuDNN wants them
        parts = torch.split(flat, [weight.numel() for weight in weights[:4]])
        cast = [part.view_as(weight) for part, weight in zip(parts, weights[:4], strict=True)]
        with torch.autocast("cuda", enabled=False):
            return self._run_fused(x.to(dtype), cast, tuple(part.to(dtype) for part in initial))

    def _run_fused(
        self, x: Tensor, weights: list[Tensor], initial: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        before = tuple(part.unsqueeze(0).contiguous() for part in initial)  # torch wants (1, B, H)
        options = {
            "has_biases": True,
            "num_layers": 1,
            "dropout": 0.0,
            "train": torch.is_grad_enabled(),
            "bidirectional": False,
            "batch_first": True,
        }
        run = _FUSED[self.config.cell]
        x, *final = run(x, before if len(before) == 2 else before[0], weights, **options)
        return x, tuple(part.squeeze(0) for part in final)

    def _run_token_by_token(
        self, x: Tensor, weights: LayerWeights, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `_run_layer`, for cells that torch has no fused layer of."""
        made = []
        for from_input in F.linear(x, weights.from_input, weights.input_bias).unbind(1):
            from_hidden = F.linear(state[0], weights.from_hidden, weights.hidden_bias)
            state = CELLS[self.config.cell](from_input, from_hidden, state, weights.peepholes)
            made.append(state[0])
        return torch.stack(made, dim=1), state

    def logits(self, features: Tensor) -> Tensor:
        """(..., P) -> (..., V), unnormalised."""
        return self.output(features)  # type: ignore[no-any-return]

    def forward(self, token_ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T), (B, S) -> logits (B, T, V) of the token that follows each position, state (B, S)."""
        features, state = self.features(token_ids, state)
        return self.logits(features), state

    def num_parameters(self) -> int:
        """Distinct numbers that are learned; a tied matrix counts once."""
        return sum(parameter.numel() for parameter in self.parameters())


def to_arrays(model: LanguageModel) -> dict[str, np.ndarray[Any, Any]]:
    """The weights by the names that checkpoints store, float32, a tied matrix once."""
    return {name: parameter.detach().cpu().float().numpy() for name, parameter in model.named_parameters()}


def from_arrays(config: NetworkConfig, weights: Mapping[str, np.ndarray[Any, Any]]) -> LanguageModel:
    """Inverse of `to_arrays`: a network for running, not for training."""
    model = LanguageModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weights[name]))
    return model.eval().requires_grad_(False)
