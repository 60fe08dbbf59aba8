"""The native inference step (kernels.cpp). Arrays in, arrays out."""

import ctypes
import struct
from collections.abc import Mapping, Sequence, Set
from itertools import accumulate, chain

import numpy as np

from models.arrays import Array
from models.backends.base import OnCPU
from models.backends.native import FEATURES, feature_bits, library, pointer
from models.config import NetworkConfig
from models.decoding.completion import Completion
from models.decoding.sampling import Draw, SamplingParams

_TYPES = {"float32": 0, "bfloat16": 1, "int8": 2}

# What the kernels know of SamplingParams, in the order and types of the structs in sampling.h and decoding.h.
_SAMPLED = {"temperature": "f", "top_p": "f", "min_p": "f", "top_k": "i"}
_DRAW = struct.Struct(f"=QQQ{''.join(_SAMPLED.values())}ii")
_PLAN = struct.Struct(f"=QQqqq{''.join(_SAMPLED.values())}iii4x")

MAX_STEPS = 64
"""Most steps of one `decode`."""


class NativeNetwork(OnCPU):
    """The weights of an LSTM language model, packed once in one number type, and the passes through them.

    Results are a function of a row's own tokens and state: not of the batch, the row's place in it, how the tokens are
    cut into calls, or the number of threads. One thread at a time may use it.
    """

    longest_feed = 32
    samples = frozenset(_SAMPLED)

    @staticmethod
    def knows(config: NetworkConfig) -> bool:
        """Whether the kernels can run such a network."""
        return config.cell == "lstm" and not config.output_layers

    def __init__(
        self,
        config: NetworkConfig,
        weights: Mapping[str, Array],
        number_type: str,
        threads: int,
        features: Set[str] = FEATURES,
    ) -> None:
        """weights: as for `load_inference`. number_type: float32, bfloat16 or int8. features: what may be used of the
        processor, where it has it.

        Raises `ValueError` when the kernels were not built or do not know the network's cell.
        """
        if library is None:
            raise ValueError("the native kernels were not built")
        if not self.knows(config):
            raise ValueError(f"the native kernels know lstm without output layers, not {config}")
        self.backend = f"cpu-{number_type}"
        self._library = library
        self._config = config
        self._embedding = _embedding(config, weights)  # the kernels read rows of it: it is kept
        self._network = ctypes.c_void_p(
            library.carousel_network(
                _TYPES[number_type],
                threads,
                feature_bits(features),
                pointer(self._embedding),
                *self._embedding.shape,
                config.embedding_size**0.5,
            )
        )
        for depth in range(len(config.hidden_sizes)):
            self._add_layer(weights, f"layers.{depth}.")
        if config.projection_size is not None:
            self._set_linear(0, weights["projection.weight"], weights["projection.bias"])
        output = self._embedding if config.tied else weights["output.weight"]
        self._set_linear(1, output, weights["output.bias"])

    def __del__(self) -> None:
        if hasattr(self, "_network"):
            self._library.carousel_free(self._network)

    @property
    def packed_bytes(self) -> int:
        """Bytes of weights that a step reads, the embedding aside."""
        return int(self._library.carousel_bytes(self._network))

    def run(self, token_ids: Array, states: Array, slots: Array, lengths: Sequence[int] | None = None) -> Array:
        """Consume tokens. See `InferenceNetwork`."""
        token_ids = np.ascontiguousarray(token_ids)
        batch, width = token_ids.shape
        lengths_of_rows = np.array(lengths or [width] * batch, dtype=np.int64)
        features = np.empty((batch, width, self._config.feature_size), np.float32)
        done = self._library.carousel_run(
            self._network,
            batch,
            width,
            pointer(lengths_of_rows, np.int64),
            pointer(token_ids, np.int64),
            pointer(states),
            pointer(slots, np.int64),
            pointer(features),
        )
        self._require_known(done)
        return features

    def readout(self, states: Array, slots: Array) -> Array:
        """The features (N, P) that `run` returned when it left the states at `slots`, (N,)."""
        features = np.empty((len(slots), self._config.feature_size), np.float32)
        self._library.carousel_readout(
            self._network, len(slots), pointer(states), pointer(slots, np.int64), pointer(features)
        )
        return features

    def logits(self, features: Array) -> Array:
        """(N, P) -> (N, V), float32."""
        features = np.ascontiguousarray(features)
        logits = np.empty((len(features), self._config.output_size), np.float32)
        self._library.carousel_logits(self._network, len(features), pointer(features), pointer(logits))
        return logits

    def score(self, features: Array, targets: Array) -> tuple[Array, Array]:
        """Log-probabilities, in nats, and ranks of targets: (N,) each. features: (N, P), targets: (N,), int64."""
        features, targets = np.ascontiguousarray(features), np.ascontiguousarray(targets)
        logprobs, ranks = np.empty(len(features), np.float32), np.empty(len(features), np.int32)
        done = self._library.carousel_score(
            self._network,
            len(features),
            pointer(features),
            pointer(targets, np.int64),
            pointer(logprobs),
            pointer(ranks, np.int32),
        )
        self._require_known(done)
        return logprobs, ranks

    def check(self, completion: Completion) -> None:
        """Packs what the kernels read of a completion."""
        _plan(completion)
        _packed(completion.next_draw())

    def sample(self, logits: Array, draws: Sequence[Draw]) -> list[int]:
        """One token for each row of logits, (N, V), which may be overwritten."""
        ids = np.empty(len(draws), np.int64)
        packed = b"".join(map(_packed, draws))
        self._library.carousel_sample(self._network, len(draws), pointer(logits), packed, pointer(ids, np.int64))
        return ids.tolist()

    def decode(
        self,
        completions: Sequence[Completion],
        feeds: Sequence[Sequence[int]],
        states: Array,
        slots: Sequence[int],
        seconds: float,
        before_last: Array | None = None,
    ) -> list[tuple[int, list[int]]]:
        """As many steps as fit into `seconds`, one at least, without coming back in between."""
        count = len(completions)
        plans = b"".join([c.native_plan or _plan(c) for c in completions])
        fed = np.fromiter(chain.from_iterable(feeds), dtype=np.int64)
        ends = np.fromiter(accumulate(map(len, feeds)), dtype=np.int64, count=count)
        drawn = np.array([len(c.token_ids) for c in completions], dtype=np.int64)
        rows = np.array(slots, dtype=np.int64)
        tokens = np.empty((count, MAX_STEPS), dtype=np.int64)
        produced, consumed = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        done = self._library.carousel_decode(
            self._network,
            count,
            MAX_STEPS,
            seconds,
            plans,
            *(pointer(array, np.int64) for array in (fed, ends, drawn)),
            pointer(states),
            *(pointer(array, np.int64) for array in (rows, tokens, produced, consumed)),
            None if before_last is None else pointer(before_last),
        )
        self._require_known(done)
        counts = produced.tolist()
        ids = tokens[:, : max(counts)].tolist()
        return [(eaten, ids[i][:n]) for i, (eaten, n) in enumerate(zip(consumed.tolist(), counts, strict=True))]

    def _require_known(self, done: int) -> None:
        if not done:
            sizes = {self._config.vocabulary_size, self._config.output_size}
            raise ValueError(f"a token id is not from 0 to {min(sizes) - 1}")

    def _add_layer(self, weights: Mapping[str, Array], layer: str) -> None:
        from_input, from_hidden = weights[layer + "weight_ih_l0"], weights[layer + "weight_hh_l0"]
        bias = weights[layer + "bias_ih_l0"] + weights[layer + "bias_hh_l0"]
        sizes = from_input.shape[1], from_hidden.shape[1]
        self._library.carousel_add_layer(self._network, *map(pointer, (from_input, from_hidden, bias)), *sizes)

    def _set_linear(self, which: int, weight: Array, bias: Array) -> None:
        self._library.carousel_set_linear(self._network, which, pointer(weight), pointer(bias), *weight.shape)


