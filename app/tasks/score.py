"""POST /score: how probable texts are."""

import math
import re
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from app.engine.prefixes import share_prefixes
from app.engine.sequence import Sequence
from app.errors import at_most
from app.settings import Settings
from app.tasks.beside import LONG
from app.tasks.body import Answer, Model, RequestBody, ReturnState, SomeTexts, State, Text, Timeout
from app.tasks.states import after, cut_open_space, given_state, returned_state
from app.tasks.task import TIMEOUT, Call, Limit, Task
from app.tasks.tokens import TopToken, top_tokens
from models.decoding.saved_state import SavedState
from models.decoding.scoring import TokenScore, best_total, bits_per_character, perplexity, scoring_plan
from models.text.levels import UNK
from models.text.tokenizer import Tokenizer
from models.text.words import ends_in_space, words_in

# -- bodies ------------------------------------------------------------------------------------------------------------


class ScoreRequest(RequestBody):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": ["The apple and pear salad was delicious.", "The apple and pair salad was delicious."]}
            ]
        }
    )

    text: SomeTexts = Field(description="Text to score, or a list of texts.")
    model: Model = None
    bos: bool = Field(True, description="The text starts a sentence; when false, its first token only conditions.")
    eos: bool = Field(True, description="The end of the text is predicted, and counts.")
    context: Text | None = Field(None, description="Text before the text; it conditions and is not scored.")
    tokens: bool = Field(False, description="Report each token.")
    top: int = Field(0, ge=0, description="Report each token with this many alternatives.")
    words: bool = Field(False, description="Report the surprisal of each word.")
    state: State = None
    return_state: ReturnState = False
    timeout_seconds: Timeout = None


class TokenDetail(BaseModel):
    text: str = Field(description="The token as the text has it; an unknown word shows itself.")
    token: str = Field(description="The vocabulary entry.")
    id: int
    logprob: float | None = Field(description="In nats; null where nothing comes before the token.")
    surprisal_bits: float | None = Field(description="-logprob / ln 2.")
    rank: int | None = Field(description="1: the likeliest token at this place.")
    oov: bool = Field(description="Whether the word is not in the vocabulary.")
    start: int = Field(description="Start offset in the text, in code points.")
    end: int = Field(description="End offset in the text, in code points (end exclusive).")
    spelling_logprob: float | None = Field(
        None, description="Of an unknown word: log P(spelling given that the word is unknown)."
    )
    top: list[TopToken] | None = Field(None, description="The likeliest tokens at this place.")


class WordDetail(BaseModel):
    word: str = Field(description="The word with its punctuation, as the text has it; empty where a boundary counts.")
    start: int = Field(description="Start offset in the text, in code points.")
    end: int = Field(description="End offset in the text, in code points (end exclusive).")
    surprisal_bits: float = Field(description="Of all its tokens, the spelling of an unknown word included.")
    oov: bool = Field(description="Whether a part of it is not in the vocabulary.")


class Score(BaseModel):
    text: str
    logprob: float = Field(description="Sum over the predicted tokens, in nats.")
    tokens: int = Field(description="Number of predicted tokens, `<eos>` included where `eos`.")
    words: int = Field(description="Number of words, which stand between white space.")
    characters: int = Field(description="Number of code points.")
    oov: int = Field(description="Number of predicted unknown words.")
    logprob_without_oov: float = Field(description="logprob without that of unknown words.")
    logprob_open: float | None = Field(
        None,
        description="Open-vocabulary logprob: with the spelling of each unknown word. Null without a speller.",
    )
    perplexity: float | None = Field(description="exp(-logprob / tokens).")
    perplexity_open: float | None = Field(
        None, description="exp(-logprob_open / tokens), over all strings. Null without a speller."
    )
    perplexity_per_word: float | None = Field(description="exp(-logprob / (words + 1 where `eos`)), as KenLM divides.")
    bits_per_character: float | None = Field(
        description="-total / (ln 2 * characters); the total is logprob_open, and logprob where that is null."
    )
    words_detail: list[WordDetail] | None = Field(
        None, description="With `words`: each word. Their surprisals add up to the total in bits."
    )
    details: list[TokenDetail] | None = Field(None, description="With `tokens` or `top`: each token.")
    state: str | None = Field(None, description="With `return_state`: the state after the text, before `<eos>`.")

    @property
    def total(self) -> float:
        """The figure by which texts are compared, in nats."""
        return best_total(self.logprob, self.logprob_open)


