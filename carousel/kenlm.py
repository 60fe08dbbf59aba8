"""A drop-in for the `kenlm` module: `import carousel.kenlm as kenlm`, or `sys.modules["kenlm"] = carousel.kenlm` for a
library that imports it by itself (pyctcdecode, datatrove).

Scores are log10, words stand between white space, `score` and `perplexity` are those of `LanguageModel.score`. Where a
recurrent network differs from an n-gram model:

- A context has no last word to forget. `order` is a large number, `ngram_length` counts all words of the context.
- Without a beginning of sentence (`bos=False`, `NullContextWrite`) the first token conditions and scores 0.
- An unknown word scores what `<unk>` does, as KenLM's; how it is spelled does not count.
- A word may be several tokens (punctuation, characters, subwords), of which its score is the sum.

A `State` is computed when something is first asked after it: of the many states that a beam search drops, none is. All
words after one state then cost one step of the network and a look-up each. Based on python/kenlm.pyx of kpu/kenlm.
"""

import hashlib
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache, total_ordering
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from app.engine.sequence import Sequence
from carousel.included import find_model
from carousel.language_model import LanguageModel as CarouselModel
from carousel.language_model import load

ORDER = 1 << 20
"""More words than any context has: nothing that shares its last words only may be taken for the same."""

KEPT_DISTRIBUTIONS = 128
"""Distributions over the vocabulary that a model keeps, those last used: 10 MB at 20,000 words."""

REMEMBERED_WORDS = 1 << 16
"""Words whose tokens need not be looked for again."""

_BEGIN, _END = "<s>", "</s>"
_PER_LOG10 = math.log(10)


class FullScoreReturn(NamedTuple):
    """log_prob: log10. ngram_length: words that were looked at, this one included. oov: whether it is unknown."""

    log_prob: float
    ngram_length: int
    oov: bool


class Config:
    """Accepted where KenLM takes one; nothing in it has a meaning here."""

    def __init__(self) -> None:
        self.load_method: Any = None
        self.show_progress = False
        self.arpa_complain: Any = None


class LoadMethod:
    """KenLM's names; nothing of it has a meaning here."""

    LAZY, POPULATE_OR_LAZY, POPULATE_OR_READ, READ, PARALLEL_READ = range(5)


class ARPALoadComplain:
    """KenLM's names; nothing of it has a meaning here."""

    ALL, EXPENSIVE, NONE = range(3)


class _Context:
    """Words that were read: those of an earlier context, and the tokens of one more. words: how many, <s> included.

    row: the network's state after them, (S,); None: not computed yet, `parent` has what comes before `tokens`.
    """

    __slots__ = ("key", "parent", "row", "tokens", "words")

    def __init__(self, parent: "_Context | None", tokens: tuple[int, ...], words: int) -> None:
        self.parent = parent
        self.tokens = tokens
        self.words = words
        self.row: Any = None
        before: bytes = b"" if parent is None else parent.key
        self.key: bytes = hashlib.blake2b(before + np.asarray(tokens, "<i8").tobytes(), digest_size=16).digest()

    def pending(self) -> tuple[Any, list[int]]:
        """The nearest row before these words, None for the zero state, and the tokens since."""
        words: list[tuple[int, ...]] = []
        context: _Context | None = self
        while context is not None:
            parent = context.parent  # read before the row: another thread sets the row, then forgets the parent
            if context.row is not None:
                break
            words.append(context.tokens)
            context = parent
        return (context.row if context else None), [token for word in reversed(words) for token in word]

    def settle(self, row: Any) -> None:
        """Note the state that was computed; what led to it is not needed any more."""
        self.row = row
        self.parent = None


_NOTHING = _Context(None, (), 0)


@total_ordering
class State:
    """A context, as a value that can be copied, compared and hashed. It is written by the methods of a `Model`, and
    belongs to the weights that wrote it; a new one is the empty context."""

    __slots__ = ("_context",)

    def __init__(self) -> None:
        self._context = _NOTHING

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and self._context.key == other._context.key

    def __lt__(self, other: "State") -> bool:
        return self._context.key < other._context.key

    def __hash__(self) -> int:
        return hash(self._context.key)

    def __copy__(self) -> "State":
        copied = State()
        copied._context = self._context
        return copied

    def __deepcopy__(self, memo: object = None) -> "State":
        return self.__copy__()


