"""Plain torch on a CPU: the backend of every cell, and of machines without the native kernels."""

from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.arrays import Array
from models.backends.base import OnCPU
from models.cells import CELLS
from models.config import NetworkConfig
from models.decoding.completion import Completion
from models.decoding.sampling import Draw, SamplingParams, sample
from models.network import from_arrays


class TorchNetwork(OnCPU):
    """Plain torch on a CPU, in float32: for every cell, and where there are no kernels.

    Matrix libraries sum in an order that depends on the number of rows, so every product is made for `ROWS` rows, some
    of them padding, and tokens are consumed one at a time: a row's products are then the same calls in every company.
    The number suits functions of single numbers too: torch computes what is left over of a tensor, beyond whole pairs
    of registers of 16 numbers, with other instructions.

    Tensors stay inside: states, features and logits are numpy arrays, whose memory they share.
    """

    ROWS = 32

    backend = "cpu-float32"
    longest_feed = 1
    samples = frozenset(field.name for field in fields(SamplingParams))

    def __init__(self, config: NetworkConfig, weights: Mapping[str, Array], threads: int | None = None) -> None:
        """weights: as for `load_inference`. threads: of torch in this process; None: as they are."""
        if threads is not None:
            torch.set_num_threads(threads)
        self._config = config
        self._model = from_arrays(config, weights)

    @torch.inference_mode()
    def run(self, token_ids: Array, states: Array, slots: Array, lengths: Sequence[int] | None = None) -> Array:
        batch, width = token_ids.shape
        lengths_of_rows = np.array(lengths or [width] * batch)
        ids, state = torch.from_numpy(token_ids), torch.from_numpy(states[slots])
        features = torch.zeros(batch, width, self._config.feature_size)
        for t in range(int(lengths_of_rows[0])):
            alive = int((lengths_of_rows > t).sum())
            padding = (0, 0, 0, -alive % self.ROWS)
            top, new = self._step(F.pad(ids[:alive, t : t + 1], padding)[:, 0], F.pad(state[:alive], padding))
            features[:alive, t], state[:alive] = top[:alive], new[:alive]
        states[slots] = state.numpy()
        return features.numpy()

    def _step(self, token_ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One token for each row: (B,), (B, S) -> features (B, P), state (B, S)."""
        x = self._model.embedding(token_ids) * self._config.embedding_size**0.5
        layers = []
        for layer, parts in zip(self._model.layer_weights(), self._config.state_layout.split(state), strict=True):
            from_input = self._linear(x, layer.from_input, layer.input_bias)
            from_hidden = self._linear(parts[0], layer.from_hidden, layer.hidden_bias)
            new = CELLS[self._config.cell].step(from_input, from_hidden, parts, layer.peepholes)
            layers.append(new)
            x = new[0]
        return self._project(x), self._config.state_layout.join(layers)

    def _project(self, x: Tensor) -> Tensor:
        projection = self._model.projection
        x = self._linear(x, projection.weight, projection.bias) if isinstance(projection, nn.Linear) else x
        for layer in self._model.output_layers:
            assert isinstance(layer, nn.Linear)
            x = torch.tanh(self._linear(x, layer.weight, layer.bias))
        return x

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, K) -> (B, N), B a multiple of `ROWS`.

        Contiguous, `ROWS` rows begin at a multiple of 64 bytes: sums may depend on that too.
        """
        return torch.cat([F.linear(rows, weight, bias) for rows in torch.split(x.contiguous(), self.ROWS)])

    @torch.inference_mode()
    def readout(self, states: Array, slots: Array) -> Array:
        hidden = self._config.state_layout.split(torch.from_numpy(states[slots]))[-1][0]
        padded = F.pad(hidden, (0, 0, 0, -len(slots) % self.ROWS))
        return self._project(padded)[: len(slots)].numpy()

    @torch.inference_mode()
    def logits(self, features: Array) -> Array:
        padded = F.pad(torch.from_numpy(features), (0, 0, 0, -len(features) % self.ROWS))
        return self._linear(padded, self._model.output.weight, self._model.output.bias)[: len(features)].numpy()

    @torch.inference_mode()
    def score(self, features: Array, targets: Array) -> tuple[Array, Array]:
        logits = torch.from_numpy(self.logits(features))
        chosen = logits.gather(1, torch.from_numpy(targets)[:, None])
        logprobs = (chosen - logits.logsumexp(dim=1, keepdim=True)).squeeze(1)
        return logprobs.numpy(), ((logits > chosen).sum(dim=1) + 1).numpy()

    def sample(self, logits: Array, draws: Sequence[Draw]) -> list[int]:
        ids: list[int] = sample(logits, draws).tolist()
        return ids

    def decode(
        self,
        completions: Sequence[Completion],
        feeds: Sequence[Sequence[int]],
        states: Array,
        slots: Sequence[int],
        seconds: float,
        before_last: Array | None = None,
    ) -> list[tuple[int, list[int]]]:
        """One step: nothing is gained here by more."""
        del seconds, before_last
        logits = self.logits(self.run(np.array(feeds), states, np.array(slots))[:, -1])
        return [(1, [token_id]) for token_id in self.sample(logits, [c.next_draw() for c in completions])]