class ScoreResponse(Answer):
    scores: list[Score] = Field(description="In the order of the request.")
    best: int = Field(
        description="Place of the most probable text, by logprob_open, and by logprob where that is null."
    )
    probabilities: list[float] = Field(
        description="Softmax of these totals: how probable each text is among the texts."
    )


# -- limits ------------------------------------------------------------------------------------------------------------

LIMITS = (
    Limit("text", "max_texts", " texts"),
    Limit("top", "max_top"),
    Limit(
        "context",
        "max_body_bytes",
        " characters, once for each text,",
        lambda body: len(body.context or "") * len(body.text),
    ),
    TIMEOUT,
)


def check_reported(tokens: int, top: int, settings: Settings, param: str | None = None) -> None:
    """Raises `InvalidValueError` when details would be larger than an answer may be. tokens: number to be reported."""
    param = param or ("top" if top else "tokens")
    at_most(param, tokens * (1 + top), settings.max_reported, " tokens to report, alternatives included,")


# -- from a body to an answer ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Text:
    """A text to score.

    tokens: the text's own, and `<eos>` where that is scored after them. consumed: how many tokens the network consumes,
    those of the context and the start symbol among them. open_space: whether a space is left open at its end.
    """

    text: str
    tokens: list["_Token"]
    consumed: int
    open_space: bool
    sequence: Sequence

    @property
    def scored(self) -> list["_Token"]:
        """The tokens that have a score: all, or all but the first."""
        return self.tokens[len(self.tokens) - len(self.sequence.all_scores()) :]

    def unknown(self, tokenizer: Tokenizer) -> set[str]:
        """Words that the vocabulary has not. The symbol itself, as a text may write it, is none."""
        return {token.word for token in self.tokens if token.id == tokenizer.unk_id} - {UNK, f" {UNK}"}


class _Token(NamedTuple):
    """start, end: in the text. word: what it stands for, also where that begins in the context."""

    id: int
    start: int
    end: int
    word: str


async def answer(body: ScoreRequest, call: Call) -> ScoreResponse:
    """Score every text of a request. Raises `InvalidValueError` when it asks for more details than an answer holds."""
    served = call.served
    tokenizer = served.checkpoint.tokenizer
    characters = sum(map(len, body.text)) + len(body.context or "") * len(body.text)
    state = given_state(body.state, call)
    texts, sequences = await call.beside(characters, lambda: _planned(body, state, call))
    reported = sum(len(text.tokens) + 1 for text in texts) if body.tokens or body.top or body.words else 0
    check_reported(reported, body.top, call.settings)
    await call.run(sequences)
    spellings = await _spellings(texts, call)
    work = characters + 20 * reported * (1 + body.top)
    scores = await call.beside(work, lambda: [_score(text, body, tokenizer, spellings) for text in texts])
    if body.return_state:
        for text, score in zip(texts, scores, strict=True):
            position = (state.position if state else 0) + text.consumed
            whole = (body.context or "") + text.text
            at_start = ends_in_space(whole, before=state.at_start if state else True)
            score.state = returned_state(text.sequence.final_state, position, at_start, text.open_space, call)
    totals = [score.total for score in scores]
    best = max(range(len(totals)), key=totals.__getitem__)
    shares = [math.exp(total - totals[best]) for total in totals]
    return ScoreResponse(
        id=f"score-{uuid.uuid4().hex}",
        model=served.name,
        backend=served.engine.backend,
        scores=scores,
        best=best,
        probabilities=[share / sum(shares) for share in shares],
    )


