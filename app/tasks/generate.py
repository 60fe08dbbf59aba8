"""POST /generate: completions of prompts."""

import secrets
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.engine.prefixes import share_prefixes
from app.engine.sequence import Progress, Sequence
from app.errors import InvalidValueError, at_most
from app.registry import ServedModel
from app.tasks.body import (
    Answer,
    Model,
    RequestBody,
    ReturnState,
    SamplingBody,
    Seed,
    SomeTexts,
    State,
    StopStrings,
    Timeout,
    sampling_params,
)
from app.tasks.score import check_prompt_tokens
from app.tasks.states import cut_open_space, given_state, returned_state
from app.tasks.task import TIMEOUT, Call, Limit, Stream, Task
from app.tasks.tokens import TopToken, top_tokens
from models.decoding.completion import Completion, FinishReason, GenerationParams
from models.decoding.saved_state import SavedState
from models.decoding.scoring import TokenScore, started
from models.text.words import ends_in_space
from models.words.speller import Speller

# -- bodies ------------------------------------------------------------------------------------------------------------


class GenerationBody(SamplingBody):
    """How prompts are completed: what /generate and /v1/completions have in common."""

    max_tokens: int = Field(64, ge=0, description="Maximum number of tokens in a completion.")
    min_tokens: int = Field(0, ge=0, description="`<eos>` cannot be sampled before this many tokens.")
    stop: StopStrings = Field(default_factory=list, description="The text ends before the first of these strings.")
    ignore_eos: bool = Field(False, description="Continue past `<eos>`, so that exactly `max_tokens` tokens come.")
    n: int = Field(1, ge=1, description="Number of completions of each prompt.")
    seed: Seed | None = Field(
        None, description="The same seed gives the same text. When missing, the server chooses a seed and reports it."
    )
    logprobs: int | None = Field(None, ge=0, description="Report the sampled tokens, each with this many alternatives.")
    stream: bool = Field(False, description="Answer as server-sent events, one for each token.")
    timeout_seconds: Timeout = None


class GenerateRequest(GenerationBody, RequestBody):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "Cats average 15", "max_tokens": 30, "temperature": 0.8, "seed": 7}]}
    )

    prompt: SomeTexts = Field(
        [""], description="Text to continue, or a list of texts; an empty prompt begins a new text."
    )
    model: Model = None
    allow_unk: bool | Literal["spell"] = Field(
        False,
        description="Whether `<unk>` may be sampled; with `spell`, a newly spelled word is written in its place.",
    )
    state: State = None
    return_state: ReturnState = False


class GeneratedToken(BaseModel):
    id: int
    text: str = Field(description="What the token adds to the text; the `<eos>` that ends the text adds nothing.")
    logprob: float = Field(description="Under the model's own distribution: temperature 1, before any filter.")
    top: list[TopToken] = Field(description="The likeliest tokens at this place, `<unk>` included.")


class Choice(BaseModel):
    index: int = Field(description="prompt_index * n + number of the choice.")
    prompt_index: int = Field(description="Which prompt the choice continues.")
    text: str = Field(description="The completion, without the prompt.")
    finish_reason: FinishReason = Field(
        description="`length`: max_tokens was reached; `stop`: a stop string came; `eos`: the model ended the text."
    )
    tokens: list[GeneratedToken] | None = Field(None, description="With `logprobs`: every sampled token.")
    state: str | None = Field(None, description="With `return_state`: the state after prompt and completion.")


class Usage(BaseModel):
    prompt_tokens: int = Field(description="Tokens of all prompts, each prompt counted once.")
    completion_tokens: int = Field(description="Sampled tokens, an `<eos>` included.")
    cached_tokens: int = Field(0, description="Prompt tokens whose state was in the prefix cache.")


class GenerateResponse(Answer):
    choices: list[Choice]
    usage: Usage
    seed: int


class StreamedText(BaseModel):
    """One event of a streamed answer: what one token added to one choice."""

    index: int
    prompt_index: int
    text: str
    finish_reason: FinishReason | None
    tokens: list[GeneratedToken] | None = None
    state: str | None = None


class StreamEnd(Answer):
    """The last event before `data: [DONE]`."""

    usage: Usage
    seed: int


# -- limits ------------------------------------------------------------------------------------------------------------

LIMITS = (
    Limit("prompt", "max_texts", " prompts"),
    Limit("max_tokens", "max_tokens"),
    Limit("n", "max_choices"),
    Limit("n", "max_texts", " completions in all", lambda body: body.n * len(body.prompt)),
    Limit(
        "max_tokens",
        "max_sampled_tokens",
        " tokens in all completions",
        lambda body: body.n * len(body.prompt) * body.max_tokens,
    ),
    Limit("logprobs", "max_logprobs"),
    Limit(
        "logprobs",
        "max_reported",
        " tokens to report, alternatives included,",
        lambda body: _reported(body.n * len(body.prompt) * body.max_tokens, body.logprobs),
    ),
    Limit("logit_bias", "max_logit_bias", " entries"),
    Limit("stop", "max_stop", " strings"),
    Limit("stop.*", "max_stop_characters", " characters"),
    TIMEOUT,
)


