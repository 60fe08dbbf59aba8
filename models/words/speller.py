"""How words that a vocabulary left out are spelled: a lexicon of those that were seen, and for all others a small
recurrent model of their UTF-8 bytes.

A word-level model gives `<unk>` a probability, the same for every unknown word. A speller says which word it is:

    P(word | text) = P(<unk> | text) * P(spelling)
    P(spelling) = share * P(word in the lexicon) + (1 - share) * product of P(byte | bytes before) * P(end | all)

(linear interpolation, Jelinek & Mercer 1980), so that every string has a probability, and all of them together have no
more than 1. Spellings are of whole tokens: at level `word` the leading space belongs to them.

Token 0 is both start and end; byte b is token b + 1.
"""

import heapq
import math
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from models.arrays import Array
from models.backends.load import load_inference
from models.config import NetworkConfig
from models.decoding.sampling import Draw, SamplingParams, uniforms
from models.decoding.scoring import likeliest, log_softmax
from models.words.lexicon import Lexicon

END = 0
VOCABULARY_SIZE = 257

LONGEST = 64
"""Bytes of a spelling that is drawn; it ends there."""
REMEMBERED = 10_000
"""Spellings whose log-probability need not be computed again."""
EXPANSIONS, AT_ONCE = 512, 16
"""Of a search for completions: nodes looked at, and how many together."""
STRETCH = 8192
"""Bytes that the network reads in one call: its memory does not grow with what is asked, and another thread waits for
no longer than that takes."""


def _unchecked() -> None:
    """Nothing ends the work early."""


class _Shared:
    """A network that several threads take turns with, for one call at a time."""

    def __init__(self, config: NetworkConfig, weights: Mapping[str, Array]) -> None:
        self.network = load_inference(config, weights, "cpu", "float32")
        self.lock = threading.Lock()


