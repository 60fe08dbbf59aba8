"""The matrix products of training: the kernels' and torch's, against float32."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.native import products, trains
from models.native.products import add_transposed, multiply, right_hand, softmax_gradient_

SHAPES = [(1, 1, 2), (3, 70, 6), (37, 16, 128), (64, 40, 34), (130, 200, 50), (9, 66, 2050), (500, 130, 1024)]
"""Rows, outputs, inputs: ends of blocks, groups and depths, and what lies beside them."""


@pytest.fixture(params=["the kernels", "torch"])
def who(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    ours = request.param == "the kernels"
    if ours and not products._faster():
        pytest.skip("needs AVX-512 bfloat16, and no AMX")
    monkeypatch.setattr(products, "_faster", lambda: ours)
    monkeypatch.setattr(products, "trains", lambda: ours)
    return str(request.param)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape).bfloat16()


def assert_close(found: Tensor, expected: Tensor, error: float) -> None:
    assert found.shape == expected.shape
    assert (found.double() - expected).norm() <= error * (1 + expected.norm())


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [*SHAPES, (5, 7, 3)])
def test_a_product_is_rounded_once(
    who: str, rows: int, outputs: int, inputs: int, biased: bool, transposed: bool
) -> None:
    torch.manual_seed(0)
    a, b = drawn(rows, inputs), drawn(outputs, inputs).t() if transposed else drawn(inputs, outputs)
    bias = torch.randn(outputs).bfloat16().float() if biased else None
    right = right_hand(b)
    assert right.packed == (who == "the kernels" and inputs % 2 == 0)
    out = torch.full((rows, outputs), torch.nan, dtype=torch.bfloat16)
    assert multiply(a, right, bias, out=out) is out
    expected = a.double() @ b.double() + (0 if bias is None else bias.double())
    assert_close(out, expected, 2**-8)
    assert torch.equal(multiply(a, right, bias), out)


@pytest.mark.parametrize(("rows", "outputs", "inputs"), [*SHAPES, (5, 7, 3), (70, 65, 2049)])
def test_gradients_of_a_linear_layer_are_added(who: str, rows: int, outputs: int, inputs: int) -> None:
    torch.manual_seed(0)
    a, b, out, sums = drawn(inputs, rows), drawn(inputs, outputs), torch.randn(rows, outputs), torch.randn(rows)
    expected = out + a.double().t() @ b.double()
    expected_sums = sums + a.double().sum(0)
    twice = out.clone()
    add_transposed(a, b, out, sums)
    error = 1e-6 if who == "the kernels" else 2**-8
    assert_close(out, expected, error)
    assert_close(sums, expected_sums, error)
    add_transposed(a, b, twice)
    assert torch.equal(twice, out)


@pytest.mark.parametrize(("rows", "outputs"), [(1, 1), (5, 3), (40, 16), (3, 1000), (700, 33)])
def test_the_gradient_of_a_softmax(who: str, rows: int, outputs: int) -> None:
    torch.manual_seed(0)
    logits, targets = 3 * drawn(rows, outputs), torch.randint(outputs, (rows,))
    logits[:, outputs // 2] = 60 if outputs > 1 else 0  # one far above the others, and one that cannot be
    logits[0, -1] = -torch.inf if outputs > 1 and targets[0] != outputs - 1 else 0
    exact = logits.double().requires_grad_()
    expected = F.cross_entropy(exact, targets, reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum(), exact)
    nats = softmax_gradient_(logits, targets)
    torch.testing.assert_close(logits.double(), gradient, rtol=2**-8, atol=1e-20)
    error = 1e-5 if who == "the kernels" else 2**-7
    torch.testing.assert_close(nats.double(), expected.detach(), rtol=error, atol=error)


@pytest.mark.usefixtures("who")
def test_what_is_not_a_number_is_seen() -> None:
    logits = drawn(3, 40)
    logits[1, 7] = torch.nan
    nats = softmax_gradient_(logits, torch.tensor([0, 1, 2]))
    assert nats.isnan().tolist() == [False, True, False]
    assert logits.isnan().all(1).tolist() == [False, True, False]


@pytest.mark.usefixtures("who")
@pytest.mark.parametrize("wrong", [-1, 4])
def test_a_target_that_is_no_column_is_refused(wrong: int) -> None:
    logits = drawn(2, 4)
    before = logits.clone()
    with pytest.raises(IndexError, match="4"):
        softmax_gradient_(logits, torch.tensor([0, wrong]))
    assert torch.equal(logits, before)


def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    if not trains():
        pytest.skip("needs AVX-512 bfloat16")
    a, b, logits = drawn(300, 1100), drawn(1100, 200), drawn(300, 200)
    targets = torch.randint(200, (300,))

    def all_of_them() -> list[Tensor]:
        out, sums, made = torch.zeros(1100, 200), torch.zeros(1100), logits.clone()
        add_transposed(a, logits, out, sums)
        return [multiply(a, right_hand(b)), out, sums, softmax_gradient_(made, targets), made]

    results = []
    for threads in (1, 3):
        threads_of: Callable[[], int] = partial(int, threads)
        monkeypatch.setattr(torch, "get_num_threads", threads_of)
        results.append(all_of_them())
    assert all(map(torch.equal, *results))
