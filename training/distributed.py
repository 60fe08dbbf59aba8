"""Several processes that train one network together, as `torchrun` starts them; one process is a group of its own."""

import os
from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Group:
    """Which process of how many this is. Every method is to be called by all of them alike."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and talks."""
        return self.rank == 0

    def rows(self, rows: Tensor) -> Tensor:
        """This process's share of the rows of a batch, whose number the size divides."""
        share = len(rows) // self.size
        return rows[self.rank * share : (self.rank + 1) * share]

    def gathered(self, rows: Tensor) -> Tensor:
        """The rows of all processes; inverse of `rows`."""
        if self.size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def sum(self, values: Tensor) -> Tensor:
        """Sums over the processes."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def largest(self, *values: float) -> tuple[float, ...]:
        """The largest of each over the processes: what they agree on."""
        if self.size == 1:
            return values
        agreed = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(agreed, distributed.ReduceOp.MAX)
        return tuple(agreed.tolist())

    def wrapped(self, module: nn.Module) -> nn.Module:
        """A module whose gradients are means over the processes."""
        if self.size == 1:
            return module
        return nn.parallel.DistributedDataParallel(module, forward_sync_buffers=False)

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            distributed.barrier()

    def leave(self) -> None:
        if self.size > 1:
            distributed.destroy_process_group()


ALONE = Group()
"""The only process, on the processor."""


def join_group(device: str) -> Group:
    """The group that `torchrun` has described in the environment; alone where it has not. Raises `ValueError`."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        place = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: {device!r} is not cpu or cuda") from None
    if size == 1:
        return Group(device=place)
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(place)
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    return Group(int(os.environ["RANK"]), size, place)
