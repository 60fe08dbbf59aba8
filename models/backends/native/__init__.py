"""The native kernels that serve (kernels.cpp), where the package's build has made them.

`available()` says whether they can be used; `load.py` chooses torch where they cannot.
"""

import ctypes
from collections.abc import Set

import numpy as np

from models.arrays import Array
from models.backends.native.library import BYTES, DOUBLE, FLOAT, INT, INT64, POINTER, load_library

_FEATURE_BITS = ("avx512", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
FEATURES = frozenset(_FEATURE_BITS)
"""Processor features that the kernels can use. The two of AMX have not been measured since the kernels were divided."""

# As in kernels.cpp, where each is described.
SIGNATURES = {
    "carousel_processor": (INT,),
    "carousel_network": (POINTER, INT, INT, INT, POINTER, INT, INT, FLOAT),
    "carousel_free": (None, POINTER),
    "carousel_add_layer": (None, POINTER, POINTER, POINTER, POINTER, INT, INT),
    "carousel_set_linear": (None, POINTER, INT, POINTER, POINTER, INT, INT),
    "carousel_bytes": (INT64, POINTER),
    "carousel_run": (INT, POINTER, INT, INT, POINTER, POINTER, POINTER, POINTER, POINTER),
    "carousel_readout": (None, POINTER, INT, POINTER, POINTER, POINTER),
    "carousel_logits": (None, POINTER, INT, POINTER, POINTER),
    "carousel_score": (INT, POINTER, INT, POINTER, POINTER, POINTER, POINTER),
    "carousel_sample": (None, POINTER, INT, POINTER, BYTES, POINTER),
    "carousel_decode": (
        *(INT, POINTER, INT, INT, DOUBLE, BYTES, POINTER, POINTER, POINTER),
        *(POINTER, POINTER, POINTER, POINTER, POINTER, POINTER),
    ),
}

library = load_library("models.backends.native._kernels", SIGNATURES)


def available() -> bool:
    """Whether the kernels were built."""
    return library is not None


def processor_features() -> set[str]:
    """What the kernels use of this processor; empty: portable code, or no kernels."""
    bits = library.carousel_processor() if library else 0
    return {name for i, name in enumerate(_FEATURE_BITS) if bits >> i & 1}


def feature_bits(features: Set[str] = FEATURES) -> int:
    """The features in the form that the kernels take."""
    return sum((name in features) << i for i, name in enumerate(_FEATURE_BITS))


def status() -> str:
    """What this process can use, as `/info` shows it: "avx512_bf16, avx512_vnni", "portable code" or "not built"."""
    if not available():
        return "not built"
    return ", ".join(sorted(processor_features() - {"avx512"} or processor_features())) or "portable code"


def pointer(array: Array, dtype: type[np.generic] = np.float32) -> int:
    """Address of the array's first value; the caller keeps the array alive for as long as it is used.

    Every array that the kernels see passes through here: they take contiguous arrays of the types that they name.
    """
    assert array.dtype == dtype, f"{array.dtype} is not {dtype}"
    assert array.flags.c_contiguous
    if array.size and array.flags.writeable:  # a quarter of the time of the other way
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    return array.ctypes.data
