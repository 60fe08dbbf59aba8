"""Averages of weights, and when they begin."""

import pytest
import torch

from training.averaging import Average, averaging_starts


def test_plain_average_is_the_mean_of_all() -> None:
    weights = {"w": torch.tensor([1.0, 2.0])}
    average = Average(weights, None)
    for value in (3.0, 5.0, 10.0):
        average.update({"w": torch.tensor([value, -value])})
    torch.testing.assert_close(average.weights["w"], torch.tensor([6.0, -6.0]))
    assert average.count == 3


def test_exponential_average_forgets_the_beginning() -> None:
    average = Average({"w": torch.zeros(1)}, 0.9)
    for _ in range(200):
        average.update({"w": torch.ones(1)})
    assert average.weights["w"].item() == pytest.approx(1, abs=1e-6)


def test_average_stands_in_only_meanwhile() -> None:
    weights = {"w": torch.tensor([4.0])}
    average = Average({"w": torch.tensor([1.0])}, None)
    with average.in_place_of(weights):
        assert weights["w"].item() == 1
    assert weights["w"].item() == 4
    assert average.weights["w"].item() == 1


def test_averaging_waits_until_validation_is_no_better_than_long_before() -> None:
    falling = [5.0, 4.0, 3.0, 2.5, 2.2, 2.0, 1.9]
    assert not any(averaging_starts(falling[:n]) for n in range(len(falling) + 1))
    assert not averaging_starts([2.0, 2.1, 2.2, 2.3, 2.4, 2.5])  # too few to tell
    assert averaging_starts([2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6])
    assert not averaging_starts([2.6, 2.1, 2.2, 2.3, 2.4, 2.5, 2.55])  # better than all but those five
