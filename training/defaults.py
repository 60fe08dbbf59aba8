"""Sensible choices where the user has made none: pure functions of what was measured in the text.

What is chosen, and why:

- Characters or words. A word model needs every word often enough to learn it: that takes some millions of characters,
  and spaces between the words. Below that, and for Chinese or Japanese, characters say more with less. Text that
  already holds `<unk>` is pre-tokenized, and is split at its spaces.
- The boundary. One item a line with no empty lines between: `line`. Running text for a character model: `document`,
  with line ends as ordinary characters. For a word model, whichever of line and paragraph the text is laid out in;
  lines wrapped at a fixed width are joined, since where they break means nothing.
- Short items that stand alone (names, words, molecules) are shuffled and read in random windows, because no item is
  the context of the next.
- The network grows with the text, and dropout with parameters per training token.
- Steps: as many as fit into about ten minutes on two cores, and no more than `MAX_EPOCHS` readings of the text. They
  are a number of steps, not of minutes, so that the same command gives the same model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from models.config import NetworkConfig
from models.documents.text import Document, head, size
from models.network import LanguageModel
from models.text.levels import LEVELS, Level
from models.text.tokenizer import Boundary
from training.config import TrainingConfig
from training.data.corpus import CorpusConfig
from training.estimate import seconds_per_token

SAMPLE_CHARACTERS = 2_000_000
WORD_LEVEL_CHARACTERS = 5_000_000
BUDGET_SECONDS, BUDGET_CORES = 600, 2
MAX_EPOCHS = 40

SMALL_TOKENS, SMALL_EPOCHS = 600_000, 120
"""A text this small is read more often, in small batches, by a network that noise keeps from learning it by heart; the
validation ends it."""
SMALL_SECONDS_PER_TOKEN = 6e-5
"""Small batches do not keep the cores busy: 16,000 tokens a second."""
SMALL_TRAINING: Mapping[str, Any] = {
    "dropout": 0.5,
    "learning_rate": 4e-3,
    "weight_decay": 0.1,
    "averaging": "ema",
    "patience": 15,
}


PUNCTUATION = tuple(".,;:!?…。，、；：！？")


@dataclass(frozen=True)
class TextShape:
    """The measurements that the choices depend on; all but `characters` (of files: bytes) are of a sample.

    line_length: mean over lines that are not empty. empty_lines: their share of all lines. spaces: share of
    characters. punctuated: share of lines that end in punctuation. wrapped: lines are broken at a fixed width.
    pretokenized: the text holds `<unk>` as a word.
    """

    characters: int
    line_length: float
    empty_lines: float
    spaces: float
    alphabet: int
    punctuated: float
    wrapped: bool
    pretokenized: bool

    @property
    def is_list(self) -> bool:
        """Whether each line is an item."""
        return self.empty_lines < 0.02 and self.line_length <= 200 and not self.wrapped

    @property
    def is_list_of_short_items(self) -> bool:
        """Whether the items are like names or molecules, unlike verse, where a line continues the line before it."""
        return self.is_list and self.line_length <= 60 and self.spaces < 0.12 and self.punctuated < 0.2

    @property
    def has_short_paragraphs(self) -> bool:
        """Whether empty lines separate items like poems, verses or speeches."""
        return self.empty_lines >= 0.05 and self.line_length <= 100 and not self.wrapped


def describe(documents: Sequence[Document]) -> TextShape:
    """Measures the layout of a text on a sample of it."""
    share = max(20_000, SAMPLE_CHARACTERS // max(1, len(documents)))
    sample = "\n".join(head(document, share) for document in documents)[:SAMPLE_CHARACTERS]
    lines = sample.rstrip("\n").split("\n")
    filled = [line.strip() for line in lines if line.strip()] or [""]
    lengths = sorted(map(len, filled))
    return TextShape(
        characters=sum(map(size, documents)),
        line_length=sum(lengths) / len(lengths),
        empty_lines=sum(not line.strip() for line in lines) / len(lines),
        spaces=sample.count(" ") / max(1, len(sample)),
        alphabet=len(set(sample)),
        punctuated=sum(line.endswith(PUNCTUATION) for line in filled) / len(filled),
        wrapped=_is_wrapped(lengths),
        pretokenized=sample.count(" <unk> ") > len(sample) / 20_000,
    )


def _is_wrapped(lengths: list[int]) -> bool:
    """Whether most lines are nearly as long as the longest, and those as long as a line of print. lengths: sorted."""
    if len(lengths) < 20:
        return False
    longest = lengths[int(0.98 * (len(lengths) - 1))]
    return 50 <= longest <= 100 and median(lengths) >= 0.85 * longest


def choose_corpus(asked: CorpusConfig, shape: TextShape) -> CorpusConfig:
    """Replaces every None of a configuration by a choice."""
    level = asked.level or ("split" if asked.normalization == "speech" else _level(shape))
    rules = LEVELS[level]
    unwrap = asked.unwrap
    if unwrap is None:
        prose = not (rules.is_characters or rules.writes_space) or asked.normalization == "speech"
        unwrap = prose and shape.wrapped and shape.empty_lines > 0 and asked.boundary is None
    shuffle = asked.shuffle_lines
    if shuffle is None:
        shuffle = shape.is_list_of_short_items and rules.is_characters and asked.boundary in (None, "line")
    boundary = asked.boundary or ("line" if unwrap or shuffle else _boundary(level, shape))
    repeats = asked.drop_repeats
    if repeats is None:
        repeats = asked.boundary is None and boundary == "paragraph" and shape.characters < WORD_LEVEL_CHARACTERS
    min_count, size = rules.default_min_count, rules.default_vocabulary_size
    if rules.is_characters and shape.alphabet > 300:
        min_count = 2
    if asked.normalization == "speech":
        min_count, size = 3, 20_000
    return replace(
        asked,
        level=level,
        boundary=boundary,
        unwrap=unwrap,
        shuffle_lines=shuffle,
        drop_repeats=repeats,
        vocabulary_size=asked.vocabulary_size or size,
        min_count=asked.min_count or min_count,
    )


def _level(shape: TextShape) -> Level:
    if shape.pretokenized:
        return "split"
    has_words = shape.spaces > 0.05 and not shape.is_list_of_short_items
    return "word" if has_words and shape.characters >= WORD_LEVEL_CHARACTERS else "char"


def _boundary(level: Level, shape: TextShape) -> Boundary:
    if shape.is_list or LEVELS[level].writes_space:
        return "line"
    if LEVELS[level].is_characters:
        return "paragraph" if shape.has_short_paragraphs else "document"
    return "paragraph" if shape.empty_lines >= 0.02 else "line"


def choose_network(asked: Mapping[str, Any], level: Level, vocabulary_size: int, train_tokens: int) -> NetworkConfig:
    """The network for `train_tokens` tokens of training text. asked: fields that the user has set."""
    chosen: dict[str, Any] = {"vocabulary_size": vocabulary_size}
    large_vocabulary = vocabulary_size >= 2_000
    if train_tokens < 50_000:
        chosen |= {"embedding_size": 64 if large_vocabulary else 32, "hidden_sizes": (256,)}
    elif train_tokens < 600_000:
        chosen |= {"embedding_size": 128 if large_vocabulary else 64, "hidden_sizes": (256,)}
    else:
        chosen |= {"embedding_size": 256 if large_vocabulary else 64, "hidden_sizes": (512, 512)}
    if "hidden_sizes" not in asked and vocabulary_size >= 500 and train_tokens < SMALL_TOKENS:
        chosen["embedding_size"] = 128  # Chinese or Japanese characters: fewer numbers do not tell them apart
    # With thousands of types the output matrix is most of the model: share it with the embedding.
    chosen["tied"] = large_vocabulary or LEVELS[level].has_words
    if asked.get("one_hot"):
        chosen |= {"embedding_size": vocabulary_size, "tied": False}
    chosen |= asked
    if chosen["tied"] and chosen["hidden_sizes"] and chosen["hidden_sizes"][-1] != chosen["embedding_size"]:
        chosen.setdefault("projection_size", chosen["embedding_size"])
    return NetworkConfig(**chosen)


def choose_training(
    asked: Mapping[str, Any], network: NetworkConfig, train_tokens: int, independent_lines: bool, native_bfloat16: bool
) -> TrainingConfig:
    """How to train `network` on `train_tokens` tokens.

    asked: fields that the user has set. independent_lines: the text is a shuffled list. native_bfloat16: the processor
    has instructions for bfloat16.
    """
    for name in ("batch_size", "bptt_length"):
        if asked.get(name, 1) < 1:
            raise ValueError(f"{name}: {asked[name]} is less than 1")
    with torch.device("meta"):
        parameters = LanguageModel(network).num_parameters()
    bptt_length = 128 if network.vocabulary_size < 2_000 and train_tokens > 500_000 else 64
    bptt_length = asked.get("bptt_length", max(4, min(bptt_length, train_tokens // 16)))
    # At least eight batches an epoch; a large batch uses the cores better, a small one takes more steps.
    batch_size = asked.get("batch_size", max(1, min(64, train_tokens // (8 * bptt_length))))
    careful = "steps" not in asked and train_tokens < SMALL_TOKENS and sum(network.hidden_sizes) <= 512
    if careful:
        tiny = train_tokens < 100_000
        batch_size = asked.get("batch_size", min(batch_size, 16 if tiny else 32))
        bptt_length = asked.get("bptt_length", min(bptt_length, 32 if tiny else 64))
    tokens_per_batch = batch_size * bptt_length
    seconds = seconds_per_token(network, native_bfloat16, BUDGET_CORES)
    if careful:
        seconds = max(seconds, SMALL_SECONDS_PER_TOKEN)
    minutes = asked.get("max_minutes")
    # The clock ends a training whose minutes are given: a machine faster than the estimate shall use them.
    budget = BUDGET_SECONDS if minutes is None else 3 * 60 * minutes
    max_epochs = SMALL_EPOCHS if careful else MAX_EPOCHS
    steps = min(budget / seconds, max_epochs * train_tokens) / tokens_per_batch
    steps = asked.get("steps", max(50, round(steps)))
    epochs = steps * tokens_per_batch / max(1, train_tokens)
    validate_every = max(10, min(500, steps // 40))
    chosen: dict[str, Any] = {
        "steps": steps,
        "batch_size": batch_size,
        "bptt_length": bptt_length,
        "partition": "random" if independent_lines else "sequential",
        "dropout": _dropout(parameters / max(1, train_tokens), epochs),
        "learning_rate": 2e-3 if max(network.hidden_sizes) >= 512 else 4e-3,
        "warmup_steps": min(100, steps // 10),
        "weight_decay": 0.05,
        "validate_every": validate_every,
        "checkpoint_every": min(100, validate_every),
    }
    if careful:
        # With many types most parameters are theirs, and each is seen seldom.
        weight_decay = 0.5 if network.vocabulary_size >= 500 else SMALL_TRAINING["weight_decay"]
        chosen |= {**SMALL_TRAINING, "weight_decay": weight_decay, "validate_every": max(10, min(100, steps // 40))}
    return TrainingConfig(**{**chosen, **asked})


def _dropout(parameters_per_token: float, epochs: float) -> float:
    """A network with many parameters learns a little text by heart without dropout, but not in two readings."""
    if epochs <= 2:
        return 0.0
    steps = ((0.3, 0.0), (1.0, 0.1), (2.5, 0.2), (6.0, 0.3))
    return next((dropout for limit, dropout in steps if parameters_per_token < limit), 0.4)
