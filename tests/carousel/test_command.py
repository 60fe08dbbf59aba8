"""The command: the same functions as the two packages' command lines, imported when they are called."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from app.cli import cli
from carousel.command import SERVING, TRAINING, command_line, summary
from carousel.included import INCLUDED, use_included_models
from training.cli import app as training


def carousel(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in a folder. It may import neither the training nor the web framework."""
    program = (
        "import sys; from carousel.command import main; sys.argv[0] = 'carousel'\n"
        "try:\n main()\n"
        "finally:\n"
        " found = {'training', 'fastapi', 'starlette', 'uvicorn', 'matplotlib', 'torch'} & set(sys.modules)\n"
        " print('imported', *sorted(found), file=sys.stderr)\n"
    )
    known = {name: value for name, value in os.environ.items() if not name.startswith("CAROUSEL_")}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=folder, env=known | environment
    )


def names(app: typer.Typer) -> dict[str, str]:
    """The first line of each command's help, by its name."""
    return {
        str(command.name or getattr(command.callback, "__name__", "")): str(command.callback.__doc__).partition("\n")[0]
        for command in app.registered_commands
    }


@pytest.mark.parametrize(("app", "table"), [(cli, SERVING), (training, TRAINING)], ids=["app", "training"])
def test_every_command_of_both_packages_is_there(app: typer.Typer, table: dict[str, str]) -> None:
    assert {name: summary(place) for name, place in table.items()} == names(app)


def test_the_help_lists_all_commands() -> None:
    lines = CliRunner().invoke(command_line(), ["--help"]).output
    assert all(f"│ {name} " in lines for name in SERVING | TRAINING)


def test_version() -> None:
    assert CliRunner().invoke(command_line(), ["--version"]).output.strip() == version("carousel-lm")


def test_next_from_an_empty_folder_imports_what_it_needs(tmp_path: Path) -> None:
    done = carousel("next", "It was a dark and", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "probability" in done.stdout
    assert done.stderr.split() == ["imported"]


def test_help_imports_nothing(tmp_path: Path) -> None:
    done = carousel("--help", folder=tmp_path)
    assert done.stderr.split() == ["imported"]


def test_train_is_trainings_own(tmp_path: Path) -> None:
    done = carousel("stats", "no-such-file", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no-such-file" in done.stderr


class TestWhichModels:
    @pytest.fixture(autouse=True)
    def empty_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("CAROUSEL_CHECKPOINTS", "")

    def test_included_ones_where_there_are_no_others(self) -> None:
        use_included_models()
        assert os.environ["CAROUSEL_CHECKPOINTS"] == str(INCLUDED)

    def test_those_of_this_folder(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoints").mkdir()
        use_included_models()
        assert os.environ["CAROUSEL_CHECKPOINTS"] == ""

    def test_those_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CAROUSEL_CHECKPOINTS", "mine")
        use_included_models()
        assert os.environ["CAROUSEL_CHECKPOINTS"] == "mine"
