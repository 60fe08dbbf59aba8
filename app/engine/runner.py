"""The tensors of serving: the states of all rows, the batched passes through the network, and the draws."""

import torch
from torch import Tensor

from app.engine.prefixes import PrefixCache
from app.engine.sequence import Sequence
from models.backends.base import InferenceNetwork
from models.config import NetworkConfig
from models.decoding.scoring import BLOCK_ELEMENTS, TokenScore, score_targets


class Runner:
    """Owns the network and one state per row; used by one thread alone."""

    def __init__(self, network: InferenceNetwork, config: NetworkConfig, max_rows: int) -> None:
        self._network = network
        self._states = config.state_layout.zeros(max_rows, network.device)  # (max_rows, S)
        self._none = torch.empty(0, config.vocabulary_size, device=network.device)  # logits of no rows
        self._block_rows = max(1, BLOCK_ELEMENTS // config.vocabulary_size)

    @property
    def backend(self) -> str:
        """Device and number type, as answers report them."""
        return self._network.backend

    @torch.inference_mode()
    def start(self, sequences: list[Sequence]) -> tuple[list[Sequence], Tensor]:
        """Put first states into the rows of sequences; a given state may say something before any input.

        Returns as `consume` does.
        """
        zero = [sequence.slot for sequence in sequences if sequence.state is None]
        if zero:
            self._states[zero] = 0.0
        given = [sequence for sequence in sequences if sequence.state is not None]
        if given:
            first = torch.stack([sequence.state for sequence in given if sequence.state is not None])
            self._states[[sequence.slot for sequence in given]] = first.to(self._network.device)
        telling = [s for s in given if not s.pending or s.next_target() is not None]
        if not telling:
            return [], self._none
        slots = torch.tensor([sequence.slot for sequence in telling])
        return self._tell(telling, self._network.readout(self._states, slots)[:, None], [0] * len(telling))

    @torch.inference_mode()
    def consume(self, chunks: list[tuple[Sequence, int]]) -> tuple[list[Sequence], Tensor]:
        """Run the next inputs of sequences, the longest chunk first, and score their targets.

        Returns the sequences that have now consumed all inputs and are to go on, and the logits after the last input.
        """
        sequences, lengths = [sequence for sequence, _ in chunks], [length for _, length in chunks]
        ids = torch.zeros(len(chunks), lengths[0], dtype=torch.int64)
        for row, (sequence, length) in zip(ids, chunks, strict=True):
            row[:length] = torch.tensor(sequence.inputs[sequence.consumed : sequence.consumed + length])
        slots = torch.tensor([sequence.slot for sequence in sequences])
        features = self._network.run(ids, self._states, slots, lengths)
        for sequence, length in chunks:
            sequence.consumed += length
        return self._tell(sequences, features, [1 - length for length in lengths])

    def _tell(self, sequences: list[Sequence], features: Tensor, first: list[int]) -> tuple[list[Sequence], Tensor]:
        """What features[b, t], (B, T, P), say: they predict target `consumed + first[b] + t`."""
        self._score(sequences, features, first)
        done = [row for row, sequence in enumerate(sequences) if not sequence.pending]
        for row in done:
            if sequences[row].keep_state:
                sequences[row].final_state = self.state_of(sequences[row])
        last = {row: features[row, -first[row]] for row in done}
        asked = [row for row in done if sequences[row].keep_logprobs]
        if asked:
            logprobs = torch.log_softmax(self._network.logits(torch.stack([last[row] for row in asked])), dim=-1)
            for row, distribution in zip(asked, logprobs, strict=True):
                sequences[row].logprobs = distribution
        drawing = [row for row in done if sequences[row].generating]
        if not drawing:
            return [], self._none
        return [sequences[row] for row in drawing], self._network.logits(torch.stack([last[row] for row in drawing]))

    @torch.inference_mode()
    def step(self, sequences: list[Sequence]) -> Tensor:
        """Consume the last drawn token of each sequence; returns the logits of the next one, (B, V)."""
        last = torch.tensor([[s.completion.token_ids[-1]] for s in sequences if s.completion])
        slots = torch.tensor([sequence.slot for sequence in sequences])
        return self._network.logits(self._network.run(last, self._states, slots)[:, -1])

    def cache(self, max_bytes: int) -> PrefixCache:
        """An empty cache of states of this network."""
        return PrefixCache(max_bytes, self._states.shape[1], self._network.device)

    @property
    def longest_feed(self) -> int:
        """Most inputs that `decode` runs of a sequence before its first draw."""
        return self._network.longest_feed

    def decode(
        self, sequences: list[Sequence], seconds: float
    ) -> tuple[list[list[int]], list[tuple[Sequence, Tensor]]]:
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
        before_last = torch.empty(len(feeds), self._states.shape[1]) if prompts else None
        results = self._network.decode(completions, feeds, self._states, slots, seconds, before_last)
        for sequence, (consumed, _) in zip(sequences, results, strict=True):
            if sequence.pending:
                sequence.consumed += consumed
        passed = []
        if before_last is not None:
            passed = [(sequences[row], before_last[row]) for row in prompts if not sequences[row].pending]
        return [token_ids for _, token_ids in results], passed

    def state_of(self, sequence: Sequence) -> Tensor:
        """A copy of a sequence's state as it is: (S,)."""
        return self._states[sequence.slot].clone()

    @torch.inference_mode()
    def draw(self, sequences: list[Sequence], logits: Tensor) -> list[tuple[int, TokenScore | None]]:
        """The next token of each sequence, with its score where that is reported. logits: (B, V)."""
        reported = [row for row, s in enumerate(sequences) if s.report_tokens]
        own_logits = logits[reported]  # a copy: sampling may overwrite
        token_ids = self._network.sample(logits, [s.completion.next_draw() for s in sequences if s.completion])
        scores: list[TokenScore | None] = [None] * len(sequences)
        if reported:
            tops = [sequences[row].top for row in reported]
            drawn = _cut(score_targets(own_logits, [token_ids[row] for row in reported], max(tops)), tops)
            for row, score in zip(reported, drawn, strict=True):
                scores[row] = score
        return list(zip(token_ids, scores, strict=True))

    def _score(self, sequences: list[Sequence], features: Tensor, first: list[int]) -> None:
        """Score the targets that features predict, in blocks; only alternatives need the (N, V) logits."""
        width = features.shape[1]
        flat = features.flatten(0, 1)  # (B * T, P)
        for with_top in (False, True):
            places: list[int] = []
            targets: list[int] = []
            owners: list[Sequence] = []
            for row, sequence in enumerate(sequences):
                if bool(sequence.top) == with_top:
                    begin = sequence.consumed + first[row]
                    for t, target in enumerate(sequence.targets[begin : sequence.consumed + 1]):
                        if target is not None:
                            places.append(row * width + t)
                            targets.append(target)
                            owners.append(sequence)
            for start in range(0, len(places), self._block_rows):
                block = slice(start, start + self._block_rows)
                scores = self._token_scores(flat[places[block]], targets[block], [s.top for s in owners[block]])
                for sequence, score in zip(owners[block], scores, strict=True):
                    sequence.scores.append(score)

    def _token_scores(self, features: Tensor, targets: list[int], tops: list[int]) -> list[TokenScore]:
        """Scores of one target a row. features: (N, P); tops: alternatives wanted for each, all 0 or none."""
        logprobs, ranks = self._network.score(features, torch.tensor(targets))
        scores = list(map(TokenScore, targets, logprobs.tolist(), ranks.tolist()))
        if not any(tops):
            return scores
        # A token's number is the same to the last bit whether alternatives are wanted or not, and among them.
        found = _cut(score_targets(self._network.logits(features), targets, max(tops)), tops)
        return [
            score._replace(top=tuple((i, score.logprob if i == score.token_id else value) for i, value in more.top))
            for score, more in zip(scores, found, strict=True)
        ]


def _cut(scores: list[TokenScore], tops: list[int]) -> list[TokenScore]:
    """As many alternatives as each row asked for, where others of its batch asked for more."""
    return [score._replace(top=score.top[:top]) for score, top in zip(scores, tops, strict=True)]
