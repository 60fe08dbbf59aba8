"""Softmax cross-entropy of a linear layer without the (tokens x vocabulary) matrix in memory.

The gradient of the summed loss with respect to the logits is softmax - onehot, known as soon as the logits are. So the
forward pass works through the tokens in chunks, turns each chunk of logits into its own gradient in place, multiplies
it into the gradients of features, weight and bias, and forgets it. The backward pass only scales.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 23
"""Logits held at once: few enough to stay near the caches, many enough for efficient matrix products."""


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        count, vocabulary_size = features.shape[0], weight.shape[0]
        matrix = weight.to(features.dtype)
        offset = bias.to(features.dtype)
        grad_features = torch.empty_like(features)
        grad_weight = torch.zeros_like(weight)
        grad_bias = torch.zeros_like(bias)
        total = torch.zeros((), dtype=torch.float64, device=features.device)
        chunk = max(1, CHUNK_ELEMENTS // vocabulary_size)
        buffer = features.new_empty(min(chunk, count), vocabulary_size)
        ones = features.new_ones(1, min(chunk, count))
        for start in range(0, count, chunk):
            rows = features[start : start + chunk]
            target = (torch.arange(len(rows), device=rows.device), targets[start : start + chunk])
            gradient = buffer[: len(rows)]
            torch.addmm(offset, rows, matrix.t(), out=gradient)
            torch.softmax(gradient, dim=-1, out=gradient)
            chosen = gradient[target]
            total -= chosen.double().clamp_min(1e-38).log().sum()
            gradient[target] = chosen - 1
            torch.mm(gradient, matrix, out=grad_features[start : start + chunk])
            grad_weight += gradient.t() @ rows
            grad_bias += (ones[:, : len(rows)] @ gradient)[0]
        ctx.save_for_backward(grad_features, grad_weight, grad_bias)
        return (total / count).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        grad_features, grad_weight, grad_bias = ctx.saved_tensors
        scale = grads[0] / grad_features.shape[0]
        return grad_features * scale.to(grad_features.dtype), grad_weight * scale, grad_bias * scale, None


def linear_cross_entropy(features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Mean nats per token of softmax(features @ weight.T + bias) at the targets.

    features: (N, P), float32 or bfloat16, the type the matrix products run in. weight: (V, P), bias: (V,), float32.
    targets: (N,), int64. Returns a scalar; its gradient reaches features, weight and bias. Gradients are computed with
    the loss, so a call costs the backward pass too: to evaluate, use `models.scoring`.
    """
    return _LinearCrossEntropy.apply(features, weight, bias, targets)  # type: ignore[no-any-return, no-untyped-call]
