"""POST /next: the likeliest next words, or completions of the word that has been begun."""

import asyncio
import math
import uuid
from dataclasses import replace
from functools import partial

from pydantic import BaseModel, ConfigDict, Field

from app.engine.sequence import Sequence
from app.tasks.beside import LONG
from app.tasks.body import Answer, Model, RequestBody, ReturnState, State, Text, Timeout
from app.tasks.score import check_prompt_tokens, check_spelled
from app.tasks.states import after, cut_open_space, given_state, returned_state
from app.tasks.task import TIMEOUT, Call, Limit, Task
from models.decoding.saved_state import SavedState
from models.decoding.scoring import started
from models.text.words import ends_in_space
from models.words.next_words import NO_WORDS, Begun, NextWords, WordSearch, spelled_words, split_begun


class NextRequest(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "The apple and pe", "top": 5}]})

    text: Text = Field(
        description="Text so far. When it ends in a letter or digit, or in an apostrophe or hyphen after one, its last "
        "word is completed."
    )
    model: Model = None
    top: int = Field(10, ge=1, description="Maximum number of words to offer.")
    punctuation: bool = Field(False, description="Whether punctuation marks are offered too.")
    state: State = None
    return_state: ReturnState = False
    timeout_seconds: Timeout = None


class NextWord(BaseModel):
    word: str
    prob: float = Field(
        description="Probability that the word follows the text; when a word is completed, among the candidates. Forms "
        "of a word that are offered as one, with and without a capital, are added up."
    )
    logprob: float


class NextResponse(Answer):
    words: list[NextWord] = Field(description="Likeliest first.")
    completing: str | None = Field(description="The begun word that is completed; null when a new word is offered.")
    coverage: float = Field(description="Sum of the listed probabilities.")
    state: str | None = Field(None, description="With `return_state`: the state after the whole text.")


LIMITS = (Limit("text", "max_next_characters", " characters"), Limit("top", "max_top"), TIMEOUT)


async def answer(body: NextRequest, call: Call) -> NextResponse:
    """Offer words after a text."""
    served = call.served
    state = given_state(body.state, call)
    tokenizer, at_start = served.checkpoint.tokenizer, state.at_start if state else True
    text = after(state, body.text) or " " * (state is not None and state.open_space)
    begun = await call.beside(len(text), lambda: split_begun(tokenizer, text, at_start))
    if state is not None and not body.text.strip():
        begun = replace(begun, starts_sentence=False)  # a state does not say what its text ends in
    if tokenizer.rules.has_words and begun.completing and served.checkpoint.speller is not None:
        check_spelled([begun.completing], "text", call.settings)
    found = await _find(begun, body, state, call)
    answer = NextResponse(
        id=f"next-{uuid.uuid4().hex}",
        model=served.name,
        backend=served.engine.backend,
        words=[NextWord(word=word, prob=math.exp(logprob), logprob=logprob) for word, logprob in found.words],
        completing=begun.completing,
        coverage=found.coverage,
    )
    if body.return_state:
        answer.state = await _state_after(body.text, state, call)
    return answer


async def _state_after(text: str, state: SavedState | None, call: Call) -> str:
    """The state after the whole text, the begun word included."""
    closed, open_space = cut_open_space(text, state, call.served.checkpoint.tokenizer)
    sequence = await call.beside(len(text), lambda: _consuming(closed, state, call))
    sequence.keep_state = True
    await call.run([sequence])
    at_start = ends_in_space(text, before=state.at_start if state else True)
    position = (state.position if state else 0) + len(sequence.inputs)
    return returned_state(sequence.final_state, position, at_start, open_space, call)


def _consuming(text: str, state: SavedState | None, call: Call) -> Sequence:
    tokenizer = call.served.checkpoint.tokenizer
    ids = tokenizer.encode_ids(text, call.owner)
    sequence = Sequence(ids, state=state.row) if state else Sequence(started(ids, tokenizer.eos_id))
    check_prompt_tokens([sequence], "text", call.settings)
    return sequence


async def _find(begun: Begun, body: NextRequest, state: SavedState | None, call: Call) -> NextWords:
    served = call.served
    tokenizer = served.checkpoint.tokenizer
    if begun.completing and tokenizer.rules.has_words:
        return await _complete(begun, body, state, call)
    root = await call.beside(len(begun.context), lambda: _consuming(begun.context, state, call))
    root.keep_state = root.keep_logprobs = True
    await call.run([root])
    assert root.logprobs is not None
    if tokenizer.rules.has_words:
        return served.words.find(root.logprobs, begun, body.top, body.punctuation)
    search = WordSearch(served.pieces, begun, body.top, body.punctuation)
    search.expand_root(root.logprobs, root.final_state)
    while nodes := search.frontier():
        steps = [Sequence([node.token_id], state=node.state, keep_state=True, keep_logprobs=True) for node in nodes]
        await call.run(steps)
        for node, step in zip(nodes, steps, strict=True):
            assert step.logprobs is not None
            search.expand(node, step.logprobs, step.final_state)
        await asyncio.sleep(0)  # let other requests have the event loop between rounds
    return search.result()


async def _complete(begun: Begun, body: NextRequest, state: SavedState | None, call: Call) -> NextWords:
    """Complete a begun word of a vocabulary of words, cut in all the ways in which it may go on."""
    served, speller = call.served, call.served.checkpoint.speller
    paths = begun.paths()
    contexts = [path.context for path in paths]
    sequences = await call.beside(sum(map(len, contexts)), lambda: [_consuming(one, state, call) for one in contexts])
    shared = len(sequences[0].inputs)
    for sequence in sequences:
        more = sequence.inputs[shared:]
        sequence.targets = [*[None] * shared, *more, None] if more else []
        sequence.keep_logprobs = True
    await call.run(sequences)
    unknown = NO_WORDS
    if speller is not None:
        assert sequences[0].logprobs is not None
        unk = float(sequences[0].logprobs[served.checkpoint.tokenizer.unk_id])
        check = call.deadline.check
        known = partial(spelled_words, speller, unk, begun, served.checkpoint.tokenizer, body.top, call.owner, check)
        unknown = await call.beside(LONG, known)
    weighed = [
        (path, math.fsum(score.logprob for score in sequence.all_scores()), sequence.logprobs)
        for path, sequence in zip(paths, sequences, strict=True)
        if sequence.logprobs is not None
    ]
    return served.words.complete(weighed, begun, body.top, unknown)


TASK = Task(
    path="/next",
    summary="Which word comes next?",
    kind="language_model",
    request=NextRequest,
    response=NextResponse,
    limits=LIMITS,
    answer=answer,
)
