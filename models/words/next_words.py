"""The likeliest next words after a text, and completions of a word that has been begun. No engine, no HTTP.

Where a token is a word (`word`, `split`) one distribution holds the answer: `WordIndex`. Where it is a piece of one
(`char`, `bpe`) words are found by a best-first search over pieces: `WordSearch` says which nodes to look at next,
whoever runs the network brings their distributions.
"""

import heapq
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from models.arrays import Array
from models.decoding.scoring import likeliest
from models.text.tokenizer import Tokenizer
from models.text.words import JOINTS, begins_word, is_word_character, same_script
from models.words.speller import Speller


@dataclass(frozen=True)
class NextWords:
    """words: (word, log-probability in nats), likeliest first. coverage: the sum of the listed probabilities."""

    words: list[tuple[str, float]]

    @property
    def coverage(self) -> float:
        return min(1.0, sum(math.exp(logprob) for _, logprob in self.words))


@dataclass(frozen=True)
class Begun:
    """A text cut for the question "which word comes next?".

    context: what the network consumes. lead: the space after it that the next token brings along, or nothing.
    completing: the word that has been begun; None: the text does not end inside one. consumed: as much of that word as
    the context holds already.
    """

    context: str
    lead: str
    completing: str | None
    consumed: str = ""
    after_space: bool = False
    """Nothing or white space stands before the next token."""
    starts_sentence: bool = False
    """Whether the word is the first of a sentence, and nothing of it is typed yet."""

    def paths(self) -> "list[Path]":
        """The ways in which the tokens of a begun word may be cut: not at all, or at its last apostrophe or hyphen."""
        whole = self.completing or ""
        at = max(map(whole.rfind, JOINTS))
        cuts = [0] if at <= 0 else [0, at, at + 1]
        return [Path(self.context + (self.lead + whole[:cut] if cut else ""), whole[:cut], whole[cut:]) for cut in cuts]


class Path(NamedTuple):
    """One way to cut a begun word. context: what the network consumes; shown: as much of the word as it ends in;
    required: what the next token has to begin with."""

    context: str
    shown: str
    required: str


@dataclass(frozen=True)
class UnknownWords:
    """Words that a speller knows how to write, in nats. mass: of all that begin as asked; words: some of them."""

    mass: float
    words: list[tuple[str, float]]


FORMS = 8
"""Forms that are looked at for each word that is offered: those in other case become one in capitals."""

NO_WORDS = UnknownWords(-math.inf, [])


def spelled_words(
    speller: Speller,
    unk_logprob: float,
    begun: Begun,
    tokenizer: Tokenizer,
    top: int,
    owner: str = "",
    check: Callable[[], None] = lambda: None,
) -> UnknownWords:
    """Words outside the vocabulary that complete what has been begun. unk_logprob: that of `<unk>` there, in nats.

    owner, check: as for `Speller.logprobs`.
    """
    lead = begun.lead if tokenizer.rules.leading_space else ""
    mass, spellings = speller.completions(lead + tokenizer.normalized(begun.completing or ""), top, owner, check)
    words = [(spelling.removeprefix(lead), unk_logprob + logprob) for spelling, logprob in spellings]
    typed = begun.completing or ""
    whole = [
        (word, logprob)
        for word, logprob in words
        if all(map(is_word_character, word)) and same_script(typed, word[len(typed) :])
    ]
    return UnknownWords(unk_logprob + mass, whole)


def split_begun(tokenizer: Tokenizer, text: str, at_start: bool = True) -> Begun:
    """Where the last word of a text begins. A text that ends in a letter or digit is completing its last word.

    at_start: whether what came before the text is empty or ends in white space.

    So is one that ends in a mark that rides on a letter: a combining accent, the vowel sign of an Indic word.
    """
    start = begins_word(text)
    completing = start < len(text)
    if completing and tokenizer.rules.has_words:
        if tokenizer.rules.writes_space or not any(character in JOINTS for character in text[start:]):
            start = tokenizer.encode(text).offsets[-1][0]
            start += len(text[start:]) - len(text[start:].lstrip())
    elif completing and tokenizer.rules.is_characters:
        unknown = [i for i in range(start, len(text)) if text[i] in JOINTS and not _knows(tokenizer, text[i])]
        start = max(unknown, default=start - 1) + 1
        if _knows(tokenizer, text[start:]):
            return Begun(text, "", text[start:], consumed=text[start:])
    # The space before a word is part of the word's own token, except at character level.
    lead = " " if not tokenizer.rules.is_characters and text[:start].endswith(" ") else ""
    context = text[: start - len(lead)]
    after_space = not lead and (context[-1].isspace() if context else at_start)
    begun = text[start:] if completing else None
    return Begun(context, lead, begun, after_space=after_space, starts_sentence=not completing and at_sentence(text))


