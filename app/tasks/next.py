"""/next: the likeliest next words, or completions of the word that has been begun."""

import asyncio
import math
import time
import uuid

from app.engine.sequence import Sequence
from app.registry import ServedModel
from app.schemas import NextRequest, NextResponse, NextWord
from app.tasks.beside import beside
from app.tasks.states import given_state, returned_state
from models.decoding.completion import prompt_inputs
from models.decoding.saved_state import SavedState
from models.text.words import ends_in_space
from models.words.next_words import Begun, NextWords, WordSearch, spelled_words, split_begun


async def answer(body: NextRequest, served: ServedModel, timeout_seconds: float) -> NextResponse:
    """Offer words after a text."""
    deadline = time.monotonic() + timeout_seconds
    state = given_state(body.state, served)
    begun = split_begun(served.checkpoint.tokenizer, body.text, at_start=state.at_start if state else True)
    found = await _find(begun, body, state, served, deadline)
    answer = NextResponse(
        id=f"next-{uuid.uuid4().hex}",
        model=served.name,
        backend=served.engine.backend,
        words=[NextWord(word=word, prob=prob, logprob=math.log(prob)) for word, prob in found.words],
        completing=begun.completing,
        coverage=found.coverage,
    )
    if body.return_state:
        answer.state = await _state_after(body.text, state, served, deadline)
    return answer


async def _state_after(text: str, state: SavedState | None, served: ServedModel, deadline: float) -> str:
    """The state after the whole text, the begun word included."""
    sequence = _consuming(text, state, served)
    sequence.keep_state = True
    await served.engine.run([sequence], deadline - time.monotonic())
    at_start = ends_in_space(text, before=state.at_start if state else True)
    position = (state.position if state else 0) + len(sequence.inputs)
    return returned_state(sequence.final_state, position, at_start, served)


def _consuming(text: str, state: SavedState | None, served: ServedModel) -> Sequence:
    tokenizer = served.checkpoint.tokenizer
    if state is None:
        return Sequence(prompt_inputs(tokenizer, text))
    return Sequence(tokenizer.encode_ids(text), state=state.row)


async def _find(
    begun: Begun, body: NextRequest, state: SavedState | None, served: ServedModel, deadline: float
) -> NextWords:
    tokenizer = served.checkpoint.tokenizer
    root = await beside(len(begun.context), lambda: _consuming(begun.context, state, served))
    root.keep_state = root.keep_logprobs = True
    await served.engine.run([root], deadline - time.monotonic())
    assert root.logprobs is not None
    if tokenizer.level in ("word", "split"):
        speller, unknown = served.checkpoint.speller, None
        if speller is not None and begun.completing:
            unk = math.exp(float(root.logprobs[tokenizer.unk_id]))
            unknown = await asyncio.to_thread(spelled_words, speller, unk, begun, tokenizer, body.top)
        return served.words.find(root.logprobs, begun, body.top, body.punctuation, unknown)
    search = WordSearch(served.pieces, begun, body.top, body.punctuation)
    search.expand_root(root.logprobs, root.final_state)
    while nodes := search.frontier():
        steps = [Sequence([node.token_id], state=node.state, keep_state=True, keep_logprobs=True) for node in nodes]
        await served.engine.run(steps, deadline - time.monotonic())
        for node, step in zip(nodes, steps, strict=True):
            assert step.logprobs is not None
            search.expand(node, step.logprobs, step.final_state)
        await asyncio.sleep(0)  # let other requests have the event loop between rounds
    return search.result()
