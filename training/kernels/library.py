"""The compiled kernels that train, and whether this processor has them."""

from torch import Tensor

from models.backends.native.library import INT, INT64, POINTER, UINT64, load_library

# As in kernels.cpp.
_SIGNATURES = {
    "carousel_trains": (INT,),
    "carousel_training_workspace": (POINTER, INT, INT),
    "carousel_layer_forward": (None, POINTER, INT, INT, INT, *[POINTER] * 6),
    "carousel_layer_backward": (None, POINTER, INT, INT, INT, *[POINTER] * 6),
    "carousel_packed_bytes": (INT64, INT, INT),
    "carousel_pack": (None, POINTER, INT, INT, POINTER, INT, POINTER),
    "carousel_multiply": (None, POINTER, INT, INT, INT, POINTER, POINTER, POINTER, POINTER),
    "carousel_multiply_transposed": (None, POINTER, INT, INT, INT, POINTER, POINTER, INT, POINTER, POINTER),
    "carousel_softmax_gradient": (None, POINTER, INT, INT, POINTER, POINTER, POINTER),
    "carousel_drop": (None, POINTER, INT64, UINT64, INT, INT, POINTER, POINTER),
}

library = load_library("training.kernels._kernels", _SIGNATURES)


def pointer(tensor: Tensor) -> int:
    """Address of the tensor's first value; the caller keeps the tensor alive for as long as it is used."""
    return tensor.data_ptr()


def trains() -> bool:
    """Whether training has kernels for this processor."""
    return library is not None and bool(library.carousel_trains())
