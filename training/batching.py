"""Windows for truncated backpropagation through time: a pure function of the step number, with nothing to save.

Sequential partition: the token stream is cut into B parallel streams, read side by side, and the state is carried from
one window to the next.

    stream 0   a b c d | e f g h |      inputs of step 0: a b c d     targets: b c d e
    stream 1   i j k l | m n o p |                        i j k l              j k l m

Random windows: the stream is cut into windows at a random offset, the windows come in random order, and each starts
from the zero state, at the `<eos>` before it where one is less than a window away.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Partition = Literal["sequential", "random"]


@dataclass(frozen=True)
class Batch:
    """inputs, targets: (B, T), int64. fresh: (B,), bool, the rows whose state is zero before this window."""

    inputs: Tensor
    targets: Tensor
    fresh: Tensor


class Batches:
    """Batch number 0, 1, 2, … of the training split.

    Each epoch starts at another offset, so that the windows' edges fall on other tokens. With the sequential partition
    a row leaves its stream with probability `reset_probability`, for one window that begins at a random `<eos>` in the
    zero state: scores and texts begin there, and a model that hardly ever sees it knows nothing of how texts begin.

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
    ) -> None:
        """ids: (N,), any integer type. Raises `ValueError` when N is too small for one window."""
        self._ids = torch.cat([torch.tensor([eos_id], dtype=ids.dtype), ids])  # the first token is predicted too
        self._batch_size = batch_size
        self._bptt_length = bptt_length
        self._partition = partition
        self._reset_probability = reset_probability
        self._seed = seed
        span = len(self._ids) - 1 - bptt_length  # an epoch must fit at every offset below bptt_length
        self.batches_per_epoch = span // (batch_size * bptt_length)
        if self.batches_per_epoch < 1:
            raise ValueError(
                f"{len(ids)} tokens are too few for {batch_size} windows of {bptt_length}; "
                "make batch_size or bptt_length smaller"
            )
        begins = torch.nonzero(self._ids[: len(self._ids) - bptt_length] == eos_id).flatten()
        self._begins = begins  # where a window can begin with <eos>; the first one is at 0
        # In running text, with hardly an <eos>, rows would leave for the same few windows, and learn them by heart.
        self._boundaries_are_many = len(begins) * bptt_length * 8 >= len(ids)
        self._order: tuple[int, int, Tensor] | None = None

    @property
    def tokens_per_batch(self) -> int:
        return self._batch_size * self._bptt_length

    def __getitem__(self, step: int) -> Batch:
        epoch, index = divmod(step, self.batches_per_epoch)
        offset, order = self._epoch(epoch)
        rows, length = self._batch_size, self._bptt_length
        if self._partition == "sequential":
            starts = offset + torch.arange(rows) * (self.batches_per_epoch * length) + index * length
            leaves, begins = self._excursions(step)
            fresh = leaves.clone()
            if index == 0:
                fresh[:] = True
            if self._boundaries_are_many:
                if index:
                    fresh |= self._excursions(step - 1)[0]
                starts = torch.where(leaves, begins, starts)
        else:
            starts = offset + order[index * rows : (index + 1) * rows] * length
            begins = self._begins[torch.searchsorted(self._begins, starts, right=True) - 1]
            starts = torch.where(starts - begins < length, begins, starts)
            fresh = torch.ones(rows, dtype=torch.bool)
        window = self._ids[starts[:, None] + torch.arange(length + 1)].long()
        return Batch(window[:, :-1], window[:, 1:], fresh)

    def _excursions(self, step: int) -> tuple[Tensor, Tensor]:
        """Which rows leave their streams for this window, and the positions of `<eos>` that they would go to; (B,)."""
        generator = torch.Generator().manual_seed(mix(self._seed, 2, step))
        leaves = torch.rand(self._batch_size, generator=generator) < self._reset_probability
        chosen = torch.randint(len(self._begins), (self._batch_size,), generator=generator)
        return leaves, self._begins[chosen]

    def _epoch(self, epoch: int) -> tuple[int, Tensor]:
        """Offset of the epoch's first window, and the order of its windows."""
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(mix(self._seed, 1, epoch))
            offset = int(torch.randint(self._bptt_length, (), generator=generator)) if epoch else 0
            order = torch.randperm(self.batches_per_epoch * self._batch_size, generator=generator)
            self._order = (epoch, offset, order)
        return self._order[1:]


def mix(*numbers: int) -> int:
    """A seed from several numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 6364136223846793005 + number + 1442695040888963407) % (1 << 63)
    return seed