def _planned(body: ScoreRequest, state: SavedState | None, call: Call) -> tuple[list[_Text], list[Sequence]]:
    """The texts, and what the engine is to do for them. Raises `InvalidValueError` where that is too much."""
    checkpoint = call.served.checkpoint
    texts = []
    for index, one in enumerate(body.text):
        call.deadline.check()
        text = _plan(one, body, state, checkpoint.tokenizer, call.deadline.check)
        if checkpoint.speller is not None:
            check_spelled(text.unknown(checkpoint.tokenizer), f"text.{index}", call.settings)
        texts.append(text)
    sequences = share_prefixes([text.sequence for text in texts], call.deadline.check)
    check_prompt_tokens(sequences, "text", call.settings)
    return texts, sequences


def check_prompt_tokens(sequences: Iterable[Sequence], param: str, settings: Settings) -> None:
    """Raises `InvalidValueError` when sequences have more tokens to consume than a request may have."""
    at_most(param, sum(len(sequence.inputs) for sequence in sequences), settings.max_prompt_tokens, " tokens")


def check_spelled(words: Iterable[str], param: str, settings: Settings) -> None:
    """Raises `InvalidValueError` when an unknown word is longer than its spelling may be."""
    for word in words:
        at_most(param, len(word.encode()), settings.max_spelled_bytes, " bytes of one unknown word")


def _plan(
    text: str, body: ScoreRequest, state: SavedState | None, tokenizer: Tokenizer, check: Callable[[], None]
) -> _Text:
    context = body.context or ""
    whole = after(state, context + text)
    begin = len(whole) - len(text)
    encoding = tokenizer.encode(whole, check)
    # A token that the two share, its leading space included, is the text's own.
    skipped = sum(end <= begin for _, end in encoding.offsets)
    if state:
        inputs, targets = list(encoding.ids), [*encoding.ids, tokenizer.eos_id if body.eos else None]
    else:
        inputs, targets = scoring_plan(encoding.ids, tokenizer.eos_id, body.bos, body.eos)
    first = skipped + (len(inputs) - len(encoding.ids))  # target of the text's first token
    targets = [target if k >= first else None for k, target in enumerate(targets)]
    tokens = [
        _Token(token_id, max(0, start - begin), end - begin, whole[start:end])
        for token_id, (start, end) in zip(encoding.ids[skipped:], encoding.offsets[skipped:], strict=True)
    ]
    if targets[-1] is not None:
        tokens.append(_Token(tokenizer.eos_id, len(text), len(text), ""))
    consumed = len(inputs)
    open_space = tokenizer.rules.leading_space and cut_open_space(context + text, state, tokenizer)[1]
    row, top = state.row if state else None, body.top
    sequence = Sequence(inputs, targets=targets, top=top, state=row, keep_state=body.return_state)
    return _Text(text, tokens, consumed, open_space, sequence)


async def _spellings(texts: list[_Text], call: Call) -> dict[str, float] | None:
    """log P(spelling given that the word is unknown) of every unknown word that is scored; None without a speller."""
    speller, tokenizer = call.served.checkpoint.speller, call.served.checkpoint.tokenizer
    if speller is None:
        return None
    # The symbol itself stands for some unknown word.
    mean = call.served.checkpoint.unk_spelling
    found = {} if mean is None else dict.fromkeys((UNK, f" {UNK}"), mean)
    words = sorted({word for text in texts for word in text.unknown(tokenizer)})
    spellings = list(map(tokenizer.normalized, words))
    if words:
        logprobs = await call.beside(LONG, lambda: speller.logprobs(spellings, call.owner, call.deadline.check))
        found |= zip(words, logprobs, strict=True)
    return found


