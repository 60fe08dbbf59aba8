"""Running a trained network: the passes that serving is made of, on the fastest thing this machine has.

Every implementation keeps one promise: what a row gets is a function of its own tokens and state alone, bit for bit,
not of the batch it is in, of its place there, of how its tokens are cut into calls, or of the number of threads.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.cells import CELLS
from models.cuda import CudaNetwork
from models.generation import Completion
from models.native import available, processor_features
from models.native.network import NativeNetwork
from models.network import LanguageModel
from models.sampling import Draw, sample

NumberType = Literal["float32", "bfloat16", "int8"]

NUMBER_TYPES: tuple[NumberType, ...] = get_args(NumberType)


class InferenceNetwork(Protocol):
    """One network, packed for inference. One thread at a time may use it."""

    @property
    def backend(self) -> str:
        """Device and number type, as answers report them: `cpu-int8`."""

    @property
    def device(self) -> torch.device:
        """Where states, features and logits are."""

    @property
    def longest_feed(self) -> int:
        """Most tokens that `decode` takes for a row before its first draw."""

    def run(self, token_ids: Tensor, states: Tensor, slots: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Consume tokens: (B, T), int64. states: (rows, S), float32, of which the distinct rows `slots`, (B,), int64,
        are updated. lengths: of row b, lengths[b] tokens are there, and more than none; the longest comes first.
        Returns the features (B, T, P); what stands where there are no tokens means nothing."""

    def readout(self, states: Tensor, slots: Tensor) -> Tensor:
        """The features (N, P) that `run` returned when it left the states at `slots`, (N,): a state is enough to go on
        from, without the token before it."""

    def logits(self, features: Tensor) -> Tensor:
        """(N, P) -> (N, V), float32."""

    def score(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities, float32, in nats, and ranks of the targets: (N,) each. features: (N, P)."""

    def sample(self, logits: Tensor, draws: Sequence[Draw]) -> list[int]:
        """One token for each row of logits, (N, V), which may be overwritten."""

    def decode(
        self,
        completions: Sequence[Completion],
        feeds: Sequence[Sequence[int]],
        states: Tensor,
        slots: Sequence[int],
        seconds: float,
        before_last: Tensor | None = None,
    ) -> list[tuple[int, list[int]]]:
        """Go on with completions: consume what each is fed, draw a token, consume it, draw the next, for `seconds` or a
        little longer.

        feeds: the last drawn token of a completion under way, the last tokens of the prompt of a new one; one token at
        least, `longest_feed` at most. states: (rows, S), of which the distinct rows `slots` are updated; they have then
        consumed all tokens but the last drawn. Draws alone: no penalties or bias (`SamplingParams.adjusts`), no look at
        stop strings. Returns how many tokens of its feed each consumed and what was drawn for it once all were: none
        after an `<eos>` that ends it or beyond its `max_tokens`. The completions are left as they are.

        before_last: (B, S), float32; its row b becomes the state before the last token of feed b, where that was
        reached and the feed has more than one.
        """


def load_inference(
    model: LanguageModel, device: str = "cpu", number_type: NumberType | None = None, threads: int = 1
) -> InferenceNetwork:
    """The fastest implementation for this machine. number_type: None is the fastest that keeps the quality.

    Raises `ValueError` when the number type cannot be had here, saying why.
    """
    native = device == "cpu" and NativeNetwork.knows(model.config) and available()
    if number_type is None:
        number_type = _fastest(device, native)
    if native:
        return NativeNetwork(model, number_type, threads)
    if device == "cpu" and number_type != "float32":
        reason = "the native kernels were not built"
        if available():
            reason = f"they know lstm, not {model.config.cell}, and no output layers"
        raise ValueError(f"{number_type} on a CPU needs the native kernels: {reason}; use float32 or auto")
    if number_type == "int8":
        raise ValueError("int8 is for CPUs; use bfloat16, float32 or auto on a GPU")
    if device == "cpu":
        return TorchNetwork(model)
    return CudaNetwork(model, device, torch.bfloat16 if number_type == "bfloat16" else torch.float32)


def _fastest(device: str, native: bool) -> NumberType:
    if device == "cuda":
        return "bfloat16"
    return "int8" if native and processor_features() & {"avx512_vnni", "amx_int8"} else "float32"


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
            new = CELLS[self._config.cell](from_input, from_hidden, parts, layer.peepholes)
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
