"""Which text is trained on, and which is held out."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.documents.text import (
    TEXT_SUFFIXES,
    CorpusError,
    Document,
    cut,
    is_blank,
    pieces,
    size,
    unwrapped,
    whole_file,
)
from models.text.levels import LEVELS, Level
from models.text.tokenizer import BOUNDARIES, NORMALIZATIONS, Boundary, Normalization

Part = Literal["start", "end"]

MOST_HELD_OUT = 10_000_000
"""Bytes held out of a large text by itself: enough to tell, and not hours of evaluation."""


@dataclass(frozen=True)
class CorpusConfig:
    """How text becomes tokens. None: chosen from the corpus (training/defaults.py)."""

    level: Level | None = None
    boundary: Boundary | None = None
    vocabulary_size: int | None = None
    min_count: int | None = None
    normalization: Normalization = "none"
    """`speech`: lower case without punctuation, as speech recognisers write; the tokenizer reads all text so."""
    unwrap: bool | None = None
    """Join the lines of a paragraph, for texts wrapped at a fixed width with an empty line between paragraphs."""
    test_unwrap: bool = False
    """Do so for the test text alone, where it is laid out unlike the others."""
    shuffle_lines: bool | None = None
    """Every line stands alone, as in a list of names: put the lines in a random order (always the same) before any are
    held out. A sorted list would be validated on letters never seen, and each name would give away the next."""
    valid_fraction: float = 0.05
    test_fraction: float = 0.05
    valid_part: Part = "end"
    """Which end of the text is held out for validation. `start` where the text before the test text should be trained
    on, as with a collection whose last work would otherwise be held out altogether."""

    def __post_init__(self) -> None:
        if self.level is not None and self.level not in LEVELS:
            raise ValueError(f"level: {self.level!r} is not one of {', '.join(LEVELS)}")
        if self.boundary is not None and self.boundary not in BOUNDARIES:
            raise ValueError(f"boundary: {self.boundary!r} is not one of {', '.join(BOUNDARIES)}")
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization: {self.normalization!r} is not one of {', '.join(NORMALIZATIONS)}")
        if self.normalization != "none" and self.level not in (None, "split"):
            raise ValueError("normalization: without punctuation words are what stands between spaces: level split")
        for name in ("vocabulary_size", "min_count"):
            value = getattr(self, name)
            if value is not None and value < (3 if name == "vocabulary_size" else 1):
                raise ValueError(f"{name}: {value} is too small")
        if not (0 < self.valid_fraction < 1 and 0 <= self.test_fraction < 1):
            raise ValueError("valid_fraction and test_fraction are shares of the corpus, between 0 and 1")
        if self.valid_fraction + self.test_fraction > 0.5:
            raise ValueError("valid_fraction and test_fraction together leave less than half of the corpus to train on")


@dataclass(frozen=True)
class Texts:
    """The documents of each split."""

    train: list[Document]
    valid: list[Document]
    test: list[Document]


def find_files(paths: Sequence[Path]) -> list[Path]:
    """Files as named, and the text files below folders in the order of their names. Raises `CorpusError`."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in TEXT_SUFFIXES)
            if not found:
                raise CorpusError(f"{path}: no text files in this folder (looked for *{', *'.join(TEXT_SUFFIXES)})")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise CorpusError(f"{path}: no such file or folder")
    return list(dict.fromkeys(files))


def read_files(
    train: Sequence[Path], valid: Sequence[Path], test: Sequence[Path], exclude: Sequence[str] = ()
) -> tuple[Texts, dict[str, list[Path]]]:
    """The files' texts as they are, and the files of each split.

    A file given to be held out is never trained on, also when it lies in a folder of the training text. `exclude` are
    patterns (`*.md`, `drafts/*`) of files to leave out of the training text.
    """
    files = {"valid": find_files(valid), "test": find_files(test)}
    held_out = {file.resolve() for file in (*files["valid"], *files["test"])}
    files["train"] = [
        file
        for file in find_files(train)
        if file.resolve() not in held_out and not any(file.match(pattern) for pattern in exclude)
    ]
    if not files["train"]:
        raise CorpusError("nothing is left to train on: every file is validation or test text, or excluded")
    texts: dict[str, list[Document]] = {}
    for name, found in files.items():
        texts[name] = [document for document in map(whole_file, found) if not is_blank(document)]
        if found and not texts[name]:
            raise CorpusError(f"{found[0]}: is empty; there is nothing to read in the {name} text")
    return Texts(**texts), files


def make_splits(texts: Texts, config: CorpusConfig) -> Texts:
    """Lay the texts out as `config` says, and hold out of the training text the splits that were not given.

    What is held out by itself are whole documents when there are enough of them, else the end of the text.
    """
    train, valid, test = texts.train, texts.valid, texts.test
    if config.unwrap:
        train, valid = [unwrapped(text) for text in train], [unwrapped(text) for text in valid]
    if config.unwrap or config.test_unwrap:
        test = [unwrapped(text) for text in test]
    if config.shuffle_lines:
        contents = ("".join(pieces(document)) for document in train)
        train = [shuffle_lines("".join(text if text.endswith("\n") else text + "\n" for text in contents))]
    most = MOST_HELD_OUT / max(1, sum(map(size, train)))
    valid_fraction, test_fraction = min(config.valid_fraction, most), min(config.test_fraction, most)
    if not test and test_fraction:
        train, test = hold_out(train, test_fraction)
        valid_fraction /= 1 - test_fraction  # a share of the whole corpus, not of the rest
    if not valid:
        train, valid = hold_out(train, valid_fraction, config.valid_part)
    return Texts(train, valid, test)


def shuffle_lines(text: str) -> str:
    """The lines that are not empty, in an order that depends on the text alone."""
    lines = [line for line in text.split("\n") if line.strip()]
    random.Random(0).shuffle(lines)
    return "".join(line + "\n" for line in lines)


def hold_out(
    documents: Sequence[Document], fraction: float, part: Part = "end"
) -> tuple[list[Document], list[Document]]:
    """(the rest, about `fraction` of the text): whole documents, evenly spread, or one end of the text.

    Never at random inside running text: neighbouring lines would be in both parts.
    """
    total = sum(map(size, documents))
    every = round(1 / fraction)
    spread = list(documents[every // 2 :: every])
    share = sum(map(size, spread)) / max(total, 1)
    if len(documents) >= 20 and 0.3 * fraction < share < 3 * fraction:
        chosen = set(range(every // 2, len(documents), every))
        return [text for i, text in enumerate(documents) if i not in chosen], spread
    if part == "end":
        rest, held = _cut(documents, total - int(total * fraction))
    else:
        held, rest = _cut(documents, int(total * fraction))
    if not rest or not held:
        raise CorpusError(
            "the text is too short to hold a validation part out of it; give more text, or name a validation text"
        )
    return rest, held


def _cut(documents: Sequence[Document], position: int) -> tuple[list[Document], list[Document]]:
    """The text before and after about `position`; one document is cut in two."""
    before, after = list[Document](), list[Document]()
    for document in documents:
        first, second = cut(document, position)
        before += [first] if size(first) and not is_blank(first) else []
        after += [second] if size(second) and not is_blank(second) else []
        position -= size(document)
    return before, after
