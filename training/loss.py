"""The loss of a window: softmax cross-entropy of a linear layer without the (tokens x vocabulary) matrix in memory.

The gradient of the summed loss with respect to the logits is softmax - onehot, known as soon as the logits are. So the
forward pass works through the tokens in chunks, turns each chunk of logits into its own gradient in place, multiplies
it into the gradients of features, weight and bias, and forgets it. The backward pass only scales.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models.network import LanguageModel
from training.config import TrainingConfig
from training.kernels.multiply import multiply, multiply_transposed, right_hand, softmax_gradient_
from training.regularisation import TrainingNoise

CHUNK_ELEMENTS = 1 << 24
"""Logits held at once, nearly: few enough to need little memory, many enough for efficient matrix products."""

CUDA_CHUNK_ELEMENTS = 1 << 28
"""The same on a GPU, which has the memory, and is idle at the ends of small products."""


def _chunk(count: int, width: int, device: torch.device) -> int:
    """Rows of a chunk where there are `count`, each of `width` logits: chunks of one size, a multiple of 64."""
    chunks = -(-count * width // (CUDA_CHUNK_ELEMENTS if device.type == "cuda" else CHUNK_ELEMENTS))
    return -(-count // chunks // 64) * 64


class _GradientsAtOnce(torch.autograd.Function):
    """`forward` leaves the gradients of the summed loss in ctx.gradients, the features' first."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Scaled in place, once: the weight's gradient is as large as the output matrix.
        gradients: tuple[Tensor, ...] = ctx.gradients
        del ctx.gradients
        scale = grads[0] / len(gradients[0])
        return *(gradient.mul_(scale) for gradient in gradients), None


class _LinearCrossEntropy(_GradientsAtOnce):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        count, vocabulary_size = features.shape[0], weight.shape[0]
        matrix = weight.to(features.dtype)
        to_logits, to_features = right_hand(matrix.t()), right_hand(matrix)
        grad_features = features.new_empty(features.shape)  # contiguous, whatever the features are
        grad_weight, grad_bias = weight.new_empty(weight.shape), bias.new_empty(bias.shape)
        total = torch.zeros((), dtype=torch.float64, device=features.device)
        chunk = _chunk(count, vocabulary_size, features.device)
        buffer = features.new_empty(min(chunk, count), vocabulary_size)
        for start in range(0, count, chunk):
            here = slice(start, start + chunk)
            x = features[here]
            gradient = multiply(x, to_logits, bias, out=buffer[: len(x)])
            total += softmax_gradient_(gradient, targets[here]).sum(dtype=torch.float64)
            multiply(gradient, to_features, out=grad_features[here])
            multiply_transposed(gradient, x, grad_weight, grad_bias, more=start > 0)
        ctx.gradients = grad_features, grad_weight, grad_bias
        return (total / count).to(weight.dtype)


