"""What counting alone can do: an interpolated, modified Kneser-Ney n-gram model (Chen & Goodman 1999, equation 26).

It reads and predicts the same tokens as the network, `<eos>` included, so that their perplexities compare. As in KenLM
a context begins at the `<eos>` before it: nothing is known of the sentence before.

Every n-gram has a number: its place among the sorted distinct keys of its order, a key being

    (number of its first n-1 tokens) * V + (its last token)

so that looking up a context is one binary search an order, and a whole text is looked up at once. Counting takes some
150 bytes of memory a token.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.signedinteger[Any]]
Floats = NDArray[np.float64]

MAX_ORDER = 5
FALLBACK: Floats = np.array([0.0, 0.5, 1.0, 1.5])
"""Discounts that KenLM takes, too, where they cannot be estimated."""


@dataclass(frozen=True)
class _Order:
    """The n-grams of one order. keys: sorted. discounted: count less discount of each, over its context's total.
    backoff: by context, what is left for the order below."""

    keys: Ids
    discounted: Floats
    backoff: Floats


class KneserNey:
    """Probabilities of tokens given up to `order - 1` before them."""

    def __init__(self, ids: Ids, vocabulary_size: int, eos_id: int, order: int = MAX_ORDER) -> None:
        """ids: (N,), the training text, documents closed by `<eos>`. Raises `ValueError` on no text."""
        if len(ids) == 0:
            raise ValueError("no tokens to count")
        self._size, self._eos = vocabulary_size, eos_id
        tokens, reach = self._read(ids)
        self._orders: list[_Order] = []
        context = np.zeros(len(tokens), np.int32)  # number of the context of each token; -1: it has none of that length
        below: tuple[Ids, Ids, Ids] | None = (
            None  # keys, counts, and the number of the n-gram that ends at each position
        )
        for n in range(1, order + 1):
            there = (reach >= n - 1) & (context >= 0)
            there[0] = False  # the <eos> before the text is context alone
            keys, first, inverse, counts = np.unique(
                context[there].astype(np.int64) * self._size + tokens[there],
                return_index=True,
                return_inverse=True,
                return_counts=True,
            )
            number = np.full(len(tokens), -1, np.int32)
            number[there] = inverse
            if n == 1:
                number[:1] = _find(keys, tokens[:1])
            if below is not None:
                self._add(below[0], below[1], below[2][np.flatnonzero(there)[first]])
            below = (keys, counts, number)
            context = np.concatenate([[np.int32(-1)], number[:-1]])
        assert below is not None
        self._add(below[0], below[1], None)

    def _add(self, keys: Ids, counts: Ids, suffixes: Ids | None) -> None:
        """The next order. suffixes: for each n-gram of the order above, the number of its last n tokens; None: there is
        no order above, and counts are what they are."""
        if suffixes is not None:  # how many different tokens come before it; what begins a sentence keeps its count
            extended = np.bincount(suffixes, minlength=len(counts))
            counts = np.where(extended > 0, extended, counts)
        contexts = len(self._orders[-1].keys) if self._orders else 1
        self._orders.append(_discounted(keys, keys // self._size, counts, contexts))

    def logprobs(self, ids: Ids) -> Floats:
        """Log-probability, in nats, of each token of a text, which begins after an `<eos>`. ids: (N,)."""
        tokens, reach = self._read(ids)
        probability = np.full(len(tokens), 1 / self._size)
        context = np.zeros(len(tokens), np.int64)
        for n, order in enumerate(self._orders, 1):
            known = (context >= 0) & (reach >= n - 1)
            number = np.full(len(tokens), -1)
            number[known] = _find(order.keys, context[known] * self._size + tokens[known])
            probability[known] *= order.backoff[context[known]]
            seen = number >= 0
            probability[seen] += order.discounted[number[seen]]
            context = np.concatenate([[-1], number[:-1]])
        logprobs: Floats = np.log(probability[1:])
        return logprobs

    def _read(self, ids: Ids) -> tuple[Ids, Ids]:
        """The text after an `<eos>`, and how many tokens before each are in its sentence, that `<eos>` included."""
        tokens = np.concatenate([[self._eos], ids]).astype(np.int32)
        positions = np.arange(len(tokens), dtype=np.int32)
        begins = np.maximum.accumulate(np.where(tokens == self._eos, positions, np.int32(0)))
        reach = np.concatenate([[0], positions[1:] - begins[:-1]])
        return tokens, np.minimum(reach, MAX_ORDER).astype(np.int8)


def _discounted(keys: Ids, contexts_of: Ids, counts: Ids, contexts: int) -> _Order:
    """contexts_of: the context's number of each n-gram; contexts: how many there are."""
    # (of an empty array, where no sentence is so long, `bincount` gives integers)
    totals = np.bincount(contexts_of, weights=counts, minlength=contexts).astype(np.float64)
    discount = _discounts(counts)[np.minimum(counts, 3)]
    left = np.bincount(contexts_of, weights=discount, minlength=contexts).astype(np.float64)
    # A context that nothing follows (it ends the text) leaves all to the order below.
    backoff = np.divide(left, totals, out=np.ones_like(totals), where=totals > 0)
    return _Order(keys, (counts - discount) / totals[contexts_of], backoff)


def _discounts(counts: Ids) -> Floats:
    """What is taken from counts of 0, 1, 2, and 3 or more (Chen & Goodman 1999, equation 17); `FALLBACK` where the text
    is too little to tell, for which the equation would take nothing at all, or more than there is."""
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return FALLBACK
    y = n1 / (n1 + 2 * n2)
    discounts = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    sensible = (discounts[1:] > 0) & (discounts[1:] < [1, 2, 3])
    return discounts if sensible.all() else FALLBACK


def _find(keys: Ids, wanted: Ids) -> Ids:
    """The place of each key, -1 where it is not."""
    if not len(keys):
        return np.full(len(wanted), -1)
    places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[places] == wanted, places, -1)
