"""The part of a network that reads: token ids and a state in, a hidden vector of each token and the next state out.

Axes: B sequences in the batch, T tokens in the window, V vocabulary, E embedding, H hidden, S floats of one sequence's
state (models/state.py).
"""

from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.cells import CELLS, State
from models.config import NetworkConfig


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
    """Stands where an embedding would: `weight` is the identity over sqrt(V), because the encoder multiplies what it
    looks up by sqrt(E). It is no parameter."""

    weight: Tensor

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(vocabulary_size) * vocabulary_size**-0.5, persistent=False)

    def forward(self, token_ids: Tensor) -> Tensor:
        return F.embedding(token_ids, self.weight)


class Noise(Protocol):
    """What training does to values on their way through the network (training/regularisation.py)."""

    def embeddings(self, x: Tensor, token_ids: Tensor) -> Tensor:
        """x: (B, T, E), of token_ids: (B, T)."""

    def connections(self, x: Tensor, depth: int) -> Tensor:
        """x: (B, T, width), the input of layer `depth`; at depth L: the output of the last layer."""

    def recurrent(self, from_hidden: Tensor, depth: int) -> Tensor:
        """from_hidden: (G * H, H), the recurrent weights of layer `depth`."""


class LayerKernel(Protocol):
    """Runs an LSTM layer in training faster than torch does: `training.kernels.lstm`, which the trainer sets."""

    def usable(self, x: Tensor) -> bool:
        """Whether the kernel can run a layer over `x` here and now."""

    def run_layer(
        self, x: Tensor, from_input: Tensor, from_hidden: Tensor, bias: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x: (B, T, inputs); weights as in `LayerWeights`, both biases added; h, c: (B, H).

        Returns h of each token, (B, T, H), and the last h and c, (B, H).
        """


class Encoder(nn.Module):
    """Embedding (or one-hot vectors) and a stack of recurrent layers. No state is kept on the module."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.layer_kernel: LayerKernel | None = None
        """Runs LSTM layers in training instead of torch, where it can."""
        self.embedding: nn.Embedding | OneHot
        if config.one_hot:
            self.embedding = OneHot(config.vocabulary_size)
        else:
            self.embedding = nn.Embedding(config.vocabulary_size, config.embedding_size)
            # Unit variance at the first layer, once `forward` has multiplied by sqrt(E).
            nn.init.normal_(self.embedding.weight, std=config.embedding_size**-0.5)
        widths = (config.embedding_size, *config.hidden_sizes)
        weights = CELLS[config.cell].weights
        self.layers = nn.ModuleList(weights(width, hidden, batch_first=True) for width, hidden in pairwise(widths))

    def layer_weights(self) -> list[LayerWeights]:
        """The weights of the recurrent layers, first layer first, for code that runs them without torch's modules."""
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

    def forward(self, token_ids: Tensor, state: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """Reads a window.

        token_ids: (B, T), int64. state: (B, S), float32, or float64 where the weights are. noise: in training alone.
        Returns h of the last layer for each token, (B, T, H), and the state after the last token, (B, S).
        """
        # (B, T, E), in memory (T, B, E), which is the order that the layers want.
        x = self.embedding(token_ids.t()).transpose(0, 1) * self.config.embedding_size**0.5
        if noise:
            x = noise.embeddings(x, token_ids)
        layout, finals = self.config.state_layout, []
        for depth, (weights, initial) in enumerate(zip(self.layer_weights(), layout.split(state), strict=True)):
            if noise:
                x = noise.connections(x, depth)
                weights = weights._replace(from_hidden=noise.recurrent(weights.from_hidden, depth))
            x, final = self._run_layer(x, weights, initial)
            finals.append(final)
        if noise:
            x = noise.connections(x, len(finals))
        return x, layout.join(finals).to(state.dtype)

    def _run_layer(self, x: Tensor, weights: LayerWeights, initial: State) -> tuple[Tensor, State]:
        """x: (B, T, inputs) -> h of each token, (B, T, H), and the layer's last state, (B, H) each."""
        kernel = self.layer_kernel
        if CELLS[self.config.cell].fused is None:
            return self._run_token_by_token(x, weights, initial)
        if kernel is not None and self.config.cell == "lstm" and kernel.usable(x):
            bias = weights.input_bias + weights.hidden_bias
            x, *last = kernel.run_layer(x, weights.from_input, weights.from_hidden, bias, *initial)
            return x, tuple(last)
        if x.is_cuda and torch.is_autocast_enabled("cuda"):
            return self._run_fused_in_autocast(x, weights, initial)
        return self._run_fused(x, list(weights[:4]), initial)

    def _run_fused_in_autocast(self, x: Tensor, weights: LayerWeights, initial: State) -> tuple[Tensor, State]:
        """Autocast by itself runs torch's layers in float16 on a GPU, whatever type it was asked for; the gradient of a
        mean over many tokens is too small for that."""
        dtype = torch.get_autocast_dtype("cuda")
        flat = torch.cat([weight.flatten() for weight in weights[:4]]).to(dtype)  # in one piece, as cuDNN wants them
        parts = torch.split(flat, [weight.numel() for weight in weights[:4]])
        cast = [part.view_as(weight) for part, weight in zip(parts, weights[:4], strict=True)]
        with torch.autocast("cuda", enabled=False):
            return self._run_fused(x.to(dtype), cast, tuple(part.to(dtype) for part in initial))

    def _run_fused(self, x: Tensor, weights: list[Tensor], initial: State) -> tuple[Tensor, State]:
        before = tuple(part.unsqueeze(0).contiguous() for part in initial)  # torch wants (1, B, H)
        options = {
            "has_biases": True,
            "num_layers": 1,
            "dropout": 0.0,
            "train": torch.is_grad_enabled(),
            "bidirectional": False,
            "batch_first": True,
        }
        fused = CELLS[self.config.cell].fused
        assert fused is not None
        x, *final = fused(x, before if len(before) == 2 else before[0], weights, **options)
        return x, tuple(part.squeeze(0) for part in final)

    def _run_token_by_token(self, x: Tensor, weights: LayerWeights, state: State) -> tuple[Tensor, State]:
        """As `_run_layer`, for cells whose layers torch has no function for."""
        step, hiddens = CELLS[self.config.cell].step, []
        for from_input in F.linear(x, weights.from_input, weights.input_bias).unbind(1):
            from_hidden = F.linear(state[0], weights.from_hidden, weights.hidden_bias)
            state = step(from_input, from_hidden, state, weights.peepholes)
            hiddens.append(state[0])
        return torch.stack(hiddens, dim=1), state
