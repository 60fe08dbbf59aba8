"""What an answer may not depend on, axis by axis: the same requests in other circumstances, and the answers compared.

Each takes a subject and servers: the first one, which has answered every request alone; the second one, which has no
prefix cache, so that it runs every prompt itself.
"""

from collections.abc import AsyncGenerator
from random import Random

from benchmarks.invariance.answers import TEXT, TOKENS, Body, Finding, told
from benchmarks.invariance.company import company
from benchmarks.invariance.prompts import long_prompts
from benchmarks.invariance.subject import Subject
from benchmarks.servers import Server

VARIANTS: tuple[tuple[str, Body, tuple[str, ...]], ...] = (
    ("", {"logprobs": 0}, TOKENS),
    (", no logprobs", {"logprobs": None}, TEXT),
)
"""(name, fields, what is compared): a text whose log-probabilities nobody wants is drawn on a faster path."""

AT_ONCE = 16

LISTED = 8
"""Prompts in a list, and choices of each."""


async def faster_path(subject: Subject, second: Server) -> list[Finding]:
    """Alone, without log-probabilities."""
    answers = await subject.ask("alone, no logprobs", second, with_fields(subject.bodies, logprobs=None))
    return [subject.as_alone("no logprobs", answers, TEXT)]


async def in_company(subject: Subject, second: Server) -> list[Finding]:
    """All at once, beside clients who ask for other things."""
    findings = []
    for seed, (name, fields, compared) in enumerate(VARIANTS):
        bodies = with_fields(subject.bodies, **fields)
        async with company(second.port, subject.tokenizer, seed) as others:
            answers = await subject.ask(f"in company{name}", second, bodies, at_once=len(bodies), spread_seconds=1.0)
        beside = f"; beside {others.answered} requests, and {others.broken_off} broken off"
        findings.append(subject.as_alone(f"in company{name}", answers, compared, beside))
    return findings


async def streams(subject: Subject, second: Server) -> list[Finding]:
    """As server-sent events, put together again."""
    findings = []
    for name, fields, compared in VARIANTS:
        bodies = with_fields(subject.bodies, stream=True, **fields)
        answers = await subject.ask(f"streamed{name}", second, bodies, AT_ONCE)
        findings.append(subject.as_alone(f"streamed{name}", answers, compared))
    return findings


async def hand_over(subject: Subject, first: Server, second: Server) -> list[Finding]:
    """Cut in two at random places; the second server knows of the first part what the state says."""
    # Penalties look at a text that a state does not hold.
    kept = [i for i, body in enumerate(subject.bodies) if "repetition_penalty" not in body]
    cuts = [Random(i).randrange(1, subject.tokens) for i in kept]
    findings = []
    for name, fields, compared in VARIANTS:
        axis = f"cut in two, second server{name}"
        bodies = with_fields([subject.bodies[i] for i in kept], **fields)
        begun = [body | {"max_tokens": cut} for body, cut in zip(bodies, cuts, strict=True)]
        heads = told(await subject.ask(f"{axis}: first part", first, begun, AT_ONCE), compared)
        rest = [
            body | {"prompt": "", "state": head["state"], "max_tokens": subject.tokens - cut}
            for body, head, cut in zip(bodies, heads, cuts, strict=True)
        ]
        tails = told(await subject.ask(f"{axis}: second part", second, rest, AT_ONCE), compared)
        joined = [_joined(head, tail) for head, tail in zip(heads, tails, strict=True)]
        expected = told([subject.alone[i] for i in kept], compared)
        findings.append(subject.finding(axis, subject.in_words(compared), expected, joined))
    return findings


def _joined(head: Body, tail: Body) -> Body:
    """Two parts of a text as one answer: it ends as the second one does."""
    return tail | {field: head[field] + tail[field] for field in ("text", "tokens") if field in tail}


async def lists(subject: Subject, first: Server, second: Server) -> list[Finding]:
    """Several choices of each prompt; prompts in a list, of which some begin alike and two are the same."""
    prompts = [*subject.texts.variants(LISTED // 2), *(subject.texts.text(5 * i) for i in range(LISTED // 2 - 1))]
    prompts.append(prompts[0])
    each = [subject.body(1, prompt) | {"max_tokens": min(64, subject.tokens), "n": LISTED} for prompt in prompts]
    choices = told(await subject.ask("choices", first, each))
    single = told(await subject.ask("one choice", first, with_fields(each, n=1)))
    listed = told(await subject.ask("prompts in a list", second, [each[0] | {"prompt": prompts}]))
    what = "choices: text, logprobs, state"
    return [
        subject.finding("one choice or several", what, single, choices[::LISTED]),
        subject.finding("prompts in a list", what, choices, listed),
    ]


async def scores(subject: Subject, first: Server, second: Server) -> list[Finding]:
    """Texts one by one; and in a list, half of which begins alike, four times at once beside other clients."""
    texts = ["", *subject.texts.variants(16), *(subject.texts.text(Random(i).randrange(200)) for i in range(15))]
    findings: list[Finding] = []
    for name, fields in (("", {"tokens": True}), (", alternatives", {"top": 3})):
        body: Body = {"text": texts, "return_state": True, **fields}
        apart = await subject.ask(f"texts one by one{name}", first, [body | {"text": text} for text in texts])
        async with company(second.port, subject.tokenizer, seed=2 + len(findings)):
            together = await subject.ask(f"texts in a list{name}", second, [body] * 4, at_once=4)
        expected, found = ([score for answer in answers for score in answer["scores"]] for answers in (apart, together))
        what = "scores: totals, logprobs, ranks, state"
        findings.append(subject.finding(f"scores of a list{name}", what, expected * len(together), found))
    return findings


async def threads(subject: Subject) -> list[Finding]:
    """On one thread and on two: some requests alone, all at once."""
    findings = []
    for count in ("1", "2"):
        with subject.server(CAROUSEL_THREADS=count) as server:
            for name, fields, compared in VARIANTS:
                axis, bodies = f"threads: {count}{name}", with_fields(subject.bodies, **fields)
                some = await subject.ask(f"{axis}, alone", server, bodies[: len(bodies) // 8])
                every = await subject.ask(axis, server, bodies, at_once=len(bodies))
                findings.append(subject.as_alone(f"{axis}, alone", some, compared))
                findings.append(subject.as_alone(f"{axis}, at once", every, compared))
    return findings


def with_fields(bodies: list[Body], **fields: object) -> list[Body]:
    return [body | fields for body in bodies]


async def examine(subject: Subject) -> AsyncGenerator[list[Finding]]:
    """Every axis, with servers in processes of their own."""
    with subject.server() as first, subject.server(CAROUSEL_PREFIX_CACHE_BYTES="0") as second:
        subject.alone = await subject.ask("alone", first, subject.bodies)
        yield await faster_path(subject, second)
        yield await in_company(subject, second)
        yield await streams(subject, second)
        yield await hand_over(subject, first, second)
        yield await lists(subject, first, second)
        yield await scores(subject, first, second)
        yield await long_prompts(subject, first, second)
    yield await threads(subject)
