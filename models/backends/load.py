"""Chooses the fastest backend for a network on this machine. torch is imported only where it is what runs."""

import ctypes
import logging
import sys
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec

from models.arrays import Array
from models.backends import native
from models.backends.base import InferenceNetwork
from models.backends.native.network import NativeNetwork
from models.config import NetworkConfig, NumberType

logger = logging.getLogger("carousel.backends")


def load_inference(
    config: NetworkConfig,
    weights: Mapping[str, Array],
    device: str = "cpu",
    number_type: NumberType | None = None,
    threads: int | None = None,
) -> InferenceNetwork:
    """The fastest implementation for this machine.

    weights: by the names and in the shapes of `config.weight_shapes`, float32; they are not kept. number_type: None is
    the fastest that keeps the quality. threads: None is 1, or as many as torch has been told.
    Raises `ValueError` when the number type cannot be had here, saying why.
    """
    runs_native = device == "cpu" and NativeNetwork.knows(config) and native.available()
    if number_type is None:
        number_type = _fastest(device, runs_native)
    if device == "cpu":
        _warn_when_slow()
    if runs_native:
        return NativeNetwork(config, weights, number_type, threads or 1)
    if device == "cpu" and number_type != "float32":
        reason = "the native kernels were not built"
        if native.available():
            reason = f"they know lstm, not {config.cell}, and no output layers"
        raise ValueError(f"{number_type} on a CPU needs the native kernels: {reason}; use float32 or auto")
    if number_type == "int8":
        raise ValueError("int8 is for CPUs; use bfloat16, float32 or auto on a GPU")
    if device == "cpu":
        from models.backends.torch import TorchNetwork

        return TorchNetwork(config, weights, threads)
    import torch

    from models.backends.cuda import CudaNetwork
    from models.network import from_arrays

    dtype = torch.bfloat16 if number_type == "bfloat16" else torch.float32
    return CudaNetwork(from_arrays(config, weights), device, dtype)


def gpu_available() -> bool:
    """Whether torch can use a GPU here. It is asked, which takes two seconds, only where the driver knows of a GPU."""
    if not _driver_knows_gpu() or find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _driver_knows_gpu() -> bool:
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int()
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False


def _fastest(device: str, runs_native: bool) -> NumberType:
    if device == "cuda":
        return "bfloat16"
    return "int8" if runs_native and native.processor_features() & {"avx512_vnni", "amx_int8"} else "float32"


@cache
def _warn_when_slow() -> None:
    """Once a process: what it costs that the kernels do not run as they could."""
    if not native.available():
        logger.warning(
            "the native kernels are not built: torch runs the models, several times slower and in float32 alone; "
            "install a C++20 compiler and install the package again (pip install --force-reinstall --no-deps .)"
        )
    elif not native.processor_features():
        logger.warning(
            "this processor has no AVX-512: the native kernels run as portable code, slower than they could; "
            "nothing is wrong, and answers are as good"
        )
