"""Which text is trained on, and which is held out."""

import random
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.documents.readers import find_files, read_documents
from models.documents.text import CorpusError, Document, cut, is_blank, pieces, size, unwrapped
from models.text.levels import LEVELS, Level
from models.text.tokenizer import BOUNDARIES, NORMALIZATIONS, Boundary, Normalization

Part = Literal["start", "end"]

MOST_HELD_OUT = 10_000_000
"""Bytes that are held out of a large text where no held-out text is named: more would take hours to evaluate."""


@dataclass(frozen=True)
class CorpusConfig:
    """How text becomes tokens. None: chosen from the corpus (training/defaults.py)."""

    level: Level | None = None
    """What a token is: a character, a word, what stands between spaces, or a subword."""
    boundary: Boundary | None = None
    """What ends with <eos>."""
    vocabulary_size: int | None = None
    """Most types in the vocabulary, the two special ones included; the commonest are kept."""
    min_count: int | None = None
    """Types that occur less often than this are <unk>."""
    normalization: Normalization = "none"
    """speech: lower case without punctuation, as speech recognisers write. The tokenizer then reads every text so."""
    unwrap: bool | None = None
    """Join the lines of a paragraph, in texts wrapped at a fixed width. Empty lines stand between paragraphs."""
    test_unwrap: bool = False
    """Join the lines of paragraphs in the test text alone, where its layout differs from the other texts."""
    shuffle_lines: bool | None = None
    """Every line stands alone, as in a list of names: shuffle the lines before any are held out. The order is always
    the same. In a sorted list, validation names would begin with letters that are never seen in training."""
    drop_repeats: bool | None = None
    """Leave out of held-out text the paragraphs that stand in the training text too, by half their characters: they
    would be predicted by heart."""
    valid_fraction: float = 0.05
    """Share of the text that is held out for validation, if no validation text is named."""
    test_fraction: float = 0.05
    """Share of the text that is held out for the test, if no test text is named."""
    valid_part: Part = "end"
    """Which end of the text is held out for validation. With `start`, the text before the test text is trained on, as
    a collection needs whose last work would otherwise be held out altogether."""

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
class SplitDocuments:
    """The documents of each split: what is trained on, and what is held out."""

    train: list[Document]
    validation: list[Document]
    test: list[Document]


def read_files(
    train: Sequence[Path], validation: Sequence[Path], test: Sequence[Path], exclude: Sequence[str] = ()
) -> tuple[SplitDocuments, dict[str, list[Path]]]:
    """The documents of the files as they are, and the files of each split.

    A held-out file is never trained on, also when it lies in a folder of the training text. exclude: patterns (`*.md`,
    `drafts/*`) of files to leave out of the training text.
    """
    files = {"validation": find_files(validation), "test": find_files(test)}
    files["train"] = included(train, exclude, (*files["validation"], *files["test"]))
    if not files["train"]:
        raise CorpusError("nothing is left to train on: every file is validation or test text, or excluded")
    documents: dict[str, list[Document]] = {}
    for name, found in files.items():
        documents[name] = [document for document in read_documents(found) if not is_blank(document)]
        if found and not documents[name]:
            raise CorpusError(f"{found[0]}: is empty; there is nothing to read in the {name} text")
    return SplitDocuments(**documents), files


def included(paths: Sequence[Path], exclude: Sequence[str] | None, held_out: Sequence[Path] = ()) -> list[Path]:
    """The files below `paths` that match no pattern of `exclude` and are not held out."""
    apart = {file.resolve() for file in held_out}
    return [
        file
        for file in find_files(paths)
        if file.resolve() not in apart and not any(file.match(pattern) for pattern in exclude or ())
    ]


def make_splits(documents: SplitDocuments, config: CorpusConfig) -> SplitDocuments:
    """Lays the documents out as `config` says, and holds out of the training text the splits that are empty.

    These get whole documents where there are enough of them, else an end of the text.
    """
    train, validation, test = documents.train, documents.validation, documents.test
    if config.unwrap:
        train, validation = [unwrapped(text) for text in train], [unwrapped(text) for text in validation]
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
    if not validation:
        train, validation = hold_out(train, valid_fraction, config.valid_part)
    if config.drop_repeats:
        seen = {clause for document in train for piece in pieces(document) for clause in _CLAUSES.split(piece)}
        validation = validation if documents.validation else _without_repeats(validation, seen)
        test = test if documents.test else _without_repeats(test, seen)
    return SplitDocuments(train, validation, test)


_CLAUSES = re.compile(r"[^\w' ]+")


def _without_repeats(held_out: Sequence[Document], seen: Set[str]) -> list[Document]:
    """The paragraphs less than half of whose characters stand in clauses that were seen, lines and punctuation
    apart; all paragraphs, where none would be left."""
    kept: list[Document] = []
    for document in held_out:
        paragraphs = [text for text in "".join(pieces(document)).strip("\n").split("\n\n") if text.strip()]
        new = [text for text in paragraphs if 2 * sum(len(x) for x in _CLAUSES.split(text) if x in seen) < len(text)]
        kept += ["\n\n".join(new) + "\n"] if new else []
    return kept or list(held_out)


def shuffle_lines(text: str) -> str:
    """The lines that are not empty, in an order that depends on the text alone."""
    lines = [line for line in text.split("\n") if line.strip()]
    random.Random(0).shuffle(lines)
    return "".join(line + "\n" for line in lines)


def hold_out(
    documents: Sequence[Document], fraction: float, part: Part = "end"
) -> tuple[list[Document], list[Document]]:
    """(the rest, about `fraction` of the text). Whole documents are held out, evenly spread, or one end of the text.

    Lines of running text are never chosen at random: neighbouring lines would be in both parts.
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
    """The text before and after about `position`; a document there is cut in two."""
    before, after = list[Document](), list[Document]()
    for document in documents:
        first, second = cut(document, position)
        before += [first] if size(first) and not is_blank(first) else []
        after += [second] if size(second) and not is_blank(second) else []
        position -= size(document)
    return before, after
