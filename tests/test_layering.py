"""Imports point one way: carousel -> app -> models <- training, between files as between packages.

Parsed, not run: imports inside functions and of types alone count as well.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PACKAGES = ("models", "training", "app", "carousel")

FORBIDDEN = {
    "models": {"training", "app", "carousel", "fastapi", "tests", "benchmarks"},
    "training": {"app", "carousel", "fastapi", "tests", "benchmarks"},
    "app": {"training", "carousel", "tests", "benchmarks"},
    "carousel": {"tests", "benchmarks"},
}

TORCH = (
    "models/network.py",
    "models/cells.py",
    "models/encoder.py",
    "models/heads.py",
    "models/state.py",
    "models/backends/load.py",  # in the functions that choose torch or a GPU
    "models/backends/torch.py",
    "models/backends/cuda/",
    "models/decoding/reference.py",
    "training/",
)
"""Where torch may be imported at all: files, or everything under a folder."""

ENVIRONMENT = {"app/settings.py", "models/process.py", "training/distributed.py", "carousel/included.py"}
"""The service's settings; what must be set before torch is imported; what torchrun tells its processes; the folder of
the included models where the user has chosen none."""

CYCLES: dict[tuple[str, str], str] = {}
"""Imports (from, to) that may close a cycle, each with the reason."""


def sources() -> dict[str, ast.Module]:
    """Every Python file of the packages, at every depth, by its path from the root."""
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    return {file.relative_to(ROOT).as_posix(): ast.parse(file.read_text("utf-8")) for file in sorted(files)}


SOURCES = sources()


def imported(tree: ast.Module) -> Iterator[str]:
    """Dotted names that a file imports: of `from a.b import c` both a.b and a.b.c, of which one may be no module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(tree: ast.Module) -> set[str]:
    return {name.split(".")[0] for name in imported(tree)}


def file_of(module: str) -> str | None:
    path = module.replace(".", "/")
    return next((file for file in (f"{path}.py", f"{path}/__init__.py") if file in SOURCES), None)


def imported_files(tree: ast.Module) -> set[str]:
    """The files that a file imports from. `from a import b` is of a/b.py where there is one, else of a/__init__.py."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {file_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {file_of(f"{node.module}.{alias.name}") or file_of(node.module) for alias in node.names}
    return {file for file in found if file is not None}


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node, and the nodes that lead to themselves."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += graph[node]
        return seen

    reach = {node: reachable(node) for node in graph}
    components = {frozenset(other for other in reach[node] if node in reach[other]) for node in graph}
    return sorted(sorted(component) for component in components if component)


def test_every_folder_of_kernels_is_seen() -> None:
    """The tests below would pass on no files, too."""
    folders = {file.rpartition("/")[0] for file in SOURCES}
    assert folders >= {"models/backends/native", "models/backends/cuda", "training/kernels", "app/engine"}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_towards_models_only(package: str) -> None:
    files = {file: tree for file, tree in SOURCES.items() if file.startswith(f"{package}/")}
    wrong = {file: sorted(FORBIDDEN[package] & packages(tree)) for file, tree in files.items()}
    assert {file: names for file, names in wrong.items() if names} == {}


def test_no_file_imports_itself_by_way_of_others() -> None:
    graph = {
        file: {other for other in imported_files(tree) if (file, other) not in CYCLES} for file, tree in SOURCES.items()
    }
    assert cycles(graph) == []


def test_cycles_are_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}, "e": {"a"}}) == [["b", "c"], ["d"]]


def test_exceptions_are_of_imports_that_there_are() -> None:
    assert all(other in imported_files(SOURCES[file]) for file, other in CYCLES)


def test_torch_is_imported_where_networks_are_trained_or_run_by_it_alone() -> None:
    """Serving with the kernels does without: it starts in a second and fits an image without torch."""
    using = {file for file, tree in SOURCES.items() if "torch" in packages(tree)}
    assert sorted(file for file in using if not file.startswith(TORCH)) == []


def test_relative_imports_are_not_used() -> None:
    """So that the tests above see every import."""
    relative = {
        file
        for file, tree in SOURCES.items()
        if any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))
    }
    assert relative == set()


def test_environment_variables_are_read_where_settings_are_made() -> None:
    reading = {
        file
        for file, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.alias)
        and getattr(node, "attr", getattr(node, "name", "")) in ("environ", "getenv")
    }
    assert sorted(reading - ENVIRONMENT) == []
