"""Dropout in one pass, and the generator behind it."""

import ctypes
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from training.kernels.dropout import STEPS, dropout
from training.kernels.library import library, pointer, trains
from training.kernels.multiply import workspace

pytestmark = pytest.mark.skipif(not trains(), reason="needs AVX-512 bfloat16")


def philox(counter: int, key: int) -> list[int]:
    """Philox4x32-10 of (counter, 0, 0, 0), word for word (Salmon et al. 2011, section 3.3)."""
    c, k = [counter, 0, 0, 0], [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(second >> 32) ^ c[1] ^ k[0], second & 0xFFFFFFFF, (first >> 32) ^ c[3] ^ k[1], first & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def test_the_generator_gives_the_published_numbers() -> None:
    assert philox(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]  # Random123's known answers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 15, 16, 127, 128, 129, 20_000])
def test_the_key_alone_says_which_values_are_dropped(count: int, dtype: torch.dtype) -> None:
    key, dropped = 0x9ABCDEF012345678, 20_000
    # 128 values of sixteen counters: the first words of all of them first, the low half of a word first.
    words = np.array([philox(counter, key) for counter in range(-(-count // 128) * 16)], dtype="<u4")
    numbers = words.reshape(-1, 16, 4).transpose(0, 2, 1).copy().view("<u2").reshape(-1)[:count].astype(np.int64)
    x, memory = torch.randn(count, dtype=dtype), torch.full((count + 256,), 7, dtype=dtype)
    out = memory[128:-128]
    assert library is not None
    drawn = ctypes.c_int64(count), ctypes.c_uint64(key), dropped
    library.carousel_drop(workspace(), *drawn, dtype == torch.float32, pointer(x), pointer(out))
    kept = torch.from_numpy(numbers >= dropped)
    expected = (x.float() * (STEPS / (STEPS - dropped))).where(kept, 0.0).to(dtype)
    torch.testing.assert_close(out, expected, rtol=1e-6 if dtype == torch.float32 else 2**-8, atol=0)
    assert torch.equal(out != 0, kept)
    assert torch.equal(memory[:128], memory[-128:])  # what is beside them stays
    assert (memory[:128] == 7).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9999999])
def test_as_many_are_dropped_as_asked_and_the_gradient_passes_where_values_did(
    share: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x = torch.ones(60, 70, 80, dtype=dtype).requires_grad_()
    out = dropout(x, share)
    kept = (out != 0).double().mean().item()
    assert kept == pytest.approx(max(1 - share, 2**-16), abs=4 * (share * (1 - share) / x.numel()) ** 0.5 + 1e-4)
    (gradient,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert torch.equal(gradient, out)


def test_what_is_not_a_number_stays_so_and_what_is_infinite_is_seen() -> None:
    assert dropout(torch.full((1000,), torch.nan), 0.5).isnan().all()
    assert not dropout(torch.full((1000,), torch.inf), 0.5).isfinite().any()


def transposed(x: Tensor) -> Tensor:
    return x.transpose(0, 1)


def gapped(x: Tensor) -> Tensor:
    return torch.stack([x, x], dim=-1)[..., 0]


@pytest.mark.parametrize("strides", [transposed, gapped])
@pytest.mark.parametrize("of_gradient", [transposed, gapped])
def test_strides_do_not_matter(strides: Callable[[Tensor], Tensor], of_gradient: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    x = strides(torch.randn(7, 9, 33)).requires_grad_()
    out = dropout(x, 0.3)
    torch.testing.assert_close(out, torch.where(out != 0, x.detach() * (1 / 0.7), 0), rtol=1e-4, atol=0)
    given = of_gradient(torch.randn_like(of_gradient(x.detach()), memory_format=torch.contiguous_format))
    (gradient,) = torch.autograd.grad(out, x, given)
    torch.testing.assert_close(gradient, torch.where(out != 0, given * (1 / 0.7), 0), rtol=1e-4, atol=0)


def test_the_number_of_threads_changes_nothing_and_every_draw_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    x, results = torch.ones(100_000), []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", partial(int, threads))
        torch.manual_seed(0)
        results.append([dropout(x, 0.5), dropout(x, 0.5)])
    (one, another), (again, _) = results
    assert torch.equal(one, again)
    assert (one == another).double().mean().item() == pytest.approx(0.5, abs=0.01)
