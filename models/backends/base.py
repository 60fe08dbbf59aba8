"""Running a trained network: the passes that serving is made of, by any backend.

Every implementation keeps one promise: what a row gets is a function of its own tokens and state alone, bit for bit,
not of the batch it is in, of its place there, of how its tokens are cut into calls, or of the number of threads.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from models.arrays import Array
from models.config import NetworkConfig
from models.decoding.completion import Completion
from models.decoding.sampling import Draw
from models.decoding.scoring import TokenScore, score_targets

Own = Any
"""States, features and logits where the backend has them: numpy arrays on a CPU, tensors on a GPU. Both index alike; a
list as an index makes a copy."""


class InferenceNetwork(Protocol):
    """One network, packed for inference. One thread at a time may use it."""

    samples: frozenset[str]
    """The fields of `SamplingParams` that `sample` and `decode` know. Rows that want others are sampled step by step,
    by `models.decoding.sampling.sample_rows`."""

    @property
    def backend(self) -> str:
        """Device and number type, as answers report them: `cpu-int8`."""

    @property
    def longest_feed(self) -> int:
        """Most tokens that `decode` takes for a row before its first draw."""

    def zeros(self, count: int) -> Own:
        """States before any token: (count, S), float32."""

    def own(self, values: Array | Own) -> Own:
        """A numpy array, or an array of the backend's, as an array of the backend's."""

    def host(self, values: Own) -> Array:
        """An array of the backend's as a numpy array, on a CPU the same memory."""

    def run(self, token_ids: Array, states: Own, slots: Array, lengths: Sequence[int] | None = None) -> Own:
        """Consume tokens: (B, T), int64. states: (rows, S), float32, of which the distinct rows `slots`, (B,), int64,
        are updated. lengths: row b has lengths[b] tokens, at least one; the longest comes first.
        Returns the features (B, T, P); what stands where a row has no token means nothing."""

    def readout(self, states: Own, slots: Array) -> Own:
        """The features (N, P) that `run` returned when it left the states at `slots`, (N,): a state is enough to go on
        from, without the token before it."""

    def logits(self, features: Own) -> Own:
        """(N, P) -> (N, V), float32."""

    def score(self, features: Own, targets: Array) -> tuple[Array, Array]:
        """Log-probabilities, float32, in nats, and ranks of the targets: (N,) each. features: (N, P)."""

    def score_logits(self, logits: Own, targets: Sequence[int], top: int) -> list[TokenScore]:
        """`models.decoding.scoring.score_targets` on logits of the backend's, (N, V)."""

    def check(self, completion: Completion) -> None:
        """Raises an exception where the parameters of a completion cannot be passed on: asked before it is batched."""

    def sample(self, logits: Own, draws: Sequence[Draw]) -> list[int]:
        """One token for each row of logits, (N, V), which may be overwritten. The draws want fields of `samples`; what
        adjusts logits besides has been applied."""

    def decode(
        self,
        completions: Sequence[Completion],
        feeds: Sequence[Sequence[int]],
        states: Own,
        slots: Sequence[int],
        seconds: float,
        before_last: Own | None = None,
    ) -> list[tuple[int, list[int]]]:
        """Go on with completions: consume what each is fed, sample a token, consume it, sample the next, for `seconds`
        or a little longer.

        feeds: the last sampled token of a completion under way, the last tokens of the prompt of a new one; one token
        at least, `longest_feed` at most. states: (rows, S), of which the distinct rows `slots` are updated; they have
        then consumed all tokens but the last sampled. The completions want fields of `samples` alone; stop strings are
        not looked for. Returns how many tokens of its feed each consumed and what was sampled for it once all were:
        none after an `<eos>` that ends it or beyond its `max_tokens`. The completions are left as they are.

        before_last: (B, S), float32; its row b becomes the state before the last token of feed b, where that was
        reached and the feed has more than one.
        """


class OnCPU:
    """What backends share whose arrays are numpy's."""

    _config: NetworkConfig

    def zeros(self, count: int) -> Array:
        return np.zeros((count, self._config.state_layout.size), np.float32)

    def own(self, values: Array) -> Array:
        return values

    def host(self, values: Array) -> Array:
        return values

    def check(self, completion: Completion) -> None:
        completion.next_draw()

    def score_logits(self, logits: Array, targets: Sequence[int], top: int) -> list[TokenScore]:
        return score_targets(logits, targets, top)
