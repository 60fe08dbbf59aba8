"""Dropout of single values in one pass over them, where the kernels train (dropout.h). No mask is kept: the numbers of
a counter-based generator are made again on the way back.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.kernels.library import library, pointer, trains
from training.kernels.multiply import workspace

STEPS = 1 << 16
"""Shares of values that are dropped are whole numbers of 1 / STEPS."""


def in_steps(share: float) -> int:
    """The share, in [0, 1), in whole steps; never all of them."""
    return min(round(share * STEPS), STEPS - 1)


def usable(x: Tensor) -> bool:
    """Whether the kernels can drop values of `x`."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and trains()


def dropout(x: Tensor, share: float) -> Tensor:
    """x, its values each zero with a chance of `share`, to the nearest 2^-16, or as much larger as keeps the mean.

    x: float32 or bfloat16, any shape. share: in [0, 1). Draws one key from torch's generator.
    """
    assert usable(x)
    assert 0 <= share < 1
    key = int(torch.randint(2**63 - 1, (), device="cpu"))
    dropped: Tensor = _Dropout.apply(x, key, in_steps(share))  # type: ignore[no-untyped-call]
    return dropped


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, key: int, dropped: int) -> Tensor:
        ctx.drawn = key, dropped
        out = torch.empty_like(x)  # of x's strides, where these leave no gaps
        ctx.strides = out.stride()
        return _drop(x, key, dropped, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (key, dropped) = grads, ctx.drawn
        out = grad.new_empty_strided(grad.shape, ctx.strides)
        return _drop(grad, key, dropped, out), None, None


def _drop(x: Tensor, key: int, dropped: int, out: Tensor) -> Tensor:
    """Which values are dropped depends on their places in the memory of `out`."""
    assert library is not None
    if x.stride() != out.stride():
        x = torch.empty_like(out).copy_(x)
    drawn = x.numel(), key, dropped
    library.carousel_drop(workspace(), *drawn, x.dtype == torch.float32, pointer(x), pointer(out))
    return out
