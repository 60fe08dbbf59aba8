"""/next: the likeliest next words, or completions of the word that has been begun."""

import asyncio
import math
import time
import uuid

import torch

from app.answers.beside import beside
from app.engine.sequence import Sequence
from app.registry import ServedModel
from app.schemas import NextRequest, NextResponse, NextWord
from models.generation import prompt_inputs
from models.next_words import Begun, NextWords, WordSearch, split_begun


async def answer(body: NextRequest, served: ServedModel, timeout_seconds: float) -> NextResponse:
    """Offer words after a text."""
    begun = split_begun(served.checkpoint.tokenizer, body.text)
    found = await _find(begun, body, served, time.monotonic() + timeout_seconds)
    return NextResponse(
        id=f"next-{uuid.uuid4().hex}",
        model=served.name,
        backend=served.engine.backend,
        words=[NextWord(word=word, prob=prob, logprob=math.log(prob)) for word, prob in found.words],
        completing=begun.completing,
        coverage=found.coverage,
    )


async def _find(begun: Begun, body: NextRequest, served: ServedModel, deadline: float) -> NextWords:
    tokenizer = served.checkpoint.tokenizer
    inputs = await beside(len(begun.context), lambda: prompt_inputs(tokenizer, begun.context))
    root = Sequence(inputs, keep=True)
    await served.engine.run([root], deadline - time.monotonic())
    assert root.logprobs is not None
    if tokenizer.level in ("word", "split"):
        return served.words.find(root.logprobs, begun, body.top, body.punctuation)
    search = WordSearch(served.pieces, begun, body.top, body.punctuation)
    search.expand_root(root.logprobs.cpu(), root.final_state)
    while nodes := search.frontier():
        steps = [Sequence([node.token_id], state=node.state, keep=True) for node in nodes]
        await served.engine.run(steps, deadline - time.monotonic())
        logprobs = torch.stack([step.logprobs for step in steps if step.logprobs is not None]).cpu()
        for node, row, step in zip(nodes, logprobs, steps, strict=True):
            search.expand(node, row, step.final_state)
        await asyncio.sleep(0)  # let other requests have the event loop between rounds
    return search.result()
