"""Text files to token ids: which text is trained on, which is held out, and the vocabulary of the first alone."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.tokenizer import BOUNDARIES, LEVELS, Boundary, Level, Tokenizer

Part = Literal["start", "end"]

TEXT_SUFFIXES = (".txt", ".text", ".md")
"""What is read of a folder; a file named outright may be called anything."""


class CorpusError(ValueError):
    """A corpus that cannot be trained on, with what to do about it."""


@dataclass(frozen=True)
class CorpusConfig:
    """How text becomes tokens. None: chosen from the corpus (training/defaults.py)."""

    level: Level | None = None
    boundary: Boundary | None = None
    vocabulary_size: int | None = None
    min_count: int | None = None
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
    """The documents of each split, as text."""

    train: list[str]
    valid: list[str]
    test: list[str]


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


def read_text(path: Path, unwrap: bool = False) -> str:
    """A UTF-8 file with any line ends. Raises `CorpusError` when it is not text."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from None
    if b"\0" in data:
        raise CorpusError(f"{path}: looks like a binary file, or UTF-16 text (it holds zero bytes); give UTF-8 text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}: not UTF-8 text (byte {error.start}); convert it, e.g. iconv -f latin1 -t utf-8"
        ) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return unwrap_lines(text) if unwrap else text


def unwrap_lines(text: str) -> str:
    """One paragraph a line: lines that follow each other are joined, empty lines between paragraphs are dropped."""
    paragraphs: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.strip():
            paragraphs[-1].append(line.strip())
        elif paragraphs[-1]:
            paragraphs.append([])
    return "".join(" ".join(lines) + "\n" for lines in paragraphs if lines)


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
    texts = {name: [read_text(file) for file in found] for name, found in files.items()}
    for name, documents in texts.items():
        texts[name] = [text for text in documents if text.strip()]
        if files[name] and not texts[name]:
            raise CorpusError(f"{files[name][0]}: is empty; there is nothing to read in the {name} text")
    return Texts(**texts), files


def make_splits(texts: Texts, config: CorpusConfig) -> Texts:
    """Lay the texts out as `config` says, and hold out of the training text the splits that were not given.

    What is held out by itself are whole documents when there are enough of them, else the end of the text.
    """
    train, valid, test = texts.train, texts.valid, texts.test
    if config.unwrap:
        train, valid = [unwrap_lines(text) for text in train], [unwrap_lines(text) for text in valid]
    if config.unwrap or config.test_unwrap:
        test = [unwrap_lines(text) for text in test]
    if config.shuffle_lines:
        train = [shuffle_lines("".join(text if text.endswith("\n") else text + "\n" for text in train))]
    valid_fraction = config.valid_fraction
    if not test and config.test_fraction:
        train, test = hold_out(train, config.test_fraction)
        valid_fraction /= 1 - config.test_fraction  # a share of the whole corpus, not of the rest
    if not valid:
        train, valid = hold_out(train, valid_fraction, config.valid_part)
    return Texts(train, valid, test)


def shuffle_lines(text: str) -> str:
    """The lines that are not empty, in an order that depends on the text alone."""
    lines = [line for line in text.split("\n") if line.strip()]
    random.Random(0).shuffle(lines)
    return "".join(line + "\n" for line in lines)


def hold_out(documents: list[str], fraction: float, part: Part = "end") -> tuple[list[str], list[str]]:
    """(the rest, about `fraction` of the characters): whole documents, evenly spread, or one end of the text.

    Never at random inside running text: neighbouring lines would be in both parts.
    """
    total = sum(map(len, documents))
    every = round(1 / fraction)
    spread = documents[every // 2 :: every]
    share = sum(map(len, spread)) / max(total, 1)
    if len(documents) >= 20 and 0.3 * fraction < share < 3 * fraction:
        chosen = set(range(every // 2, len(documents), every))
        return [text for i, text in enumerate(documents) if i not in chosen], spread
    if part == "end":
        rest, held = _cut(documents, total - int(total * fraction))
    else:
        held, rest = _cut(documents, int(total * fraction))
    if not rest or not held:
        raise CorpusError("the text is too short to hold a validation part out of it; give more text, or --valid FILE")
    return rest, held


def _cut(documents: list[str], position: int) -> tuple[list[str], list[str]]:
    """The text before and after about `position` characters; one document is cut in two."""
    before, after = list[str](), list[str]()
    for text in documents:
        cut = len(text) if len(text) <= position else _cut_position(text, position) if position > 0 else 0
        before.append(text[:cut])
        after.append(text[cut:])
        position -= len(text)
    return [text for text in before if text.strip()], [text for text in after if text.strip()]


def _cut_position(text: str, position: int) -> int:
    """The start of the next line after `position`, or of the next word when the text is one line."""
    line_end = text.find("\n", position)
    if 0 <= line_end < len(text) - 1:
        return line_end + 1
    space = text.find(" ", position)
    return space if 0 <= space < len(text) - 1 else position


@dataclass(frozen=True)
class Split:
    """Token ids of one split: documents one after the other, each closed by `<eos>`.

    ids: (N,), int32. starts: (D,), int64, where each document begins. characters, words: of the text, for the figures
    that are counted per character or per word.
    """

    ids: Tensor
    starts: Tensor
    characters: int
    words: int

    def documents(self) -> list[Tensor]:
        """One (n,) int64 tensor a document."""
        bounds = [*self.starts.tolist(), len(self.ids)]
        return [self.ids[a:b].long() for a, b in pairwise(bounds)]


def tokenize(
    documents: Sequence[str], tokenizer: Tokenizer, progress: Callable[[Iterable[str]], Iterable[str]] = iter
) -> Split:
    """Token ids of documents. An empty list gives an empty split."""
    parts, starts, position = [torch.zeros(0, dtype=torch.int32)], list[int](), 0
    for text in progress(documents):
        part = torch.tensor(tokenizer.encode_document(text), dtype=torch.int32)
        starts.append(position)
        position += len(part)
        parts.append(part)
    return Split(
        torch.cat(parts),
        torch.tensor(starts, dtype=torch.int64),
        characters=sum(map(len, documents)),
        words=sum(len(text.split()) for text in documents),
    )


def save_splits(splits: dict[str, Split], path: Path) -> None:
    """Write tokenized splits, so that a resumed run does not depend on the text files."""
    tensors = {f"{name}.ids": split.ids for name, split in splits.items()}
    tensors |= {f"{name}.starts": split.starts for name, split in splits.items()}
    counts = {f"{name}.{what}": str(getattr(split, what)) for name, split in splits.items() for what in _COUNTS}
    save_file(tensors, path, metadata=counts)


def load_splits(path: Path) -> dict[str, Split]:
    """Inverse of `save_splits`."""
    with safe_open(path, framework="pt") as file:
        counts = file.metadata()
        keys = set(file.keys())
        names = [name for name in ("train", "valid", "test") if f"{name}.ids" in keys]
        return {
            name: Split(
                file.get_tensor(f"{name}.ids"),
                file.get_tensor(f"{name}.starts"),
                *(int(counts[f"{name}.{what}"]) for what in _COUNTS),
            )
            for name in names
        }


_COUNTS = ("characters", "words")
