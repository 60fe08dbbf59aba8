"""Imports point one way: app -> models <- training."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imported_packages(source: str) -> Iterator[str]:
    """The first name of every absolute import, wherever in the file it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("models", {"app", "training", "fastapi", "tests"}),
        ("training", {"app", "fastapi", "tests"}),
        ("app", {"training", "tests"}),
    ],
    ids=["models", "training", "app"],
)
def test_imports_point_towards_models_only(package: str, forbidden: set[str]) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = {
        str(file.relative_to(ROOT)): sorted(forbidden & set(imported_packages(file.read_text("utf-8"))))
        for file in files
    }
    assert {file: names for file, names in found.items() if names} == {}


def test_relative_imports_are_not_used() -> None:
    """So that the test above sees every import."""
    for package in ("models", "training", "app"):
        for file in (ROOT / package).rglob("*.py"):
            nodes = ast.walk(ast.parse(file.read_text("utf-8")))
            assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes), file


def test_models_reads_no_environment_variables_but_for_the_process() -> None:
    """models/process.py alone sets the few that must be set before torch is imported."""
    for file in (ROOT / "models").glob("*.py"):
        if file.name != "process.py":
            assert "environ" not in file.read_text("utf-8"), file
