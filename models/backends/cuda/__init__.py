"""Running a network on a GPU: pieces of fixed sizes through captured stages (stages.py), whole texts on the device.

Where there is no GPU its logic is tested on the CPU, where the same stages run uncaptured.

Batch invariance. Libraries choose a matrix kernel, and with it the order of a sum, by the number of rows. So stages are
made for a few numbers of rows only, batches are cut into pieces of these (`pieces`), and loading a network compares
each size with one of them, bit for bit, on the machine at hand (`agreeing_sizes`): a size that differs is not used.
Capturing then freezes the choice of kernels. Outside the matrix products a row is reduced over the vocabulary by
softmax alone, whose kernel follows from the width of a row, and in integers (sampling.py).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from models.arrays import Array
from models.backends.cuda.stages import Block, Weights, Wish, capturing
from models.decoding.completion import Completion
from models.decoding.sampling import Draw
from models.decoding.scoring import BLOCK_ELEMENTS, TokenScore
from models.network import LanguageModel

SIZES = (8, 64, 256, 1024)
"""Numbers of rows that stages are made for, ascending."""

BASE_SIZE = 64
"""The size that all others must equal, or the nearest below it: what remains where no two sizes agree."""

MAX_LOGITS = 4 * BLOCK_ELEMENTS
"""Logits held at once: with a large vocabulary the largest sizes are left out."""


def pieces(rows: int, sizes: Sequence[int]) -> list[tuple[slice, int]]:
    """Cut a batch: (which rows, the size that runs them). sizes: ascending.

    One launch takes about as long for few rows as for many, so what is left goes into one piece where one can hold it.
    """
    plan = []
    start = 0
    while start < rows:
        size = next((size for size in sizes if size >= rows - start), sizes[-1])
        plan.append((slice(start, min(start + size, rows)), size))
        start += size
    return plan


def agreeing_sizes(sizes: Iterable[int], base: int, outcome: Callable[[int, int], Tensor]) -> tuple[int, ...]:
    """The sizes at which every row gets the bits that it gets at `base`, wherever in its piece it is.

    outcome(size, shift): what fixed rows get, in pieces of `size`, when each row is `shift` places further on.
    Raises `ValueError` when `base` does not agree with itself.
    """
    expected = outcome(base, 0)
    agreeing = tuple(size for size in sizes if all(outcome(size, shift).equal(expected) for shift in (0, 1, 37)))
    if base not in agreeing:
        raise ValueError(f"a row's results depend on its place among {base} rows on this device: use another, or cpu")
    return agreeing


class CudaNetwork:
    """A network on a GPU, or, for tests, the same on a CPU. One thread at a time may use it."""

    longest_feed = 1
    samples = frozenset({"temperature", "top_k", "top_p", "min_p"})

    def __init__(self, model: LanguageModel, device: str, dtype: torch.dtype, sizes: Sequence[int] = SIZES) -> None:
        """dtype: of the weights, float32 or bfloat16. Raises `ValueError` as `agreeing_sizes` does."""
        self.device = torch.device(device)
        self.backend = f"{self.device.type}-{str(dtype).removeprefix('torch.')}"
        self._config = model.config
        self._dtype = dtype
        if self.device.type == "cuda":
            _sum_in_full_precision()
        with torch.inference_mode():
            weights, capture = Weights(model, self.device, dtype), capturing(self.device)
            fitting = [size for size in sizes if size * weights.columns <= MAX_LOGITS] or sizes[:1]
            self._blocks = {size: Block(weights, size, capture) for size in fitting}  # to be kept: see `capturing`
        self._nothing = weights.nothing
        self.sizes: Sequence[int] = fitting
        base = max((size for size in fitting if size <= BASE_SIZE), default=fitting[0])
        self.sizes = agreeing_sizes(fitting, base, self._outcome)

    def zeros(self, count: int) -> Tensor:
        return self._config.state_layout.zeros(count, self.device)

    def own(self, values: Array | Tensor) -> Tensor:
        return torch.as_tensor(values, device=self.device)

    def host(self, values: Tensor) -> Array:
        return values.cpu().numpy()

    @torch.inference_mode()
    def run(self, token_ids: Array, states: Tensor, slots: Array, lengths: Sequence[int] | None = None) -> Tensor:
        """Consume tokens: (B, T), int64; see `InferenceNetwork`. The features are in the type of the weights."""
        batch, width = token_ids.shape
        ids, rows_of_states = self.own(token_ids), self.own(slots)
        features = self._empty_features(batch, width)
        for rows, count, block in self._cut(len(slots)):
            block.state[:count] = states[rows_of_states[rows]]
            there = (lengths or [width] * batch)[rows]
            for t in range(there[0]):
                alive = sum(length > t for length in there)
                block.use(alive)
                block.token_ids[:count] = ids[rows, t]
                block.advance()
                block.project()
                features[rows, t] = block.features[:count]
            states[rows_of_states[rows]] = block.state[:count]
        return features

    @torch.inference_mode()
    def readout(self, states: Tensor, slots: Array) -> Tensor:
        """The features (N, P) that `run` returned when it left the states at `slots`, (N,)."""
        rows_of_states = self.own(slots)
        features = self._empty_features(len(slots))
        for rows, count, block in self._cut(len(slots)):
            block.state[:count] = states[rows_of_states[rows]]
            block.project()
            features[rows] = block.features[:count]
        return features

    @torch.inference_mode()
    def logits(self, features: Tensor) -> Tensor:
        """(N, P) -> (N, V), float32."""
        with torch.inference_mode(False):  # whoever samples may change them
            logits = torch.empty(len(features), self._config.vocabulary_size, device=self.device)
        for rows, count, block in self._cut(len(features)):
            block.features[:count] = features[rows]
            block.output()
            logits[rows] = block.logits[:count, : self._nothing]
        return logits

    @torch.inference_mode()
    def score(self, features: Tensor, targets: Array) -> tuple[Array, Array]:
        """Log-probabilities, float32, in nats, and ranks of the targets: (N,) each. features: (N, P)."""
        ids = self.own(targets)
        logprobs = torch.empty(len(targets), device=self.device)
        ranks = torch.empty(len(targets), dtype=torch.int64, device=self.device)
        for rows, count, block in self._cut(len(targets)):
            block.features[:count] = features[rows]
            block.output()
            target = ids[rows, None]
            logprobs[rows] = block.logits.log_softmax(dim=1)[:count].gather(1, target).squeeze(1)
            logits = block.logits[:count]
            ranks[rows] = (logits > logits.gather(1, target)).sum(dim=1) + 1
        return self.host(logprobs), self.host(ranks)

    @torch.inference_mode()
    def check(self, completion: Completion) -> None:
        completion.next_draw()

    def score_logits(self, logits: Tensor, targets: Sequence[int], top: int) -> list[TokenScore]:
        """`models.decoding.scoring.score_targets`, where the logits are."""
        logprobs = logits.log_softmax(dim=1)
        chosen = logprobs.gather(1, torch.tensor(targets, device=self.device)[:, None])
        ranks = (logprobs > chosen).sum(dim=1) + 1
        best = logprobs.topk(min(top, logprobs.shape[1]), dim=1)
        return [
            TokenScore(target, logprob, rank, tuple(zip(ids, values, strict=True)))
            for target, logprob, rank, ids, values in zip(
                targets, chosen[:, 0].tolist(), ranks.tolist(), best.indices.tolist(), best.values.tolist(), strict=True
            )
        ]

    @torch.inference_mode()
    def sample(self, logits: Tensor, draws: Sequence[Draw]) -> list[int]:
        """One token for each row of logits, (N, V): the one that `decode` would draw."""
        token_ids: list[int] = []
        for rows, count, block in self._cut(len(draws)):
            block.use(count)
            block.logits[:count, : self._nothing] = logits[rows]
            banned = [(row, token_id) for row, draw in enumerate(draws[rows]) for token_id in draw.banned]
            if banned:
                block.logits[tuple(torch.tensor(banned, device=self.device).T)] = -torch.inf
            draw_next = block.ask([self._one(draw) for draw in draws[rows]], [draw.params for draw in draws[rows]])
            block.look_ahead()
            block.number.copy_(block.numbers[0])
            draw_next()
            token_ids += block.drawn[:count].tolist()
        return token_ids

    @torch.inference_mode()
    def decode(
        self,
        completions: Sequence[Completion],
        feeds: Sequence[Sequence[int]],
        states: Tensor,
        slots: Sequence[int],
        seconds: float,
        before_last: Tensor | None = None,
    ) -> list[tuple[int, list[int]]]:
        """Go on with completions, none of them finished, for about `seconds`; 0: one step. Feeds have one token.

        A look at the clock follows every `STEPS` steps; a row that ends on the way idles until then, its state as the
        last token but one left it.
        """
        del before_last
        drawn: list[list[int]] = []
        plan = list(self._cut(len(completions)))
        for rows, count, block in plan:
            index = torch.tensor(slots[rows], device=self.device)
            block.use(count)
            block.state[:count] = states[index]
            block.token_ids[:count] = torch.tensor([feed[0] for feed in feeds[rows]], device=self.device)
            drawn += self._decode(block, completions[rows], seconds / len(plan))
            states[index] = block.state[:count]
        return [(1, token_ids) for token_ids in drawn]

    def _decode(self, block: Block, completions: Sequence[Completion], seconds: float) -> list[list[int]]:
        """`decode` for a block that has the states and the feeds."""
        deadline = time.monotonic() + seconds
        count = len(completions)
        draw_next = block.ask([self._rest(c) for c in completions], [c.params.sampling for c in completions])
        drawn: list[list[int]] = [[] for _ in completions]
        while True:
            steps = []
            block.look_ahead()
            for number in block.numbers if seconds > 0 else block.numbers[:1]:
                block.number.copy_(number)
                for stage in (block.advance, block.project, block.output, draw_next):
                    stage()
                steps.append(block.drawn[:count].clone())
            for row, token_ids in zip(drawn, torch.stack(steps, dim=1).tolist(), strict=True):
                row += [token_id for token_id in token_ids if token_id >= 0]
            if time.monotonic() >= deadline or not block.alive.any():
                return drawn

    def _one(self, draw: Draw) -> Wish[int]:
        """One token; what is banned has been taken out of the logits."""
        none = self._nothing
        return Wish(draw.seed, draw.choice, draw.position, draw.params.top_k, none, none, 0, draw.position + 1, none)

    def _rest(self, completion: Completion) -> Wish[int]:
        """The rest of a completion."""
        params = completion.params
        return Wish(
            params.seed,
            params.choice,
            position=completion.start + len(completion.token_ids),
            top_k=params.sampling.top_k,
            banned=self._nothing if params.allow_unk else completion.unk_id,
            eos=completion.eos_id,
            eos_from=completion.start + params.min_tokens,
            ends_at=completion.start + params.max_tokens,
            ends_on=self._nothing if params.ignore_eos else completion.eos_id,
        )

    def _cut(self, rows: int) -> Iterator[tuple[slice, int, Block]]:
        """(which rows, how many, the block that runs them)"""
        for piece, size in pieces(rows, self.sizes):
            yield piece, piece.stop - piece.start, self._blocks[size]

    def _empty_features(self, *shape: int) -> Tensor:
        return torch.empty(*shape, self._config.feature_size, dtype=self._dtype, device=self.device)

    @torch.inference_mode()
    def _outcome(self, size: int, shift: int) -> Tensor:
        """All that random rows get, with random full states, in pieces of one size: (rows, everything)."""
        self.sizes = (size,)
        random, count = torch.Generator().manual_seed(0), max(self._blocks)
        token_ids = torch.randint(self._config.vocabulary_size, (count, 4), generator=random).roll(shift, 0).numpy()
        states = torch.randn(count, self._config.state_layout.size, generator=random).roll(shift, 0).to(self.device)
        features = self.run(token_ids, states, np.arange(count))
        logits = self.logits(features[:, -1])
        logprobs = self.own(self.score(features[:, -1], token_ids[:, 0])[0])
        return torch.cat([states, features.flatten(1).float(), logits, logprobs[:, None]], dim=1).roll(-shift, 0)


def _sum_in_full_precision() -> None:
    """Process-wide: float32 is not multiplied as TF32, bfloat16 not summed as such.

    cuBLAS asks for one thing more before equal calls give equal bits (its documentation, section 2.1.4): a workspace of
    its own for each stream, which torch sees to.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
