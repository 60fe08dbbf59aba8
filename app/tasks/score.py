"""/score: how probable texts are."""

import asyncio
import math
import uuid
from dataclasses import dataclass

from app.engine.prefixes import share_prefixes
from app.engine.sequence import Sequence
from app.limits import check_reported
from app.registry import ServedModel
from app.schemas import Score, ScoreRequest, ScoreResponse, TokenDetail
from app.settings import Settings
from app.tasks.beside import beside
from app.tasks.states import given_state, returned_state
from app.tasks.tokens import top_tokens
from models.decoding.saved_state import SavedState
from models.decoding.scoring import TokenScore, bits_per_character, perplexity, scoring_plan
from models.text.levels import UNK
from models.text.tokenizer import Encoding, Tokenizer
from models.text.words import ends_in_space


@dataclass(frozen=True)
class _Text:
    """One text to score. encoding: its own tokens, offsets into it; skipped: tokens of the context before them.

    tokens: its own, and `<eos>` where that is scored after them; id and offsets.
    """

    text: str
    encoding: Encoding
    skipped: int
    tokens: list[tuple[int, tuple[int, int]]]
    sequence: Sequence

    @property
    def scored(self) -> list[tuple[int, tuple[int, int]]]:
        """The tokens that have a score: all, or all but the first."""
        return self.tokens[len(self.tokens) - len(self.sequence.all_scores()) :]


async def answer(body: ScoreRequest, served: ServedModel, settings: Settings) -> ScoreResponse:
    """Score every text of a request. Raises `InvalidValueError` when it asks for more details than an answer holds."""
    tokenizer = served.checkpoint.tokenizer
    characters = sum(map(len, body.text)) + len(body.context or "") * len(body.text)
    state = given_state(body.state, served)
    texts = await beside(characters, lambda: [_plan(text, body, state, tokenizer) for text in body.text])
    reported = sum(len(text.encoding.ids) + 1 for text in texts) if body.tokens or body.top else 0
    check_reported(reported, body.top, settings)
    sequences = share_prefixes([text.sequence for text in texts])
    await served.engine.run(sequences, body.timeout_seconds or settings.timeout_seconds)
    spellings = await _spellings(texts, served)
    work = characters + 20 * reported * (1 + body.top)
    scores = await beside(work, lambda: [_score(text, body, tokenizer, spellings) for text in texts])
    if body.return_state:
        for text, score in zip(texts, scores, strict=True):
            position = (state.position if state else int(body.bos)) + text.skipped + len(text.encoding.ids)
            whole = (body.context or "") + text.text
            at_start = ends_in_space(whole, before=state.at_start if state else True)
            score.state = returned_state(text.sequence.final_state, position, at_start, served)
    totals = [score.logprob if score.logprob_open is None else score.logprob_open for score in scores]
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


def _plan(text: str, body: ScoreRequest, state: SavedState | None, tokenizer: Tokenizer) -> _Text:
    context = body.context or ""
    whole = tokenizer.encode(context + text)
    # Tokens that begin at or after the end of the context are the text's own.
    skipped = sum(start < len(context) for start, _ in whole.offsets)
    if state:
        inputs, targets = list(whole.ids), [*whole.ids, tokenizer.eos_id if body.eos else None]
    else:
        inputs, targets = scoring_plan(whole.ids, tokenizer.eos_id, body.bos, body.eos)
    first = skipped + (len(inputs) - len(whole.ids))  # target of the text's first token
    targets = [target if k >= first else None for k, target in enumerate(targets)]
    own = Encoding(
        whole.ids[skipped:],
        [(start - len(context), end - len(context)) for start, end in whole.offsets[skipped:]],
    )
    sequence = Sequence(
        inputs,
        targets=targets,
        top=body.top,
        state=state.row if state else None,
        keep_state=body.return_state,
    )
    tokens = list(zip(own.ids, own.offsets, strict=True))
    if targets[-1] is not None:
        tokens.append((tokenizer.eos_id, (len(text), len(text))))
    return _Text(text, own, skipped, tokens, sequence)


async def _spellings(texts: list[_Text], served: ServedModel) -> dict[str, float] | None:
    """Log-probability of the spelling of every unknown word that is scored; None where there is no speller."""
    speller = served.checkpoint.speller
    if speller is None:
        return None
    unknown = served.checkpoint.tokenizer.unk_id
    found = {text.text[start:end] for text in texts for token_id, (start, end) in text.scored if token_id == unknown}
    words = sorted(found - {UNK, f" {UNK}"})  # which is no word, but the symbol itself
    spellings = list(map(served.checkpoint.tokenizer.normalized, words))
    logprobs = await asyncio.to_thread(speller.logprobs, spellings) if words else []
    return dict(zip(words, logprobs, strict=True))


def _score(text: _Text, body: ScoreRequest, tokenizer: Tokenizer, spellings: dict[str, float] | None) -> Score:
    scored = text.sequence.all_scores()
    logprob = math.fsum(score.logprob for score in scored)
    unknown = [score.logprob for score in scored if score.token_id == tokenizer.unk_id]
    words = len(text.text.split())
    logprob_open = None
    if spellings is not None:
        spelled = [spellings.get(text.text[start:end], 0.0) for i, (start, end) in text.scored if i == tokenizer.unk_id]
        logprob_open = math.fsum([logprob, *spelled])
    total = logprob if logprob_open is None else logprob_open
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
        perplexity_per_word=perplexity(logprob, words + body.eos if scored else 0),
        bits_per_character=bits_per_character(total, len(text.text)),
    )
    if body.tokens or body.top:
        score.details = _details(text, body, tokenizer, spellings or {})
    return score


def _details(text: _Text, body: ScoreRequest, tokenizer: Tokenizer, spellings: dict[str, float]) -> list[TokenDetail]:
    """One entry for each token of the text, and for `<eos>` when it is predicted."""
    scored = text.sequence.all_scores()
    tokens = text.tokens
    # The very first token of a text that does not start a sentence has no score.
    scores: list[TokenScore | None] = [*[None] * (len(tokens) - len(scored)), *scored]
    details = []
    for (token_id, (start, end)), score in zip(tokens, scores, strict=True):
        detail = TokenDetail(
            text=text.text[start:end],
            token=tokenizer.tokens[token_id],
            id=token_id,
            logprob=score.logprob if score else None,
            surprisal_bits=-score.logprob / math.log(2) if score else None,
            rank=score.rank if score else None,
            oov=token_id == tokenizer.unk_id,
            start=start,
            end=end,
        )
        if detail.oov and score and detail.text in spellings:
            detail.spelling_logprob = spellings[detail.text]
        if body.top:
            detail.top = top_tokens(score, tokenizer) if score else []
        details.append(detail)
    return details
