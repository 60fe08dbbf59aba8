"""One process at a time trains in a run directory, and one exports it. The system frees a lock when its process ends,
however that ends; a lock file that stays behind holds nobody up.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from training.run import RunError


@contextmanager
def training_alone(directory: Path) -> Iterator[None]:
    """Raises `RunError` at once where another process trains in the run directory, or is about to make it."""
    lock = _lock(directory, "training")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise RunError(
            f"{directory}: another process is training in it. Wait until it has ended, or stop it (Ctrl-C or SIGTERM: "
            "it saves first); or train in another directory, with --run"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def exporting_alone(directory: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Waits where another process exports the run, which takes minutes at most. on_wait: called before.

    Where nothing can be written, as in a run on a read-only file system, there is nothing to keep apart.
    """
    lock = _lock(directory, "export")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        on_wait()
        lock.acquire()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _lock(directory: Path, purpose: str) -> FileLock:
    """Beside the run directory, which `train --force` replaces; in it where only the run may be written to."""
    whole = directory.resolve()
    place = whole.parent if os.access(whole.parent, os.W_OK) else whole
    return FileLock(place / f".{whole.name}.{purpose}.lock")
