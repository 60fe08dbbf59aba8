"""What the engine works on: a sequence of tokens to consume, what to tell about them, and how to go on. No HTTP."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Set
from dataclasses import dataclass, field

from app.deadline import Deadline
from models.arrays import Array
from models.backends.base import Own
from models.decoding.completion import Completion
from models.decoding.scoring import TokenScore


@dataclass(eq=False)
class Sequence:
    """One row of work: consume `inputs`, score `targets` on the way, then draw the tokens of `completion`.

    targets[k] is predicted after k inputs (see `scoring_plan`); shorter than inputs + 1 means no more.
    top: alternatives to report with each scored or drawn token. report_tokens: whether drawn tokens are scored.
    state: (S,), where to start; None: the zero state. keep_state, keep_logprobs: whether `final_state`, after all
    inputs and the whole completion, and `logprobs`, the distribution after the last input, are wanted. keep_mean:
    whether `mean_output` is, what the network gives for the mean of the features of all inputs; it starts from the zero
    state.
    """

    inputs: list[int]
    targets: list[int | None] = field(default_factory=list)
    top: int = 0
    completion: Completion | None = None
    report_tokens: bool = False
    state: Own | None = None
    keep_state: bool = False
    keep_logprobs: bool = False
    keep_mean: bool = False
    parent: "Sequence | None" = None
    """To be run before; this sequence goes on from its `final_state`."""

    # What the engine fills in.
    scores: list[TokenScore] = field(default_factory=list)
    """Of the targets."""
    drawn_scores: list[TokenScore] = field(default_factory=list)
    """Of the drawn tokens, where they are reported."""
    final_state: Own | None = None
    logprobs: Array | None = None
    feature_sum: Array | None = None
    """(P,), float64, of the inputs consumed so far, where their mean is wanted."""
    mean_output: Array | None = None
    timed_from: float = 0.0
    """Since when its tokens are timed, of `time.monotonic`, and …"""
    untimed: int = 0
    """… how many were there by then."""
    consumed: int = 0
    cached: int = 0
    """Inputs that were not run because the state after them was known."""
    cache_keys: dict[int, bytes] = field(default_factory=dict)
    """Under which key to remember the state after so many inputs."""
    slot: int = -1
    index: int = -1
    """Of the sequence in its request."""
    unsent: list["Progress"] = field(default_factory=list)
    """Drawn tokens that a request which is followed has not been told of."""
    parked: bool = False
    """Whether it has left its row for others; `state` is then as far as it came, and what is to be told of that is."""
    by_step: bool = False
    """Whether something has to be done between any two samples."""

    @property
    def step_by_step(self) -> bool:
        """Whether the next token is sampled by itself; other sequences sample several tokens at a time."""
        return self.by_step or (self.completion is not None and self.completion.opens)

    def plan(self, samples: Set[str]) -> None:
        """Set `by_step`: whether sampling wants what the network does not do itself (it knows the fields
        `samples`), or tokens are reported, or the state is wanted and a stop string may come."""
        params = self.completion.params if self.completion else None
        self.by_step = params is not None and (
            not params.sampling.wanted <= samples or self.report_tokens or (self.keep_state and bool(params.stop))
        )

    @property
    def pending(self) -> int:
        """Inputs not consumed yet."""
        return len(self.inputs) - self.consumed

    def all_scores(self) -> list[TokenScore]:
        """The scores of the parents, first to last, and its own."""
        return [score for sequence in reversed(list(self.lineage())) for score in sequence.scores]

    def lineage(self) -> Iterator["Sequence"]:
        """The sequence itself, its parent, and so on: there may be a thousand."""
        sequence: Sequence | None = self
        while sequence is not None:
            yield sequence
            sequence = sequence.parent

    def next_target(self) -> int | None:
        """What is to be scored before the next input is consumed."""
        return self.targets[self.consumed] if self.consumed < len(self.targets) else None

    def skippable(self) -> bool:
        """Whether a beginning of the inputs may be left out: it starts from the zero state, and nothing is scored."""
        return (
            self.state is None
            and not self.keep_mean
            and not any(target is not None for target in self.targets[: len(self.inputs)])
        )

    @property
    def draws_alone(self) -> bool:
        """Whether nothing but draws, several at a time, is to come of the inputs that are left. The last of them are
        then run along with the steps of those that draw."""
        return (
            self.generating and not self.step_by_step and not self.keep_logprobs and len(self.targets) <= self.consumed
        )

    def rides(self, longest_feed: int) -> bool:
        """Whether the inputs that are left are few enough for that."""
        return self.pending <= longest_feed and self.draws_alone

    @property
    def generating(self) -> bool:
        """Whether a next token is to be drawn once the inputs are consumed."""
        return self.completion is not None and self.completion.finish_reason is None

    @property
    def finished(self) -> bool:
        return self.consumed >= len(self.inputs) and (
            self.completion is None or self.completion.finish_reason is not None
        )


@dataclass(slots=True)
class Progress:
    """One drawn token of a request whose progress is followed. index: of the sequence in its request. text: what became
    certain of the completion's text. finished: the sequence has ended."""

    index: int
    token_id: int
    text: str
    score: TokenScore | None
    finished: bool
    tokens: int = 1
    """How many tokens it stands for: more than one where the reader lags."""


