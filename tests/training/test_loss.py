"""The chunked loss equals the plain one."""

import pytest
import torch
from torch.nn import functional as F

from tests.tiny import every_device
from training import loss
from training.loss import Sampler, linear_cross_entropy, sampled_cross_entropy

V, WIDTH, COUNT = 11, 5, 200


@pytest.fixture(params=[1, 64, 100, 1000])
def rows_per_chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHUNK_ELEMENTS", "CUDA_CHUNK_ELEMENTS"):
        monkeypatch.setattr(loss, name, request.param * V)


def leaves(device: str) -> list[torch.Tensor]:
    torch.manual_seed(0)
    drawn = [torch.randn(*shape, dtype=torch.float64) for shape in ((COUNT, WIDTH), (V, WIDTH), (V,))]
    return [values.to(device).requires_grad_() for values in drawn]


def assert_same(found: torch.Tensor, expected: torch.Tensor, tensors: list[torch.Tensor]) -> None:
    torch.testing.assert_close(found, expected)
    # A loss that is scaled afterwards scales its gradients.
    gradients = [torch.autograd.grad(value * 3, tensors) for value in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@every_device
@pytest.mark.usefixtures("rows_per_chunk")
def test_loss_and_gradients_equal_cross_entropy(device: str) -> None:
    features, weight, bias = tensors = leaves(device)
    targets = torch.randint(V, (COUNT,), device=device)
    value = linear_cross_entropy(features, weight, bias, targets)
    assert_same(value, F.cross_entropy(features @ weight.t() + bias, targets), tensors)


@every_device
@pytest.mark.usefixtures("rows_per_chunk")
@pytest.mark.parametrize("types", [[0, 3, 4, 9], [V - 1], []])
def test_sampled_loss_and_gradients_equal_its_definition(types: list[int], device: str) -> None:
    features, weight, bias = tensors = leaves(device)
    targets = torch.randint(V, (COUNT,), device=device)
    sampled = torch.tensor(types, dtype=torch.int64, device=device)
    chances = torch.linspace(0.2, 0.9, len(types), device=device)

    class Drawn(Sampler):
        def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
            return sampled, chances

    value = sampled_cross_entropy(features, weight, bias, targets, Drawn(V, 4, torch.device(device)))

    logits = features @ weight.t() + bias
    right = logits.gather(1, targets[:, None])
    others = (logits[:, sampled] - chances.log()).masked_fill(sampled == targets[:, None], float("-inf"))
    assert_same(value, (torch.cat([right, others], dim=1).logsumexp(1) - right[:, 0]).mean(), tensors)


def test_bfloat16_products_stay_close() -> None:
    torch.manual_seed(0)
    features, weight, bias = torch.randn(64, 32), torch.randn(50, 32) / 6, torch.zeros(50)
    targets = torch.randint(50, (64,))
    value = linear_cross_entropy(features.bfloat16(), weight, bias, targets)
    torch.testing.assert_close(value, F.cross_entropy(features @ weight.t() + bias, targets), rtol=0.02, atol=0.02)


def test_uniform_logits_cost_log_of_the_vocabulary() -> None:
    value = linear_cross_entropy(torch.zeros(6, 3), torch.zeros(10, 3), torch.zeros(10), torch.arange(6))
    torch.testing.assert_close(value, torch.tensor(10.0).log())


def test_sampled_loss_is_the_full_one_where_every_type_is_drawn() -> None:
    torch.manual_seed(0)
    features, weight, bias = torch.randn(9, 4), torch.randn(12, 4), torch.randn(12)
    targets = torch.randint(12, (9,))
    sampler = Sampler(12, 11, torch.device("cpu"))
    sampler._chances.fill_(1.0)
    value = sampled_cross_entropy(features, weight, bias, targets, sampler)
    torch.testing.assert_close(value, linear_cross_entropy(features, weight, bias, targets))


def test_sampled_normaliser_has_the_true_mean() -> None:
    torch.manual_seed(0)
    bias, target = 0.3 * torch.randn(50), torch.tensor([7])
    sampler = Sampler(50, 12, torch.device("cpu"))
    losses = [
        sampled_cross_entropy(torch.zeros(1, 2), torch.zeros(50, 2), bias, target, sampler).exp().item()
        for _ in range(4000)
    ]
    expected = F.cross_entropy(bias[None], target).exp().item()
    assert sum(losses) / len(losses) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("samples", [20, 300, 900])
def test_sampler_draws_as_many_types_as_asked_for_on_average_each_once(samples: int) -> None:
    torch.manual_seed(0)
    sampler = Sampler(1000, samples, torch.device("cpu"))
    draws = [sampler.draw()[0] for _ in range(200)]
    assert sum(map(len, draws)) / 200 == pytest.approx(samples, rel=0.03)
    assert all(len(draw) == len(set(draw.tolist())) for draw in draws)
    assert sum(0 in draw for draw in draws) > sum(999 in draw for draw in draws)
