"""Tokenized text: the token ids of many documents, in memory or in a file that is mapped into it, and their counts."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from models.documents.text import Document, pieces
from models.text.tokenizer import Tokenizer
from models.text.words import words_in
from training.progress import Advance, ignore
from training.sealed import DamagedError

MOST_UNKNOWN = 500_000
"""Different unknown words of a text that are remembered."""

SUFFIX, COUNTS = ".ids", ".json"


@dataclass(frozen=True)
class TokenizedText:
    """Token ids of documents one after the other, each closed by `<eos>`.

    ids: (N,), of the smallest integer type that holds the vocabulary. starts: where each document begins. characters,
    words: of the text, for the figures that are counted per character or per word. sentences: tokens that are `<eos>`.
    oov: tokens that are `<unk>`. unknown: the words that these stand for, as written, and how often each; where tokens
    are words. forgotten: occurrences of unknown words that `unknown` leaves out: it has at most `MOST_UNKNOWN` words.
    """

    ids: Tensor
    starts: list[int] = field(default_factory=list)
    characters: int = 0
    words: int = 0
    sentences: int = 0
    oov: int = 0
    unknown: dict[str, int] = field(default_factory=dict)
    forgotten: int = 0

    def documents(self) -> list[Tensor]:
        """The ids of each document, (n,)."""
        return [self.ids[a:b] for a, b in pairwise([*self.starts, len(self.ids)])]


def tokenize(
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    path: Path | None = None,
    on_text: Advance = ignore,
) -> TokenizedText:
    """Token ids of documents. path: the file to keep them in, without suffix; None: in memory. on_text: called with
    the characters of each piece."""
    kind = _smallest_type(len(tokenizer))
    parts: list[np.ndarray[Any, Any]] = []
    file = path.with_suffix(SUFFIX).open("wb") if path else None
    starts, position = list[int](), 0
    characters = words = sentences = oov = forgotten = 0
    unknown: Counter[str] = Counter()
    try:
        for document in documents:
            starts.append(position)
            for text, is_last in _with_last(pieces(document)):
                encoded, left_out = (
                    tokenizer.encode_noting(text) if tokenizer.rules.has_words else (tokenizer.encode_ids(text), [])
                )
                if is_last and not tokenizer.ends_in_boundary(text):
                    encoded.append(tokenizer.eos_id)
                ids = np.array(encoded, dtype=kind)
                _keep(ids, parts, file)
                position += len(ids)
                characters += len(text)
                words += len(words_in(text))
                sentences += int((ids == tokenizer.eos_id).sum())
                oov += int((ids == tokenizer.unk_id).sum())
                counted = left_out
                if len(unknown) >= MOST_UNKNOWN:
                    counted = [word for word in left_out if word in unknown]
                unknown.update(counted)
                forgotten += len(left_out) - len(counted)
                on_text(len(text))
    finally:
        if file:
            file.close()
    counts = (starts, characters, words, sentences, oov, dict(unknown), forgotten)
    if path is None:
        return TokenizedText(torch.from_numpy(np.concatenate([np.zeros(0, kind), *parts])), *counts)
    text_of_counts = json.dumps(
        {**asdict(TokenizedText(torch.zeros(0), *counts)), "ids": {"type": kind.name, "count": position}}
    )
    path.with_suffix(COUNTS).write_text(text_of_counts, encoding="utf-8")
    return load_tokenized(path)


def load_tokenized(path: Path) -> TokenizedText:
    """What `tokenize` has written to `path`; the ids stay in their file. Raises `DamagedError`."""
    counts, tokens = path.with_suffix(COUNTS), path.with_suffix(SUFFIX)
    try:
        values = json.loads(counts.read_text(encoding="utf-8"))
        kind, count = np.dtype(values["ids"]["type"]), int(values["ids"]["count"])
        text = TokenizedText(**values | {"ids": torch.zeros(0)})
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedError(counts, f"is damaged ({error})") from None
    has, needed = tokens.stat().st_size, kind.itemsize * count
    if has != needed:
        raise DamagedError(tokens, f"is damaged: it has {has} bytes, not {needed}")
    ids = np.memmap(tokens, kind, "c", shape=(count,)) if count else np.zeros(0, kind)
    return replace(text, ids=torch.from_numpy(ids))


def positions_of(token_id: int, ids: Tensor, block: int = 1 << 26) -> Tensor:
    """The positions of a token, (n,), int64, without a copy of all ids."""
    found = [torch.nonzero(ids[at : at + block] == token_id).flatten() + at for at in range(0, len(ids), block)]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


def _smallest_type(vocabulary_size: int) -> np.dtype[Any]:
    return np.dtype("uint8" if vocabulary_size <= 1 << 8 else "int16" if vocabulary_size <= 1 << 15 else "int32")


def _keep(ids: np.ndarray[Any, Any], parts: list[np.ndarray[Any, Any]], file: IO[bytes] | None) -> None:
    if file is None:
        parts.append(ids)
    else:
        ids.tofile(file)


def _with_last(texts: Iterator[str]) -> Iterator[tuple[str, bool]]:
    """Each text, and whether it is the last one. Of no texts: one empty text."""
    held = next(texts, "")
    for text in texts:
        yield held, False
        held = text
    yield held, True
