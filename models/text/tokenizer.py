"""Text to token ids and back, at four levels, on the `tokenizers` library. No tensors here.

| level   | a token is                                              | unknown text             | decode(encode(text)) |
|---------|---------------------------------------------------------|--------------------------|----------------------|
| `char`  | one Unicode code point                                  | one `<unk>` a code point | text                 |
| `word`  | a word or number with its leading space, or one mark    | one `<unk>` a word       | text                 |
| `split` | what stands between white space (pre-tokenized corpora) | one `<unk>` a word       | words, single-spaced |
| `bpe`   | a byte-level subword (Sennrich et al. 2016, on bytes)   | cannot be                | text                 |

(the last column for text in the vocabulary). Two tokens are special at every level: `<unk>`, and `<eos>`, which stands
where a text has its boundary: after each line, each paragraph, or only at the end of a document. It is also the symbol
that every text starts from.
"""

import codecs
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal, get_args

import tokenizers

from models.text.levels import EOS, LEVELS, UNK, Level
from models.text.reader import RUNS, Known, Reader
from models.text.speech import speech_normalizer
from models.text.tokenizer_file import read_tokenizer

Boundary = Literal["line", "paragraph", "document"]
Normalization = Literal["none", "speech"]

BOUNDARIES: tuple[Boundary, ...] = get_args(Boundary)
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)

BOUNDARY_TEXT: dict[Boundary, str] = {"line": "\n", "paragraph": "\n\n", "document": ""}
"""How a boundary is written in generated text."""

REMEMBERED_TEXTS, REMEMBERED_CHARACTERS = 64, 20_000
"""How many texts, up to which length, need not be cut again when they come again, as prompts do."""

AT_ONCE = 200_000
"""Characters of pieces that are cut together, where they are many: the library needs much memory meanwhile."""

_TRIAL = "The cat's 3rd naïve “wörds” --\n\nمرحبا 你好 🙂\t\x00 e\u0301 <unk> <eos> mr st"
"""What a tokenizer from a file has to be able to read."""

_BOUNDARY_PATTERN: dict[Boundary, re.Pattern[str]] = {"line": re.compile("\n"), "paragraph": re.compile("\n{2,}")}


