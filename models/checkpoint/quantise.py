"""Weights as they are stored: float32, bfloat16 or int8 matrices, and float32 vectors.

int8 is symmetric with one float32 scale per row, so that weight = int8 * scale[:, None].
"""

from collections.abc import Iterator, Mapping

import numpy as np

from models.arrays import Array
from models.checkpoint.tensors import narrowed, widened
from models.config import NetworkConfig, NumberType

_SCALE = ".scale"

MAX_WEIGHT = 1e6
"""No weight is larger, whatever its sign. None that was trained comes near it, and below it no sum overflows, whatever
the network's widths are: what is computed stays finite."""


def pack(weights: Mapping[str, Array], storage: NumberType) -> dict[str, Array]:
    """Float32 weights as a file stores them."""
    packed: dict[str, Array] = {}
    for name, weight in weights.items():
        if storage == "float32" or weight.ndim < 2:
            packed[name] = weight
        elif storage == "bfloat16":
            packed[name] = narrowed(weight)
        else:
            scale = np.maximum(np.abs(weight).max(axis=1) / np.float32(127), np.finfo(np.float32).tiny)
            packed[name] = np.rint(weight / scale[:, None]).astype(np.int8)
            packed[name + _SCALE] = scale
    return packed


class StoredWeights(Mapping[str, Array]):
    """Weights by name, kept as they are stored; each is unpacked to float32 whenever it is asked for."""

    def __init__(self, stored: Mapping[str, Array], storage: NumberType, config: NetworkConfig) -> None:
        """Raises `ValueError`, naming the tensor, where one is missing, extra, misshapen, not finite or too large."""
        self._stored = stored
        self._scaled = storage == "int8"
        found = [name for name in stored if not (self._scaled and name.endswith(_SCALE))]
        self._names = [name for name in config.weight_shapes if name in stored]
        for name in sorted({*config.weight_shapes, *found}):
            shape = stored[name].shape if name in stored else "none (it is missing)"
            expected = config.weight_shapes.get(name, "no such tensor")
            if shape != expected:
                raise ValueError(f"tensor {name}: has shape {shape} where config.json asks for {expected}")
            with np.errstate(all="ignore"):  # what overflows here is not finite
                weight = self[name]
            if not np.isfinite(weight).all():
                raise ValueError(f"tensor {name}: holds values that are not finite")
            if np.abs(weight).max() > MAX_WEIGHT:
                raise ValueError(f"tensor {name}: holds values beyond {MAX_WEIGHT:.0f}, which no training leads to")

    def __getitem__(self, name: str) -> Array:
        """Float32; not to be written to."""
        array = self._stored[name]
        if not self._scaled or array.dtype != np.int8:
            return widened(array)
        scale = self._stored.get(name + _SCALE)
        if scale is None or scale.shape != array.shape[:1]:
            raise ValueError(f"tensor {name + _SCALE}: one scale per row of {name} is needed")
        return array.astype(np.float32) * widened(scale)[:, None]

    def clear(self) -> None:
        """Give the memory back; nothing can be asked for any more."""
        self._stored, self._names = {}, []

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
