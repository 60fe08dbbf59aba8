"""A project with packages of our names is told so."""

import subprocess
import sys
from pathlib import Path

import pytest

from carousel.packages import PACKAGES, check_packages


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("form", ["{}/__init__.py", "{}.py"])
def test_another_package_of_the_name_is_named(tmp_path: Path, name: str, form: str) -> None:
    file = tmp_path / form.format(name)
    file.parent.mkdir(exist_ok=True)
    file.touch()
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import carousel"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ImportError: carousel needs its own package" in done.stderr
    assert str(tmp_path / name) in done.stderr


def test_one_that_was_imported_already_is_named(tmp_path: Path) -> None:
    (tmp_path / "app.py").touch()
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import app; sys.path.pop(0); "
        "import importlib.util, pathlib; import carousel"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "rename it" in done.stderr


def test_a_folder_without_code_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    program = f"import sys; sys.path.append({str(tmp_path)!r}); import carousel"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_our_own_are_found() -> None:
    check_packages()
