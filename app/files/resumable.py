"""Outputs that an interruption does not lose."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from app.files.lines import InputError
from models.files import replacing


class ResumableFile:
    """An output of lines that appears under its name once it is complete.

    Until then the lines stand in `.NAME.partial` beside it, below a header that says how they are made: the same
    command, repeated, continues after the last complete line.
    """

    def __init__(self, path: Path, made_by: dict[str, Any], restart: bool = False) -> None:
        """made_by: the header. restart: drop the lines of an interrupted command.

        Raises `InputError` when the partial file has another header, or another command is writing it.
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
                size += len(line)
                self.kept += 1
        self._file.truncate(size)

    def write(self, lines: list[str]) -> None:
        """Append lines; the operating system has them when this returns."""
        self._file.write("".join(line + "\n" for line in lines).encode())
        self._file.flush()

    def lines(self) -> Iterator[str]:
        """All lines so far."""
        with self.partial.open("rb") as file:
            file.readline()
            for line in file:
                yield line.decode()[:-1]

    def finish(self, change: Callable[[str], str]) -> None:
        """Write every line, changed, into the output, and remove the partial file."""
        with replacing(self.path) as file:
            for line in self.lines():
                file.write(change(line) + "\n")
        self._file.close()
        self.partial.unlink()

    def _close(self) -> None:
        self._file.close()
        self._lock.release()

    def __enter__(self) -> "ResumableFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