def _score(text: _Text, body: ScoreRequest, tokenizer: Tokenizer, spellings: dict[str, float] | None) -> Score:
    scored = text.sequence.all_scores()
    logprob = math.fsum(score.logprob for score in scored)
    unknown = [score.logprob for score in scored if score.token_id == tokenizer.unk_id]
    words = len(words_in(text.text))
    logprob_open = None
    if spellings is not None:
        spelled = [spellings.get(token.word, 0.0) for token in text.scored if token.id == tokenizer.unk_id]
        logprob_open = math.fsum([logprob, *spelled])
    score = Score(
        text=text.text,
        logprob=logprob,
        tokens=len(scored),
        words=words,
        characters=len(text.text),
        oov=len(unknown),
        logprob_without_oov=math.fsum([logprob, *(-value for value in unknown)]),
        logprob_open=logprob_open,
        perplexity=perplexity(logprob, len(scored)),
        perplexity_open=None if logprob_open is None else perplexity(logprob_open, len(scored)),
        perplexity_per_word=perplexity(logprob, words + body.eos if scored else 0),
        bits_per_character=bits_per_character(best_total(logprob, logprob_open), len(text.text)),
    )
    if body.words:
        score.words_detail = _words(text, tokenizer, spellings or {})
    if body.tokens or body.top:
        score.details = _details(text, body, tokenizer, spellings or {})
    return score


def _words(text: _Text, tokenizer: Tokenizer, spellings: dict[str, float]) -> list[WordDetail]:
    """The surprisal of each word: of the tokens that end in it, the white space before it among them; a boundary is an
    entry of its own."""
    found = [
        WordDetail(word=m[0], start=m.start(), end=m.end(), surprisal_bits=0.0, oov=False)
        for m in _WORD.finditer(text.text)
    ]
    boundaries, number = list[WordDetail](), 0
    for token, score in zip(text.scored, text.sequence.all_scores(), strict=True):
        nats = -(score.logprob + (spellings.get(token.word, 0.0) if token.id == tokenizer.unk_id else 0.0))
        while number + 1 < len(found) and found[number].end < token.end:
            number += 1
        if token.id == tokenizer.eos_id or not found:
            there = WordDetail(word="", start=token.start, end=token.end, surprisal_bits=0.0, oov=False)
            boundaries.append(there)
        else:
            there = found[number]
        there.surprisal_bits += nats / math.log(2)
        there.oov |= token.id == tokenizer.unk_id
    return sorted([*found, *boundaries], key=lambda word: (word.end, word.start))


_WORD = re.compile(r"\S+")


def _details(text: _Text, body: ScoreRequest, tokenizer: Tokenizer, spellings: dict[str, float]) -> list[TokenDetail]:
    """One entry for each token of the text, and for `<eos>` when it is predicted."""
    scored = text.sequence.all_scores()
    tokens = text.tokens
    # The very first token of a text that does not start a sentence has no score.
    scores: list[TokenScore | None] = [*[None] * (len(tokens) - len(scored)), *scored]
    details = []
    for token, score in zip(tokens, scores, strict=True):
        detail = TokenDetail(
            text=text.text[token.start : token.end],
            token=tokenizer.tokens[token.id],
            id=token.id,
            logprob=score.logprob if score else None,
            surprisal_bits=-score.logprob / math.log(2) if score else None,
            rank=score.rank if score else None,
            oov=token.id == tokenizer.unk_id,
            start=token.start,
            end=token.end,
        )
        if detail.oov and score and token.word in spellings:
            detail.spelling_logprob = spellings[token.word]
        if body.top:
            detail.top = top_tokens(score, tokenizer) if score else []
        details.append(detail)
    return details


TASK = Task(
    path="/score",
    summary="How probable is a text?",
    kind="language_model",
    request=ScoreRequest,
    response=ScoreResponse,
    limits=LIMITS,
    answer=answer,
    characters=lambda answer: 20 * sum(1 + len(d.top or ()) for score in answer.scores for d in score.details or ()),
)
