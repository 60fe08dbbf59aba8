"""POST /v1/completions: what /generate does, in the terms of the OpenAI API."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing

from app.engine.sequence import Sequence
from app.errors import InvalidValueError, at_most
from app.openai.schemas import (
    CachedTokens,
    CompletionChoice,
    CompletionRequest,
    CompletionResponse,
    CompletionUsage,
    Logprobs,
)
from app.openai.tokens import Echo, Places, add_token, echo, no_logprobs, token_key
from app.tasks import generate
from app.tasks.generate import GenerateRequest, Generation, GenerationBody, Prompt, plan_prompts
from app.tasks.score import check_reported
from app.tasks.task import Call
from models.decoding.scoring import TokenScore, started
from models.text.words import ends_in_space


def native_request(body: CompletionRequest, call: Call) -> GenerateRequest:
    """Translates an OpenAI request into a `GenerateRequest`. Raises `InvalidValueError` for what this server cannot do,
    and above the limits."""
    if body.suffix:
        raise InvalidValueError("suffix: cannot be honoured: a recurrent model does not look ahead", "suffix")
    best_of = body.n if body.best_of is None else body.best_of
    at_most("best_of" if body.best_of else "n", best_of, call.settings.max_choices)
    if best_of < body.n:
        raise InvalidValueError(f"best_of: {best_of} is less than n, {body.n}", "best_of")
    if body.stream and best_of > body.n:
        raise InvalidValueError(
            "best_of: more than n cannot be streamed: the best are known only at the end", "best_of"
        )
    values = {name: getattr(body, name) for name in GenerationBody.model_fields}
    values["prompt"] = [prompt if isinstance(prompt, str) else "" for prompt in body.prompt]
    values["top_k"] = max(0, body.top_k)
    values["n"] = best_of
    native = GenerateRequest.model_construct(**values)  # checked already: the fields are the same
    generate.TASK.check(native, call)
    # The best are chosen by their log-probabilities, also where the answer reports none.
    return native.model_copy(update={"logprobs": body.logprobs or 0}) if best_of > body.n else native


class Completions:
    """One request while the engine works on it, and how its parts look in the answer."""

    def __init__(self, body: CompletionRequest, native: GenerateRequest, call: Call) -> None:
        """Raises `InvalidValueError` for token ids outside the vocabulary, and when too much is to be reported."""
        served = call.served
        self._body = body
        self._tokenizer = tokenizer = served.checkpoint.tokenizer
        self._scored = body.echo and body.logprobs is not None
        self._echoes = [echo(prompt, i, tokenizer, self._scored) for i, prompt in enumerate(body.prompt)]
        if self._scored:
            reported = native.n * sum(len(one.token_ids) + native.max_tokens for one in self._echoes)
            check_reported(reported, body.logprobs or 0, call.settings, "logprobs")
        prompts = [self._prompt(one) for one in self._echoes]
        self.generation: Generation = plan_prompts(prompts, None, native, call)
        self.choices: list[Sequence] = self.generation.sequences[: self.generation.choices]
        self._head = CompletionResponse(
            id=f"cmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=served.name,
            system_fingerprint=served.engine.backend,
            choices=[],
        )

    def _prompt(self, prompt: Echo) -> Prompt:
        """A boundary at the beginning is the start symbol."""
        ids = prompt.token_ids
        inputs = started(ids, self._tokenizer.eos_id)
        # The first token of a prompt has no log-probability in this API, though the model gives one.
        skipped = len(inputs) - len(ids) + 1
        targets: list[int | None] = [*[None] * skipped, *ids[1:]] if self._scored else []
        return Prompt(ids, inputs, targets, ends_in_space(prompt.text), len(inputs), prompt.open_space)

    def response(self, choices: list[CompletionChoice], usage: CompletionUsage | None = None) -> CompletionResponse:
        return self._head.model_copy(update={"choices": choices, "usage": usage})

    def usage(self) -> CompletionUsage:
        usage = self.generation.usage()
        return _usage(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)

    def places(self, index: int) -> Places:
        """Start offsets of the tokens of a choice, before the first token is sampled."""
        prompt = self._prompt_of(index)
        offset = len(prompt.text) if self._body.echo else 0
        return Places(self._tokenizer, ends_in_space(prompt.text), offset, prompt.open_space)

    def report(self, score: TokenScore, places: Places, to: Logprobs) -> None:
        """Appends a sampled token to the choice's logprobs."""
        surface = token_key(score.token_id, self._tokenizer)
        add_token(to, surface, places.next(score.token_id), score, self._tokenizer)

    def echoed(self, index: int) -> tuple[str, Logprobs | None]:
        """The prompt of a choice as the answer repeats it, and its logprobs; without `echo`, nothing of it."""
        if not self._body.echo:
            return "", no_logprobs() if self._body.logprobs is not None else None
        prompt = self._prompt_of(index)
        if not self._scored:
            return prompt.text, None
        logprobs = no_logprobs()
        scores = self.choices[index].all_scores()
        for surface, offset, score in zip(
            prompt.surfaces, prompt.offsets, [*[None] * (len(prompt.surfaces) - len(scores)), *scores], strict=True
        ):
            add_token(logprobs, surface, offset, score, self._tokenizer)
        return prompt.text, logprobs

    def _prompt_of(self, index: int) -> Echo:
        return self._echoes[index // self.generation.choices_per_prompt]

    def choice(self, index: int) -> CompletionChoice:
        """A finished choice."""
        sequence = self.choices[index]
        assert sequence.completion is not None
        text, logprobs = self.echoed(index)
        if logprobs is not None:
            places = self.places(index)
            for score in sequence.drawn_scores:
                self.report(score, places, logprobs)
        return CompletionChoice(
            index=index,
            text=text + sequence.completion.text,
            logprobs=logprobs,
            finish_reason=_reason(sequence),
        )

    def best(self, count: int) -> list[CompletionChoice]:
        """The `count` likeliest choices of each prompt, by mean log-probability per token."""
        per_prompt = self.generation.choices_per_prompt
        kept: list[int] = []
        for first in range(0, len(self.choices), per_prompt):
            indices = list(range(first, first + per_prompt))
            if count < per_prompt:
                indices.sort(key=lambda index: -_mean_logprob(self.choices[index]))
            kept += indices[:count]
        return [self.choice(index).model_copy(update={"index": place}) for place, index in enumerate(kept)]


async def answer(body: CompletionRequest, native: GenerateRequest, call: Call) -> CompletionResponse:
    """The whole answer at once."""
    completions = await _planned(body, native, call)
    await call.run(completions.generation.sequences)
    work = 8 * sum(len(s.completion.token_ids) for s in completions.choices if s.completion)
    if body.logprobs is not None:
        work += 20 * (1 + body.logprobs) * sum(len(s.drawn_scores) + len(s.all_scores()) for s in completions.choices)
    return await call.beside(work, lambda: completions.response(completions.best(body.n), completions.usage()))


async def stream(
    body: CompletionRequest, native: GenerateRequest, call: Call
) -> AsyncGenerator[list[CompletionResponse]]:
    """The answer as it comes, a chunk for each token and choice; an echoed prompt is a chunk of its own before them."""
    completions = await _planned(body, native, call)
    options = body.stream_options
    prompt_tokens = completions.usage().prompt_tokens
    sent = 0
    places = [completions.places(index) for index in range(len(completions.choices))]
    begun: set[int] = set()

    def chunk(index: int, text: str, logprobs: Logprobs | None, finished: bool) -> CompletionResponse:
        reason = _reason(completions.choices[index]) if finished else None
        choice = CompletionChoice(index=index, text=text, logprobs=logprobs, finish_reason=reason)
        return completions.response([choice], _usage(prompt_tokens, sent) if options.continuous_usage_stats else None)

    def begin(index: int, finished: bool) -> list[CompletionResponse]:
        begun.add(index)
        return [chunk(index, *completions.echoed(index), finished)] if body.echo or finished else []

    async with aclosing(
        call.served.engine.stream(completions.generation.sequences, call.deadline, call.owner)
    ) as sampled:
        async for progress in sampled:
            chunks = []
            for token in progress:
                if token.index not in begun:
                    chunks += begin(token.index, finished=False)
                logprobs = None
                if token.score is not None:
                    logprobs = no_logprobs()
                    completions.report(token.score, places[token.index], logprobs)
                sent += token.tokens
                chunks.append(chunk(token.index, token.text, logprobs, token.finished))
            yield chunks
    if empty := [index for index in range(len(places)) if index not in begun]:  # max_tokens 0
        yield [piece for index in empty for piece in begin(index, finished=True)]
    if options.include_usage:
        yield [completions.response([], completions.usage())]


async def _planned(body: CompletionRequest, native: GenerateRequest, call: Call) -> Completions:
    return await call.beside(sum(map(len, body.prompt)), lambda: Completions(body, native, call))


def _usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> CompletionUsage:
    return CompletionUsage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=CachedTokens(cached_tokens=cached_tokens),
    )


def _reason(sequence: Sequence) -> str:
    assert sequence.completion is not None
    return "length" if sequence.completion.finish_reason == "length" else "stop"


def _mean_logprob(sequence: Sequence) -> float:
    return sum(score.logprob for score in sequence.drawn_scores) / max(1, len(sequence.drawn_scores))
