"""The matrix products of training: the kernels' and torch's, against float32."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from training.kernels import multiply as products
from training.kernels.library import trains
from training.kernels.multiply import multiply, multiply_transposed, right_hand, softmax_gradient_

SHAPES = [
    *[(1, 1, 1), (0, 5, 4), (5, 7, 3), (3, 70, 6), (37, 16, 128), (64, 40, 33), (130, 200, 50), (9, 66, 2049)],
    *[(500, 130, 1024), (17, 1100, 1026)],
]
"""Rows, outputs, inputs: ends of blocks, groups, panels and depths, and what lies beside them."""


with_kernels = pytest.mark.skipif(not trains(), reason="needs AVX-512 bfloat16")


@pytest.fixture(params=[pytest.param("the kernels", marks=with_kernels), "torch"])
def who(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    ours = request.param == "the kernels"
    monkeypatch.setattr(products, "_faster", lambda: ours)
    monkeypatch.setattr(products, "trains", lambda: ours)
    return str(request.param)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape).bfloat16()


def assert_close(found: Tensor, expected: Tensor, rounding: float, sums: float = 1e-4) -> None:
    """Each value: rounded as its type does, and its sum made of float32."""
    assert found.shape == expected.shape
    assert ((found.double() - expected).abs() <= rounding * expected.abs() + sums).all()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("rows", "outputs", "inputs"), SHAPES)
def test_a_product_is_rounded_once(
    who: str, rows: int, outputs: int, inputs: int, biased: bool, transposed: bool
) -> None:
    torch.manual_seed(0)
    a, b = drawn(rows, inputs), drawn(outputs, inputs).t() if transposed else drawn(inputs, outputs)
    bias = torch.randn(outputs) if biased else None
    right = right_hand(b)
    assert right.packed == (who == "the kernels")
    out = torch.full((rows, outputs), torch.nan, dtype=torch.bfloat16)
    assert multiply(a, right, bias, out=out) is out
    expected = a.double() @ b.double() + (0 if bias is None else bias.double())
    torch_rounds = 0 if who == "the kernels" else 0.05  # the bias, too
    assert_close(out, expected, 2**-8, 1e-3 + torch_rounds)
    assert torch.equal(multiply(a, right, bias), out)


def test_strides_do_not_matter(who: str) -> None:
    torch.manual_seed(0)
    a, b, wide = drawn(12, 9).t(), drawn(24, 40)[::2, ::2], drawn(12, 18)[:, ::2]
    exact = a.double() @ b.double()
    assert_close(multiply(a, right_hand(b)), exact, 2**-8, 1e-3)
    out, sums = torch.empty(9, 20), torch.empty(9)
    multiply_transposed(wide, b, out, sums)
    error = 0 if who == "the kernels" else 2**-8
    assert_close(out, wide.double().t() @ b.double(), error, 1e-3)
    assert_close(sums, wide.double().sum(0), error, 1e-3)


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [*SHAPES, (70, 65, 2049)])
def test_gradients_of_a_linear_layer(who: str, rows: int, outputs: int, inputs: int, more: bool) -> None:
    torch.manual_seed(0)
    a, b = drawn(inputs, rows), drawn(inputs, outputs)
    before, sums_before = (torch.randn if more else torch.zeros)(rows, outputs), torch.randn(rows) * more
    # What is there and not to be added to may be anything.
    out, sums = (before.clone(), sums_before.clone()) if more else (before + torch.nan, sums_before + torch.nan)
    again = out.clone()
    multiply_transposed(a, b, out, sums, more)
    error, most = (0, 1e-3) if who == "the kernels" else (2**-8, 0.5)
    assert_close(out, before + a.double().t() @ b.double(), error, most)
    assert_close(sums, sums_before + a.double().sum(0), error, most)
    multiply_transposed(a, b, again, more=more)
    assert torch.equal(again, out)


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
    error = 1e-6 if who == "the kernels" else 2**-7
    torch.testing.assert_close(nats.double(), expected.detach(), rtol=error, atol=error)


@with_kernels
def test_the_kernels_know_improbable_targets() -> None:
    logits = torch.tensor([[0.0, 300.0], [0.0, -torch.inf]]).bfloat16()
    nats = softmax_gradient_(logits, torch.tensor([0, 0]))
    torch.testing.assert_close(nats, torch.tensor([300.0, 0.0]))
    torch.testing.assert_close(logits.float(), torch.tensor([[-1.0, 1.0], [0.0, 0.0]]), atol=1e-30, rtol=0)


@with_kernels
@pytest.mark.parametrize("value", [-3e38, -1e6, 0.0, 1e4, 1e6, 1e12, 3e38])
def test_logits_may_be_as_large_as_they_like(value: float) -> None:
    logits = torch.tensor([[value, value, -3.1e38]]).bfloat16()
    torch.testing.assert_close(softmax_gradient_(logits, torch.tensor([0])), torch.tensor([2.0]).log())
    torch.testing.assert_close(logits.float(), torch.tensor([[-0.5, 0.5, 0.0]]), atol=1e-30, rtol=0)


@with_kernels
def test_nothing_is_written_beside_a_result() -> None:
    torch.manual_seed(0)
    a, b, c, targets = drawn(5, 9), drawn(9, 7), drawn(5, 7), torch.zeros(5, dtype=torch.int64)

    def within(dtype: torch.dtype, *shape: int) -> tuple[Tensor, Tensor]:
        """Memory that is 7 everywhere, and a tensor in the middle of it."""
        size = torch.Size(shape).numel()
        memory = torch.full((size + 256,), 7, dtype=dtype)
        return memory, memory[128 : 128 + size].view(shape)

    memories, (product, logits, weight, sums) = zip(
        within(torch.bfloat16, 5, 7),
        within(torch.bfloat16, 5, 7),
        within(torch.float32, 9, 7),
        within(torch.float32, 9),
        strict=True,
    )
    multiply(a, right_hand(b), out=product)
    softmax_gradient_(logits.copy_(c), targets)
    multiply_transposed(a, c, weight, sums)
    for memory in memories:
        assert (memory[:128] == 7).all()
        assert (memory[-128:] == 7).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_improbable_target_costs_a_finite_number_where_small_numbers_are_flushed(
    who: str, dtype: torch.dtype
) -> None:
    torch.set_flush_denormal(True)
    try:
        nats = softmax_gradient_(torch.tensor([[0.0, 300.0]], dtype=dtype), torch.tensor([0]))
    finally:
        torch.set_flush_denormal(False)
    assert 80 < nats.item() < 301, who


@pytest.mark.usefixtures("who")
@pytest.mark.parametrize("strange", [torch.nan, torch.inf])
def test_what_is_not_a_number_is_seen(strange: float) -> None:
    logits = drawn(4, 40)
    logits[1, 7] = strange
    logits[2] = -torch.inf
    nats = softmax_gradient_(logits, torch.tensor([0, 1, 2, 3]))
    assert nats.isnan().tolist() == [False, True, True, False]
    assert logits.isnan().any(1).tolist() == [False, True, True, False]


@pytest.mark.usefixtures("who")
@pytest.mark.parametrize("wrong", [-1, 4])
def test_a_target_that_is_no_column_is_refused(wrong: int) -> None:
    logits = drawn(2, 4)
    before = logits.clone()
    with pytest.raises(IndexError, match=r"\[0, 4\)"):
        softmax_gradient_(logits, torch.tensor([0, wrong]))
    assert torch.equal(logits, before)


@with_kernels
def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    a, b, logits = drawn(300, 1100), drawn(1100, 200), drawn(300, 200)
    targets = torch.randint(200, (300,))

    def all_of_them() -> list[Tensor]:
        out, sums, made = torch.empty(1100, 200), torch.empty(1100), logits.clone()
        multiply_transposed(a, logits, out, sums)
        return [multiply(a, right_hand(b)), out, sums, softmax_gradient_(made, targets), made]

    results = []
    for threads in (1, 3):
        threads_of: Callable[[], int] = partial(int, threads)
        monkeypatch.setattr(torch, "get_num_threads", threads_of)
        results.append(all_of_them())
    assert all(map(torch.equal, *results))
