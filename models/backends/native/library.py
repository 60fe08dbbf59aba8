"""Loads an extension of our own by `ctypes`, with the signature of every entry point: a call with other arguments
raises an error instead of writing somewhere in memory.
"""

import ctypes
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

INT, INT64, UINT64 = ctypes.c_int, ctypes.c_int64, ctypes.c_uint64
FLOAT, DOUBLE = ctypes.c_float, ctypes.c_double
POINTER, BYTES = ctypes.c_void_p, ctypes.c_char_p

Signature = tuple[Any, ...]
"""(result, argument, argument …), in ctypes types; a result of None is `void`."""


def load_library(module: str, signatures: Mapping[str, Signature]) -> ctypes.CDLL | None:
    """The extension `module`, its entry points typed; None where it was not built, or lacks one of them."""
    try:
        spec = find_spec(module)
        library = ctypes.CDLL(spec.origin) if spec and spec.origin else None
    except (ImportError, OSError):
        return None
    for name, (result, *arguments) in signatures.items():
        function = getattr(library, name, None)
        if function is None:
            return None
        function.restype, function.argtypes = result, arguments
    return library
