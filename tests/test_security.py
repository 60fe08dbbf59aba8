"""docs/security.md says what is so: the tests that it names are there, and what no test of a request can show holds."""

import ast
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.text.levels import LEVELS, Level
from tests.test_layering import SOURCES, imported
from tests.tiny import tiny_tokenizer

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", PAGE)))

SERVING = {file: tree for file, tree in SOURCES.items() if file.startswith(("app/", "models/", "carousel/"))}

RUNS_OR_CALLS = {
    *("pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"),
    *("subprocess", "pty", "runpy", "code"),
    *("urllib", "http", "httpx", "requests", "aiohttp", "ftplib", "smtplib", "ssl", "xmlrpc", "huggingface_hub"),
}
"""Modules that run what they read, start programs, or ask other machines."""


def defined(file: str) -> Iterator[str]:
    """The tests of a file: `test_x`, `TestA::test_x`."""
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            yield node.name
            yield from (f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef))


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_every_test_that_the_page_names_is_there(file: str) -> None:
    assert {name for other, name in NAMED if other == file} <= set(defined(file))


def test_every_section_of_the_page_names_its_proof() -> None:
    """But for what is not defended, which stands last."""
    sections = PAGE.split("\n## ")[1:]
    *answered, _ = sections
    assert len(answered) > 4
    for section in answered:
        for row in re.findall(r"^\| (?!what|---)(.*) \|$", section, re.M):
            assert "`tests/" in row, row


def test_what_serves_runs_nothing_that_it_reads_and_asks_no_other_machine() -> None:
    for file, tree in SERVING.items():
        assert not {name.split(".")[0] for name in imported(tree)} & RUNS_OR_CALLS, file
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not calls & {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load"}, file


def test_no_pattern_comes_from_a_request() -> None:
    """A new place that uses regular expressions is to be looked at, and named here."""
    use_re = {file for file, tree in SERVING.items() if "re" in set(imported(tree))}
    assert use_re <= {
        "app/commands/serve.py",
        "app/http/gate.py",
        "app/tasks/score.py",
        "models/text/reader.py",
        "models/text/tokenizer.py",
        "models/words/next_words.py",
        "models/checkpoint/format.py",
    }


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "piece", [" ", "a", "\n", " \n", "'", "1,", "-", "é", "\u0301", "<unk>", "<", "...", "a'", "’", "“", "\u00ad", "\r"]
)
def test_the_tokenizers_patterns_take_time_in_proportion(level: Level, piece: str) -> None:
    """One that goes back over what it has read would take minutes."""
    tokenizer = tiny_tokenizer(level)
    began = time.perf_counter()
    tokenizer.encode((piece * 200_000)[:200_000])
    assert time.perf_counter() - began < 10