LAG = 256
"""Tokens that may wait for the reader of a stream each by itself. While more do, the request rests, and those of a
sequence beyond are joined, so that what waits is the text. Tokens with scores stay apart: the settings bound how many
of those a request may have."""


@dataclass(eq=False)
class Request:
    """Sequences that were submitted together, and where their progress goes.

    followed: whether every token is told. owner: see `app.tasks.task.Call`. events: what the engine has to tell, in
    order; the last is None, the end, or an exception. rows, served_at: the scheduler's: how many rows it holds,
    and in which step its prompts were last run.
    """

    sequences: list[Sequence]
    deadline: Deadline
    loop: asyncio.AbstractEventLoop
    followed: bool = False
    owner: str = ""
    events: asyncio.Queue[list[Progress] | Exception | None] = field(default_factory=asyncio.Queue)
    arrived: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    rows: int = 0
    served_at: int = 0
    admitted: bool = False
    """Whether a sequence of it has had a row."""
    ended: bool = False
    """Whether it was let go before it was finished."""
    waiting: deque[Sequence] = field(init=False)
    unfinished: int = field(init=False)

    def __post_init__(self) -> None:
        self.waiting = deque(sequence for sequence in self.sequences if sequence.parent is None)
        self.unfinished = len(self.sequences)
        self._children: dict[int, list[Sequence]] = {}
        self._untold = 0
        self._joined: list[Progress] = []  # the last list of `events`, where tokens are joined
        self._joined_by_sequence: dict[int, Progress] = {}
        for index, sequence in enumerate(self.sequences):
            sequence.index = index
            if sequence.parent is not None:
                self._children.setdefault(id(sequence.parent), []).append(sequence)

    def release_children(self, sequence: Sequence) -> bool:
        """Let those wait for a row that were waiting for `sequence`; whether there are any."""
        children = self._children.pop(id(sequence), [])
        for child in children:
            child.state = sequence.final_state
        self.waiting.extend(children)
        return bool(children)

    @property
    def over(self) -> bool:
        """Whether it is to be let go, answered or not."""
        return self.cancelled or self.deadline.remaining < 0

    @property
    def lags(self) -> bool:
        """Whether so much waits for its reader that no more is to be made; read from any thread."""
        return self._untold > LAG

    def tell(self, event: list[Progress] | Exception | None) -> None:
        """Put into `events`. Tokens of one that lags join those that wait already. On its event loop."""
        if isinstance(event, list) and self.lags:
            self._join(event)
            return
        self._joined = []
        self._untold += len(event) if isinstance(event, list) else 0
        self.events.put_nowait(event)

    def _join(self, progress: list[Progress]) -> None:
        if not self._joined:
            self._joined_by_sequence.clear()
            self.events.put_nowait(self._joined)
        for token in progress:
            first = self._joined_by_sequence.get(token.index) if token.score is None else None
            if first is not None:
                first.text += token.text
                first.tokens += token.tokens
                first.finished = token.finished
            else:
                self._joined.append(token)
                self._joined_by_sequence[token.index] = token
                self._untold += 1

    async def next_event(self) -> list[Progress] | Exception | None:
        """The next of `events`."""
        event = await self.events.get()
        if isinstance(event, list):
            self._untold -= len(event)
        return event
