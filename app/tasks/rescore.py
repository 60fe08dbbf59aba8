"""/rescore: an n-best list in the order that recogniser and language model give it together."""

import uuid

from app.registry import ServedModel
from app.schemas import RescoredHypothesis, RescoreRequest, RescoreResponse, ScoreRequest
from app.settings import Settings
from app.tasks import score as scoring


async def answer(body: RescoreRequest, served: ServedModel, settings: Settings) -> RescoreResponse:
    """The list of a request, best first."""
    logprobs = await hypothesis_logprobs(
        [one.text for one in body.hypotheses],
        body.bos,
        body.eos,
        body.lowercase,
        served,
        settings,
        body.timeout_seconds,
    )
    texts, scores = [one.text for one in body.hypotheses], [one.score for one in body.hypotheses]
    hypotheses = reordered(texts, scores, logprobs, body.weight, body.length_weight)
    return RescoreResponse(
        id=f"rescore-{uuid.uuid4().hex}",
        model=served.name,
        backend=served.engine.backend,
        hypotheses=hypotheses,
        best=hypotheses[0].index,
    )


def reordered(
    texts: list[str], scores: list[float], logprobs: list[float], weight: float, length_weight: float
) -> list[RescoredHypothesis]:
    """Best first by score + weight * logprob + length_weight * words; equals keep their order.

    The sum is the log-linear model of shallow fusion (Gulcehre et al. 2015, section 4.2), taken over whole hypotheses.
    """
    hypotheses = []
    for index, (text, score, logprob) in enumerate(zip(texts, scores, logprobs, strict=True)):
        words = len(text.split())
        total = score + weight * logprob + length_weight * words
        hypotheses.append(
            RescoredHypothesis(index=index, text=text, score=score, logprob=logprob, words=words, total=total)
        )
    return sorted(hypotheses, key=lambda one: -one.total)


async def hypothesis_logprobs(
    texts: list[str],
    bos: bool,
    eos: bool,
    lowercase: bool,
    served: ServedModel,
    settings: Settings,
    timeout_seconds: float | None = None,
) -> list[float]:
    """In nats, the spelling of unknown words included where the model can spell."""
    asked = [text.lower() for text in texts] if lowercase else texts
    body = ScoreRequest(text=asked, bos=bos, eos=eos, timeout_seconds=timeout_seconds)
    scores = (await scoring.answer(body, served, settings)).scores
    return [one.logprob if one.logprob_open is None else one.logprob_open for one in scores]