def _embedding(config: NetworkConfig, weights: Mapping[str, Array]) -> Array:
    """(V, E), float32; of one-hot inputs the matrix that `models.network.OneHot` has."""
    if config.one_hot:
        return np.eye(config.vocabulary_size, dtype=np.float32) * np.float32(config.vocabulary_size**-0.5)
    return weights["embedding.weight"]


def _sampled(params: SamplingParams) -> list[float]:
    """The fields of `_SAMPLED`; a temperature of 0 is greedy, any lower than `GREEDY_BELOW` too."""
    temperature, *others = (getattr(params, name) for name in _SAMPLED)
    return [0.0 if params.greedy else temperature, *others]


def _packed(draw: Draw) -> bytes:
    return _DRAW.pack(draw.seed, draw.choice, draw.position, *_sampled(draw.params), *(*draw.banned, -1, -1)[:2])


def _plan(completion: Completion) -> bytes:
    """What stays the same while a completion is sampled, as decoding.h reads it; kept on the completion."""
    params = completion.params
    completion.native_plan = _PLAN.pack(
        params.seed,
        params.choice,
        completion.start,
        params.max_tokens,
        params.min_tokens,
        *_sampled(params.sampling),
        -1 if params.allow_unk else completion.unk_id,
        completion.eos_id,
        not params.ignore_eos,
    )
    return completion.native_plan