class Model:
    """A model by the name of an included one or the path of a folder. Thread-safe."""

    def __init__(self, path: str | bytes | os.PathLike[str], config: Config | None = None) -> None:  # noqa: ARG002
        """Raises `OSError` where there is no such model. config: accepted, and without effect."""
        name = os.fsdecode(path)
        folder = find_model(name)
        if folder is None:
            raise OSError(f"Cannot read model '{name}' (there is no included model and no folder of that name)")
        self.path = os.fsencode(folder)
        self.order = ORDER
        self._load()
        tokenizer = self._lm.tokenizer
        self._unk_id, self._eos_id = tokenizer.unk_id, tokenizer.eos_id
        self._tokens = lru_cache(REMEMBERED_WORDS)(
            lambda word, first: tuple(tokenizer.encode_ids(word if first else f" {word}"))
        )
        self._distributions: OrderedDict[bytes, Any] = OrderedDict()

    def _load(self) -> None:
        self._lm = load(os.fsdecode(self.path))
        self._process = os.getpid()
        self._lock = threading.Lock()

    @property
    def _language_model(self) -> CarouselModel:
        """That of this process: a forked child loads its own."""
        if os.getpid() != self._process:
            self._load()
        return self._lm

    def __repr__(self) -> str:
        return f"<Model from {Path(os.fsdecode(self.path)).name!r}>"

    def __reduce__(self) -> tuple[type["Model"], tuple[bytes]]:
        return Model, (self.path,)

    def __contains__(self, word: str | bytes) -> bool:
        text = _text(word)
        return text in (_BEGIN, _END) or any(self._unk_id not in self._tokens(text, first) for first in (False, True))

    def score(self, sentence: str | bytes, bos: bool = True, eos: bool = True) -> float:
        """log10 P(sentence </s> | <s>), without </s> where `eos` is false; see the top of this file for `bos`."""
        return self._language_model.score(_joined(sentence), bos=bos, eos=eos)[0].logprob / _PER_LOG10

    def perplexity(self, sentence: str | bytes) -> float:
        """Per word, </s> counted as one."""
        words = len(_text(sentence).split()) + 1
        return math.pow(10.0, -self.score(sentence) / words)

    def full_scores(
        self, sentence: str | bytes, bos: bool = True, eos: bool = True
    ) -> Iterator[tuple[float, int, bool]]:
        """(log10 probability, words looked at, unknown) of each word, and of </s> where `eos`. They sum to `score`."""
        text = _joined(sentence)
        details = self._language_model.score(text, bos=bos, eos=eos, tokens=True)[0].details or []
        ends = list(accumulate(len(word) + (number > 0) for number, word in enumerate(text.split())))
        if eos:
            ends.append(len(text) + 1)
        for number, (start, end) in enumerate(pairwise([0, *ends])):
            own = [detail for detail in details if start <= detail.start < end]
            logprob = math.fsum(detail.logprob or 0.0 for detail in own)
            yield logprob / _PER_LOG10, number + 1 + bos, any(detail.oov for detail in own)

    def BeginSentenceWrite(self, state: State) -> None:  # noqa: N802
        """The context of a sentence's first word."""
        state._context = _Context(None, (self._eos_id,), 1)

    def NullContextWrite(self, state: State) -> None:  # noqa: N802
        """No context at all."""
        state._context = _NOTHING

    def BaseScore(self, in_state: State, word: str | bytes, out_state: State) -> float:  # noqa: N802
        """log10 P(word | in_state). out_state: written, the context with the word."""
        return self.BaseFullScore(in_state, word, out_state).log_prob

    def BaseFullScore(self, in_state: State, word: str | bytes, out_state: State) -> FullScoreReturn:  # noqa: N802
        """The same, with what `FullScoreReturn` holds."""
        context = in_state._context
        text = _text(word)
        if text == _BEGIN:
            raise ValueError("<s> is not predicted: begin with BeginSentenceWrite")
        if text == _END:
            tokens: tuple[int, ...] = (self._eos_id,)
        else:
            tokens = self._tokens(text, not context.tokens or context.tokens[-1] == self._eos_id)
        after = _Context(context, tokens, context.words + 1)
        if not tokens:  # a mark that the model does not hear
            logprob = 0.0
        elif len(tokens) == 1 and context is not _NOTHING:
            logprob = float(self._distribution(context)[tokens[0]])
        else:
            logprob = self._scored(context, after)
        out_state._context = after
        return FullScoreReturn(logprob / _PER_LOG10, after.words, self._unk_id in tokens)

    def _distribution(self, context: _Context) -> Any:
        """(V,), natural logarithms. One step of the network, the first time; kept for a while. Sets the row, too."""
        with self._lock:
            found = self._distributions.get(context.key)
            if found is not None:
                self._distributions.move_to_end(context.key)
        if found is None:
            row, tokens = context.pending()
            sequence = Sequence(tokens, state=row, keep_state=True, keep_logprobs=True)
            self._language_model.run([sequence])
            found = np.asarray(sequence.logprobs), sequence.final_state
            with self._lock:
                self._distributions[context.key] = found
                while len(self._distributions) > KEPT_DISTRIBUTIONS:
                    self._distributions.popitem(last=False)
        logprobs, row = found
        context.settle(row)
        return logprobs

    def _scored(self, context: _Context, after: _Context) -> float:
        """Sum over the tokens that `after` has more, in nats; the first of all is not predicted."""
        predicted: list[int | None] = list(after.tokens)
        if context is _NOTHING:
            predicted[:1] = [None]
        elif context.row is None:
            self._distribution(context)
        sequence = Sequence(list(after.tokens), targets=predicted, state=context.row, keep_state=True)
        self._language_model.run([sequence])
        after.settle(sequence.final_state)
        return math.fsum(score.logprob for score in sequence.scores)


LanguageModel = Model


def _text(word: str | bytes) -> str:
    """Raises `TypeError` for what is no text."""
    if isinstance(word, bytes):
        return word.decode()
    if isinstance(word, str):
        return word
    raise TypeError(f"Cannot convert {type(word)} to string")


def _joined(sentence: str | bytes) -> str:
    return " ".join(_text(sentence).split())
