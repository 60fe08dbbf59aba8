"""/generate: completions of prompts."""

import secrets
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from app.engine.prefixes import share_prefixes
from app.engine.sequence import Progress, Sequence
from app.errors import InvalidValueError
from app.registry import ServedModel
from app.schemas import Choice, GeneratedToken, GenerateRequest, GenerateResponse, StreamedText, StreamEnd, Usage
from app.tasks.beside import beside
from app.tasks.states import given_state, returned_state
from app.tasks.tokens import top_tokens
from models.decoding.completion import Completion, GenerationParams
from models.decoding.sampling import SamplingParams
from models.decoding.saved_state import SavedState
from models.decoding.scoring import TokenScore
from models.text.words import ends_in_space
from models.words.speller import Speller


@dataclass
class Generation:
    """A request on its way: its identity, its seed, one sequence a choice, and the beginnings that prompts share."""

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

    token_ids: its own. inputs: what the network consumes: the start symbol comes before them where nothing else does.
    targets: of `Sequence`, where its tokens are to be scored. at_start: whether it is empty or ends in white space.
    position: tokens that the network has consumed when the first one is drawn.
    """

    token_ids: list[int]
    inputs: list[int]
    targets: list[int | None]
    at_start: bool
    position: int


def plan(body: GenerateRequest, served: ServedModel) -> Generation:
    """One sequence for each choice of each prompt."""
    tokenizer = served.checkpoint.tokenizer
    state = given_state(body.state, served)
    prompts = []
    for text in body.prompt:
        token_ids = tokenizer.encode_ids(text)
        inputs = token_ids if state else [tokenizer.eos_id, *token_ids]
        position = (state.position if state else 1) + len(token_ids)
        at_start = ends_in_space(text, before=state.at_start if state else True)
        prompts.append(Prompt(token_ids, inputs, [], at_start, position))
    return plan_prompts(prompts, state, body, served)


def plan_prompts(
    prompts: list[Prompt], state: SavedState | None, body: GenerateRequest, served: ServedModel
) -> Generation:
    """One sequence for each choice of each prompt: `index = prompt_index * n + choice`. body: how they are drawn."""
    seed = secrets.randbits(63) if body.seed is None else body.seed
    sampling = SamplingParams(
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias={int(key): bias for key, bias in body.logit_bias.items()},
    )
    tokenizer = served.checkpoint.tokenizer
    sequences = []
    for prompt in prompts:
        for choice in range(body.n):
            params = GenerationParams(
                max_tokens=body.max_tokens,
                min_tokens=body.min_tokens,
                stop=body.stop,
                ignore_eos=body.ignore_eos,
                allow_unk=bool(body.allow_unk),
                speller=_speller(body, served),
                seed=seed,
                choice=choice,
                sampling=sampling,
            )
            sequences.append(
                Sequence(
                    list(prompt.inputs),
                    targets=list(prompt.targets),
                    completion=Completion(params, tokenizer, prompt.at_start, prompt.token_ids, prompt.position),
                    report_tokens=body.logprobs is not None,
                    top=body.logprobs or 0,
                    state=state.row if state else None,
                    keep_state=body.return_state,
                )
            )
    return Generation(f"gen-{uuid.uuid4().hex}", served, seed, share_prefixes(sequences), len(sequences), body.n)


def _speller(body: GenerateRequest, served: ServedModel) -> Speller | None:
    """Raises `InvalidValueError` where a speller is asked for and there is none."""
    if body.allow_unk != "spell":
        return None
    if served.checkpoint.speller is None:
        raise InvalidValueError(f"allow_unk: 'spell' needs a model with a speller; {served.name} has none", "allow_unk")
    return served.checkpoint.speller


def _cached(sequence: Sequence) -> int:
    """Inputs that were not run, of a sequence and its parents; the start symbol is one of them."""
    return sum(one.cached for one in sequence.lineage())


async def answer(body: GenerateRequest, served: ServedModel, timeout_seconds: float) -> GenerateResponse:
    """The whole answer at once."""
    generation = await beside(sum(map(len, body.prompt)), lambda: plan(body, served))
    await served.engine.run(generation.sequences, timeout_seconds)
    choices = []
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
            choice.state = _state(sequence, served)
        choices.append(choice)
    return GenerateResponse(
        id=generation.id,
        model=served.name,
        backend=served.engine.backend,
        choices=choices,
        usage=generation.usage(),
        seed=generation.seed,
    )


async def stream(
    body: GenerateRequest, served: ServedModel, timeout_seconds: float
) -> AsyncGenerator[list[StreamedText | StreamEnd]]:
    """The answer as it comes: an event for each token and choice, those that came together in one list, and what
    belongs to the whole at the end."""
    generation = await beside(sum(map(len, body.prompt)), lambda: plan(body, served))
    async with aclosing(served.engine.stream(generation.sequences, timeout_seconds)) as drawn:
        async for progress in drawn:
            yield [_streamed(one, generation.sequences[one.index], body, served) for one in progress]
    end = StreamEnd(
        id=generation.id,
        model=served.name,
        backend=served.engine.backend,
        usage=generation.usage(),
        seed=generation.seed,
    )
    yield [end]


def _streamed(progress: Progress, sequence: Sequence, body: GenerateRequest, served: ServedModel) -> StreamedText:
    """One drawn token of a stream; with the last one of a choice, how that ended."""
    assert sequence.completion is not None
    event = StreamedText(
        index=progress.index,
        prompt_index=progress.index // body.n,
        text=progress.text,
        finish_reason=sequence.completion.finish_reason if progress.finished else None,
    )
    if progress.finished and body.return_state:
        event.state = _state(sequence, served)
    if progress.score is not None:
        spelled = sequence.completion.spelled(len(sequence.completion.token_ids) - 1)
        event.tokens = [_token(progress.score, served, event.finish_reason == "eos", spelled)]
    return event


def _state(sequence: Sequence, served: ServedModel) -> str:
    assert sequence.completion is not None
    position, at_start = sequence.completion.position, sequence.completion.at_start
    return returned_state(sequence.final_state, position, at_start, served)


def _tokens(sequence: Sequence, served: ServedModel) -> list[GeneratedToken]:
    assert sequence.completion is not None
    last = len(sequence.drawn_scores) - 1
    ended = sequence.completion.finish_reason == "eos"
    return [
        _token(score, served, ended and i == last, sequence.completion.spelled(i))
        for i, score in enumerate(sequence.drawn_scores)
    ]


def _token(score: TokenScore, served: ServedModel, ends: bool, spelled: str | None) -> GeneratedToken:
    """ends: it is the `<eos>` that ends the text, and has none itself; one passed over is written as the boundary.
    spelled: what an `<unk>` stands for."""
    tokenizer = served.checkpoint.tokenizer
    text = "" if ends else tokenizer.surface(score.token_id) if spelled is None else spelled
    return GeneratedToken(id=score.token_id, text=text, logprob=score.logprob, top=top_tokens(score, tokenizer))