def _reported(tokens: int, alternatives: int | None) -> int | None:
    return None if alternatives is None else tokens * (1 + alternatives)


def check(body: GenerateRequest, served: ServedModel) -> None:
    """Raises `InvalidValueError` for what no setting limits."""
    at_most("min_tokens", body.min_tokens, body.max_tokens)
    for token_id in sampling_params(body).logit_bias:
        at_most(f"logit_bias.{token_id}", token_id, len(served.checkpoint.tokenizer) - 1)


# -- from a body to sequences ------------------------------------------------------------------------------------------


@dataclass
class Generation:
    """A request while the engine works on it.

    sequences: one for each choice, then those of the beginnings that prompts share. choices: how many are choices.
    """

    id: str
    served: ServedModel
    seed: int
    sequences: list[Sequence]
    choices: int
    choices_per_prompt: int

    def usage(self) -> Usage:
        """Prompt tokens count once for each prompt, without the start symbol."""
        choices = self.sequences[: self.choices]
        prompts = choices[:: self.choices_per_prompt]
        return Usage(
            prompt_tokens=sum(len(s.completion.prompt_ids) for s in prompts if s.completion),
            completion_tokens=sum(len(s.completion.token_ids) for s in choices if s.completion),
            cached_tokens=sum(max(0, _cached(s) - 1) for s in prompts),
        )


@dataclass(frozen=True)
class Prompt:
    """A prompt, ready for the engine.

    token_ids: the prompt's own tokens. inputs: what the network consumes, with the start symbol before the tokens
    unless the request continues from a state. targets: as in `Sequence`, where the prompt's tokens are to be scored.
    at_start: whether the text so far is empty or ends in white space. position: number of tokens that the network has
    consumed when the first token is sampled. open_space: see `Tokenizer.cut_open_space`.
    """

    token_ids: list[int]
    inputs: list[int]
    targets: list[int | None]
    at_start: bool
    position: int
    open_space: bool = False


def plan(body: GenerateRequest, call: Call) -> Generation:
    """One sequence for each choice of each prompt."""
    tokenizer = call.served.checkpoint.tokenizer
    state = given_state(body.state, call)
    prompts = []
    for text in body.prompt:
        call.deadline.check()
        closed, open_space = cut_open_space(text, state, tokenizer)
        token_ids = tokenizer.encode_ids(closed, call.owner)
        inputs = token_ids if state else started(token_ids, tokenizer.eos_id)
        position = (state.position if state else 0) + len(inputs)
        at_start = ends_in_space(text, before=state.at_start if state else True)
        prompts.append(Prompt(token_ids, inputs, [], at_start, position, open_space))
    return plan_prompts(prompts, state, body, call)


def plan_prompts(prompts: list[Prompt], state: SavedState | None, body: GenerateRequest, call: Call) -> Generation:
    """One sequence for each choice of each prompt: `index = prompt_index * n + choice`. body: how to sample.

    Choices of one prompt go on from one sequence that consumes it. Raises `InvalidValueError` when there is too much.
    """
    seed = secrets.randbits(63) if body.seed in (None, -1) else body.seed
    served, tokenizer = call.served, call.served.checkpoint.tokenizer
    params = GenerationParams(
        max_tokens=body.max_tokens,
        min_tokens=body.min_tokens,
        stop=body.stop,
        ignore_eos=body.ignore_eos,
        allow_unk=bool(body.allow_unk),
        speller=_speller(body, served),
        seed=seed,
        sampling=sampling_params(body).within(len(tokenizer)),
    )
    first = state.row if state else None
    prompted = [Sequence(list(p.inputs), list(p.targets), top=body.logprobs or 0, state=first) for p in prompts]
    choices = []
    for prompt, sequence in zip(prompts, prompted, strict=True):
        for number in range(body.n):
            choice = sequence if body.n == 1 else Sequence([], top=sequence.top, parent=sequence)
            choice.completion = Completion(
                replace(params, choice=number),
                tokenizer,
                prompt.at_start,
                prompt.token_ids,
                prompt.position,
                prompt.open_space,
            )
            choice.report_tokens, choice.keep_state = body.logprobs is not None, body.return_state
            choices.append(choice)
        sequence.keep_state |= body.n > 1
    shared = share_prefixes(prompted, call.deadline.check)
    check_prompt_tokens(shared, "prompt", call.settings)
    sequences = shared if body.n == 1 else [*choices, *shared]
    return Generation(f"gen-{uuid.uuid4().hex}", served, seed, sequences, len(choices), body.n)


