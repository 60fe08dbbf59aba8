"""POST /rescore: an n-best list, reordered by the scores of a recogniser and of the language model together."""

import uuid
from typing import Annotated

from annotated_types import MinLen
from pydantic import BaseModel, ConfigDict, FailFast, Field

from app.tasks import score as scoring
from app.tasks.body import Answer, Model, RequestBody, Text, Timeout
from app.tasks.task import TIMEOUT, Call, Limit, Task
from models.text.words import words_in


class Hypothesis(RequestBody):
    text: Text = Field(description="What may have been said or written.")
    score: float = Field(
        ge=-1e9, le=1e9, description="The recogniser's score, a log-probability up to a constant that the list shares."
    )


class RescoreRequest(RequestBody):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "hypotheses": [
                        {"text": "The apple and pair salad was delicious.", "score": -4.1},
                        {"text": "The apple and pear salad was delicious.", "score": -4.6},
                    ],
                    "weight": 0.5,
                }
            ]
        }
    )

    hypotheses: Annotated[list[Hypothesis], FailFast(), MinLen(1)] = Field(description="The n-best list.")
    weight: float = Field(0.5, ge=-1e6, le=1e6, description="Weight of the model's log-probability, which is in nats.")
    length_weight: float = Field(0.0, ge=-1e6, le=1e6, description="Weight of the number of words.")
    bos: bool = Field(True, description="A hypothesis starts a sentence.")
    eos: bool = Field(True, description="The end of a hypothesis is predicted, and counts.")
    lowercase: bool = Field(False, description="The model reads the texts in lower case.")
    model: Model = None
    timeout_seconds: Timeout = None


class RescoredHypothesis(BaseModel):
    index: int = Field(description="Place of the hypothesis in the request.")
    text: str
    score: float
    logprob: float = Field(
        description="The language model's, in nats; with the spelling of unknown words where the model has a speller."
    )
    words: int = Field(description="Number of words, which stand between white space.")
    total: float = Field(description="score + weight * logprob + length_weight * words.")


class RescoreResponse(Answer):
    hypotheses: list[RescoredHypothesis] = Field(
        description="Best first; hypotheses with equal totals keep their order."
    )
    best: int = Field(description="`index` of the first hypothesis.")


LIMITS = (Limit("hypotheses", "max_texts", " hypotheses"), TIMEOUT)


async def answer(body: RescoreRequest, call: Call) -> RescoreResponse:
    """The list of a request, best first."""
    texts, scores = [one.text for one in body.hypotheses], [one.score for one in body.hypotheses]
    logprobs = await hypothesis_logprobs(texts, body.bos, body.eos, body.lowercase, call)
    hypotheses = reordered(texts, scores, logprobs, body.weight, body.length_weight)
    return RescoreResponse(
        id=f"rescore-{uuid.uuid4().hex}",
        model=call.served.name,
        backend=call.served.engine.backend,
        hypotheses=hypotheses,
        best=hypotheses[0].index,
    )


def reordered(
    texts: list[str], scores: list[float], logprobs: list[float], weight: float, length_weight: float
) -> list[RescoredHypothesis]:
    """Best first by score + weight * logprob + length_weight * words; hypotheses with equal totals keep their order.

    The sum is the log-linear model of shallow fusion (Gulcehre et al. 2015, section 4.2), taken over whole hypotheses.
    """
    hypotheses = []
    for index, (text, score, logprob) in enumerate(zip(texts, scores, logprobs, strict=True)):
        words = len(words_in(text))
        total = score + weight * logprob + length_weight * words
        hypotheses.append(
            RescoredHypothesis(index=index, text=text, score=score, logprob=logprob, words=words, total=total)
        )
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis.total)


async def hypothesis_logprobs(texts: list[str], bos: bool, eos: bool, lowercase: bool, call: Call) -> list[float]:
    """The total of each text in nats, by which texts are compared."""
    read = [text.lower() for text in texts] if lowercase else texts
    body = scoring.ScoreRequest(text=read, bos=bos, eos=eos)
    return [score.total for score in (await scoring.answer(body, call)).scores]


TASK = Task(
    path="/rescore",
    summary="Which hypothesis is it?",
    kind="language_model",
    request=RescoreRequest,
    response=RescoreResponse,
    limits=LIMITS,
    answer=answer,
)
