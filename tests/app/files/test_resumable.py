"""Outputs that an interruption does not lose."""

from pathlib import Path

import pytest

from app.files.lines import InputError
from app.files.resumable import ResumableFile


def test_a_partial_of_something_else_is_refused_until_told_to_begin_anew(tmp_path: Path) -> None:
    with ResumableFile(tmp_path / "out", {"texts": 1}) as file:
        file.write(["a", "b"])
    with pytest.raises(InputError, match="--restart"):
        ResumableFile(tmp_path / "out", {"texts": 2})
    with ResumableFile(tmp_path / "out", {"texts": 1}) as file:
        assert file.kept == 2
        file.write(["c"])
        assert list(file.lines()) == ["a", "b", "c"]
    with ResumableFile(tmp_path / "out", {"texts": 2}, restart=True) as file:
        file.write(["d"])
        file.finish(str.upper)
    assert (tmp_path / "out").read_text() == "D\n"


def test_two_commands_do_not_write_one_output(tmp_path: Path) -> None:
    with ResumableFile(tmp_path / "out", {}), pytest.raises(InputError, match="another command is writing"):
        ResumableFile(tmp_path / "out", {})
