"""Running a trained network: the passes that serving is made of, by any backend.

Every implementation keeps one promise: what a row gets is a function of its own tokens and state alone, bit for bit,
not of the batch it is in, of its place there, of how its tokens are cut into calls, or of the number of threads.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from models.decoding.completion import Completion
from models.decoding.sampling import Draw


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
