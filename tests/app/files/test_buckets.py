"""Quantiles of any number of values."""

import pytest

from app.files.buckets import Quantiles


def test_quantiles() -> None:
    quantiles = Quantiles()
    for number in range(1000):
        quantiles.add(number / 100)
    assert quantiles.below(0.5) == pytest.approx(5, abs=0.02)
    quantiles.add(1e9)
    assert quantiles.below(1.0) == Quantiles.HIGHEST
    assert Quantiles().below(0.5) == 0
