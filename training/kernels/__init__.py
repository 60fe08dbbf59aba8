"""The native kernels that train (kernels.cpp): an LSTM layer, products, dropout; for processors with AVX-512 bfloat16.

They are an extension of their own. `accelerate` sets them on an encoder; `models` knows nothing of them.
"""

from models.encoder import Encoder
from training.kernels import lstm


def accelerate(encoder: Encoder) -> None:
    """Makes an encoder run its LSTM layers by our kernels wherever they can: see `models.encoder.LayerKernel`."""
    encoder.layer_kernel = lstm
