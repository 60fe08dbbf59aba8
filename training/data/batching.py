"""Windows for truncated backpropagation through time: a pure function of the step number, with nothing to save.

Sequential partition: the token stream is cut into B parallel streams, read side by side, and the state is carried from
one window to the next.

    stream 0   a b c d | e f g h |      inputs of step 0: a b c d     targets: b c d e
    stream 1   i j k l | m n o p |                        i j k l              j k l m

Where the gradient stops, `truncation`:

- fixed: after `bptt_length` tokens, at the windows' edges.
- variable: the windows of an epoch differ in length, normally distributed around `bptt_length`, now and then around
  half of it (Merity et al. 2018, section 5), so that each epoch has other tokens at the edges.
- randomised: inside a window too, at random; the gradients that pass there are scaled up, so that their mean is that of
  the whole window (Tallec & Ollivier 2017, "Unbiasing Truncated Backpropagation Through Time"). The loss does this
  (training/loss.py).

Random windows: the stream is cut into windows at a random offset, the windows come in random order, and each starts
from the zero state. A window with an `<eos>` less than a window before it starts at that `<eos>`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training.data.tokens import positions_of

Partition = Literal["sequential", "random"]
Truncation = Literal["fixed", "variable", "randomised"]

LENGTH_DEVIATION, SHORT_SHARE = 5.0, 0.05
"""Of variable windows: standard deviation in tokens, and the share of windows around half the length."""


@dataclass(frozen=True)
class Batch:
    """inputs, targets: (B, T), int64. fresh: (B,), bool, the rows whose state is zero before this window."""

    inputs: Tensor
    targets: Tensor
    fresh: Tensor


class Batches:
    """Batch number 0, 1, 2, … of the training split.

    Each epoch starts at another offset, so that the windows' edges fall on other tokens. With the sequential partition
    a row leaves its stream with probability `reset_probability`, for a single window that begins at a random `<eos>` in
    the zero state: texts and scores begin there, so the model has to see that state often enough.

        row 0   a b c d | Y Z A B | i j k l | m n      Y: what follows the random <eos>
                carried   zero      zero      carried

    Where boundaries are rare, the row stays where it is and only its state is zeroed.
    """

    def __init__(
        self,
        ids: Tensor,
        eos_id: int,
        batch_size: int,
        bptt_length: int,
        partition: Partition,
        reset_probability: float,
        seed: int,
        truncation: Truncation = "fixed",
    ) -> None:
        """ids: (N,), any integer type; not copied. Raises `ValueError` when N is too small for one batch."""
        self._ids, self._eos_id = ids, eos_id
        self._batch_size = batch_size
        self._bptt_length = bptt_length
        self._partition = partition
        self._reset_probability = reset_probability
        self._seed = seed
        self._varies = truncation == "variable" and partition == "sequential"
        self.batches_per_epoch = batches_in_epoch(len(ids), batch_size, bptt_length)
        begins = positions_of(eos_id, ids[: len(ids) - bptt_length]) + 1
        self._begins = begins = torch.cat([torch.zeros(1, dtype=torch.int64), begins])
        """Where a window can begin with <eos>. Position 0 is the <eos> before the text, which is not in ids."""
        # In running text, with hardly any <eos>, rows would go to the same few windows again and again.
        self._boundaries_are_many = len(begins) * bptt_length * 8 >= len(ids)
        self._current: tuple[int, _Epoch] | None = None

    @property
    def tokens_per_batch(self) -> int:
        """The mean where the lengths of windows vary."""
        return self._batch_size * self._bptt_length

    def __getitem__(self, step: int) -> Batch:
        epoch, index = divmod(step, self.batches_per_epoch)
        layout = self._epoch(epoch)
        rows, length = self._batch_size, self._bptt_length
        if self._partition == "sequential":
            first, end = layout.edges[index : index + 2].tolist()
            starts = layout.offset + torch.arange(rows) * (self.batches_per_epoch * length) + first
            length = end - first
            leaves, begins = self._excursions(step)
            fresh = leaves.clone()
            if index == 0:
                fresh[:] = True
            if self._boundaries_are_many:
                if index:
                    fresh |= self._excursions(step - 1)[0]
                starts = torch.where(leaves, begins.clamp_max(len(self._ids) - length), starts)
        else:
            starts = layout.offset + layout.order[index * rows : (index + 1) * rows] * length
            begins = self._begins[torch.searchsorted(self._begins, starts, right=True) - 1]
            starts = torch.where(starts - begins < length, begins, starts)
            fresh = torch.ones(rows, dtype=torch.bool)
        positions = starts[:, None] + torch.arange(length + 1)
        window = self._ids[(positions - 1).clamp_min(0)].long()
        window[positions == 0] = self._eos_id  # the first token is predicted too
        return Batch(window[:, :-1], window[:, 1:], fresh)

    def _excursions(self, step: int) -> tuple[Tensor, Tensor]:
        """Which rows leave their streams for this window, and a random `<eos>` for each row to go to; (B,) each."""
        generator = torch.Generator().manual_seed(mix(self._seed, 2, step))
        leaves = torch.rand(self._batch_size, generator=generator) < self._reset_probability
        chosen = torch.randint(len(self._begins), (self._batch_size,), generator=generator)
        return leaves, self._begins[chosen]

    def _epoch(self, number: int) -> "_Epoch":
        if self._current is None or self._current[0] != number:
            generator = torch.Generator().manual_seed(mix(self._seed, 1, number))
            count, length = self.batches_per_epoch, self._bptt_length
            offset = int(torch.randint(length, (), generator=generator)) if number else 0
            order = torch.randperm(count * self._batch_size, generator=generator)
            lengths = torch.full((count,), float(length), dtype=torch.float64)
            if self._varies:
                lengths = torch.where(torch.rand(count, generator=generator) < SHORT_SHARE, length / 2, lengths)
                lengths += LENGTH_DEVIATION * torch.randn(count, dtype=torch.float64, generator=generator)
                lengths.clamp_(min(5, length), 2 * length)
            ends = (lengths.cumsum(0) * (count * length / lengths.sum())).round().long()  # together as long as ever
            self._current = (number, _Epoch(offset, torch.cat([torch.zeros(1, dtype=torch.int64), ends]), order))
        return self._current[1]


@dataclass(frozen=True)
class _Epoch:
    """offset: of the first window in the text. edges: (batches + 1,), where the windows of a stream begin and end.
    order: of random windows."""

    offset: int
    edges: Tensor
    order: Tensor


def batches_in_epoch(tokens: int, batch_size: int, bptt_length: int) -> int:
    """Batches of one reading of a text, at every offset below bptt_length. Raises `ValueError` where there is none."""
    count = (tokens - bptt_length) // (batch_size * bptt_length)
    if count < 1:
        raise ValueError(
            f"{tokens} tokens are too few for {batch_size} windows of {bptt_length}; "
            "make batch_size or bptt_length smaller"
        )
    return count


def mix(*numbers: int) -> int:
    """A seed from several numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 6364136223846793005 + number + 1442695040888963407) % (1 << 63)
    return seed
