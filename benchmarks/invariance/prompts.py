"""Long prompts: from the cache or without one, cut into other chunks, in pieces that states join."""

from itertools import cycle, pairwise

from benchmarks.invariance.answers import Body, Finding, told
from benchmarks.invariance.subject import Subject
from benchmarks.servers import Server

PROMPTS = 4
PROMPT_TOKENS = 2000
CUTS = (0, 1, 700, 1337, PROMPT_TOKENS)
"""Where the pieces of a prompt begin and end."""

TOKENS = 32
"""Drawn after each prompt."""


async def long_prompts(subject: Subject, first: Server, second: Server) -> list[Finding]:
    """What comes after prompts in every circumstance; first and second as in axes.py."""
    ids = [subject.texts.ids(PROMPT_TOKENS) for _ in range(PROMPTS)]
    turning = [[*own[: PROMPT_TOKENS // 2], *subject.texts.ids(PROMPT_TOKENS // 2)] for own in ids]
    bodies, others = _bodies(subject, ids), _bodies(subject, turning)
    cold = _rows(await subject.ask("long prompts", first, bodies))
    again = _rows(await subject.ask("long prompts again", first, bodies))
    uncached = _rows(await subject.ask("long prompts, cache off", second, bodies))
    others_cold = _rows(await subject.ask("other long prompts, cache off", second, others))
    others_half = _rows(await subject.ask("other long prompts, half cached", first, others))
    pieces = _rows(await _in_pieces(subject, [first, second], ids))
    # Each step has room for a chunk or two of those that ask at once: they are interleaved.
    with subject.server(CAROUSEL_PREFIX_CACHE_BYTES="0", CAROUSEL_PROMPT_TOKENS_PER_STEP="50") as server:
        chunked = _rows(await subject.ask("long prompts, 50 tokens a step", server, bodies, at_once=PROMPTS))
    what = f"answers after {PROMPT_TOKENS:,} tokens: text, logprobs, state, whether cached"
    return [
        subject.finding("long prompt, cached", what, _from_cache(cold), again),
        subject.finding("long prompt, half cached", what, _from_cache(others_cold), others_half),
        subject.finding("long prompt, cache off", what, cold, uncached),
        subject.finding("long prompt, 50 tokens a step", what, cold, chunked),
        subject.finding(f"long prompt, {len(CUTS) - 1} pieces on two servers", what, cold, pieces),
    ]


def _bodies(subject: Subject, ids: list[list[int]]) -> list[Body]:
    """One of the first seeds for each prompt: they draw in several ways, none of which a piece of a prompt changes."""
    prompts = map(subject.tokenizer.decode, ids)
    return [subject.body(seed, prompt) | {"max_tokens": TOKENS} for seed, prompt in enumerate(prompts)]


def _rows(answers: list[Body]) -> list[Body]:
    """What is compared: the choices, and whether the cache helped."""
    cached = [answer["usage"]["cached_tokens"] > 0 for answer in answers]
    return [row | {"from_cache": known} for row, known in zip(told(answers), cached, strict=True)]


def _from_cache(rows: list[Body]) -> list[Body]:
    """The same, if the cache had helped."""
    return [row | {"from_cache": True} for row in rows]


async def _in_pieces(subject: Subject, servers: list[Server], ids: list[list[int]]) -> list[Body]:
    """The answers after the last pieces; each piece goes to the other server than the one before it."""
    states: list[str | None] = [None] * len(ids)
    answers: list[Body] = []
    for (begin, end), server in zip(pairwise(CUTS), cycle(servers), strict=False):
        bodies = _bodies(subject, [own[begin:end] for own in ids])
        bodies = [body | {"state": state} for body, state in zip(bodies, states, strict=True)]
        if end < PROMPT_TOKENS:
            bodies = [body | {"max_tokens": 0} for body in bodies]
        answers = await subject.ask(f"pieces of long prompts, to token {end}", server, bodies, at_once=PROMPTS)
        states = [row["state"] for row in told(answers)]
    return answers
