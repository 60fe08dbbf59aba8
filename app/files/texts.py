"""Texts to score, from lines or from JSONL."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from app.files.lines import InputError, arriving_lines, decode, parse_record

BATCH, BATCH_CHARACTERS = 64, 200_000
"""Most texts, and most characters, that are scored together."""


class Item(NamedTuple):
    """A text, and the JSON record that contained it."""

    text: str
    record: dict[str, Any]


def read_batches(descriptor: int, field: str | None) -> Iterator[list[Item]]:
    """Batches of what has arrived: a slow pipe is answered line by line, a file 64 at a time.

    field: name of the field that holds the text of a JSON object; None: every line is a text. Input whose first line
    begins with "{" is JSONL, and its empty lines are skipped. Raises `InputError`.
    """
    is_jsonl: bool | None = None if field else False
    batch: list[Item] = []
    empty = 0  # lines before the first line that shows whether the input is JSONL
    number = characters = 0
    for lines in arriving_lines(descriptor):
        for line in lines:
            number += 1
            try:
                text = decode(line, number)
                if is_jsonl is None and not text.strip():
                    empty += 1
                    continue
                if is_jsonl is None:
                    is_jsonl = text.lstrip().startswith("{")
                    batch += [] if is_jsonl else [Item("", {})] * empty
                if not is_jsonl:
                    batch.append(Item(text, {}))
                elif text.strip():
                    batch.append(_parse(text, field or "", number))
            except InputError:
                if batch:
                    yield batch
                raise
            characters += len(text)
            if len(batch) >= BATCH or characters >= BATCH_CHARACTERS:
                if batch:
                    yield batch
                batch, characters = [], 0
        if batch:
            yield batch
            batch, characters = [], 0
    if is_jsonl is None and empty:
        yield [Item("", {})] * empty


def _parse(line: str, field: str, number: int) -> Item:
    record = parse_record(line, number, "; --lines takes every line as text")
    text = record.get(field)
    if not isinstance(text, str):
        raise InputError(f"line {number}: no text under {field!r}; name its field with --field")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"line {number}: a lone surrogate is not text") from None
    return Item(text, record)