def _knows(tokenizer: Tokenizer, text: str) -> bool:
    """Whether a vocabulary of characters has all of a text's, as it reads them."""
    return tokenizer.vocabulary.keys() >= set(tokenizer.normalized(text))


def at_sentence(text: str) -> bool:
    """Whether what follows a text is the first word of a sentence."""
    return not text.strip() or text[-1] == "\n" or bool(_SENTENCE_END.search(text))


_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*\s+$")


class WordIndex:
    """Which token ids are forms of which word: forms that differ only in the leading space are one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._normalized = tokenizer.normalized
        surfaces = [token.strip() for token in tokenizer.tokens]
        for special in (tokenizer.unk_id, tokenizer.eos_id):
            surfaces[special] = ""
        self._words = sorted({surface for surface in surfaces if surface})
        self._number = number = {word: i for i, word in enumerate(self._words)}
        self._has_space = np.array([token.startswith(" ") for token in tokenizer.tokens])
        self._forms_differ = tokenizer.rules.leading_space
        # One column more than there are words takes what is never offered.
        self._groups = np.array([number.get(surface, len(number)) for surface in surfaces])
        self._is_word = np.array([is_word_character(word[0]) for word in self._words], bool)

    def find(self, logprobs: Array, begun: Begun, top: int, punctuation: bool) -> NextWords:
        """The `top` likeliest words where none has been begun. logprobs: (V,), nats; probabilities are over all tokens.

        At the beginning of a sentence a word and its capitalised form are one, and offered with the capital.
        """
        masses = self._masses(np.exp(logprobs.astype(np.float64)))
        masses = masses if punctuation else masses * self._is_word
        words: Sequence[str] = self._words
        if begun.starts_sentence and self._has_capitals:
            words, groups = self._capitalised
            masses = np.bincount(groups, masses, len(words))
        best = likeliest(masses, top)
        return NextWords([(words[i], _log(masses[i])) for i in best.tolist() if masses[i] > 0])

    def complete(
        self, paths: Sequence[tuple[Path, float, Array]], begun: Begun, top: int, unknown: UnknownWords = NO_WORDS
    ) -> NextWords:
        """The `top` likeliest words that go on as has been begun.

        paths: (a path, the log-probability of what it consumes of the word, the distribution after it, (V,)), in nats.
        Probabilities are renormalised over the words that begin so, those outside the vocabulary among them where
        `unknown` tells of some. In capitals, two at least, all words are offered in capitals.
        """
        total, found = -math.inf, dict[str, float]()
        for path, prior, logprobs in paths:
            mass, offered = self._offered(path, logprobs, begun, FORMS * top)
            total = float(np.logaddexp(total, prior + mass))
            for word, logprob in offered:
                found[word] = float(np.logaddexp(found.get(word, -math.inf), prior + logprob))
        total = float(np.logaddexp(total, unknown.mass))
        written = _writer(begun.completing or "")
        for word, logprob in unknown.words:
            if word not in self._number:
                found[written(word)] = float(np.logaddexp(found.get(written(word), -math.inf), logprob))
        likely = sorted(found.items(), key=lambda pair: -pair[1])[:top]
        return NextWords([(word, logprob - total) for word, logprob in likely])

    def _offered(self, path: Path, logprobs: Array, begun: Begun, most: int) -> tuple[float, list[tuple[str, float]]]:
        """The log-probability that the next token goes on with a path; the likeliest words, as they are offered."""
        typed, required = path.required, self._normalized(path.required).strip()
        completions = self._completions(required, begun.completing or "")
        probabilities = np.exp(logprobs.astype(np.float64))
        # What was typed says whether there is a space before the word; words known in the other form alone come
        # into play when there is no other.
        has_space = bool(begun.lead) and not path.shown
        written = probabilities * (self._has_space == has_space) if self._forms_differ else probabilities
        offered = self._masses(written)[completions]
        if not offered.any() and not path.shown:
            offered = self._masses(probabilities)[completions]
        write = _writer(begun.completing or "")
        best = [i for i in likeliest(offered, most).tolist() if offered[i] > 0]
        chosen = [(self._words[completions[i]], _log(offered[i])) for i in best]
        return _log(float(offered.sum())), [
            (write(path.shown + (typed + word[len(required) :] if word.startswith(required) else word)), logprob)
            for word, logprob in chosen
        ]

    def _masses(self, probabilities: Array) -> Array:
        """Probability of each word, from those of the tokens that are its forms."""
        return np.bincount(self._groups, probabilities, len(self._words) + 1)[:-1]

    def _completions(self, required: str, begun: str) -> list[int]:
        """Words that begin so, in this case; where there are none, or all is typed in capitals, in any case. And words
        with an apostrophe that has not been typed: don't for dont.
        """
        if not required:
            return np.flatnonzero(self._is_word).tolist()
        folded = required.casefold()
        exact = [] if _is_shouted(begun) else [i for i, word in enumerate(self._words) if word.startswith(required)]
        found = exact or [i for i, word in enumerate(self._words) if word.casefold().startswith(folded)]
        if len(required) > 1:
            known = set(found)
            found = found + [i for i, bare in self._bare if bare.startswith(folded) and i not in known]
        return found

    @cached_property
    def _bare(self) -> list[tuple[int, str]]:
        """Words with an apostrophe inside, without it."""
        marked = [(i, word) for i, word in enumerate(self._words) if "'" in word[1:-1]]
        return [(i, word.replace("'", "").casefold()) for i, word in marked]

    @cached_property
    def _has_capitals(self) -> bool:
        return any(word[:1].isupper() for word in self._words)

    @cached_property
    def _capitalised(self) -> tuple[list[str], Array]:
        """The words with a capital, and the place there of each word."""
        words, groups = np.unique([_capitalised(word) for word in self._words], return_inverse=True)
        return words.tolist(), groups


def _is_shouted(begun: str) -> bool:
    letters = [character for character in begun if character.isalpha()]
    return len(letters) > 1 and all(map(str.isupper, letters))


def _capitalised(word: str) -> str:
    return word[:1].upper() + word[1:]


def _writer(begun: str) -> Callable[[str], str]:
    """How words are offered where one has been begun: in capitals, or with a capital, where that is."""
    if _is_shouted(begun):
        return str.upper
    return _capitalised if begun[:1].isupper() else str


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -math.inf


def _log_sum(logprobs: Array) -> float:
    """Log of the sum of probabilities, in nats."""
    return float(np.logaddexp.reduce(logprobs.astype(np.float64), initial=-np.inf))


class WordPieces:
    """What each token of a `char` or `bpe` vocabulary can be inside a word."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        # Bytes that are no whole character are nothing here: neither inside a word nor its end.
        self.surfaces = [_whole_characters(surface) for surface in tokenizer.token_bytes]
        for special in (tokenizer.unk_id, tokenizer.eos_id):
            self.surfaces[special] = ""
        stripped = [surface.removeprefix(" ") for surface in self.surfaces]
        inside = [bool(s) and all(map(is_word_character, s)) for s in stripped]
        spaced = [surface.startswith(" ") for surface in self.surfaces]
        self.continues = np.array([i and not s for i, s in zip(inside, spaced, strict=True)])
        # The first piece may bring the space before the word, or (characters) be that space.
        self.starts = np.array([i or surface == " " for i, surface in zip(inside, self.surfaces, strict=True)])
        ends = [bool(surface) and not is_word_character(surface[0]) for surface in self.surfaces]
        ends[tokenizer.eos_id] = True
        self.ends = np.array(ends)
        marks = [bool(s) and not s[0].isspace() and not is_word_character(s[0]) for s in stripped]
        self.marks = np.array(marks)


