"""The large matrix products of training, and the gradient of a softmax: the kernels' (multiply.h) where they are
faster, in bfloat16 on a processor with AVX-512 for it; elsewhere torch's, which with AMX are faster still.
"""

import ctypes
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from models.native import feature_bits, library, pointer, processor_features, trains


def workspace() -> ctypes.c_void_p:
    """The kernels' working memory and as many threads as torch has, for as long as the process lives."""
    return _workspace(torch.get_num_threads())


@cache
def _workspace(threads: int) -> ctypes.c_void_p:
    assert library is not None
    return ctypes.c_void_p(library.carousel_training_workspace(threads, feature_bits()))


@cache
def _faster() -> bool:
    return trains() and "amx_bf16" not in processor_features()


def _ours(matrix: Tensor) -> bool:
    return matrix.dtype == torch.bfloat16 and matrix.device.type == "cpu" and matrix.numel() > 0 and _faster()


@dataclass(frozen=True)
class Right:
    """A right-hand matrix (K, N) as products want it: packed, or as it was."""

    matrix: Tensor
    shape: tuple[int, int]
    packed: bool


def right_hand(matrix: Tensor) -> Right:
    """matrix: (K, N), contiguous or the transpose of what is; it may be packed only where its type is bfloat16."""
    inputs, outputs = matrix.shape
    transposed = not matrix.is_contiguous()
    # Pairs of inputs are read from rows of the left-hand matrix; a last one alone would be read past its end.
    if not _ours(matrix) or inputs % 2 or (transposed and not matrix.t().is_contiguous()):
        return Right(matrix, (inputs, outputs), packed=False)
    return Right(
        _pack(matrix.t() if transposed else matrix, inputs, outputs, transposed), (inputs, outputs), packed=True
    )


def _pack(matrix: Tensor, inputs: int, outputs: int, transposed: bool) -> Tensor:
    assert library is not None
    # Lines of the kernels' matrices are read with aligned loads; torch aligns what it allocates to 64 bytes.
    packed = torch.empty(library.carousel_packed_bytes(inputs, outputs), dtype=torch.uint8)
    library.carousel_pack(workspace(), inputs, outputs, pointer(matrix), transposed, pointer(packed))
    return packed


def multiply(a: Tensor, b: Right, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """a @ b + bias, (M, N), of the type of a: (M, K). bias: (N,), float32 where a is bfloat16. out: contiguous, to hold
    the result."""
    if out is None:
        out = a.new_empty(len(a), b.shape[1])
    assert out.is_contiguous()
    assert out.shape == (len(a), b.shape[1])
    if not b.packed:
        if bias is None:
            return torch.mm(a, b.matrix, out=out)
        return torch.addmm(bias.to(a.dtype), a, b.matrix, out=out)
    assert library is not None
    assert a.dtype == out.dtype == torch.bfloat16
    assert a.shape[1] == b.shape[0]
    a = a.contiguous()
    bias = None if bias is None else bias.float().contiguous()
    sizes = len(a), b.shape[1], b.shape[0]
    library.carousel_multiply(
        workspace(), *sizes, pointer(a), pointer(b.matrix), None if bias is None else pointer(bias), pointer(out)
    )
    return out


def add_transposed(a: Tensor, b: Tensor, out: Tensor, column_sums: Tensor | None = None) -> None:
    """out += a.T @ b, and column_sums += the sums of a's columns: the gradients of a linear layer's weight and bias.

    a: (K, M), b: (K, N), contiguous. out: (M, N), column_sums: (M,), contiguous, float32 where a is bfloat16.
    """
    inputs, rows = a.shape
    outputs = b.shape[1]
    assert len(b) == inputs
    assert out.shape == (rows, outputs)
    assert out.is_contiguous()
    if not (_ours(a) and _ours(b) and out.dtype == torch.float32):
        out += a.t() @ b
        if column_sums is not None:
            column_sums += (a.new_ones(1, inputs) @ a)[0]  # of bfloat16 a product is faster than a sum
        return
    assert library is not None
    assert column_sums is None or (column_sums.shape == (rows,) and column_sums.dtype == torch.float32)
    a, b = a.contiguous(), b.contiguous()
    packed = _pack(b, inputs, outputs, transposed=False)
    sums = None if column_sums is None else pointer(column_sums)
    library.carousel_add_transposed(workspace(), rows, outputs, inputs, pointer(a), pointer(packed), pointer(out), sums)


def softmax_gradient_(logits: Tensor, targets: Tensor) -> Tensor:
    """Nats of each target, (N,), at least float32; the logits, (N, V), contiguous, become softmax - onehot(targets).

    targets: (N,), int64. Raises IndexError for one that is not a column; not on a GPU, which would have to be waited
    for.
    """
    count, width = logits.shape
    if count and logits.device.type == "cpu" and (int(targets.min()) < 0 or int(targets.max()) >= width):
        raise IndexError(f"targets have to be in [0, {width})")
    if not (logits.dtype == torch.bfloat16 and logits.device.type == "cpu" and trains()):
        torch.softmax(logits, dim=-1, out=logits)
        right = torch.arange(count, device=logits.device), targets
        chosen = logits[right]
        logits[right] = chosen - 1
        return -chosen.to(torch.promote_types(chosen.dtype, torch.float32)).clamp_min(1e-38).log()
    assert library is not None
    assert logits.is_contiguous()
    targets = targets.contiguous()
    nats = torch.empty(count)
    library.carousel_softmax_gradient(workspace(), count, width, pointer(logits), pointer(targets), pointer(nats))
    return nats