@dataclass(frozen=True)
class Encoding:
    """Token ids and the code points [start, end) of the text that each stands for."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokenizer:
    """A thin face over a `tokenizers.Tokenizer`, with the level and the boundary that give its tokens their meaning."""

    def __init__(self, inner: tokenizers.Tokenizer, level: Level, boundary: Boundary) -> None:
        """Raises `ValueError` for another level, a missing special token, and ids that are not 0 … V-1."""
        _check_level(level)
        if boundary not in BOUNDARIES:
            raise ValueError(f"boundary: {boundary!r} is not one of {', '.join(BOUNDARIES)}")
        if not _cuts_as(inner, level):
            raise ValueError(f"level: the tokenizer does not cut a text as one of level {level} does")
        vocabulary = inner.get_vocab(with_added_tokens=True)
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise ValueError("the vocabulary's ids are not 0 … V-1, each once")
        for special in (UNK, EOS):
            if special not in vocabulary:
                raise ValueError(f"the vocabulary has no {special}")
        inner.encode_special_tokens = False
        self.inner = inner
        self.level: Level = level
        self.rules = LEVELS[level]
        self.boundary: Boundary = boundary
        self.vocabulary: dict[str, int] = vocabulary
        self.tokens: list[str] = sorted(vocabulary, key=vocabulary.__getitem__)
        self._recent_ids = lru_cache(REMEMBERED_TEXTS)(lambda text, _owner: self._encode_ids(text))
        self.unk_id = vocabulary[UNK]
        self.eos_id = vocabulary[EOS]

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        level: Level,
        boundary: Boundary,
        vocabulary_size: int | None = None,
        min_count: int = 1,
        normalization: Normalization = "none",
    ) -> "Tokenizer":
        """Build the vocabulary: the `vocabulary_size` commonest types seen at least `min_count` times.

        vocabulary_size counts the two special tokens; None is no limit (for `bpe`: 8,192). normalization `speech`: all
        text, then and later, is read in lower case and without punctuation, as speech recognisers write.
        """
        rules = LEVELS[level]
        inner = rules.untrained()
        trainer = rules.trainer(vocabulary_size, min_count)
        if normalization == "speech":
            inner.normalizer = speech_normalizer()
        inner.train_from_iterator((piece for text in texts for piece in _countable(text, boundary)), trainer)
        return cls(inner, level, boundary)

    @classmethod
    def from_bytes(cls, content: bytes, level: Level, boundary: Boundary) -> "Tokenizer":
        """Read the content of a `tokenizer.json`. Raises `ValueError` when it is not one that training here writes."""
        _check_level(level)
        tokenizer = cls(read_tokenizer(content, level), level, boundary)
        tokenizer._try()
        return tokenizer

    def _try(self) -> None:
        """Read and write a text. Raises `ValueError` where a token or an id does not come out right."""
        if missing := self.rules.required_tokens() - self.vocabulary.keys():
            raise ValueError(f"the vocabulary has no {min(missing)!r}, which every one of level {self.level} has")
        try:
            surfaces = self.token_bytes
        except KeyError as error:
            raise ValueError(f"the vocabulary has a token with {error.args[0]!r}, which stands for no byte") from None
        ids = [*self._encode_ids(_TRIAL), *self.encode(_TRIAL).ids, *self.encode_noting(_TRIAL)[0]]
        if not all(0 <= token_id < len(surfaces) for token_id in ids):
            raise ValueError(f"a trial text has ids that are not 0 … {len(surfaces) - 1}")

    def save(self, path: Path) -> None:
        self.inner.save(str(path), pretty=False)

    @property
    def normalization(self) -> Normalization:
        return "none" if self.inner.normalizer is None else "speech"

    def normalized(self, text: str) -> str:
        """How the tokenizer reads a text before it is cut."""
        text = self.reader.read(text).text
        return text if self.inner.normalizer is None else str(self.inner.normalizer.normalize_str(text))

    @cached_property
    def reader(self) -> Reader:
        """What reads texts for this vocabulary. Characters that only a normalizer takes out or changes are known."""
        surfaces = [surface.decode("utf-8", "ignore") for surface in self.token_bytes]
        surfaces[self.unk_id] = surfaces[self.eos_id] = ""
        characters = frozenset("".join(surfaces))
        if self.normalization != "none":
            characters |= frozenset(map(str.upper, characters)) | frozenset(map(chr, range(32, 127)))
        has_words = self.rules.has_words
        return Reader(
            Known(
                characters=characters,
                has_all=not has_words and not self.rules.is_characters,
                spaces=frozenset(surface for surface in surfaces if len(surface) == 1 and surface.isspace()),
                runs=frozenset(run for run in RUNS if any(run in surface for surface in surfaces)),
                unknown_in=(lambda text: self._cut([text])[0].ids.count(self.unk_id))
                if has_words and self.normalization == "none"
                else None,
                is_split=self.rules.writes_space,
                takes_space=self.rules.leading_space or self.rules.writes_space,
                line_end=BOUNDARY_TEXT[self.boundary],
            )
        )

    def encode(self, text: str, check: Callable[[], None] = lambda: None) -> Encoding:
        """Tokens of `text`. A boundary inside the text is `<eos>`; none is added at its ends.

        check: called now and then; may raise to end the work. Other threads run meanwhile when the text is long.
        """
        reading = self.reader.read(text)
        text = reading.text
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for spans in _together(self._spans(text)):
            check()
            pieces = [text[start:end] for start, end, is_boundary in spans if not is_boundary]
            encoded = iter(self._cut(pieces))
            for start, end, is_boundary in spans:
                if is_boundary:
                    ids.append(self.eos_id)
                    offsets.append((start, end))
                else:
                    encoding = next(encoded)
                    ids += encoding.ids
                    offsets += [(start + a, start + b) for a, b in encoding.offsets]
        return Encoding(ids, [reading.typed(start, end) for start, end in offsets] if reading.is_changed else offsets)

    def _cut(self, pieces: Sequence[str]) -> list[tokenizers.Encoding]:
        """The library lets other threads run only while it cuts a batch, which costs more where the text is short."""
        if sum(map(len, pieces)) < REMEMBERED_CHARACTERS:
            return [self.inner.encode(piece, add_special_tokens=False) for piece in pieces]
        return self.inner.encode_batch(pieces, add_special_tokens=False)

    def encode_ids(self, text: str, owner: str = "") -> list[int]:
        """As `encode`, without the offsets: in half the time, and at once for a text that came before not long ago.

        owner: for whom; what came from others is not looked up, so that the time taken tells nothing of them.
        """
        return list(self._recent_ids(text, owner)) if len(text) <= REMEMBERED_CHARACTERS else self._encode_ids(text)

    def _encode_ids(self, text: str) -> list[int]:
        if not self.reader.is_plain(text):
            text = self.reader.read(text).text
        return [token_id for spans in _together(self._spans(text)) for token_id in self._ids(text, spans)]

    def encode_document(self, text: str) -> list[int]:
        """Ids of a whole document of a corpus: as `encode_ids`, and closed by one `<eos>`."""
        return self._encode_ids(text) + [self.eos_id] * (not self.ends_in_boundary(text))

    def ends_in_boundary(self, text: str) -> bool:
        """Whether the last token of a text is the `<eos>` of a boundary."""
        text = self.reader.read(text[max(0, len(text.rstrip()) - 1) :]).text
        ends = {"line": text.endswith("\n"), "paragraph": text.endswith("\n\n"), "document": False}
        return ends[self.boundary]

    def encode_noting(self, text: str) -> tuple[list[int], list[str]]:
        """As `encode_ids`, and what each `<unk>` stands for, in order; the symbol itself, as pre-tokenized text holds
        it, for nothing."""
        text = self.reader.read(text).text
        spans = list(self._spans(text))
        pieces = [text[start:end] for start, end, is_boundary in spans if not is_boundary]
        encoded = iter(zip(pieces, self.inner.encode_batch(pieces, add_special_tokens=False), strict=True))
        ids: list[int] = []
        unknown: list[str] = []
        for _, _, is_boundary in spans:
            if is_boundary:
                ids.append(self.eos_id)
                continue
            piece, encoding = next(encoded)
            found = encoding.ids
            ids += found
            if self.unk_id in found:
                places = [place for place, token_id in enumerate(found) if token_id == self.unk_id]
                for start, end in filter(None, map(encoding.token_to_chars, places)):
                    unknown.append(piece[start:end])
        return ids, [self.normalized(surface) for surface in unknown if surface.strip() != UNK]

    def _ids(self, text: str, spans: Sequence[tuple[int, int, bool]]) -> list[int]:
        pieces = [text[start:end] for start, end, is_boundary in spans if not is_boundary]
        encoded = iter(self.inner.encode_batch_fast(pieces, add_special_tokens=False))
        ids: list[int] = []
        for _, _, is_boundary in spans:
            if is_boundary:
                ids.append(self.eos_id)
            else:
                ids += next(encoded).ids
        return ids

    def _spans(self, text: str) -> Iterator[tuple[int, int, bool]]:
        """[start, end) of each piece between boundaries, and of each boundary; a trailing empty piece is left out."""
        position = 0
        pattern = _BOUNDARY_PATTERN.get(self.boundary)
        for match in pattern.finditer(text) if pattern else ():
            yield position, match.start(), False
            yield match.start(), match.end(), True
            position = match.end()
        if position < len(text):
            yield position, len(text), False

    def cut_open_space(self, text: str) -> tuple[str, bool]:
        """A text that is to go on, without the space at its end that belongs to the token to come; whether it has one.

        With that space open, the next token is one that brings a space along: what follows `The old ` is what follows
        `The old`, and is written without the space.
        """
        is_open = bool(self.without_space) and text[-1:].isspace() and self.reader.read(text[-1] + ".").text[:1] == " "
        return (text[:-1], True) if is_open else (text, False)

    @cached_property
    def without_space(self) -> list[int]:
        """The tokens that bring no space along; none where no token does, or a space is a token of its own."""
        spaced = [surface.startswith(b" ") for surface in self.token_bytes]
        known = sum(spaced) - spaced[self.unk_id]
        if self.rules.is_characters or self.rules.writes_space or not known or " " in self.vocabulary:
            return []
        return [token_id for token_id, has_space in enumerate(spaced) if not has_space]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the tokens; `<eos>` is written as the boundary, `<unk>` as `<unk>`."""
        decoder = self.decoder()
        return "".join([decoder.feed(token_id) for token_id in ids]) + decoder.flush()

    def decoder(self, at_start: bool = True, open_space: bool = False) -> "TextDecoder":
        """A decoder of tokens that come one by one. at_start: the text before is empty or ends in white space.
        open_space: the first token's space stands there already."""
        return TextDecoder(self, at_start, open_space)

    def surface(self, token_id: int) -> str:
        """What one token looks like in a text; bytes that are no whole character show as U+FFFD."""
        return self.token_bytes[token_id].decode("utf-8", "replace")

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """What each token adds to a text, as UTF-8; for `bpe` a token may hold part of a character."""
        surfaces = self.rules.surfaces(self.tokens)
        surfaces[self.unk_id] = (self.rules.space_of_unknown + UNK).encode()
        surfaces[self.eos_id] = BOUNDARY_TEXT[self.boundary].encode()
        return surfaces


