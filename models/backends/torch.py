"""Plain torch on a CPU: the backend of every cell, and of machines without the native kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.cells import CELLS
from models.decoding.completion import Completion
from models.decoding.sampling import Draw, sample
from models.network import LanguageModel


class TorchNetwork:
    """Plain torch on a CPU, in float32: for every cell, and where there are no kernels.

    Matrix libraries sum in an order that depends on the number of rows, so every product is made for `ROWS` rows, some
    of them padding, and tokens are consumed one at a time: a row's products are then the same calls in every company.
    The number suits functions of single numbers too: torch computes what is left over of a tensor, beyond whole pairs
    of registers of 16 numbers, with other instructions.
    """

    ROWS = 32

    backend = "cpu-float32"
    device = torch.device("cpu")
    longest_feed = 1

    def __init__(self, model: LanguageModel) -> None:
        self._config = model.config
        self._model = model.float()

    @torch.inference_mode()
    def run(self, token_ids: Tensor, states: Tensor, slots: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        batch, width = token_ids.shape
        there = torch.tensor(lengths or [width] * batch)
        features = torch.zeros(batch, width, self._config.feature_size)
        state = states[slots]
        for t in range(int(there[0])):
            alive = int((there > t).sum())
            padding = (0, 0, 0, -alive % self.ROWS)
            top, new = self._step(F.pad(token_ids[:alive, t : t + 1], padding)[:, 0], F.pad(state[:alive], padding))
            features[:alive, t], state[:alive] = top[:alive], new[:alive]
        states[slots] = state
        return features

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
    def readout(self, states: Tensor, slots: Tensor) -> Tensor:
        hidden = self._config.state_layout.split(states[slots])[-1][0]
        padded = F.pad(hidden, (0, 0, 0, -len(slots) % self.ROWS))
        return self._project(padded)[: len(slots)]

    @torch.inference_mode()
    def logits(self, features: Tensor) -> Tensor:
        padded = F.pad(features, (0, 0, 0, -len(features) % self.ROWS))
        return self._linear(padded, self._model.output.weight, self._model.output.bias)[: len(features)]

    @torch.inference_mode()
    def score(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.logits(features)
        chosen = logits.gather(1, targets[:, None])
        logprobs = (chosen - logits.logsumexp(dim=1, keepdim=True)).squeeze(1)
        return logprobs, (logits > chosen).sum(dim=1) + 1

    @torch.inference_mode()
    def sample(self, logits: Tensor, draws: Sequence[Draw]) -> list[int]:
        ids: list[int] = sample(logits, draws).tolist()
        return ids

    def decode(
        self,
        completions: Sequence[Completion],
        feeds: Sequence[Sequence[int]],
        states: Tensor,
        slots: Sequence[int],
        seconds: float,
        before_last: Tensor | None = None,
    ) -> list[tuple[int, list[int]]]:
        """One step: nothing is gained here by more."""
        del seconds, before_last
        logits = self.logits(self.run(torch.tensor(feeds), states, torch.tensor(slots))[:, -1])
        return [(1, [token_id]) for token_id in self.sample(logits, [c.next_draw() for c in completions])]
