"""Bytes in the safetensors format to numpy arrays and back. bfloat16, which numpy has not, stays packed until it is
widened.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError, TensorSpec, deserialize, serialize

from models.arrays import Array

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
"""The upper halves of float32 numbers."""

_TYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "BF16": BFLOAT16,
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
}
"""By the names in the file. What writes these files writes no others."""


def to_bytes(arrays: Mapping[str, Array]) -> bytes:
    """A safetensors file that holds the arrays; the same arrays give the same bytes, in whatever order they come."""
    contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    specifications = {
        name: TensorSpec(
            dtype="bfloat16" if array.dtype == BFLOAT16 else array.dtype.name,
            shape=array.shape,
            data_ptr=array.ctypes.data,
            data_len=array.nbytes,
        )
        for name, array in contiguous.items()
    }
    return bytes(serialize(specifications))


def from_bytes(content: bytes) -> dict[str, Array]:
    """Inverse of `to_bytes`. Raises `ValueError` when the content is not such a file or has another type of number."""
    try:
        tensors: list[tuple[str, dict[str, Any]]] = deserialize(content)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise ValueError(f"not a safetensors file ({error})") from None
    arrays = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in _TYPES:
            raise ValueError(f"tensor {name}: has type {tensor['dtype']}, not one of {', '.join(_TYPES)}")
        arrays[name] = np.frombuffer(tensor["data"], _TYPES[tensor["dtype"]]).reshape(tensor["shape"])
    return arrays


def widened(array: Array) -> Array:
    """As float32."""
    if array.dtype == BFLOAT16:
        return (array["bfloat16"].astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.astype(np.float32, copy=False)


def narrowed(array: Array) -> Array:
    """Finite float32 numbers as bfloat16, each the nearest, the even one of two."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype("<u2").view(BFLOAT16)
