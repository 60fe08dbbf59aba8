"""The native inference step (kernels.cpp). Tensors in, tensors out."""

import ctypes
import struct
from collections.abc import Sequence, Set
from itertools import accumulate, chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.backends.native import FEATURES, feature_bits, library, pointer
from models.config import NetworkConfig
from models.decoding.completion import Completion
from models.decoding.sampling import Draw, SamplingParams, adjust_logits
from models.encoder import LayerWeights
from models.network import LanguageModel

_TYPES = {"float32": 0, "bfloat16": 1, "int8": 2}
# As the structs in sampling.h and decoding.h.
_DRAW = struct.Struct("=QQQfffiii")
_PLAN = struct.Struct("=QQqqqfffiiii4x")

MAX_STEPS = 64
"""Most steps of one `decode`."""


class NativeNetwork:
    """The weights of an LSTM language model, packed once in one number type, and the passes through them.

    Results are a function of a row's own tokens and state: not of the batch, the row's place in it, how the tokens are
    cut into calls, or the number of threads. One thread at a time may use it.
    """

    device = torch.device("cpu")
    longest_feed = 32

    @staticmethod
    def knows(config: NetworkConfig) -> bool:
        """Whether the kernels can run such a network."""
        return config.cell == "lstm" and not config.output_layers

    def __init__(self, model: LanguageModel, number_type: str, threads: int, features: Set[str] = FEATURES) -> None:
        """number_type: float32, bfloat16 or int8. features: what may be used of the processor, where it is there.

        Raises `ValueError` when the kernels are not there or do not know the network's cell.
        """
        if library is None:
            raise ValueError("the native kernels were not built")
        if not self.knows(model.config):
            raise ValueError(f"the native kernels know lstm without output layers, not {model.config}")
        self.backend = f"cpu-{number_type}"
        self._library = library
        self._config = model.config
        self._embedding = model.embedding.weight.detach().float().contiguous()
        self._network = ctypes.c_void_p(
            library.carousel_network(
                _TYPES[number_type],
                threads,
                feature_bits(features),
                pointer(self._embedding),
                *self._embedding.shape,
                ctypes.c_float(model.config.embedding_size**0.5),
            )
        )
        for layer in model.layer_weights():
            self._add_layer(layer)
        if isinstance(model.projection, torch.nn.Linear):
            self._set_linear(0, model.projection)
        self._set_linear(1, model.output)

    def __del__(self) -> None:
        if hasattr(self, "_network"):
            self._library.carousel_free(self._network)

    @property
    def packed_bytes(self) -> int:
        """Bytes of weights that a step reads, the embedding aside."""
        return int(self._library.carousel_bytes(self._network))

    def run(self, token_ids: Tensor, states: Tensor, slots: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Consume tokens. See `InferenceNetwork`."""
        token_ids, slots = token_ids.contiguous(), slots.contiguous()
        assert states.is_contiguous()
        assert states.dtype == torch.float32
        batch, width = token_ids.shape
        there = np.array(lengths or [width] * batch, dtype=np.int64)
        features = torch.empty(batch, width, self._config.feature_size)
        self._library.carousel_run(
            self._network,
            batch,
            width,
            _array(there),
            *map(pointer, (token_ids, states, slots, features)),
        )
        return features

    def readout(self, states: Tensor, slots: Tensor) -> Tensor:
        """The features (N, P) that `run` returned when it left the states at `slots`, (N,)."""
        slots = slots.contiguous()
        features = torch.empty(len(slots), self._config.feature_size)
        self._library.carousel_readout(self._network, len(slots), *map(pointer, (states, slots, features)))
        return features

    def logits(self, features: Tensor) -> Tensor:
        """(N, P) -> (N, V), float32."""
        features = features.contiguous()
        logits = torch.empty(len(features), self._config.vocabulary_size)
        self._library.carousel_logits(self._network, len(features), pointer(features), pointer(logits))
        return logits

    def score(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities, in nats, and ranks of targets: (N,) each. features: (N, P), targets: (N,), int64."""
        features, targets = features.contiguous(), targets.contiguous()
        logprobs = torch.empty(len(features))
        ranks = torch.empty(len(features), dtype=torch.int32)
        self._library.carousel_score(self._network, len(features), *map(pointer, (features, targets, logprobs, ranks)))
        return logprobs, ranks

    def sample(self, logits: Tensor, draws: Sequence[Draw]) -> list[int]:
        """One token for each row of logits, (N, V), contiguous, which may be overwritten."""
        assert logits.is_contiguous()
        for i, draw in enumerate(draws):
            if draw.params.adjusts:
                adjust_logits(logits[i], draw)
        ids = torch.empty(len(draws), dtype=torch.int64)
        self._library.carousel_sample(
            self._network, len(draws), pointer(logits), b"".join(map(_drawn_with, draws)), pointer(ids)
        )
        result: list[int] = ids.tolist()
        return result

    def decode(
        self,
        completions: Sequence[Completion],
        feeds: Sequence[Sequence[int]],
        states: Tensor,
        slots: Sequence[int],
        seconds: float,
        before_last: Tensor | None = None,
    ) -> list[tuple[int, list[int]]]:
        """As many steps as fit into `seconds`, one at least, without coming back in between."""
        assert states.is_contiguous()
        count = len(completions)
        plans = b"".join([c.native_plan or _plan(c) for c in completions])
        fed = np.fromiter(chain.from_iterable(feeds), dtype=np.int64)
        ends = np.fromiter(accumulate(map(len, feeds)), dtype=np.int64, count=count)
        drawn = np.array([len(c.token_ids) for c in completions], dtype=np.int64)
        rows = np.array(slots, dtype=np.int64)
        tokens = np.empty((count, MAX_STEPS), dtype=np.int64)
        produced, consumed = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        self._library.carousel_decode(
            self._network,
            count,
            MAX_STEPS,
            ctypes.c_double(seconds),
            plans,
            *map(_array, (fed, ends, drawn)),
            pointer(states),
            *map(_array, (rows, tokens, produced, consumed)),
            None if before_last is None else pointer(before_last),
        )
        counts = produced.tolist()
        ids = tokens[:, : max(counts)].tolist()
        return [(eaten, ids[i][:n]) for i, (eaten, n) in enumerate(zip(consumed.tolist(), counts, strict=True))]

    def _add_layer(self, layer: LayerWeights) -> None:
        from_input, from_hidden = layer.from_input.detach().contiguous(), layer.from_hidden.detach().contiguous()
        bias = (layer.input_bias + layer.hidden_bias).detach()
        sizes = from_input.shape[1], from_hidden.shape[1]
        self._library.carousel_add_layer(self._network, *map(pointer, (from_input, from_hidden, bias)), *sizes)

    def _set_linear(self, which: int, linear: torch.nn.Linear) -> None:
        weight, bias = linear.weight.detach().contiguous(), linear.bias.detach().contiguous()
        self._library.carousel_set_linear(self._network, which, *map(pointer, (weight, bias)), *weight.shape)


def _temperature(params: SamplingParams) -> float:
    return 0.0 if params.greedy else params.temperature


def _drawn_with(draw: Draw) -> bytes:
    params = draw.params
    numbers = (draw.seed, draw.choice, draw.position, _temperature(params), params.top_p, params.min_p, params.top_k)
    return _DRAW.pack(*numbers, *(*draw.banned, -1, -1)[:2])


def _plan(completion: Completion) -> bytes:
    """What stays the same while a completion is drawn, as kernels.cpp reads it; kept on the completion."""
    params, sampling = completion.params, completion.params.sampling
    completion.native_plan = _PLAN.pack(
        params.seed,
        params.choice,
        completion.start,
        params.max_tokens,
        params.min_tokens,
        _temperature(sampling),
        sampling.top_p,
        sampling.min_p,
        sampling.top_k,
        -1 if params.allow_unk else completion.unk_id,
        completion.eos_id,
        not params.ignore_eos,
    )
    return completion.native_plan


def _array(values: np.ndarray[Any, Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.ctypes.data)
