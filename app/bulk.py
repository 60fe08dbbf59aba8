"""Texts in, scores out, at constant memory: lines or JSONL from a file or a pipe."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

BATCH = 64
"""Texts scored together."""

_READ_BYTES = 1 << 16


class InputError(ValueError):
    """A line that cannot be scored; the message names it and says what to do."""


class Item(NamedTuple):
    """A text, and the JSON record that it came in."""

    text: str
    record: dict[str, Any]


def read_batches(descriptor: int, field: str | None) -> Iterator[list[Item]]:
    """Batches of what has arrived: a slow pipe is answered line by line, a file 64 at a time.

    field: where a JSON object has its text. None: every line is a text. Input whose first line begins with "{" is
    JSONL, and its empty lines are passed over. Raises `InputError`.
    """
    is_jsonl: bool | None = None if field else False
    batch: list[Item] = []
    number = 0
    for lines in _arriving_lines(descriptor):
        for line in lines:
            number += 1
            text = _decode(line, number)
            if is_jsonl is None and text.strip():
                is_jsonl = text.lstrip().startswith("{")
            if is_jsonl and field:
                if text.strip():
                    batch.append(_parse(text, field, number))
            else:
                batch.append(Item(text, {}))
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch
            batch = []


def _arriving_lines(descriptor: int) -> Iterator[list[bytes]]:
    rest = b""
    while chunk := os.read(descriptor, _READ_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines
    if rest:
        yield [rest]


def _decode(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"line {number}: not UTF-8 (byte {error.start}); convert it, e.g. with iconv") from None


def _parse(line: str, field: str, number: int) -> Item:
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"line {number}: not JSON ({error}); --lines takes every line as text") from None
    text = record.get(field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise InputError(f"line {number}: no text under {field!r}; name its field with --field")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"line {number}: a lone surrogate is not text") from None
    return Item(text, record)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def count_lines(path: Path) -> int:
    """Lines of a file, for a progress bar."""
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
