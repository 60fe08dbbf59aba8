"""An LSTM layer in training, in bfloat16 on a processor that multiplies it: a window forward, and its gradients.

torch's own fused layer forgets the gates and makes the way back from smaller pieces; here they are kept, the steps of
both ways run in one call each (training.h), and what need not wait for a step is one large product.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.kernels.library import library, pointer, trains
from training.kernels.multiply import multiply, multiply_transposed, right_hand, workspace


def usable(x: Tensor) -> bool:
    """Whether a layer over `x` may run here: gradients are wanted, under autocast to bfloat16, of a CPU that has it."""
    return (
        torch.is_grad_enabled()
        and x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and trains()
    )


def run_layer(
    x: Tensor, from_input: Tensor, from_hidden: Tensor, bias: Tensor, h: Tensor, c: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """x: (B, T, inputs), of any type. from_input: (4H, inputs), from_hidden: (4H, H), bias: (4H,), of the gates
    i, f, g, o. h, c: (B, H), before the window. Returns h of each token, (B, T, H), bfloat16, and the last h and c,
    float32. Gradients can be had once, and have none of their own.

    Products are of bfloat16 values with float32 sums, the cell is float32, and what is kept for the way back bfloat16.
    """
    batch, tokens, _ = x.shape
    assert tokens > 0
    assert h.shape == c.shape == (batch, from_hidden.shape[1])
    assert 4 * h.shape[1] == len(from_hidden) == len(from_input) == len(bias)
    time_major = x.transpose(0, 1).to(torch.bfloat16).contiguous()
    weights = from_input.float(), from_hidden.float(), bias.float()
    made, h, c = _Layer.apply(time_major, *weights, h.float(), c.float())  # type: ignore[no-untyped-call]
    return made.transpose(0, 1), h, c


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, from_input: Tensor, from_hidden: Tensor, bias: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert library is not None
        tokens, batch, _ = x.shape
        hidden = from_hidden.shape[1]
        from_input = from_input.to(torch.bfloat16)
        gates = multiply(x.flatten(0, 1), right_hand(from_input.t()))  # (T * B, 4H)
        hiddens = x.new_empty(tokens + 1, batch, hidden)
        cells = torch.empty_like(hiddens)
        hiddens[0] = h
        c = c.clone(memory_format=torch.contiguous_format)
        weights, bias = from_hidden.contiguous(), bias.contiguous()
        tensors = weights, bias, gates, hiddens, c, cells
        library.carousel_layer_forward(workspace(), tokens, batch, hidden, *map(pointer, tensors))
        ctx.save_for_backward(x, from_input, from_hidden)
        ctx.kept = gates, hiddens, cells
        return hiddens[1:], hiddens[-1].float(), c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        assert library is not None
        x, from_input, from_hidden = ctx.saved_tensors
        if ctx.kept is None:
            raise RuntimeError("gradients of this layer can be had once: they are made where its gates were kept")
        gates, hiddens, cells = ctx.kept
        ctx.kept = None
        tokens, batch, _ = x.shape
        hidden = from_hidden.shape[1]
        from_output = grads[0].contiguous()
        grad_h, grad_c = (grad.clone(memory_format=torch.contiguous_format) for grad in grads[1:])
        tensors = from_hidden.contiguous(), gates, cells, from_output, grad_h, grad_c
        library.carousel_layer_backward(workspace(), tokens, batch, hidden, *map(pointer, tensors))
        flat = x.flatten(0, 1)
        grad_x = multiply(gates, right_hand(from_input)).view_as(x) if ctx.needs_input_grad[0] else None
        grad_from_input = from_hidden.new_empty(from_input.shape)
        grad_from_hidden = torch.empty_like(from_hidden, memory_format=torch.contiguous_format)
        grad_bias = from_hidden.new_empty(4 * hidden)
        multiply_transposed(gates, flat, grad_from_input, grad_bias)
        multiply_transposed(gates, hiddens[:-1].flatten(0, 1), grad_from_hidden)
        return grad_x, grad_from_input, grad_from_hidden, grad_bias, grad_h, grad_c