class TextDecoder:
    """Turns tokens into text as they come, holding back the bytes of an unfinished character.

    `at_start` drops the space that a `split` token or `<unk>` would otherwise put before itself.
    """

    def __init__(self, tokenizer: Tokenizer, at_start: bool, open_space: bool = False) -> None:
        self._tokenizer = tokenizer
        self._open_space = open_space
        self._writes_space = tokenizer.rules.writes_space
        self.at_start = at_start
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int, spelled: str | None = None) -> str:
        """The text that `token_id` completes; may be empty. spelled: what an `<unk>` stands for, if that is known."""
        surface = self._tokenizer.token_bytes[token_id]
        is_eos = token_id == self._tokenizer.eos_id
        adds_space = not is_eos and (self._writes_space or token_id == self._tokenizer.unk_id)
        if spelled is not None:
            adds_space = self._writes_space
            surface = (" " * adds_space + spelled).encode()
        if (self.at_start and adds_space) or self._open_space:
            surface = surface.removeprefix(b" ")
        self._open_space = False
        self.at_start = is_eos or surface[-1:].isspace()
        return self._utf8.decode(surface)

    def feed_all(self, token_ids: Sequence[int]) -> str:
        """The text that tokens complete, as `feed` would give it piece by piece."""
        if self._writes_space or self._open_space or self._tokenizer.unk_id in token_ids:
            return "".join([self.feed(token_id) for token_id in token_ids])
        surfaces = self._tokenizer.token_bytes
        text = self._utf8.decode(b"".join([surfaces[token_id] for token_id in token_ids]))
        for token_id in token_ids[-1:]:
            self.at_start = token_id == self._tokenizer.eos_id or surfaces[token_id][-1:].isspace()
        return text

    def flush(self) -> str:
        """What an unfinished character at the end of the text becomes: U+FFFD, or nothing."""
        return self._utf8.decode(b"", final=True)


def _check_level(level: Level) -> None:
    if level not in list(LEVELS):  # a checkpoint may name anything, also what cannot be looked up
        raise ValueError(f"level: {level!r} is not one of {', '.join(LEVELS)}")


def _cuts_as(inner: tokenizers.Tokenizer, level: Level) -> bool:
    """Whether the tokenizer takes for a token what this level does: a trial, for a file does not say its level."""
    pieces = [piece for piece, _ in inner.pre_tokenizer.pre_tokenize_str("ab c")] if inner.pre_tokenizer else []
    return pieces == LEVELS[level].pieces_of_trial


def _together(spans: Iterable[tuple[int, int, bool]]) -> Iterator[list[tuple[int, int, bool]]]:
    """Spans in groups of about `AT_ONCE` characters."""
    group: list[tuple[int, int, bool]] = []
    for span in spans:
        group.append(span)
        if span[1] - group[0][0] >= AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _countable(text: str, boundary: Boundary) -> list[str]:
    """What is left to count once boundaries and literal special tokens are taken out: the library would count those."""
    pattern = _BOUNDARY_PATTERN.get(boundary)
    return re.split(f"{UNK}|{EOS}" + (f"|{pattern.pattern}" if pattern else ""), text)
