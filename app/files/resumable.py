"""Outputs that an interruption does not lose."""

import json
import shlex
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from app.files.lines import InputError
from models.files import replacing


class ResumableFile:
    """An output of lines that appears under its name once it is complete.

    Until then the lines stand in `.NAME.partial` beside it, each with a sum, below a header that says how they are
    made: the same command, repeated, continues after the last complete line.
    """

    def __init__(self, path: Path, made_by: dict[str, Any], restart: bool = False) -> None:
        """made_by: the header. restart: drop the lines of an interrupted command.

        Raises `InputError` when the partial file has another header or a damaged line, or another command is writing
        it.
        """
        self.path = path
        self.partial = path.with_name(f".{path.name}.partial")
        self.kept = 0
        """Lines that an interrupted command left."""
        self._lock = FileLock(f"{self.partial}.lock")
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise InputError(f"{self.partial}: another command is writing it") from None
        self._file = self.partial.open("ab+")
        try:
            self._resume(json.dumps({"carousel": "partial", **made_by}).encode() + b"\n", restart)
        except BaseException:
            self._close()
            raise

    def _resume(self, header: bytes, restart: bool) -> None:
        """Begin the file, or cut it after the last complete line."""
        self._file.seek(0)
        first = self._file.readline()
        if restart or not first.endswith(b"\n"):
            self._file.truncate(0)
            self._file.write(header)
            self._file.flush()
            return
        if first != header:
            raise InputError(
                f"{self.partial} is what an interrupted command made with another model or other options: "
                "repeat that command to finish it, or give --restart to begin anew"
            )
        size = self._file.tell()
        for line in self._file:
            if line.endswith(b"\n"):
                self._unsealed(line, self.kept + 2)
                size += len(line)
                self.kept += 1
        self._file.truncate(size)

    def write(self, lines: list[str]) -> None:
        """Append lines; the operating system has them when this returns. Raises `OSError`, naming the file."""
        with _naming(self.partial):
            self._file.write(b"".join(_sealed(line.encode()) for line in lines))
            self._file.flush()

    def lines(self) -> Iterator[str]:
        """All lines so far. Raises `InputError` at a damaged one."""
        with self.partial.open("rb") as file:
            file.readline()
            for number, line in enumerate(file, 2):
                yield self._unsealed(line, number)

    def _unsealed(self, line: bytes, number: int) -> str:
        """A line as it was written. Earlier versions wrote JSON without a sum."""
        text, separator, written = line[:-1].rpartition(b"\t")
        try:
            if separator and written == _sum(text):
                return text.decode()
            if not separator and json.loads(line):
                return line.decode()[:-1]
        except ValueError:
            pass
        name = shlex.quote(str(self.partial))
        raise InputError(
            f"{self.partial}: line {number} is damaged. Give --restart to begin anew; or keep the lines before it:  "
            f"head -n {number - 1} {name} > {name}.kept && mv {name}.kept {name}  and repeat the command"
        )

    def finish(self, change: Callable[[str], str]) -> None:
        """Write every line, changed, into the output, and remove the partial file. Raises `OSError`, naming the file,
        and `InputError` at a damaged line; both leave the partial file as it is."""
        with _naming(self.path), replacing(self.path) as file:
            for line in self.lines():
                file.write(change(line) + "\n")
        self._file.close()
        self.partial.unlink()

    def _close(self) -> None:
        with suppress(OSError):  # of a write that has failed already: a full disk
            self._file.close()
        self._lock.release()

    def __enter__(self) -> "ResumableFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of the system's say which file they are about, which those of a full disk do not by themselves."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; repeat the command to go on", str(path)) from None


def _sealed(line: bytes) -> bytes:
    return line + b"\t" + _sum(line) + b"\n"


def _sum(line: bytes) -> bytes:
    return b"%08x" % zlib.crc32(line)
