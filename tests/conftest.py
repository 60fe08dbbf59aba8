"""Fixtures that all tests share. Nothing is trained or downloaded; what is session-scoped is read-only.

Where `CI` is set, a test may be skipped only for a reason listed in `may_skip`: any other skip is a failure.
"""

import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import torch

from models.checkpoint.format import save_checkpoint
from models.network import LanguageModel
from models.text.tokenizer import Tokenizer
from tests.tiny import tiny_model, tiny_tokenizer

torch.set_num_threads(1)

CPUINFO = Path("/proc/cpuinfo")


def may_skip(reason: str) -> bool:
    """Whether CI may go without a test that says this: never for want of a browser, or of kernels that would run."""
    if "AVX-512 bfloat16" in reason:
        return not (CPUINFO.exists() and "avx512_bf16" in CPUINFO.read_text())
    if "/proc" in reason:
        return sys.platform != "linux"
    return any(
        wanted in reason
        for wanted in (
            "no GPU",
            "on request",
            "qemu",
            "is not installed; see the top",
            "kenlm is not installed",
            "promtool is not installed",
        )
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if (
        report.skipped
        and os.environ.get("CI")
        and not hasattr(report, "wasxfail")
        and isinstance(report.longrepr, tuple)
    ):
        reason = report.longrepr[2]
        if not may_skip(reason):
            report.outcome = "failed"
            report.longrepr = f"must not be skipped in CI: {reason}"
    return report


@pytest.fixture(autouse=True)
def _subnormal_numbers() -> Iterator[None]:
    """Training flushes them to zero in its whole process; the next test is another process."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def tiny_word() -> tuple[LanguageModel, Tokenizer]:
    """A word-level LSTM and its tokenizer; `<eos>` is a line end."""
    tokenizer = tiny_tokenizer("word")
    return tiny_model(len(tokenizer)), tokenizer


@pytest.fixture(scope="session")
def tiny_char() -> tuple[LanguageModel, Tokenizer]:
    """A character-level LSTM and its tokenizer; `<eos>` is the end of a document."""
    tokenizer = tiny_tokenizer("char")
    return tiny_model(len(tokenizer), seed=1), tokenizer


@pytest.fixture(scope="session")
def checkpoints_dir(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_word: tuple[LanguageModel, Tokenizer],
    tiny_char: tuple[LanguageModel, Tokenizer],
) -> Path:
    """A folder of two real checkpoints, `word` and `char`. Copy it before damaging anything."""
    root = tmp_path_factory.mktemp("checkpoints")
    for name, (model, tokenizer) in (("word", tiny_word), ("char", tiny_char)):
        save_checkpoint(root / name, model, tokenizer, about={"corpus": "a toy"}, card=f"# {name}\n\nA toy model.\n")
    return root
