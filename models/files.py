"""The only way in which files appear here: whole, or not at all. And how a file is read that anyone may have made."""

import ctypes
import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

_NEW, _OLD = ".carousel-new-", ".carousel-old-"
"""In the hidden name of a folder that is written, or gives way, between the name that it is for and random letters."""


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
    exception nothing has changed. Where the process is killed the name stands for the old folder or the new one: at
    once where the system can exchange names, elsewhere after `recover`, which is called here first."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    recover(directory.parent)
    temporary, lock = _make_locked(directory)
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's 0700 would hide it from a server that runs as another user
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        _put(temporary, directory)
        sync(directory.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def recover(parent: Path) -> None:
    """Put right what writers that were killed left in a folder: what was not finished goes, and what had given way
    comes back where nothing has taken its place. Living writers are left alone, and a folder that cannot be written to
    stays as it is."""
    with suppress(OSError):
        for path in sorted(parent.iterdir()):
            for mark in (_NEW, _OLD):
                if path.name.startswith(".") and mark in path.name:
                    _settle(path, path.with_name(path.name.rpartition(mark)[0][1:]), mark == _OLD)


def _settle(path: Path, directory: Path, gave_way: bool) -> None:
    """Remove what a dead writer left at `path`, or give it back its name."""
    lock = _lock(path)
    if lock is None:
        return
    try:
        if gave_way and not os.path.lexists(directory):
            path.rename(directory)
        else:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)


def read_file(path: Path, most: int) -> bytes:
    """The content of a file that anyone may have made. Raises `OSError` where it is no regular file (a pipe would be
    waited for, a device never ends) or has more than `most` bytes, before it is read."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"it has {found.st_size} bytes where {most} are the most", str(path))
        return file.read(found.st_size)  # no more, also where it grows


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


def _put(new: Path, directory: Path) -> None:
    """Give a folder the name of another, which is then at the first's path or gone."""
    if not directory.exists():
        new.rename(directory)
    elif not _exchange(new, directory):
        _replace(new, directory)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step. False where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    here, exchange = -100, 2
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _replace(new: Path, directory: Path) -> None:
    """As `_exchange`, in two steps, and the old folder is removed. Between the steps the name stands for nothing, until
    `recover` brings the old one back."""
    old = directory.with_name(new.name.replace(_NEW, _OLD))
    lock = _lock(directory)
    try:
        directory.rename(old)
        try:
            new.rename(directory)
        except OSError:
            old.rename(directory)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if lock is not None:
            os.close(lock)


def _make_locked(directory: Path) -> tuple[Path, int | None]:
    """A folder to write into, and its lock."""
    while True:
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}{_NEW}", dir=directory.parent))
        lock = _lock(temporary, wait=True)
        if temporary.exists():
            return temporary, lock
        if lock is not None:  # someone has just taken it for a dead writer's
            os.close(lock)


def _lock(folder: Path, wait: bool = False) -> int | None:
    """A descriptor that holds the lock of a folder until it is closed; None where it cannot be had. The system lets go
    of it when the process ends: so a living writer can be told from a dead one, in whatever container it runs."""
    try:
        import fcntl
    except ImportError:  # Windows: no writer can be told to be dead, and all leftovers stay
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
