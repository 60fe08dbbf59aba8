"""Chooses the fastest backend for a network on this machine."""

import torch

from models.backends.base import InferenceNetwork
from models.backends.cuda import CudaNetwork
from models.backends.native import available, processor_features
from models.backends.native.network import NativeNetwork
from models.backends.torch import TorchNetwork
from models.config import NumberType
from models.network import LanguageModel


def load_inference(
    model: LanguageModel, device: str = "cpu", number_type: NumberType | None = None, threads: int = 1
) -> InferenceNetwork:
    """The fastest implementation for this machine. number_type: None is the fastest that keeps the quality.

    Raises `ValueError` when the number type cannot be had here, saying why.
    """
    native = device == "cpu" and NativeNetwork.knows(model.config) and available()
    if number_type is None:
        number_type = _fastest(device, native)
    if native:
        return NativeNetwork(model, number_type, threads)
    if device == "cpu" and number_type != "float32":
        reason = "the native kernels were not built"
        if available():
            reason = f"they know lstm, not {model.config.cell}, and no output layers"
        raise ValueError(f"{number_type} on a CPU needs the native kernels: {reason}; use float32 or auto")
    if number_type == "int8":
        raise ValueError("int8 is for CPUs; use bfloat16, float32 or auto on a GPU")
    if device == "cpu":
        return TorchNetwork(model)
    return CudaNetwork(model, device, torch.bfloat16 if number_type == "bfloat16" else torch.float32)


def _fastest(device: str, native: bool) -> NumberType:
    if device == "cuda":
        return "bfloat16"
    return "int8" if native and processor_features() & {"avx512_vnni", "amx_int8"} else "float32"
