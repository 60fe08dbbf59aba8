"""Windows for truncated backpropagation through time: a pure function of the step number, with nothing to save.

Sequential partition: the token stream is cut into B parallel streams, read side by side, and the state is carried from
one window to the next.

    stream 0   a b c d | e f g h |      inputs of step 0: a b c d     targets: b c d e
    stream 1   i j k l | m n o p |                        i j k l              j k l m

Random windows: the stream is cut into windows at a random offset, the windows come in random order, and each starts
from the zero state.
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
    a row's state is also zeroed at a window's start with probability `reset_probability`: a model that never sees the
    zero state again after its first step drifts away from it, and scores of single sentences start there.
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
        self._order: tuple[int, int, Tensor] | None = None

    @property
    def tokens_per_batch(self) -> int:
        return self._batch_size * self._bptt_length

    def __getitem__(self, step: int) -> Batch:
        epoch, index = divmod(step, self.batches_per_epoch)
        offset, order = self._epoch(epoch)
        rows, length = self._batch_size, self._bptt_length
        if self._partition == "sequential":
            starts = torch.arange(rows) * (self.batches_per_epoch * length) + index * length
            generator = torch.Generator().manual_seed(mix(self._seed, 2, step))
            fresh = torch.rand(rows, generator=generator) < self._reset_probability
            if index == 0:
                fresh = torch.ones(rows, dtype=torch.bool)
        else:
            starts = order[index * rows : (index + 1) * rows] * length
            fresh = torch.ones(rows, dtype=torch.bool)
        positions = offset + starts[:, None] + torch.arange(length + 1)
        window = self._ids[positions].long()
        return Batch(window[:, :-1], window[:, 1:], fresh)

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
