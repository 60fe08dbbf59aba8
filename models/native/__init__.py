"""The native kernels (kernels.cpp), where the package's build has made them: `network` serves with them, `lstm`,
`products` and `dropout` train.

`available()` says whether they can be used; whoever runs a network has torch to fall back on.
"""

import ctypes
from collections.abc import Set
from importlib.util import find_spec

from torch import Tensor

_FEATURE_BITS = ("avx512", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
FEATURES = frozenset(_FEATURE_BITS)
"""What the kernels know to use of a processor."""

_TRAINING = "carousel_drop"  # of x86 processors alone, and of what was built since


def _load() -> ctypes.CDLL | None:
    spec = find_spec("models.native._kernels")
    if spec is None or spec.origin is None:
        return None
    loaded = ctypes.CDLL(spec.origin)
    loaded.carousel_network.restype = ctypes.c_void_p
    loaded.carousel_bytes.restype = ctypes.c_int64
    if hasattr(loaded, _TRAINING):
        loaded.carousel_training_workspace.restype = ctypes.c_void_p
        loaded.carousel_packed_bytes.restype = ctypes.c_int64
    return loaded


library = _load()


def available() -> bool:
    """Whether the kernels were built."""
    return library is not None


def processor_features() -> set[str]:
    """What the kernels use of this processor; empty: portable code, or no kernels."""
    bits = library.carousel_processor() if library else 0
    return {name for i, name in enumerate(_FEATURE_BITS) if bits >> i & 1}


def trains() -> bool:
    """Whether training has kernels for this processor."""
    return hasattr(library, _TRAINING) and "avx512_bf16" in processor_features()


def feature_bits(features: Set[str] = FEATURES) -> int:
    """The features in the form that the kernels take."""
    return sum((name in features) << i for i, name in enumerate(_FEATURE_BITS))


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    """To the tensor's first value; the caller keeps the tensor alive for as long as it is used."""
    return ctypes.c_void_p(tensor.data_ptr())
