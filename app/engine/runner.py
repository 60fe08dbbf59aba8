"""The tensors of serving: the states of all rows, the batched passes through the network, and the draws."""

import torch
from torch import Tensor

from app.engine.sequence import Sequence
from models.network import LanguageModel
from models.sampling import sample
from models.scoring import BLOCK_ELEMENTS, TokenScore, score_targets


class Runner:
    """Owns the network and one state per row; used by one thread alone."""

    def __init__(self, model: LanguageModel, device: str, max_rows: int) -> None:
        self.device = torch.device(device)
        self._model = model.to(self.device)
        self._states = model.config.state_layout.zeros(max_rows, self.device)  # (max_rows, S)
        self._block_rows = max(1, BLOCK_ELEMENTS // model.config.vocabulary_size)

    @property
    def backend(self) -> str:
        """Device and number type, as answers report them."""
        return f"{self.device.type}-float32"

    def start(self, sequence: Sequence) -> None:
        """Put a sequence's first state into its row."""
        if sequence.state is None:
            self._states[sequence.slot] = 0.0
        else:
            self._states[sequence.slot] = sequence.state.to(self.device)

    @torch.inference_mode()
    def consume(self, sequences: list[Sequence], length: int) -> tuple[list[Sequence], Tensor]:
        """Run the next `length` inputs of each sequence and score their targets.

        Returns the sequences that have now consumed all inputs and are to go on, and the logits after the last input.
        """
        ids = [sequence.inputs[sequence.consumed : sequence.consumed + length] for sequence in sequences]
        features = self._advance(sequences, ids)  # (B, T, P)
        for sequence in sequences:
            sequence.consumed += length
        self._score(sequences, features)
        done = [(row, s) for row, s in enumerate(sequences) if not s.pending]
        for row, sequence in done:
            if sequence.keep:
                sequence.final_state = self._states[sequence.slot].clone()
                sequence.logprobs = torch.log_softmax(self._model.logits(features[row, -1]).float(), dim=-1)
        drawing = [(row, s) for row, s in done if s.generating]
        return [s for _, s in drawing], self._model.logits(features[[row for row, _ in drawing], -1])

    @torch.inference_mode()
    def step(self, sequences: list[Sequence]) -> Tensor:
        """Consume the last drawn token of each sequence; returns the logits of the next ones, (B, V)."""
        features = self._advance(sequences, [[s.completion.token_ids[-1]] for s in sequences if s.completion])
        return self._model.logits(features[:, -1])

    @torch.inference_mode()
    def draw(self, sequences: list[Sequence], logits: Tensor) -> list[tuple[int, TokenScore | None]]:
        """The next token of each sequence, with its score where that is reported. logits: (B, V)."""
        token_ids = sample(logits, [s.completion.next_draw() for s in sequences if s.completion]).tolist()
        scores: list[TokenScore | None] = [None] * len(sequences)
        reported = [row for row, s in enumerate(sequences) if s.report_tokens]
        if reported:
            top = max(sequences[row].top for row in reported)
            for row, score in zip(
                reported, score_targets(logits[reported], [token_ids[row] for row in reported], top), strict=True
            ):
                scores[row] = _cut(score, sequences[row].top)
        return list(zip(token_ids, scores, strict=True))

    def _advance(self, sequences: list[Sequence], ids: list[list[int]]) -> Tensor:
        """Feed (B, T) ids into the rows of the sequences; returns the features (B, T, P)."""
        slots = torch.tensor([sequence.slot for sequence in sequences], device=self.device)
        features, states = self._model.features(torch.tensor(ids, device=self.device), self._states[slots])
        self._states[slots] = states
        return features

    def _score(self, sequences: list[Sequence], features: Tensor) -> None:
        """Score the targets that features[b, t] predict; the (N, V) logits are made in blocks."""
        length = features.shape[1]
        wanted: list[tuple[int, int, int]] = []
        for row, sequence in enumerate(sequences):
            first = sequence.consumed - length + 1
            targets = enumerate(sequence.targets[first : first + length])
            wanted += [(row, t, target) for t, target in targets if target is not None]
        for start in range(0, len(wanted), self._block_rows):
            block = wanted[start : start + self._block_rows]
            rows = [row for row, _, _ in block]
            logits = self._model.logits(features[rows, [t for _, t, _ in block]])
            top = max(sequences[row].top for row in rows)
            scores = score_targets(logits, [target for _, _, target in block], top)
            for row, score in zip(rows, scores, strict=True):
                sequences[row].scores.append(_cut(score, sequences[row].top))


def _cut(score: TokenScore, top: int) -> TokenScore:
    """As many alternatives as this sequence asked for, where others of its batch asked for more."""
    return score if len(score.top) == top else TokenScore(score.token_id, score.logprob, score.rank, score.top[:top])
