"""Words that a vocabulary left out, and how often each was seen: a rare word that is known is likelier than letters
that only look like one.
"""

import bisect
from collections.abc import Mapping

import numpy as np

from models.arrays import Array

LONGEST = 255
"""Bytes of a word, so that a byte holds a length."""

_SHARED, _REST, _BYTES, _COUNTS = "shared", "rest", "bytes", "counts"


class Lexicon:
    """A unigram model of whole words: P(word) = its count / all counts. Not changed after it is made."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        """Raises `ValueError` when there is no word, or one is empty, longer than `LONGEST` bytes or never seen."""
        self._words = sorted(word.encode() for word in counts)
        if not self._words:
            raise ValueError("a lexicon needs a word")
        if not all(0 < len(word) <= LONGEST for word in self._words):
            raise ValueError(f"a word of a lexicon has 1 to {LONGEST} bytes")
        self._counts = np.array([counts[word.decode()] for word in self._words], np.int64)
        if self._counts.min() < 1:
            raise ValueError("a word of a lexicon was seen at least once")
        self._ends = self._counts.cumsum()

    def __len__(self) -> int:
        return len(self._words)

    @property
    def counts(self) -> dict[str, int]:
        """How often each word was seen."""
        return {word.decode(): count for word, count in zip(self._words, self._counts.tolist(), strict=True)}

    def probability(self, word: str) -> float:
        """0 where the word is not in it."""
        encoded = word.encode()
        place = bisect.bisect_left(self._words, encoded)
        known = place < len(self._words) and self._words[place] == encoded
        return int(self._counts[place]) / self._total if known else 0.0

    def draw(self, number: float) -> str:
        """The word that a uniform number in [0, 1) falls on."""
        seen = min(int(number * self._total), self._total - 1)  # where the product is rounded up
        place = int(np.searchsorted(self._ends, seen, side="right"))
        return self._words[place].decode()

    def beginning(self, prefix: str, top: int) -> tuple[float, list[str]]:
        """Probability of all words that begin so, and some of them, likeliest first."""
        encoded = prefix.encode()
        first = bisect.bisect_left(self._words, encoded)
        last = bisect.bisect_left(self._words, encoded + b"\xff")  # a byte that UTF-8 has not
        order = np.argsort(-self._counts[first:last], kind="stable")[:top]
        mass = int(self._counts[first:last].sum()) / self._total
        return mass, [self._words[first + place].decode() for place in order.tolist()]

    @property
    def _total(self) -> int:
        return int(self._ends[-1])

    def to_arrays(self) -> dict[str, Array]:
        """Front-coded: bytes shared with the word before, bytes that follow, these bytes, and counts; about five bytes
        a word of English."""
        shared, rest = [], []
        before = b""
        for word in self._words:
            same = _shared(before, word)
            shared.append(same)
            rest.append(word[same:])
            before = word
        counts = self._counts.astype(np.min_scalar_type(int(self._counts.max())))
        return {
            _SHARED: np.array(shared, np.uint8),
            _REST: np.array([len(part) for part in rest], np.uint8),
            _BYTES: np.frombuffer(b"".join(rest), np.uint8),
            _COUNTS: counts,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> "Lexicon":
        """Inverse of `to_arrays`. Raises `ValueError` where that cannot be."""
        if arrays.keys() != {_SHARED, _REST, _BYTES, _COUNTS}:
            raise ValueError(f"lexicon: has tensors {', '.join(sorted(arrays)) or 'none'}")
        shared, rest, counts = (arrays[name].tolist() for name in (_SHARED, _REST, _COUNTS))
        spelled = arrays[_BYTES].tobytes()
        if not len(shared) == len(rest) == len(counts) or sum(rest) != len(spelled):
            raise ValueError("lexicon: its tensors do not fit together")
        words: dict[str, int] = {}
        before, first = b"", 0
        for same, more, count in zip(shared, rest, counts, strict=True):
            before = before[:same] + spelled[first : first + more]
            first += more
            try:
                words[before.decode()] = count
            except UnicodeDecodeError:
                raise ValueError("lexicon: holds bytes that are not UTF-8") from None
        return cls(words)


def _shared(one: bytes, other: bytes) -> int:
    """Bytes that two words have in common from their beginning."""
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    return same
