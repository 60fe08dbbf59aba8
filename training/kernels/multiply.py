"""The large matrix products of training, and the gradient of a softmax: the kernels' (multiply.h) where they are
faster, in bfloat16 on a processor with AVX-512 for it; elsewhere torch's, which with AMX are faster still.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from models.backends.native import feature_bits, processor_features
from training.kernels.library import library, pointer, trains


def workspace() -> int:
    """The kernels' working memory and as many threads as torch has, for as long as the process lives."""
    return _workspace(torch.get_num_threads())


@cache
def _workspace(threads: int) -> int:
    assert library is not None
    workspace: int = library.carousel_training_workspace(threads, feature_bits())
    return workspace


@cache
def _faster() -> bool:
    return trains() and "amx_bf16" not in processor_features()


def _ours(matrix: Tensor) -> bool:
    return matrix.dtype == torch.bfloat16 and matrix.device.type == "cpu" and matrix.numel() > 0 and _faster()


@dataclass(frozen=True)
class Right:
    """A right-hand matrix as products want it: `matrix`, (K, N), as it was, or packed."""

    matrix: Tensor
    shape: tuple[int, ...]
    packed: bool


def right_hand(matrix: Tensor) -> Right:
    """matrix: (K, N). Packed where it is bfloat16 and the kernels multiply it."""
    packed = _ours(matrix)
    return Right(_pack(matrix) if packed else matrix, tuple(matrix.shape), packed)


def _pack(matrix: Tensor) -> Tensor:
    assert library is not None
    inputs, outputs = matrix.shape
    transposed = not matrix.is_contiguous() and matrix.t().is_contiguous()
    source = matrix if transposed else matrix.contiguous()
    # Lines of packed matrices are read with aligned loads; torch aligns what it allocates to 64 bytes.
    size = library.carousel_packed_bytes(inputs, outputs)
    packed = torch.empty(size, dtype=torch.uint8, device=matrix.device)
    library.carousel_pack(workspace(), inputs, outputs, pointer(source), transposed, pointer(packed))
    return packed


def multiply(a: Tensor, b: Right, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """a @ b + bias, (M, N), of the type of a: (M, K), rounded once where the kernels multiply. bias: (N,), float32.

    out: contiguous, to hold the result.
    """
    inputs, outputs = b.shape
    if out is None:
        out = a.new_empty(len(a), outputs)
    assert a.dtype == out.dtype
    assert a.shape == (len(a), inputs)
    assert out.shape == (len(a), outputs)
    assert out.is_contiguous()
    assert bias is None or bias.shape == (outputs,)
    if not b.packed:
        if bias is None:
            return torch.mm(a, b.matrix, out=out)
        return torch.addmm(bias.to(a.dtype), a, b.matrix, out=out)
    assert library is not None
    assert a.dtype == torch.bfloat16
    assert a.device == out.device == b.matrix.device
    a = a.contiguous()
    bias = None if bias is None else bias.float().contiguous()
    tensors = a, b.matrix, bias, out
    library.carousel_multiply(workspace(), len(a), outputs, inputs, *(_pointer(tensor) for tensor in tensors))
    return out


def multiply_transposed(
    a: Tensor, b: Tensor, out: Tensor, column_sums: Tensor | None = None, more: bool = False
) -> None:
    """out = a.T @ b, and column_sums = the sums of a's columns: the gradients of a linear layer's weight and bias.

    a: (K, M), b: (K, N), of one type. out: (M, N), column_sums: (M,), both contiguous; float32 for the kernels.
    more: whether they are added to what is there.
    """
    inputs, rows = a.shape
    outputs = b.shape[1]
    assert len(b) == inputs
    assert out.shape == (rows, outputs)
    assert out.is_contiguous()
    assert column_sums is None or (column_sums.shape == (rows,) and column_sums.is_contiguous())
    if not (_ours(a) and _ours(b) and out.dtype == torch.float32):
        give = torch.Tensor.add_ if more else torch.Tensor.copy_
        give(out, a.t() @ b)
        if column_sums is not None:
            give(column_sums, (a.new_ones(1, inputs) @ a)[0])  # of bfloat16 a product is faster than a sum
        return
    assert library is not None
    assert a.device == out.device
    assert column_sums is None or column_sums.dtype == torch.float32
    sizes, left, right = (rows, outputs, inputs), a.contiguous(), _pack(b.contiguous())
    given = pointer(left), pointer(right), more, pointer(out), _pointer(column_sums)
    library.carousel_multiply_transposed(workspace(), *sizes, *given)


def softmax_gradient_(logits: Tensor, targets: Tensor) -> Tensor:
    """Nats of each target, (N,), at least float32; the logits, (N, V), contiguous, become softmax - onehot(targets).

    targets: (N,), int64. Raises IndexError for one that is not a column; not on a GPU, which would have to be waited
    for.
    """
    count, width = logits.shape
    assert targets.shape == (count,)
    assert targets.dtype == torch.int64
    on_cpu = logits.device.type == "cpu"
    if on_cpu and count and (int(targets.min()) < 0 or int(targets.max()) >= width):
        raise IndexError(f"targets have to be in [0, {width})")
    if not (on_cpu and logits.dtype == torch.bfloat16 and trains()):
        torch.softmax(logits, dim=-1, out=logits)
        right = torch.arange(count, device=logits.device), targets
        chosen = logits[right]
        logits[right] = chosen - 1
        # In float64: training flushes float32's smallest numbers to zero, whose logarithm would be infinite.
        return -chosen.double().clamp_min(1e-38).log()
    assert library is not None
    assert logits.is_contiguous()
    nats = logits.new_empty(count, dtype=torch.float32)
    tensors = logits, targets.contiguous(), nats
    library.carousel_softmax_gradient(workspace(), count, width, *map(pointer, tensors))
    return nats


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else pointer(tensor)