def linear_cross_entropy(features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Mean nats per token of softmax(features @ weight.T + bias) at the targets.

    features: (N, P), float32 or bfloat16, the type the matrix products run in. weight: (V, P), bias: (V,), float32.
    targets: (N,), int64. Returns a scalar; its gradient reaches features, weight and bias. Gradients are computed with
    the loss, so a call costs the backward pass too: to evaluate, use `models.decoding.scoring`.
    """
    nats: Tensor = _LinearCrossEntropy.apply(features, weight, bias, targets)  # type: ignore[no-untyped-call]
    return nats


class Sampler:
    """Draws token types to stand in for the whole vocabulary, each by itself, the common ones nearly always.

    The chance of a type falls with its id as Zipf's law has it: ids of a vocabulary are ranks, nearly enough.
    """

    def __init__(self, vocabulary_size: int, samples: int, device: torch.device) -> None:
        """samples: types drawn on average, fewer than there are."""
        shares = 1 / (torch.arange(vocabulary_size, dtype=torch.float64) + 1)
        low, high = 0.0, 1e12
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if (1 - (-middle * shares).exp()).sum() < samples else (low, middle)
        self._chances = (1 - (-low * shares).exp()).float().to(device)

    def draw(self) -> tuple[Tensor, Tensor]:
        """(S',) ids, each once, in order, and how likely each was to be drawn; from torch's generator."""
        ids = torch.nonzero(torch.rand_like(self._chances) < self._chances)[:, 0]
        return ids, self._chances[ids]


class _SampledCrossEntropy(_GradientsAtOnce):
    """As `_LinearCrossEntropy`, with columns for the sampled types, the same for all tokens, and one for the target."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, rows: Tensor, offsets: Tensor, columns: Tensor) -> Tensor:
        """rows, offsets: of the targets, (N, P) and (N,), then of the sampled types. columns: (N,), where a token's
        target stands among these; one past them where it does not."""
        count = len(features)
        right_rows, right_offsets = rows[:count], offsets[:count]
        # The target's column, the last, is not a product with one row for all tokens: it is filled in.
        matrix = torch.cat([rows[count:], rows.new_zeros(1, rows.shape[1])])
        offset = torch.cat([offsets[count:], offsets.new_zeros(1)])
        to_logits, to_features = right_hand(matrix.t()), right_hand(matrix)
        right = (features * right_rows).sum(1, dtype=offsets.dtype) + right_offsets
        grad_features, grad_rows = features.new_empty(features.shape), torch.empty_like(rows)
        grad_matrix, grad_offset = torch.empty_like(matrix, dtype=offsets.dtype), torch.empty_like(offset)
        grad_offsets = torch.empty_like(offsets)
        last = columns.new_full((count,), len(matrix) - 1)
        total = torch.zeros((), dtype=torch.float64, device=features.device)
        chunk = _chunk(count, len(matrix), features.device)
        buffer = features.new_empty(min(chunk, count), len(matrix))
        for start in range(0, count, chunk):
            here = slice(start, start + chunk)
            x = features[here]
            gradient = multiply(x, to_logits, offset, out=buffer[: len(x)])
            gradient.scatter_(1, columns[here, None], -math.inf)
            gradient[:, -1] = right[here]
            total += softmax_gradient_(gradient, last[here]).sum(dtype=torch.float64)
            right_gradient = gradient[:, -1:]
            multiply(gradient, to_features, out=grad_features[here])
            grad_features[here].addcmul_(right_gradient, right_rows[here])
            torch.mul(right_gradient, x, out=grad_rows[:count][here])
            grad_offsets[:count][here] = gradient[:, -1]
            multiply_transposed(gradient, x, grad_matrix, grad_offset, more=start > 0)
        grad_offsets[count:] = grad_offset[:-1]
        grad_rows[count:] = grad_matrix[:-1]
        ctx.gradients = grad_features, grad_rows, grad_offsets
        return (total / count).to(offsets.dtype)


def sampled_cross_entropy(features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, sampler: Sampler) -> Tensor:
    """As `linear_cross_entropy`, the normaliser estimated from sampled types, the same for all tokens of the window:

        Z = exp(logit of the target) + sum over sampled types that are not it of exp(logit) / chance of being sampled

    whose mean is the true one (importance sampling, Bengio & Senecal 2003; Jean et al. 2015; Horvitz & Thompson 1952).
    A softmax over the sampled types and the target, in the type of the features.
    """
    sampled, chances = sampler.draw()
    chosen = torch.cat([targets, sampled])
    rows = F.embedding(chosen, weight).to(features.dtype)  # its gradient is added up faster than that of an index
    offsets = F.embedding(chosen, bias[:, None])[:, 0]
    offsets = torch.cat([offsets[: len(targets)], offsets[len(targets) :] - chances.log()])
    places = torch.searchsorted(sampled, targets)
    found = torch.cat([sampled, sampled.new_tensor([-1])])[places] == targets
    columns = places.where(found, len(sampled))
    nats: Tensor = _SampledCrossEntropy.apply(features, rows, offsets, columns)  # type: ignore[no-untyped-call]
    return nats


PIECES, PASSES = 4, 0.75
"""Of a window whose truncation is randomised: pieces between which the gradient may be cut, and how often it is not."""


class WindowLoss(nn.Module):
    """What a window costs. A module of its own, so that wrappers of modules see one call for each step."""

    def __init__(self, model: LanguageModel, config: TrainingConfig, dtype: torch.dtype) -> None:
        """dtype: of the matrix products."""
        super().__init__()
        self.model = model
        self._config = config
        self._dtype = dtype
        size = model.config.vocabulary_size
        samples = config.sampled_softmax
        self._sampler = Sampler(size, samples, model.output.weight.device) if 0 < samples < size else None

    def forward(
        self, inputs: Tensor, targets: Tensor, state: Tensor, sampled: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """inputs, targets: (B, T). state: (B, S). sampled: whether a sampled softmax will do.

        Returns mean nats per token, what regularisation adds to it, and the state after the window, from which no
        gradient comes back.
        """
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            features, penalty, state = self._features(inputs, state)
        output = self.model.output
        # In the order that layers leave them in memory.
        features, targets = features.to(self._dtype).transpose(0, 1), targets.t()
        arguments = features.flatten(0, 1), output.weight, output.bias, targets.flatten()
        if sampled and self._sampler:
            nats = sampled_cross_entropy(*arguments, self._sampler)
        else:
            nats = linear_cross_entropy(*arguments)
        return nats, penalty, state.detach()

    def _features(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pieces = [inputs]
        if self._config.truncation == "randomised":
            pieces = list(torch.split(inputs, max(1, inputs.shape[1] // PIECES), dim=1))
        features = []
        config = self.model.config
        noise = TrainingNoise(self._config, len(config.hidden_sizes), config.vocabulary_size)
        for number, piece in enumerate(pieces):
            if number:
                state = _passed_at_chance(state)
            made, state = self.model.features(piece, state, noise)
            features.append(made)
        return torch.cat(features, dim=1) if len(features) > 1 else features[0], noise.penalty(), state


def _passed_at_chance(state: Tensor) -> Tensor:
    """The state as it is; its gradient cut for some rows, and for the others as much larger as the mean asks for."""
    passes = torch.empty(len(state), 1, device=state.device).bernoulli_(PASSES) / PASSES
    cut = state.detach()
    return cut + passes * (state - cut)
