"""Completing one text: what ends it, how tokens become text. No network."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from models.decoding.sampling import Draw, SamplingParams
from models.decoding.scoring import started
from models.text.tokenizer import TextDecoder, Tokenizer

FinishReason = Literal["length", "stop", "eos"]


class Spells(Protocol):
    """Writes words that the vocabulary has not: `models.words.speller.Speller`."""

    def spell(self, seed: int, choice: int, position: int) -> str:
        """A function of the three numbers alone."""


@dataclass(frozen=True)
class GenerationParams:
    """One completion: how it is drawn and what ends it."""

    max_tokens: int = 64
    min_tokens: int = 0
    """`<eos>` cannot be drawn before this many tokens."""
    stop: Sequence[str] = ()
    """The text ends before the first of these."""
    ignore_eos: bool = False
    """A drawn `<eos>` is written as the boundary and the text goes on."""
    allow_unk: bool = False
    speller: Spells | None = None
    """Spells each `<unk>` that is drawn, in its place."""
    seed: int = 0
    choice: int = 0
    sampling: SamplingParams = field(default_factory=SamplingParams)


class CompletionText:
    """The text of a completion as its tokens come: holds back what may still become a stop string or a character."""

    def __init__(self, decoder: TextDecoder, stop: Sequence[str]) -> None:
        self._decoder = decoder
        self._stop = stop
        self._held = ""
        self.stopped = False
        """A stop string was met; no more tokens are to be fed."""

    def feed(self, token_id: int, spelled: str | None = None) -> str:
        """The text that is certain once this token has come; spelled: what an `<unk>` stands for."""
        return self._release(self._decoder.feed(token_id, spelled), final=False)

    def finish(self) -> str:
        """The rest, when no more tokens come."""
        return "" if self.stopped else self._release(self._decoder.flush(), final=True)

    def _release(self, piece: str, final: bool) -> str:
        if not self._stop:
            return piece
        text = self._held + piece
        found = [index for index in (text.find(stop) for stop in self._stop) if index >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = 0 if final else max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


class Completion:
    """One completion under way: its tokens and text so far, and whether it has ended."""

    def __init__(
        self,
        params: GenerationParams,
        tokenizer: Tokenizer,
        at_start: bool,
        prompt_ids: Sequence[int],
        position: int,
        open_space: bool = False,
    ) -> None:
        """at_start: whether the text before is empty or ends in white space. position: how many tokens the network has
        consumed when the first token is drawn. open_space: see `Tokenizer.cut_open_space`.
        """
        self.params = params
        self.prompt_ids = prompt_ids
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = "length" if params.max_tokens == 0 else None
        self.start = position
        self.unk_id = tokenizer.unk_id
        self.eos_id = tokenizer.eos_id
        self.native_plan: bytes | None = None
        """The native kernels' own, made when they first draw."""
        self.open_space = open_space
        self._without_space = tokenizer.without_space if open_space else ()
        self._decoder = tokenizer.decoder(at_start, open_space)
        self._text = CompletionText(self._decoder, params.stop)
        self._pieces: list[str] = []
        self._undecoded = 0  # from which token on the text is still to be made
        self._spelled: dict[int, str] = {}

    @property
    def position(self) -> int:
        """How many tokens the network has consumed once it has consumed all of these, an `<eos>` that ends aside."""
        return self.start + len(self.token_ids) - (self.finish_reason == "eos")

    @property
    def at_start(self) -> bool:
        """Whether the text so far is empty or ends in white space."""
        self._decode()
        return self._decoder.at_start

    @property
    def opens(self) -> bool:
        """Whether the token to come is the one that an open space belongs to."""
        return self.open_space and not self.token_ids

    def next_draw(self) -> Draw:
        """What the next token depends on."""
        banned = [] if self.params.allow_unk else [self.unk_id]
        if len(self.token_ids) < self.params.min_tokens:
            banned.append(self.eos_id)
        if self.opens:
            banned.extend(self._without_space)
        return Draw(
            self.params.sampling,
            self.params.seed,
            self.params.choice,
            self.start + len(self.token_ids),
            self.prompt_ids,
            self.token_ids,
            banned,
        )

    @property
    def text(self) -> str:
        """The text that is certain so far."""
        self._decode()
        return "".join(self._pieces)

    def accept(self, token_id: int) -> str:
        """Take a drawn token; returns the text that is now certain, and sets `finish_reason` when it was the last."""
        self.token_ids.append(token_id)
        self._undecoded = len(self.token_ids)
        if self._ends(token_id):
            self.finish_reason = "eos"
            text = self._text.finish()
        else:
            text = self._text.feed(token_id, self.spelled(len(self.token_ids) - 1))
            if self._text.stopped:
                self.finish_reason = "stop"
            elif len(self.token_ids) >= self.params.max_tokens:
                self.finish_reason = "length"
                text += self._text.finish()
                if self._text.stopped:
                    self.finish_reason = "stop"
        self._pieces.append(text)
        return text

    def accept_all(self, token_ids: Sequence[int]) -> None:
        """Take drawn tokens, up to where the completion ends. Where no stop string can end it, their text is made all
        at once when it is asked for."""
        if self.params.stop:
            for token_id in token_ids:
                if self.finish_reason is None:
                    self.accept(token_id)
            return
        self.token_ids += token_ids
        if self._ends(token_ids[-1]):
            self.finish_reason = "eos"
        elif len(self.token_ids) >= self.params.max_tokens:
            self.finish_reason = "length"

    def spelled(self, index: int) -> str | None:
        """What stands for token `index`, where that is an `<unk>` to be spelled: the same whenever it is asked for."""
        if self.params.speller is None or self.token_ids[index] != self.unk_id:
            return None
        if index not in self._spelled:
            self._spelled[index] = self.params.speller.spell(self.params.seed, self.params.choice, self.start + index)
        return self._spelled[index]

    def _ends(self, token_id: int) -> bool:
        return token_id == self.eos_id and not self.params.ignore_eos

    def _decode(self) -> None:
        """Make the text of what `accept_all` took."""
        if self._undecoded < len(self.token_ids):
            end = len(self.token_ids) - (self.finish_reason == "eos")
            if self.params.speller is None:
                self._pieces.append(self._decoder.feed_all(self.token_ids[self._undecoded : end]))
            else:
                self._pieces += [
                    self._decoder.feed(self.token_ids[index], self.spelled(index))
                    for index in range(self._undecoded, end)
                ]
            self._undecoded = len(self.token_ids)
            if self.finish_reason is not None:
                self._pieces.append(self._text.finish())


def prompt_inputs(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """What the network consumes before the first token is drawn: the start symbol, then the prompt."""
    return started(tokenizer.encode_ids(prompt), tokenizer.eos_id)
