"""Files appear whole or not at all."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.files import read_file, recover, replacing, replacing_directory, write_atomically

ROOT = Path(__file__).parents[2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_a_text_file_keeps_its_content_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as file:
        file.write("first\n")
    with pytest.raises(TypeError), replacing(path) as file:
        file.writelines(["second\n", 3])  # type: ignore[list-item]
    assert path.read_text() == "first\n"
    assert names(tmp_path) == ["file"]


def test_a_folder_is_exchanged_whole(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with replacing_directory(tmp_path / "folder") as folder:
            (folder / content).write_text(content)
    assert names(tmp_path / "folder") == ["new"]
    assert names(tmp_path) == ["folder"]


def test_a_folder_stays_when_writing_its_successor_fails(tmp_path: Path) -> None:
    with replacing_directory(tmp_path / "folder") as folder:
        (folder / "old").touch()
    with pytest.raises(FileNotFoundError), replacing_directory(tmp_path / "folder") as folder:
        (folder / "new" / "file").touch()
    assert names(tmp_path / "folder") == ["old"]
    assert names(tmp_path) == ["folder"]


# Killed


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and signals of Linux")
@pytest.mark.parametrize("mode", ["exchange", "rename"])
def test_a_checkpoint_is_there_wherever_an_export_over_it_is_killed(
    mode: str, checkpoints_dir: Path, tmp_path: Path
) -> None:
    old, new = (str(checkpoints_dir / name) for name in ("word", "char"))
    command = [sys.executable, "-m", "tests.models.exporting", old, new, str(tmp_path), mode]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100)
    assert done.returncode == 0, done.stderr
    outcomes = [line.split() for line in done.stdout.splitlines()]
    assert len(outcomes) > 30
    assert all(left == ["toy"] for _, _, *left in outcomes)
    at_once, recovered = ([outcome[i] for outcome in outcomes] for i in (0, 1))
    assert set(recovered) == {"old", "new"}
    assert recovered == sorted(recovered, reverse=True)
    if mode == "exchange":
        assert at_once == recovered
    else:
        assert at_once.count("none") == 1


def test_what_a_dead_writer_left_goes_and_what_gave_way_comes_back(tmp_path: Path) -> None:
    for name in (".one.carousel-new-abc", ".one.carousel-old-abc", ".two.carousel-old-abc", ".three-new", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    recover(tmp_path)
    assert names(tmp_path) == [".three-new", "one", "two"]
    assert (tmp_path / "one" / "file").read_text() == ".one.carousel-old-abc"
    assert (tmp_path / "two" / "file").read_text() == "two"


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    with replacing_directory(tmp_path / "folder") as first:
        (first / "file").touch()
        recover(tmp_path)
        with replacing_directory(tmp_path / "folder") as second:
            (second / "other").touch()
        assert names(first) == ["file"]
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["file"]


def test_links_that_look_like_leftovers_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    (tmp_path / ".a.carousel-new-x").symlink_to(tmp_path / "elsewhere")
    recover(tmp_path)
    assert names(tmp_path / "elsewhere") == ["file"]
    recover(tmp_path / "nowhere")


# Read


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def a_sparse_file(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 42)


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        Path.mkdir,
        a_socket,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("/dev/tty"),
        lambda path: path.symlink_to(path),
        lambda path: path.write_bytes(b"12345"),
        a_sparse_file,
    ],
    ids=["pipe", "folder", "socket", "zero", "terminal", "loop", "too long", "sparse"],
)
def test_what_is_no_regular_file_of_a_right_size_is_not_read(make: Callable[[Path], Any], tmp_path: Path) -> None:
    make(tmp_path / "file")
    with pytest.raises(OSError, match=r"regular|most|symbolic|No such"):
        read_file(tmp_path / "file", 4)


def test_a_file_of_the_right_size_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    assert read_file(tmp_path / "file", 4) == b"1234"


def test_of_a_file_that_grows_no_more_is_read_than_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    fstat = os.fstat

    def late(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        with (tmp_path / "file").open("ab") as file:
            file.write(b"x" * 1_000_000)
        return found

    monkeypatch.setattr(os, "fstat", late)
    assert read_file(tmp_path / "file", 4) == b"1234"
