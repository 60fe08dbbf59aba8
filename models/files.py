"""The only way in which files appear here: whole, or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file, or replace one, so that whoever looks finds the old content or the new, also after a crash."""
    temporary = temporary_name(path)
    try:
        temporary.write_bytes(content)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A text file to write into, which takes the place of `path` at the end; after an exception nothing has changed."""
    temporary = temporary_name(path)
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_directory(directory: Path) -> Iterator[Path]:
    """An empty folder to write into, which takes the place of `directory` at the end, its files synced; after an
    exception nothing has changed."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's 0700 would hide it from a server that runs as another user
        for file in temporary.iterdir():
            sync(file)
        _exchange(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_name(path: Path) -> Path:
    """Where a file is written before it takes its name: hidden, in the same folder."""
    return path.with_name(f".{path.name}.tmp")


def sync(path: Path) -> None:
    """Have the system write a file to disk; of a folder its entries, where the system can be asked for that."""
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(new: Path, directory: Path) -> None:
    sync(new)
    if directory.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{directory.name}-old-", dir=directory.parent))
        directory.rename(old / directory.name)
        new.rename(directory)
        shutil.rmtree(old)
    else:
        new.rename(directory)
    sync(directory.parent)