class Speller:
    """Results are a function of the spelling alone, whatever else is asked for. Any thread may use it.

    Words that are drawn have a network of their own: whoever draws never waits for those who score.
    """

    def __init__(
        self,
        config: NetworkConfig,
        weights: Mapping[str, Array],
        lexicon: Lexicon | None = None,
        share: float = 0.0,
    ) -> None:
        """config, weights: of the model of bytes, as for `load_inference`. share: of unknown words that are the
        lexicon's, in [0, 1). Raises `ValueError` when it is not, or the network is none of bytes."""
        if config.vocabulary_size != VOCABULARY_SIZE:
            raise ValueError(f"vocabulary_size: {config.vocabulary_size} is not {VOCABULARY_SIZE}, for bytes")
        if not 0 <= share < 1 or (share > 0) != (lexicon is not None):
            raise ValueError(f"share: {share} is not one of a lexicon's")
        self.config = config
        self.weights = weights
        self.lexicon = lexicon
        self.share = share
        self._scoring, self._drawing = _Shared(config, weights), _Shared(config, weights)
        self._known: dict[tuple[str, str], float] = {}

    def with_lexicon(self, lexicon: Lexicon | None, share: float) -> "Speller":
        """The same model of bytes beside another lexicon, or none."""
        return Speller(self.config, self.weights, lexicon, share)

    def logprobs(
        self, spellings: Sequence[str], owner: str = "", check: Callable[[], None] = _unchecked
    ) -> list[float]:
        """Log-probability, in nats, of each spelling, its end included.

        owner: for whom; what was computed for others is not looked up, so that the time taken tells nothing of them.
        check: called every few milliseconds; may raise to end the work.
        """
        spelled = self.spelled_logprobs(spellings, owner, check)
        return [
            self._mixed(self._listed(spelling), logprob) for spelling, logprob in zip(spellings, spelled, strict=True)
        ]

    def spelled_logprobs(
        self, spellings: Sequence[str], owner: str = "", check: Callable[[], None] = _unchecked
    ) -> list[float]:
        """What the model of bytes alone gives each."""
        known = {s: logprob for s in spellings if (logprob := self._known.get((owner, s))) is not None}
        new = sorted({s for s in spellings if s not in known}, key=lambda s: -len(s.encode()))
        while new:
            check()
            count = max(1, STRETCH // (len(new[0].encode()) + 1))
            known |= zip(new[:count], self._score(new[:count], check), strict=True)
            del new[:count]
        self._remember(known, owner)
        return [known[spelling] for spelling in spellings]

    def _remember(self, known: Mapping[str, float], owner: str) -> None:
        """Keep what is short enough to come again."""
        if len(self._known) + len(known) > REMEMBERED:
            self._known = {}
        if len(known) <= REMEMBERED:
            self._known |= {(owner, s): logprob for s, logprob in known.items() if len(s) <= LONGEST}

    def spell(self, seed: int, choice: int, position: int) -> str:
        """A spelling drawn from the model: a function of the three numbers, as the draw of a token is."""
        number = float(uniforms([seed], [choice], [position])[0])
        if self.lexicon is not None and number < self.share:
            return self.lexicon.draw(number / self.share)
        own_seed = int((number - self.share) / (1 - self.share) * 2.0**53)
        drawn: list[int] = []
        network = self._drawing.network
        with self._drawing.lock:
            state, slot = network.zeros(1), np.array([0])
            token_id = END
            while len(drawn) < LONGEST:
                features = network.run(np.array([[token_id]]), state, slot)
                banned = () if drawn else (END,)  # a word has a letter
                draw = Draw(SamplingParams(), own_seed, 0, len(drawn), banned=banned)
                [token_id] = network.sample(network.logits(features[:, 0]), [draw])
                if token_id == END:
                    break
                drawn.append(token_id - 1)
        return bytes(drawn).decode("utf-8", "replace")

    def completions(
        self, beginning: str, top: int, owner: str = "", check: Callable[[], None] = _unchecked
    ) -> tuple[float, list[tuple[str, float]]]:
        """The likeliest spellings that begin so: of the lexicon, and by best-first search among all others.

        Returns the log-probability of all that begin so, and (spelling, log-probability), likeliest first. owner,
        check: as for `logprobs`.
        """
        spelled_mass, found = self._search(beginning, top, check)
        mass, listed = self.lexicon.beginning(beginning, top) if self.lexicon else (0.0, [])
        candidates = dict(found) | dict(zip(listed, self.spelled_logprobs(listed, owner, check), strict=True))
        mixed = [(one, self._mixed(self._listed(one), logprob)) for one, logprob in candidates.items()]
        return self._mixed(mass, spelled_mass), sorted(mixed, key=lambda pair: (-pair[1], pair[0]))[:top]

    def _listed(self, spelling: str) -> float:
        return self.lexicon.probability(spelling) if self.lexicon else 0.0

    def _mixed(self, listed: float, spelled: float) -> float:
        """Log-probability of what has the probability `listed` in the lexicon, log-probability `spelled` in bytes."""
        rest = spelled + math.log1p(-self.share)
        return float(np.logaddexp(math.log(self.share * listed), rest)) if listed else rest

    def _search(self, beginning: str, top: int, check: Callable[[], None]) -> tuple[float, list[tuple[str, float]]]:
        """Best-first search with a bounded number of steps, in the model of bytes."""
        begun = beginning.encode()
        mass, following, state = self._read(begun, check)
        found: list[tuple[float, bytes]] = []
        heap: list[tuple[float, bytes, int]] = []
        states = [state]  # by node; a heap entry says which node's state it follows
        self._push(heap, found, begun, mass, following, 0)
        for _ in range(EXPANSIONS // AT_ONCE):
            check()
            enough = sorted(found, reverse=True)[top - 1][0] if len(found) >= top else -math.inf
            batch = [heapq.heappop(heap) for _ in range(min(AT_ONCE, len(heap)))]
            batch = [node for node in batch if -node[0] > enough and len(node[1]) < LONGEST]
            if not batch:
                break
            rows = np.stack([states[parent] for _, _, parent in batch])
            steps = self._steps(np.array([[spelled[-1] + 1] for _, spelled, _ in batch]), rows)[:, 0]
            for (negative, spelled, _), row, logprobs in zip(batch, rows, steps, strict=True):
                states.append(row)
                self._push(heap, found, spelled, -negative, logprobs, len(states) - 1)
        best = sorted(found, reverse=True)[:top]
        return mass, [(spelled.decode("utf-8", "replace"), logprob) for logprob, spelled in best]

    def _read(self, begun: bytes, check: Callable[[], None]) -> tuple[float, Array, Array]:
        """Log-probability of the bytes that a word begins with, the distribution of the next, (V,), and the state."""
        ids = np.array([END, *(byte + 1 for byte in begun)])
        state = np.zeros((1, self.config.state_layout.size), np.float32)
        mass, following = 0.0, np.zeros(VOCABULARY_SIZE)
        for first in range(0, len(ids), STRETCH // 8):  # of which each has a distribution
            check()
            steps = self._steps(ids[None, first : first + STRETCH // 8], state)[0]
            targets = ids[first + 1 : first + len(steps) + 1]
            mass += sum(steps[np.arange(len(targets)), targets].tolist())
            following = steps[-1]
        return mass, following, state[0]

    def _steps(self, ids: Array, states: Array) -> Array:
        """The distribution after each of the bytes, (B, T) -> (B, T, V), nats, float64. states: (B, S), updated."""
        network = self._scoring.network
        with self._scoring.lock:
            features = network.run(ids, states, np.arange(len(ids)))
            logits = network.logits(features.reshape(-1, features.shape[-1]))
        return log_softmax(logits.astype(np.float64)).reshape(*ids.shape, -1)

    def _push(
        self,
        heap: list[tuple[float, bytes, int]],
        found: list[tuple[float, bytes]],
        spelled: bytes,
        logprob: float,
        following: Array,
        node: int,
    ) -> None:
        """Note a spelling that ends here, and where it may go on. following: (V,), nats."""
        if spelled.strip():
            found.append((logprob + float(following[END]), spelled))
        best = likeliest(following[1:], 8)
        for step, byte in zip(following[1:][best].tolist(), best.tolist(), strict=True):
            heapq.heappush(heap, (-(logprob + step), spelled + bytes([byte]), node))

    def _score(self, spellings: Sequence[str], check: Callable[[], None]) -> list[float]:
        """Log-probabilities of spellings, the longest first; of one where it is longer than `STRETCH`."""
        encoded = [[byte + 1 for byte in spelling.encode()] for spelling in spellings]
        lengths = [len(ids) + 1 for ids in encoded]
        inputs = np.zeros((len(encoded), lengths[0]), np.int64)
        targets = np.zeros_like(inputs)
        for row, ids in enumerate(encoded):
            inputs[row, 1 : len(ids) + 1] = targets[row, : len(ids)] = ids
        network, totals = self._scoring.network, np.zeros(len(encoded))
        states = np.zeros((len(encoded), self.config.state_layout.size), np.float32)
        for first in range(0, lengths[0], STRETCH):
            check()
            left = [min(length - first, STRETCH) for length in lengths]
            part = slice(first, first + STRETCH)
            real = np.arange(left[0]) < np.array(left)[:, None]
            with self._scoring.lock:
                features = network.run(inputs[:, part], states, np.arange(len(encoded)), left)
                logprobs, _ = network.score(features[real], targets[:, part][real])
            parts = np.split(logprobs, np.cumsum(left)[:-1])
            totals += [float(part.sum(dtype=np.float64)) for part in parts]
        return totals.tolist()