def _whole_characters(surface: bytes) -> str:
    try:
        return surface.decode()
    except UnicodeDecodeError:
        return ""


@dataclass(frozen=True, order=True)
class Node:
    """A path of pieces whose distribution is not known yet. Ordered by probability, the likeliest first."""

    negative_logprob: float
    text: str
    token_id: int = field(compare=False)
    state: Any = field(compare=False)
    """The state before `token_id`."""


class WordSearch:
    """Exact best-first search for the likeliest words, with a bounded number of expansions.

        search = WordSearch(...); search.expand_root(logprobs, state)
        while nodes := search.frontier(): … consume each node's token_id from its state …
            search.expand(node, logprobs, state)

    A word's probability is that of its pieces and of a boundary after them: white space, punctuation or `<eos>`. Where
    one word can be spelled by several paths (with and without a space before it, or by other pieces), paths less likely
    than the last word listed are left out, so that its probability is a lower bound.
    """

    def __init__(
        self, pieces: WordPieces, begun: Begun, top: int, punctuation: bool, max_expansions: int = 512
    ) -> None:
        self._pieces = pieces
        self._completing = begun.completing is not None
        self._consumed = begun.consumed
        self._typed = begun.completing or ""
        self._required = begun.lead + (begun.completing or "")[len(begun.consumed) :]
        # After white space a word brings no space of its own, and inside a word there is none.
        self._first = pieces.continues if begun.after_space or begun.consumed else pieces.starts
        self._top = top
        self._punctuation = punctuation and not self._completing
        self._expansions_left = max_expansions
        self._fold = False
        # How likely it is that the text goes on as it has been begun: candidates' probabilities are relative to that.
        # All of these are logarithms: a long word is too improbable for anything else.
        self._begun_mass = -math.inf if self._required and self._completing else 0.0
        self._found: dict[str, float] = {}
        self._heap: list[Node] = []

    def expand_root(self, logprobs: Array, state: Any) -> None:
        """Start from the distribution and state after the context."""
        self._root = (logprobs, state)
        if self._consumed and self._consumed[-1] not in JOINTS:
            self._note(self._consumed, self._ended(logprobs))
        self._push(0.0, "", logprobs, state, self._first)
        if self._punctuation:
            for token_id in np.flatnonzero(self._pieces.marks).tolist():
                self._note(self._pieces.surfaces[token_id].strip(), float(logprobs[token_id]))

    def frontier(self, width: int = 32) -> Sequence[Node]:
        """The nodes to look at next; empty when the `top` likeliest words are certain, or the bound is reached."""
        if not self._heap and not self._found and self._completing and not self._fold:
            self._fold = True  # no word begins in this case: try any case
            logprobs, state = self._root
            self._push(0.0, "", logprobs, state, self._first)
        nodes: list[Node] = []
        while self._heap and len(nodes) < min(width, self._expansions_left):
            if -self._heap[0].negative_logprob <= self._bar():
                break
            nodes.append(heapq.heappop(self._heap))
        self._expansions_left -= len(nodes)
        return nodes

    def expand(self, node: Node, logprobs: Array, state: Any) -> None:
        """Take a node's distribution, (V,) nats, and the state that goes with it."""
        logprob = -node.negative_logprob
        word = self._consumed + node.text.removeprefix(" ")
        if word and self._matches(node.text, whole=True):
            self._note(word, self._ended(logprobs) + logprob)
        self._push(logprob, node.text, logprobs, state, self._pieces.continues)

    def result(self) -> NextWords:
        """The words found so far; when completing, with probabilities renormalised over all that begins so."""
        best = heapq.nlargest(self._top, self._found.items(), key=lambda item: item[1])
        return NextWords([(word, logprob - self._begun_mass) for word, logprob in best if logprob > -math.inf])

    def _note(self, word: str, logprob: float) -> None:
        """A path that spells a word has been found; there may be several."""
        if not same_script(self._typed, word[len(self._typed) :]):
            return
        self._found[word] = float(np.logaddexp(self._found.get(word, -math.inf), logprob))

    def _ended(self, logprobs: Array) -> float:
        """Log-probability that a word ends here."""
        return _log_sum(logprobs[self._pieces.ends])

    def _push(self, logprob: float, text: str, logprobs: Array, state: Any, usable: Array) -> None:
        begins = self._completing and not self._matches(text, whole=True)
        likely = usable & (logprob + logprobs > (self._floor() if begins else self._bar()))
        for token_id in np.flatnonzero(likely).tolist():
            extended = text + self._pieces.surfaces[token_id]
            if self._matches(extended, whole=False):
                extended_logprob = logprob + float(logprobs[token_id])
                heapq.heappush(self._heap, Node(-extended_logprob, extended, token_id, state))
                if begins and self._matches(extended, whole=True):
                    self._begun_mass = float(np.logaddexp(self._begun_mass, extended_logprob))

    def _matches(self, text: str, whole: bool) -> bool:
        """Whether a path's text agrees with what has been begun; `whole`: and holds all of it."""
        required = self._required
        if self._fold:
            text, required = text.casefold(), required.casefold()
        return text.startswith(required) or (not whole and required.startswith(text))

    def _bar(self) -> float:
        """Log-probability that a path must exceed to matter: the `top`-th best word found, or next to nothing."""
        floor = self._floor()
        if len(self._found) < self._top:
            return floor
        return max(floor, heapq.nlargest(self._top, self._found.values())[-1])

    def _floor(self) -> float:
        """Next to nothing, given what has been begun; what was typed counts, however improbable it is."""
        return self._begun_mass - 30.0
