"""A small text, and small runs on it."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.prepare import prepare_run
from training.recipe import Recipe, override
from training.run import Run

REPOSITORY = Path(__file__).parents[2]

TINY = [
    "--hidden-sizes", "16", "--embedding-size", "8", "--batch-size", "4", "--bptt-length", "16", "--threads", "1",
    "--dropout", "0.2", "--validate-every", "20", "--checkpoint-every", "7", "--precision", "float32",
]  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def text() -> str:
    """Sentences with a grammar to learn, a line each."""
    chooser = random.Random(1)
    subjects, verbs, objects = ("the cat", "a dog", "my bird"), ("sees", "likes", "wants"), ("fish", "a bone", "seeds")
    lines = [f"{chooser.choice(subjects)} {chooser.choice(verbs)} {chooser.choice(objects)}." for _ in range(400)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def text_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pets.txt"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def make_run(tmp_path: Path, text_file: Path) -> Callable[..., Run]:
    """A prepared run on the small text; keyword arguments are recipe tables put over the defaults below."""

    def make(name: str = "pets", **tables: dict[str, object]) -> Run:
        recipe = override(
            Recipe(),
            {
                "corpus": {"train": [str(text_file)], "level": "char", "boundary": "line"},
                "network": {"embedding_size": 8, "hidden_sizes": [16]},
                "training": {"steps": 40, "batch_size": 4, "bptt_length": 16, "validate_every": 20, "dropout": 0.2},
            },
        )
        (tmp_path / "runs").mkdir(exist_ok=True)
        return prepare_run(tmp_path / "runs" / name, override(recipe, tables), Path(), "train pets.txt")

    return make


def start(arguments: list[str], folder: Path) -> "subprocess.Popen[bytes]":
    """`python -m training …` in a process of its own, which prints into `folder`/printed.txt."""
    with (folder / "printed.txt").open("wb") as printed:
        return subprocess.Popen(
            [sys.executable, "-m", "training", *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