def _speller(body: GenerateRequest, served: ServedModel) -> Speller | None:
    """Raises `InvalidValueError` where the body asks for a speller that the model does not have."""
    if body.allow_unk != "spell":
        return None
    if served.checkpoint.speller is None:
        raise InvalidValueError(f"allow_unk: 'spell' needs a model with a speller; {served.name} has none", "allow_unk")
    return served.checkpoint.speller


def _cached(sequence: Sequence) -> int:
    """Number of inputs of a sequence and its ancestors, start symbol included, that came from the prefix cache."""
    return sum(ancestor.cached for ancestor in sequence.lineage())


_CHARACTERS_A_TOKEN = 8

# -- from sequences to an answer ---------------------------------------------------------------------------------------


async def answer(body: GenerateRequest, call: Call) -> GenerateResponse:
    """The whole answer at once."""
    generation = await call.beside(sum(map(len, body.prompt)), lambda: plan(body, call))
    await call.run(generation.sequences)
    sampled = sum(len(s.completion.token_ids) for s in generation.sequences[: generation.choices] if s.completion)
    return await call.beside(_CHARACTERS_A_TOKEN * sampled, lambda: _whole_answer(body, generation, call))


def _whole_answer(body: GenerateRequest, generation: Generation, call: Call) -> GenerateResponse:
    served, choices = generation.served, []
    for index, sequence in enumerate(generation.sequences[: generation.choices]):
        assert sequence.completion is not None
        assert sequence.completion.finish_reason is not None
        choice = Choice(
            index=index,
            prompt_index=index // body.n,
            text=sequence.completion.text,
            finish_reason=sequence.completion.finish_reason,
        )
        if body.logprobs is not None:
            choice.tokens = _tokens(sequence, served)
        if body.return_state:
            choice.state = _state(sequence, call)
        choices.append(choice)
    return GenerateResponse(
        id=generation.id,
        model=served.name,
        backend=served.engine.backend,
        choices=choices,
        usage=generation.usage(),
        seed=generation.seed,
    )


async def stream(body: GenerateRequest, call: Call) -> AsyncGenerator[list[BaseModel]]:
    """The answer as it comes: a `StreamedText` for each token and choice, those that came together in one list, and a
    `StreamEnd`."""
    served = call.served
    generation = await call.beside(sum(map(len, body.prompt)), lambda: plan(body, call))
    async with aclosing(served.engine.stream(generation.sequences, call.deadline, call.owner)) as sampled:
        async for progress in sampled:
            yield [_streamed(token, generation.sequences[token.index], body, call) for token in progress]
    end = StreamEnd(
        id=generation.id,
        model=served.name,
        backend=served.engine.backend,
        usage=generation.usage(),
        seed=generation.seed,
    )
    yield [end]


def _streamed(progress: Progress, sequence: Sequence, body: GenerateRequest, call: Call) -> StreamedText:
    """A sampled token of a stream; the last token of a choice says how the choice ended."""
    assert sequence.completion is not None
    event = StreamedText(
        index=progress.index,
        prompt_index=progress.index // body.n,
        text=progress.text,
        finish_reason=sequence.completion.finish_reason if progress.finished else None,
    )
    if progress.finished and body.return_state:
        event.state = _state(sequence, call)
    if progress.score is not None:
        last = len(sequence.completion.token_ids) - 1
        event.tokens = [_token(progress.score, call.served, event.finish_reason == "eos", sequence.completion, last)]
    return event


def _state(sequence: Sequence, call: Call) -> str:
    assert sequence.completion is not None
    completion = sequence.completion
    return returned_state(sequence.final_state, completion.position, completion.at_start, completion.opens, call)


def _tokens(sequence: Sequence, served: ServedModel) -> list[GeneratedToken]:
    assert sequence.completion is not None
    last = len(sequence.drawn_scores) - 1
    ended = sequence.completion.finish_reason == "eos"
    return [
        _token(score, served, ended and i == last, sequence.completion, i)
        for i, score in enumerate(sequence.drawn_scores)
    ]


def _token(score: TokenScore, served: ServedModel, ends: bool, completion: Completion, index: int) -> GeneratedToken:
    """Token `index` of a completion. ends: it is the `<eos>` that ends the text, and adds no text; an `<eos>` inside
    the text is written as the boundary."""
    tokenizer = served.checkpoint.tokenizer
    spelled = completion.spelled(index)
    text = "" if ends else tokenizer.surface(score.token_id) if spelled is None else spelled
    if index == 0 and completion.open_space:
        text = text.removeprefix(" ")
    return GeneratedToken(id=score.token_id, text=text, logprob=score.logprob, top=top_tokens(score, tokenizer))


TASK = Task(
    path="/generate",
    summary="Continue a text",
    kind="language_model",
    request=GenerateRequest,
    response=GenerateResponse,
    limits=LIMITS,
    rules=check,
    answer=answer,
    stream=Stream(
        stream,
        (StreamedText, StreamEnd),
        "The completions; with `stream`, an event for each token of each choice, then one with the usage, then "
        "`data: [DONE]`. An error on the way is an event before that.",
    ),
)
