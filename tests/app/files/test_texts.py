"""Reading texts from lines and from JSONL."""

import os

import pytest

from app.files.lines import InputError
from app.files.texts import read_batches


def batches_of(content: bytes, field: str | None = "text") -> list[str]:
    read, write = os.pipe()
    with os.fdopen(write, "wb") as file:
        file.write(content)
    try:
        return [item.text for batch in read_batches(read, field) for item in batch]
    finally:
        os.close(read)


def test_empty_lines_are_texts_but_not_in_jsonl() -> None:
    assert batches_of(b"\n\na\n\nb") == ["", "", "a", "", "b"]
    assert batches_of(b'\n\n{"text": "a"}\n\n{"text": "b"}\n') == ["a", "b"]
    assert batches_of(b"\n\n") == ["", ""]
    assert batches_of(b"") == []
    with pytest.raises(InputError, match="too large for a number"):
        batches_of(b'{"text": "a", "x": 1e999}\n')
