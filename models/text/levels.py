"""What a token is, as objects: whatever differs between the levels is asked of them, and nowhere compared by name.

A new level is one more entry of `LEVELS`. Nothing here knows a vocabulary or a boundary: models/text/tokenizer.py does.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence, Set
from typing import Any, ClassVar, Literal, get_args

import tokenizers
from tokenizers import AddedToken, Regex, decoders, pre_tokenizers, trainers
from tokenizers import models as token_models

Level = Literal["char", "word", "split", "bpe"]

BYTES = 256
UNK = "<unk>"
EOS = "<eos>"

# A word keeps English contractions (don't, we'll) in one piece; the possessive and reduced 's stands alone, so that
# "Emma's" is known when "Emma" is. Other apostrophes are marks. Every character of a text is in exactly one match.
_WORD = (
    r"['’]s(?![\p{L}\p{M}\p{N}])"
    r"| ?[\p{L}\p{M}]+(?:['’](?:t|ll|re|ve|d|m)(?![\p{L}\p{M}\p{N}]))?"
    r"| ?\p{N}+"
    r"| ?(?:-{2,}|\.{3}|[^\s\p{L}\p{M}\p{N}])"
    r"|\s"
)


class LevelRules(ABC):
    """What one level does its own way. The defaults are those of a vocabulary of whole, distinct tokens."""

    name: ClassVar[Level]
    unit: ClassVar[str]
    """How a card names a token."""
    pieces_of_trial: ClassVar[list[str]]
    """How `ab c` is cut: the trial that tells the level of a tokenizer file."""
    has_words: ClassVar[bool] = False
    """Whether a token is a whole word, so that unknown words exist and one distribution answers `/next`."""
    leading_space: ClassVar[bool] = False
    """Whether a word's token brings the space before it along."""
    writes_space: ClassVar[bool] = False
    """Whether a space is written before every token."""
    shows_as_written: ClassVar[bool] = False
    """Whether a token may look otherwise in the text than in the vocabulary, even when it is known."""
    is_characters: ClassVar[bool] = False
    """Whether a token is one code point."""
    sample_tokens: ClassVar[int] = 20
    """Tokens of a sample line during training."""
    card_tokens: ClassVar[int] = 60
    """Tokens of a sample on a card."""
    default_vocabulary_size: ClassVar[int] = 20_000
    default_min_count: ClassVar[int] = 1

    @property
    def space_of_unknown(self) -> str:
        """What stands before `<unk>` when it is written."""
        return " " if self.leading_space or self.writes_space else ""

    def untrained(self) -> tokenizers.Tokenizer:
        """A tokenizer of this level that knows the special tokens alone."""
        inner = tokenizers.Tokenizer(token_models.WordLevel({UNK: 0, EOS: 1}, unk_token=UNK))
        inner.pre_tokenizer = self.pre_tokenizer()
        if not self.writes_space:
            inner.decoder = decoders.Fuse()
        return inner

    @abstractmethod
    def pre_tokenizer(self) -> Any:
        """What cuts a text into pieces."""

    def trainer(self, vocabulary_size: int | None, min_count: int) -> trainers.Trainer:
        """What builds the vocabulary. Raises `ValueError` on a size that cannot be."""
        return trainers.WordLevelTrainer(
            vocab_size=vocabulary_size or 1 << 24,
            min_frequency=min_count,
            special_tokens=self.specials(),
            show_progress=False,
        )

    def specials(self) -> list[AddedToken]:
        """`<unk>` and `<eos>`; where words bring their space along, " <unk>" is one token too."""
        return [
            AddedToken(UNK, special=True, normalized=False, lstrip=self.leading_space),
            AddedToken(EOS, special=True, normalized=False),
        ]

    def surfaces(self, tokens: Sequence[str]) -> list[bytes]:
        """What each token adds to a text, as UTF-8; the special tokens' entries are replaced by the caller."""
        space = " " if self.writes_space else ""
        return [(space + token).encode() for token in tokens]

    def required_tokens(self) -> Set[str]:
        """Tokens that every vocabulary of this level has, the special ones aside."""
        return set()


class Characters(LevelRules):
    name, unit = "char", "character"
    pieces_of_trial: ClassVar = ["a", "b", " ", "c"]
    is_characters = True
    sample_tokens, card_tokens = 80, 300

    def pre_tokenizer(self) -> Any:
        return pre_tokenizers.Split(Regex(r"(?m:.)"), "isolated")


class Words(LevelRules):
    name, unit = "word", "word"
    pieces_of_trial: ClassVar = ["ab", " c"]
    has_words = leading_space = True
    default_min_count = 3

    def pre_tokenizer(self) -> Any:
        return pre_tokenizers.Split(Regex(_WORD), "isolated")


class SplitWords(LevelRules):
    name, unit = "split", "word (split at spaces)"
    pieces_of_trial: ClassVar = ["ab", "c"]
    has_words = writes_space = shows_as_written = True
    default_vocabulary_size = 50_000

    def pre_tokenizer(self) -> Any:
        return pre_tokenizers.WhitespaceSplit()


class Subwords(LevelRules):
    name, unit = "bpe", "subword"
    pieces_of_trial: ClassVar = ["ab", "Ġc"]
    sample_tokens, card_tokens = 30, 300
    default_vocabulary_size = 8_192

    def untrained(self) -> tokenizers.Tokenizer:
        inner = tokenizers.Tokenizer(token_models.BPE())
        inner.pre_tokenizer = self.pre_tokenizer()
        inner.decoder = decoders.ByteLevel()
        return inner

    def pre_tokenizer(self) -> Any:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)

    def trainer(self, vocabulary_size: int | None, min_count: int) -> trainers.Trainer:
        if vocabulary_size is not None and vocabulary_size < BYTES + len(self.specials()):
            raise ValueError(
                f"vocabulary_size: {vocabulary_size} is less than the {BYTES} bytes and {len(self.specials())} symbols "
                "that subwords are made of"
            )
        return trainers.BpeTrainer(
            vocab_size=vocabulary_size or self.default_vocabulary_size,
            min_frequency=min_count,
            special_tokens=self.specials(),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )

    def surfaces(self, tokens: Sequence[str]) -> list[bytes]:
        """A token may hold part of a character."""
        table = _byte_alphabet()
        return [bytes(table[c] for c in token) if token not in (UNK, EOS) else b"" for token in tokens]

    def required_tokens(self) -> Set[str]:
        """A byte without a token would be left out of a text."""
        return _byte_alphabet().keys()


LEVELS: dict[Level, LevelRules] = {rules.name: rules for rules in (Characters(), Words(), SplitWords(), Subwords())}
assert tuple(LEVELS) == get_args(Level)


def _byte_alphabet() -> dict[str, int]:
    """The printable stand-in of each byte in a byte-level vocabulary (Radford et al. 2019, section 2.2), inverted."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
