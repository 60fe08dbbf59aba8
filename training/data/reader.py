"""From the files that a recipe names to tokenized splits and their tokenizer in a run directory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from models.documents.text import CorpusError, Document, pieces, size
from models.text.tokenizer import Tokenizer
from training.data.corpus import CorpusConfig, make_splits, read_files
from training.data.tokens import TokenizedText, tokenize
from training.defaults import choose_corpus, describe
from training.progress import Advance, Progress, no_progress
from training.recipe import Recipe
from training.run import SPLITS, TOKENIZER

FEWEST_TOKENS = 64
"""No training takes a text with fewer tokens."""


def read_corpus(
    recipe: Recipe,
    data: Path,
    directory: Path,
    tokenizer: Tokenizer | None = None,
    progress: Progress = no_progress,
) -> tuple[CorpusConfig, Tokenizer, dict[str, TokenizedText], dict[str, list[Path]]]:
    """Tokenizes the text of a recipe into `directory` and saves the tokenizer beside it.

    data: the folder that the recipe's paths start from. tokenizer: None builds its vocabulary from the training text.
    Returns the configuration with nothing left to choose, the tokenizer, the splits by name, and the files of each.
    Raises `CorpusError`.
    """
    sources = recipe.sources
    if not sources.train:
        raise CorpusError("no text to train on: name files or folders, or a recipe that does")
    train, validation, test = (
        [data / path for path in paths] for paths in (sources.train, sources.valid, sources.test)
    )
    documents, files = read_files(train, validation, test, sources.exclude)
    corpus = choose_corpus(recipe.corpus, describe(documents.train))
    documents = make_splits(documents, corpus)
    total = sum(map(size, documents.train))
    if tokenizer is None:
        with progress("building the vocabulary", total) as advance:
            tokenizer = _new_tokenizer(documents.train, corpus, advance)
    tokenizer.save(directory / TOKENIZER)
    with progress("tokenizing", total) as advance:
        splits = {
            name: tokenize(getattr(documents, name), tokenizer, directory / stem, advance)
            for name, stem in SPLITS.items()
        }
    if len(splits["train"].ids) < FEWEST_TOKENS:
        unit = "characters" if tokenizer.rules.is_characters else "words"
        raise CorpusError(
            f"{len(splits['train'].ids)} tokens of training text are too few to learn from; "
            f"give at least some thousand {unit}"
        )
    return corpus, tokenizer, splits, files


def _new_tokenizer(documents: Sequence[Document], corpus: CorpusConfig, advance: Advance) -> Tokenizer:
    assert corpus.level is not None
    assert corpus.boundary is not None
    return Tokenizer.train(
        _pieces(documents, advance),
        corpus.level,
        corpus.boundary,
        corpus.vocabulary_size,
        corpus.min_count or 1,
        corpus.normalization,
    )


def _pieces(documents: Sequence[Document], advance: Advance) -> Iterator[str]:
    """The pieces of all documents; calls `advance` with the characters of each."""
    for document in documents:
        for piece in pieces(document):
            yield piece
            advance(len(piece))
