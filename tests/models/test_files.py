"""Files appear whole or not at all."""

from pathlib import Path

import pytest

from models.files import replacing, replacing_directory, write_atomically


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
