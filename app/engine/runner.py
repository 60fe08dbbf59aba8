"""The arrays of serving: the states of all rows, the batched passes through the network, and the samples."""

import numpy as np

from app.engine.prefixes import PrefixCache
from app.engine.sequence import Sequence
from models.backends.base import InferenceNetwork, Own
from models.config import NetworkConfig
from models.decoding.sampling import sample_rows
from models.decoding.scoring import BLOCK_ELEMENTS, TokenScore, log_softmax

Batch = tuple[list[Sequence], Own]
"""Sequences that sample their next token, and its logits, (B, V)."""


class Runner:
    """Owns the network and one state per row; used by one thread alone."""

    def __init__(self, network: InferenceNetwork, config: NetworkConfig, max_rows: int) -> None:
        self._network = network
        self._states = network.zeros(max_rows)  # (max_rows, S)
        self._vocabulary_size = config.vocabulary_size
        self._block_rows = max(1, BLOCK_ELEMENTS // config.vocabulary_size)

        packed = getattr(network, "packed_bytes", 4 * config.num_parameters)
        self.bytes = packed + 4 * config.vocabulary_size * config.embedding_size + 4 * self._states.shape[1] * max_rows
        """Memory of the network and of the states."""
        self.backend = network.backend
        self.longest_feed = network.longest_feed
        self.samples = network.samples
        self.host = network.host

    def check(self, sequence: Sequence) -> None:
        """Raises an exception where a sequence cannot be run: it then fails alone, before it shares a batch."""
        if sequence.inputs and not 0 <= min(sequence.inputs) <= max(sequence.inputs) < self._vocabulary_size:
            raise ValueError("a token id is outside the vocabulary")
        if sequence.generating and sequence.completion is not None:
            self._network.check(sequence.completion)

    def start(self, sequences: list[Sequence]) -> list[Batch]:
        """Put first states into the rows of sequences; a restored state may be scored or sampled before any input.

        Returns as `consume` does.
        """
        zero = [sequence.slot for sequence in sequences if sequence.state is None]
        if zero:
            self._states[zero] = 0.0
        restored = [sequence for sequence in sequences if sequence.state is not None]
        for sequence in restored:
            self._states[sequence.slot] = self._network.own(sequence.state)
        ready = [s for s in restored if not s.parked and (not s.pending or s.next_target() is not None)]
        if not ready:
            return []
        slots = np.array([sequence.slot for sequence in ready])
        return self._collect_results(ready, self._network.readout(self._states, slots)[:, None], [0] * len(ready))

    def consume(self, chunks: list[tuple[Sequence, int]]) -> list[Batch]:
        """Run the next inputs of sequences, the longest chunk first, and score their targets.

        Returns the sequences that have now consumed all inputs and go on, with the logits after the last input; none
        or one batch.
        """
        sequences, lengths = [sequence for sequence, _ in chunks], [length for _, length in chunks]
        ids = np.zeros((len(chunks), lengths[0]), np.int64)
        for row, (sequence, length) in zip(ids, chunks, strict=True):
            row[:length] = sequence.inputs[sequence.consumed : sequence.consumed + length]
        slots = np.array([sequence.slot for sequence in sequences])
        features = self._network.run(ids, self._states, slots, lengths)
        for sequence, length in chunks:
            sequence.consumed += length
        return self._collect_results(sequences, features, [1 - length for length in lengths])

    def _collect_results(self, sequences: list[Sequence], features: Own, first: list[int]) -> list[Batch]:
        """Scores, saves states, returns logits of the sequences that sample.

        features: (B, T, P); those at [b, t] predict target `consumed + first[b] + t` of sequence b.
        """
        self._score(sequences, features, first)
        self._add_up(sequences, features, first)
        done = [row for row, sequence in enumerate(sequences) if not sequence.pending]
        for row in done:
            if sequences[row].keep_state:
                sequences[row].final_state = self.state_of(sequences[row])

        def logits(rows: list[int]) -> Own:
            """After the last input of the rows."""
            return self._network.logits(features[rows, [-first[row] for row in rows]])

        asked = [row for row in done if sequences[row].keep_logprobs]
        if asked:
            logprobs = log_softmax(self._network.host(logits(asked)))
            for row, distribution in zip(asked, logprobs, strict=True):
                sequences[row].logprobs = distribution
        sampling = [row for row in done if sequences[row].generating]
        return [([sequences[row] for row in sampling], logits(sampling))] if sampling else []

    def _add_up(self, sequences: list[Sequence], features: Own, first: list[int]) -> None:
        """Add the features of new inputs to the sums of sequences that want their mean, token by token: how a text is
        cut into calls makes no difference. Where the inputs are over, the network answers for the mean."""
        for row, sequence in enumerate(sequences):
            if sequence.keep_mean:
                new = self._network.host(features[[row], : 1 - first[row]])[0].astype(np.float64)
                before = np.zeros_like(new[:1]) if sequence.feature_sum is None else sequence.feature_sum[None]
                sequence.feature_sum = np.concatenate([before, new]).cumsum(0)[-1]
                if not sequence.pending:
                    mean = (sequence.feature_sum / len(sequence.inputs)).astype(np.float32)
                    sequence.mean_output = self._network.host(self._network.logits(self._network.own(mean[None])))[0]

    def step(self, sequences: list[Sequence]) -> Own:
        """Consume the last sampled token of each sequence; returns the logits of the next one, (B, V)."""
        last = np.array([[s.completion.token_ids[-1]] for s in sequences if s.completion])
        slots = np.array([sequence.slot for sequence in sequences])
        return self._network.logits(self._network.run(last, self._states, slots)[:, -1])

    def cache(self, max_bytes: int) -> PrefixCache:
        """An empty cache of states of this network."""
        bytes_per_state = 4 * self._states.shape[1]
        count = max_bytes // bytes_per_state
        # Not zeros: what is never written takes no memory.
        return PrefixCache(self._network.own(np.empty((count, self._states.shape[1]), np.float32)))

    def decode(self, sequences: list[Sequence], seconds: float) -> tuple[list[list[int]], list[tuple[Sequence, Own]]]:
        """What inputs are left of sequences, then their next tokens: as many as `seconds` allow.

        Returns the tokens, and the state before the last input of each sequence that came by it with others.
        """
        completions, feeds = [], []
        for sequence in sequences:
            assert sequence.completion is not None
            completions.append(sequence.completion)
            feeds.append(sequence.inputs[sequence.consumed :] or sequence.completion.token_ids[-1:])
        slots = [sequence.slot for sequence in sequences]
        prompts = [row for row, feed in enumerate(feeds) if len(feed) > 1]
        before_last = self._network.zeros(len(feeds)) if prompts else None
        results = self._network.decode(completions, feeds, self._states, slots, seconds, before_last)
        for sequence, (consumed, _) in zip(sequences, results, strict=True):
            if sequence.pending:
                sequence.consumed += consumed
        passed = []
        if before_last is not None:
            passed = [(sequences[row], before_last[row]) for row in prompts if not sequences[row].pending]
        return [token_ids for _, token_ids in results], passed

    def state_of(self, sequence: Sequence) -> Own:
        """A copy of a sequence's state as it is: (S,)."""
        return self._states[[sequence.slot]][0]

    def draw(self, sequences: list[Sequence], logits: Own) -> list[tuple[int, TokenScore | None]]:
        """The next token of each sequence, with its score where that is reported. logits: (B, V)."""
        reported = [row for row, s in enumerate(sequences) if s.report_tokens]
        own_logits = logits[reported]  # a copy: sampling may overwrite
        draws = [s.completion.next_draw() for s in sequences if s.completion]
        token_ids = sample_rows(self._network, logits, draws)
        scores: list[TokenScore | None] = [None] * len(sequences)
        if reported:
            tops = [sequences[row].top for row in reported]
            scores_of_reported = self._network.score_logits(own_logits, [token_ids[row] for row in reported], max(tops))
            for row, score in zip(reported, _cut(scores_of_reported, tops), strict=True):
                scores[row] = score
        return list(zip(token_ids, scores, strict=True))

    def _score(self, sequences: list[Sequence], features: Own, first: list[int]) -> None:
        """Score the targets that features predict, in blocks; only alternatives need the (N, V) logits."""
        for with_top in (False, True):
            rows: list[int] = []
            times: list[int] = []
            targets: list[int] = []
            owners: list[Sequence] = []
            for row, sequence in enumerate(sequences):
                if bool(sequence.top) == with_top:
                    begin = sequence.consumed + first[row]
                    for t, target in enumerate(sequence.targets[begin : sequence.consumed + 1]):
                        if target is not None:
                            rows.append(row)
                            times.append(t)
                            targets.append(target)
                            owners.append(sequence)
            for start in range(0, len(rows), self._block_rows):
                block = slice(start, start + self._block_rows)
                scores = self._token_scores(
                    features[rows[block], times[block]], targets[block], [s.top for s in owners[block]]
                )
                for sequence, score in zip(owners[block], scores, strict=True):
                    sequence.scores.append(score)

    def _token_scores(self, features: Own, targets: list[int], tops: list[int]) -> list[TokenScore]:
        """Scores of one target a row. features: (N, P); tops: alternatives wanted for each, all 0 or none."""
        logprobs, ranks = self._network.score(features, np.array(targets))
        scores = list(map(TokenScore, targets, logprobs.tolist(), ranks.tolist()))
        if not any(tops):
            return scores
        # A token's number is the same to the last bit whether alternatives are wanted or not, and among them.
        found = _cut(self._network.score_logits(self._network.logits(features), targets, max(tops)), tops)
        return [
            score._replace(top=tuple((i, score.logprob if i == score.token_id else value) for i, value in more.top))
            for score, more in zip(scores, found, strict=True)
        ]


def _cut(scores: list[TokenScore], tops: list[int]) -> list[TokenScore]:
    """As many alternatives as each row asked for, where others of its batch asked for more."""
    return [score._replace(top=score.top[:top]) for score, top in zip(scores, tops, strict=True)]
