"""The recurrent state as a value: one float32 row per sequence, and the layout that gives its columns a meaning.

A state is an array (B, S). Its columns are, layer by layer, the hidden vector h and, for the LSTM, the cell vector c:

    | h of layer 0 | c of layer 0 | h of layer 1 | c of layer 1 | ...

So stacking, selecting and copying states are plain row operations, and one sequence's whole context is one row.
(models/decoding/saved_state.py has the form in which a state leaves the process.)
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class StateLayout:
    """Which columns of a state row belong to which layer. The methods are for networks that torch runs."""

    hidden_sizes: tuple[int, ...]
    has_cell: bool

    @property
    def size(self) -> int:
        """S, the number of floats in one sequence's state."""
        return sum(self.hidden_sizes) * (2 if self.has_cell else 1)

    def zeros(self, batch_size: int, device: "torch.device | str" = "cpu") -> "Tensor":
        """The state before any token: (B, S), float32."""
        import torch

        return torch.zeros(batch_size, self.size, device=device)

    def split(self, state: "Tensor") -> "list[tuple[Tensor, ...]]":
        """(B, S) -> per layer (h,) or (h, c), each a (B, H) view."""
        sizes = [size for size in self.hidden_sizes for _ in range(2 if self.has_cell else 1)]
        parts = iter(state.split(sizes, dim=1))  # type: ignore[no-untyped-call]
        return [(next(parts), next(parts)) if self.has_cell else (next(parts),) for _ in self.hidden_sizes]

    def join(self, layers: "list[tuple[Tensor, ...]]") -> "Tensor":
        """Inverse of `split`."""
        import torch

        return torch.cat([part for layer in layers for part in layer], dim=1)
