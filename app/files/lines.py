"""Lines as they arrive from a file or a pipe, and the JSON records that they hold."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_READ_BYTES = 1 << 16


class InputError(ValueError):
    """The command cannot work on a file; the message names the line and says what to do."""


def arriving_lines(descriptor: int) -> Iterator[list[bytes]]:
    """What each read of a file descriptor completes; a slow pipe gives line by line."""
    begun: list[bytes] = []  # pieces of a line whose end has not come
    while chunk := os.read(descriptor, _READ_BYTES):
        first, *lines = chunk.split(b"\n")
        begun.append(first)
        if lines:
            whole = b"".join(begun)
            begun = [lines.pop()]
            yield [whole, *lines]
    if any(begun):
        yield [b"".join(begun)]


def decode(line: bytes, number: int) -> str:
    """The text of line `number`, counted from 1. Raises `InputError` where it is not UTF-8."""
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"line {number}: not UTF-8 (byte {error.start}); convert it, e.g. with iconv") from None


def parse_record(line: str, number: int, advice: str) -> dict[str, Any]:
    """The JSON object of a line; any other JSON value has no fields. Raises `InputError`, ending in `advice`."""
    try:
        record = json.loads(line, parse_constant=_refuse_constant, parse_float=_parse_float)
    except (ValueError, RecursionError) as error:
        raise InputError(f"line {number}: not JSON ({error}){advice}") from None
    return record if isinstance(record, dict) else {}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _parse_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is too large for a number")
    return value


def to_json(values: dict[str, Any]) -> str:
    """One line of UTF-8; escaped where a string of the record has a lone surrogate."""
    line = json.dumps(values, ensure_ascii=False, allow_nan=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        return json.dumps(values, allow_nan=False)
    return line


def count_lines(path: Path) -> int:
    """Lines of a file, for a progress bar."""
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
