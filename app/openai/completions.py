"""/v1/completions: what /generate does, in the terms of the OpenAI API."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from app import limits
from app.engine.sequence import Sequence
from app.errors import InvalidValueError, shown
from app.openai.schemas import (
    CachedTokens,
    CompletionChoice,
    CompletionRequest,
    CompletionResponse,
    CompletionUsage,
    Logprobs,
)
from app.registry import ServedModel
from app.schemas import GenerateRequest
from app.settings import Settings
from app.tasks.beside import beside
from app.tasks.generate import Generation, Prompt, plan_prompts
from models.decoding.scoring import TokenScore
from models.text.levels import EOS, UNK
from models.text.tokenizer import Tokenizer
from models.text.words import ends_in_space


@dataclass(frozen=True)
class _Echo:
    """A prompt as it is shown. surfaces, offsets: of each of its tokens, the start symbol of token ids included; empty
    where they are not to be reported."""

    text: str
    token_ids: list[int]
    surfaces: list[str]
    offsets: list[int]


def native_request(body: CompletionRequest, settings: Settings, served: ServedModel) -> GenerateRequest:
    """The same wishes in our terms. Raises `InvalidValueError` for what cannot be honoured, and above the limits."""
    if body.suffix:
        raise InvalidValueError("suffix: cannot be honoured: a recurrent model does not look ahead", "suffix")
    best_of = body.n if body.best_of is None else body.best_of
    limits.at_most("best_of" if body.best_of else "n", best_of, settings.max_choices)
    if best_of < body.n:
        raise InvalidValueError(f"best_of: {best_of} is less than n, {body.n}", "best_of")
    if body.stream and best_of > body.n:
        raise InvalidValueError("best_of: more than n cannot be streamed: the best are known at the end", "best_of")
    native = GenerateRequest(
        prompt=[prompt if isinstance(prompt, str) else "" for prompt in body.prompt],
        max_tokens=body.max_tokens,
        min_tokens=body.min_tokens,
        temperature=body.temperature,
        top_k=max(0, body.top_k),
        top_p=body.top_p,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=body.logit_bias,
        stop=body.stop,
        ignore_eos=body.ignore_eos,
        n=best_of,
        seed=body.seed,
        logprobs=body.logprobs,
        timeout_seconds=body.timeout_seconds,
    )
    limits.check_generate(native, settings, len(served.checkpoint.tokenizer))
    # The best are known by their log-probabilities, also where none are to be reported.
    return native.model_copy(update={"logprobs": body.logprobs or 0}) if best_of > body.n else native


class Places:
    """Where each token begins in a text that grows, in code points."""

    def __init__(self, tokenizer: Tokenizer, at_start: bool, offset: int = 0) -> None:
        self._tokenizer = tokenizer
        self._decoder = tokenizer.decoder(at_start)
        self._end = offset

    def next(self, token_id: int) -> int:
        shown, begin = self._decoder.feed(token_id), self._end
        self._end += len(shown)
        own = self._tokenizer.surface(token_id)
        # Before it may come what the bytes of an unfinished character turned out to be.
        return self._end - len(own) if own and shown.endswith(own) else begin


class Completions:
    """One request on its way, and how its parts are shown."""

    def __init__(self, body: CompletionRequest, native: GenerateRequest, served: ServedModel, settings: Settings):
        """Raises `InvalidValueError` for token ids that there are none of, and when too much is to be reported."""
        self._body = body
        self._tokenizer = tokenizer = served.checkpoint.tokenizer
        self._scored = body.echo and body.logprobs is not None
        self._echoes = [_echo(prompt, i, tokenizer, self._scored) for i, prompt in enumerate(body.prompt)]
        if self._scored:
            reported = native.n * sum(len(echo.token_ids) + native.max_tokens for echo in self._echoes)
            limits.check_reported(reported, body.logprobs or 0, settings, "logprobs")
        prompts = [
            self._prompt(echo, is_text=isinstance(prompt, str))
            for echo, prompt in zip(self._echoes, body.prompt, strict=True)
        ]
        self.generation: Generation = plan_prompts(prompts, None, native, served)
        self.choices: list[Sequence] = self.generation.sequences[: self.generation.choices]
        self._head = CompletionResponse(
            id=f"cmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=served.name,
            system_fingerprint=served.engine.backend,
            choices=[],
        )

    def _prompt(self, echo: _Echo, is_text: bool) -> Prompt:
        """Token ids may bring the start symbol themselves; a boundary that a text begins with is its own."""
        ids, eos_id = echo.token_ids, self._tokenizer.eos_id
        inputs = ids if ids[:1] == [eos_id] and not is_text else [eos_id, *ids]
        # The first token of a prompt has no log-probability in this API, though we know it.
        skipped = len(inputs) - len(ids) + 1
        targets: list[int | None] = [*[None] * skipped, *ids[1:]] if self._scored else []
        return Prompt(ids, inputs, targets, ends_in_space(echo.text), len(inputs))

    def response(self, choices: list[CompletionChoice], usage: CompletionUsage | None = None) -> CompletionResponse:
        return self._head.model_copy(update={"choices": choices, "usage": usage})

    def usage(self) -> CompletionUsage:
        usage = self.generation.usage()
        return _usage(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)

    def places(self, index: int) -> Places:
        """Where the tokens of a choice begin, none of them drawn yet."""
        echo = self._echoes[index // self.generation.choices_per_prompt]
        return Places(self._tokenizer, ends_in_space(echo.text), len(echo.text) if self._body.echo else 0)

    def report(self, score: TokenScore, places: Places, to: Logprobs) -> None:
        """Add a drawn token to what is told of its choice."""
        surface = token_key(score.token_id, self._tokenizer)
        to.tokens.append(surface)
        to.token_logprobs.append(score.logprob)
        to.top_logprobs.append(_alternatives(score, surface, self._tokenizer))
        to.text_offset.append(places.next(score.token_id))

    def echoed(self, index: int) -> tuple[str, Logprobs | None]:
        """The prompt of a choice, where it is to stand before it."""
        if not self._body.echo:
            return "", _nothing() if self._body.logprobs is not None else None
        echo = self._echoes[index // self.generation.choices_per_prompt]
        if not self._scored:
            return echo.text, None
        shown = _nothing()
        scores = self.choices[index].all_scores()
        for surface, offset, score in zip(
            echo.surfaces, echo.offsets, [*[None] * (len(echo.surfaces) - len(scores)), *scores], strict=True
        ):
            shown.tokens.append(surface)
            shown.text_offset.append(offset)
            shown.token_logprobs.append(score.logprob if score else None)
            shown.top_logprobs.append(_alternatives(score, surface, self._tokenizer) if score else None)
        return echo.text, shown

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
        """The `count` likeliest choices of each prompt, by mean log-probability of a token; all where there are no
        more."""
        per_prompt = self.generation.choices_per_prompt
        kept: list[int] = []
        for first in range(0, len(self.choices), per_prompt):
            indices = list(range(first, first + per_prompt))
            if count < per_prompt:
                indices.sort(key=lambda index: -_mean_logprob(self.choices[index]))
            kept += indices[:count]
        return [self.choice(index).model_copy(update={"index": place}) for place, index in enumerate(kept)]


async def answer(
    body: CompletionRequest, native: GenerateRequest, served: ServedModel, settings: Settings
) -> CompletionResponse:
    """The whole answer at once."""
    completions = await _planned(body, native, served, settings)
    await served.engine.run(completions.generation.sequences, native.timeout_seconds or settings.timeout_seconds)
    work = 0
    if body.logprobs is not None:
        work = 20 * (1 + body.logprobs) * sum(len(s.drawn_scores) + len(s.all_scores()) for s in completions.choices)
    return await beside(work, lambda: completions.response(completions.best(body.n), completions.usage()))


async def stream(
    body: CompletionRequest, native: GenerateRequest, served: ServedModel, settings: Settings
) -> AsyncGenerator[list[CompletionResponse]]:
    """The answer as it comes, a chunk for each token and choice; an echoed prompt is a chunk of its own before them."""
    completions = await _planned(body, native, served, settings)
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

    timeout = native.timeout_seconds or settings.timeout_seconds
    async with aclosing(served.engine.stream(completions.generation.sequences, timeout)) as drawn:
        async for progress in drawn:
            chunks = []
            for one in progress:
                if one.index not in begun:
                    chunks += begin(one.index, finished=False)
                logprobs = None
                if one.score is not None:
                    logprobs = _nothing()
                    completions.report(one.score, places[one.index], logprobs)
                sent += 1
                chunks.append(chunk(one.index, one.text, logprobs, one.finished))
            yield chunks
    if nothing_drawn := [index for index in range(len(places)) if index not in begun]:  # max_tokens 0
        yield [one for index in nothing_drawn for one in begin(index, finished=True)]
    if options.include_usage:
        yield [completions.response([], completions.usage())]


async def _planned(
    body: CompletionRequest, native: GenerateRequest, served: ServedModel, settings: Settings
) -> Completions:
    return await beside(sum(map(len, body.prompt)), lambda: Completions(body, native, served, settings))


def _usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> CompletionUsage:
    return CompletionUsage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=CachedTokens(cached_tokens=cached_tokens),
    )


def _nothing() -> Logprobs:
    return Logprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])


def _alternatives(score: TokenScore, surface: str, tokenizer: Tokenizer) -> dict[str, float]:
    """By what they look like, the token itself among them, as it looks where it stands."""
    found = {
        surface if token_id == score.token_id else token_key(token_id, tokenizer): logprob
        for token_id, logprob in score.top
    }
    found.setdefault(surface, score.logprob)
    return found


def token_key(token_id: int, tokenizer: Tokenizer) -> str:
    """What a token looks like, different for each: the special tokens by name, and bytes that are no text by
    themselves as `bytes:\\xNN`."""
    if token_id == tokenizer.eos_id:
        return EOS
    if token_id == tokenizer.unk_id:
        return UNK
    content = tokenizer.token_bytes[token_id]
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def _echo(prompt: str | list[int], index: int, tokenizer: Tokenizer, reported: bool) -> _Echo:
    if isinstance(prompt, str) and not reported:
        return _Echo(prompt, tokenizer.encode_ids(prompt), [], [])
    if isinstance(prompt, str):
        encoding = tokenizer.encode(prompt)
        # As it stands in the text, where the vocabulary has it otherwise.
        as_written = {tokenizer.unk_id} if tokenizer.level != "split" else set(encoding.ids) - {tokenizer.eos_id}
        surfaces = [
            prompt[start:end] if token_id in as_written else token_key(token_id, tokenizer)
            for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
        ]
        return _Echo(prompt, encoding.ids, surfaces, [start for start, _ in encoding.offsets])
    for place, token_id in enumerate(prompt):
        if token_id >= len(tokenizer):
            message = f"{shown(token_id)} is no token id of this model, which are 0 … {len(tokenizer) - 1}"
            raise InvalidValueError(f"prompt.{index}.{place}: {message}", f"prompt.{index}.{place}")
    places = Places(tokenizer, at_start=True)
    started = prompt[:1] == [tokenizer.eos_id]  # the start symbol is not written
    offsets = [0] * started + [places.next(token_id) for token_id in prompt[started:]]
    text = tokenizer.decode(prompt[started:])
    return _Echo(text, list(prompt), [token_key(token_id, tokenizer) for token_id in prompt], offsets)


def _reason(sequence: Sequence) -> str:
    assert sequence.completion is not None
    return "length" if sequence.completion.finish_reason == "length" else "stop"


def _mean_logprob(sequence: Sequence) -> float:
    return sum(score.logprob for score in sequence.drawn_scores) / max(1, len(sequence.drawn_scores))
