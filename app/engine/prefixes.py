"""Beginnings that texts share, run once: within a request as a tree, between requests from a cache of states.

Both rest on one fact: the state after token i is all there is to know of tokens 1 … i, and it is the same bits however
those tokens were run.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Many

from app.engine.sequence import Sequence
from models.backends.base import Own

CACHE_EVERY = 64
"""Tokens between the states that are cached of a long prompt; its end is cached too."""

CACHED_TOKENS = 1 << 15
"""Longer prompts are not cached."""


def share_prefixes(sequences: Many[Sequence], check: Callable[[], None] = lambda: None) -> list[Sequence]:
    """Split sequences that begin alike, from one initial state, so that each common beginning is a sequence of its own.

    check: called now and then; may raise to end the work.

    Returns the given sequences, which keep their places and what is left of their inputs and targets, followed by the
    shared beginnings. A sequence's `parent` is to be run before it. For the texts `a b c`, `a b d` and `e`:

        given       a b c       a b d       e
        returned    c           d           e       a b  (the parent of the first two)
    """
    shared: list[Sequence] = []
    if len(sequences) == 1:
        return list(sequences)
    groups: list[tuple[list[Sequence], int, Sequence | None]] = [(list(sequences), 0, None)]
    while groups:
        check()
        group, begin, parent = groups.pop()
        for branch in _branches(group, begin):
            end = begin + _common_length(branch, begin)
            if len(branch) == 1 or end == begin:
                for sequence in branch:
                    sequence.inputs, sequence.targets = sequence.inputs[begin:], sequence.targets[begin:]
                    sequence.parent = parent
                continue
            first = branch[0]
            beginning = Sequence(
                first.inputs[begin:end],
                targets=first.targets[begin:end],
                top=max(sequence.top for sequence in branch),
                state=None if parent else first.state,
                keep_state=True,
                parent=parent,
            )
            shared.append(beginning)
            groups.append((branch, end, beginning))
    return [*sequences, *shared]


def _branches(group: list[Sequence], begin: int) -> list[list[Sequence]]:
    """Sequences by what they do next; those that have nothing left to consume go alone."""
    branches: dict[object, list[Sequence]] = {}
    for sequence in group:
        step = _step(sequence, begin)
        branches.setdefault(step if step is not None else id(sequence), []).append(sequence)
    return list(branches.values())


def _common_length(branch: list[Sequence], begin: int) -> int:
    length = 0
    while (step := _step(branch[0], begin + length)) is not None:
        if any(_step(sequence, begin + length) != step for sequence in branch[1:]):
            break
        length += 1
    return length


def _step(sequence: Sequence, k: int) -> tuple[int | None, int] | None:
    """What happens between k and k + 1 inputs: the target that is scored, and the input that is consumed."""
    if k >= len(sequence.inputs):
        return None
    return (sequence.targets[k] if k < len(sequence.targets) else None, sequence.inputs[k])


class PrefixCache:
    """States of prompts by their tokens; when there is no room the least recently used goes.

    Prompts start from the zero state. Keys are digests of the tokens: 16 bytes, so two prompts never meet. States lie
    in one array: pieces of memory that come and go one by one would cost several times what they hold.
    """

    def __init__(self, states: Own) -> None:
        """states: where to keep them, (as many as there is room for, S)."""
        self._states = states
        self._rows: OrderedDict[bytes, int] = OrderedDict()

    def find(self, keys: Mapping[int, bytes]) -> tuple[int, Own | None]:
        """(number of tokens, a copy of the state after them) for the longest known beginning, else (0, None)."""
        for length in sorted(keys, reverse=True):
            if (row := self._rows.get(keys[length])) is not None:
                self._rows.move_to_end(keys[length])
                return length, self._states[[row]][0]  # a list as an index makes a copy
        return 0, None

    def keep(self, key: bytes, state: Own) -> None:
        """Remember a state, (S,)."""
        if not len(self._states):
            return
        row = self._rows.pop(key, None)
        if row is None:
            full = len(self._rows) == len(self._states)
            row = self._rows.popitem(last=False)[1] if full else len(self._rows)
        self._rows[key] = row
        self._states[row] = state


def cache_keys(inputs: Many[int], owner: str = "") -> dict[int, bytes]:
    """Keys of the beginnings that are cached, by their length: every `CACHE_EVERY` tokens, and the whole.

    owner: who asks; nobody finds the states of another's prompts.
    A prompt of more than `CACHED_TOKENS` tokens would push everything else out: it has none.
    """
    keys: dict[int, bytes] = {}
    if len(inputs) <= CACHED_TOKENS:
        digest = hashlib.blake2b(hashlib.sha256(owner.encode()).digest(), digest_size=16)
        for start in range(0, len(inputs), CACHE_EVERY):
            block = array("q", inputs[start : start + CACHE_EVERY])
            digest.update(block.tobytes())
            keys[start + len(block)] = digest.copy().digest()
    return keys
