"""The tiny models, in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import carousel


@pytest.fixture(scope="session")
def lm(checkpoints_dir: Path) -> Iterator[carousel.LanguageModel]:
    """The tiny word model."""
    with carousel.load(checkpoints_dir / "word", threads=1) as lm:
        yield lm


@pytest.fixture(scope="session")
def char_lm(checkpoints_dir: Path) -> Iterator[carousel.LanguageModel]:
    """The tiny character model."""
    with carousel.load(checkpoints_dir / "char", threads=1) as lm:
        yield lm
