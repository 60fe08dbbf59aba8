"""Request and response bodies. Ranges that are settings are checked in app/limits.py."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, FailFast, Field

from models.decoding.completion import FinishReason


class RequestBody(BaseModel):
    """Unknown fields are refused, types are not coerced, numbers are finite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Body(BaseModel):
    """A response."""


def _listed(value: object) -> object:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise ValueError("Input should be a string or a list of strings")
    return value


def encodable(value: str) -> str:
    """Raises `ValueError` for what is not text."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a lone surrogate at character {error.start} is not text") from None
    return value


Text = Annotated[str, AfterValidator(encodable)]
"""Any Unicode text, control characters included."""

Texts = Annotated[list[Text], FailFast(), BeforeValidator(_listed, json_schema_input_type=str | list[str])]
"""One text or several."""

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


def _keyed_by_token_id(value: dict[str, float]) -> dict[str, float]:
    for key in value:
        if not (key.isascii() and key.isdigit() and len(key) <= 9):
            raise ValueError(f"keys are token ids, {key[:32]!r} is none")
    return value


LogitBias = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100)]],
    AfterValidator(_keyed_by_token_id),
    Field(description="Added to logits, by token id."),
]
Timeout = Annotated[
    float | None, Field(gt=0, description="Time the request may take, in seconds; at most the server's.")
]
Model = Annotated[Text | None, Field(description="Name of a served model; missing: the default one.")]


State = Annotated[str | None, Field(description="A state that an answer returned: the text goes on from there.")]
ReturnState = Annotated[bool, Field(description="Return the state at the end of the text.")]


class GenerateRequest(RequestBody):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "Cats average 15", "max_tokens": 30, "temperature": 0.8, "seed": 7}]}
    )

    prompt: Texts = Field([""], description="Text to continue, or several; empty: a new text.")
    model: Model = None
    max_tokens: int = Field(64, ge=0, description="Most tokens of a completion.")
    min_tokens: int = Field(0, ge=0, description="`<eos>` cannot be drawn before this many.")
    temperature: float = Field(
        1.0, ge=0, le=10, description="Below 1 plainer, above 1 wilder; 0: always the likeliest."
    )
    top_k: int = Field(0, ge=0, description="Draw from the k likeliest; 0: from all.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Draw from the fewest likeliest tokens whose probabilities reach this sum."
    )
    min_p: float = Field(
        0.0, ge=0, lt=1, description="Draw from tokens at least this fraction as probable as the likeliest."
    )
    repetition_penalty: float = Field(
        1.0, gt=0, le=10, description="Above 1: tokens of prompt and completion less likely."
    )
    presence_penalty: float = Field(0.0, ge=-2, le=2, description="Subtracted from logits of tokens in the completion.")
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="The same, as often as the token is there.")
    logit_bias: LogitBias = Field(default_factory=dict)
    stop: Texts = Field(default_factory=list, description="The text ends before the first of these.")
    ignore_eos: bool = Field(False, description="Go on past `<eos>`, so that exactly `max_tokens` tokens come.")
    allow_unk: bool | Literal["spell"] = Field(
        False, description="Whether `<unk>` may be drawn; `spell`: and a newly spelled word written in its place."
    )
    n: int = Field(1, ge=1, description="Completions of each prompt.")
    seed: Seed | None = Field(None, description="Same seed, same text. Missing: one is drawn, and reported.")
    logprobs: int | None = Field(None, ge=0, description="Report drawn tokens, with this many alternatives each.")
    stream: bool = Field(False, description="Answer as server-sent events, a token each.")
    state: State = None
    return_state: ReturnState = False
    timeout_seconds: Timeout = None


class TopToken(Body):
    id: int
    token: str
    logprob: float = Field(description="Natural logarithm of its probability.")


class GeneratedToken(Body):
    id: int
    text: str = Field(description="What it adds to the text; the `<eos>` that ends it adds nothing.")
    logprob: float = Field(description="Under the model's own distribution: temperature 1, before any filter.")
    top: list[TopToken] = Field(description="The likeliest tokens there, `<unk>` included.")


class Choice(Body):
    index: int = Field(description="prompt_index * n + number of the choice.")
    prompt_index: int = Field(description="Which prompt it continues.")
    text: str = Field(description="The completion, without the prompt.")
    finish_reason: FinishReason = Field(
        description="`length`: max_tokens; `stop`: a stop string; `eos`: the model ended it."
    )
    tokens: list[GeneratedToken] | None = Field(None, description="With `logprobs`: every drawn token.")
    state: str | None = Field(None, description="With `return_state`: after prompt and completion.")


class Usage(Body):
    prompt_tokens: int = Field(description="Of all prompts, each counted once.")
    completion_tokens: int = Field(description="Drawn, an `<eos>` included.")
    cached_tokens: int = Field(0, description="Prompt tokens that the prefix cache spared.")


class GenerateResponse(Body):
    id: str
    model: str
    backend: str
    choices: list[Choice]
    usage: Usage
    seed: int


class StreamedText(Body):
    """One event of a streamed answer: what one token added to one choice."""

    index: int
    prompt_index: int
    text: str
    finish_reason: FinishReason | None
    tokens: list[GeneratedToken] | None = None
    state: str | None = None


class StreamEnd(Body):
    """The last event before `data: [DONE]`."""

    id: str
    model: str
    backend: str
    usage: Usage
    seed: int


class ScoreRequest(RequestBody):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": ["The apple and pear salad was delicious.", "The apple and pair salad was delicious."]}
            ]
        }
    )

    text: Texts = Field(description="Text to score, or several.")
    model: Model = None
    bos: bool = Field(True, description="The text starts a sentence; false: its first token only conditions.")
    eos: bool = Field(True, description="The end of the text is predicted, and counts.")
    context: Text | None = Field(None, description="Text before the text; it conditions and is not scored.")
    tokens: bool = Field(False, description="Report each token.")
    top: int = Field(0, ge=0, description="Report each token with this many alternatives.")
    state: State = None
    return_state: ReturnState = False
    timeout_seconds: Timeout = None


class TokenDetail(Body):
    text: str = Field(description="As it stands in the text; an unknown word shows itself.")
    token: str = Field(description="The entry of the vocabulary.")
    id: int
    logprob: float | None = Field(description="In nats; null where nothing comes before it.")
    surprisal_bits: float | None = Field(description="-logprob / ln 2.")
    rank: int | None = Field(description="1: the likeliest token here.")
    oov: bool = Field(description="Whether the word is not in the vocabulary.")
    start: int = Field(description="Code points of the text, first …")
    end: int = Field(description="… and one past the last.")
    spelling_logprob: float | None = Field(
        None, description="Of an unknown word: which one it is, given that it is one."
    )
    top: list[TopToken] | None = Field(None, description="The likeliest tokens here.")


class Score(Body):
    text: str
    logprob: float = Field(description="Sum over the predicted tokens, in nats.")
    tokens: int = Field(description="How many were predicted, `<eos>` included where `eos`.")
    words: int = Field(description="Between white space.")
    characters: int = Field(description="Code points.")
    oov: int = Field(description="Predicted unknown words.")
    logprob_without_oov: float = Field(description="logprob without theirs.")
    logprob_open: float | None = Field(
        None, description="logprob and the spelling of each unknown word; null without a speller."
    )
    perplexity: float | None = Field(description="exp(-logprob / tokens).")
    perplexity_per_word: float | None = Field(description="exp(-logprob / (words + 1 where `eos`)), as KenLM divides.")
    bits_per_character: float | None = Field(
        description="-logprob / (ln 2 * characters), of logprob_open where there is one."
    )
    details: list[TokenDetail] | None = Field(None, description="With `tokens` or `top`: each token.")
    state: str | None = Field(None, description="With `return_state`: after the text, before `<eos>`.")


class ScoreResponse(Body):
    id: str
    model: str
    backend: str
    scores: list[Score] = Field(description="In the order of the request.")
    best: int = Field(description="Place of the most probable text, by logprob_open where there is one.")
    probabilities: list[float] = Field(description="Softmax of these totals: of these texts, which one is it?")


class NextRequest(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "The apple and pe", "top": 5}]})

    text: Text = Field(description="Text so far. One that ends in a letter or digit is completing its last word.")
    model: Model = None
    top: int = Field(10, ge=1, description="Most words to offer.")
    punctuation: bool = Field(False, description="Whether punctuation marks are offered too.")
    state: State = None
    return_state: ReturnState = False
    timeout_seconds: Timeout = None


class NextWord(Body):
    word: str
    prob: float = Field(description="Of the word after the text; among the candidates where a word is completed.")
    logprob: float


class NextResponse(Body):
    id: str
    model: str
    backend: str
    words: list[NextWord] = Field(description="Likeliest first.")
    completing: str | None = Field(description="The begun word that is completed; null: a new word.")
    coverage: float = Field(description="Sum of the listed probabilities.")
    state: str | None = Field(None, description="With `return_state`: after the whole text.")


class Hypothesis(RequestBody):
    text: Text = Field(description="What may have been said or written.")
    score: float = Field(
        ge=-1e9, le=1e9, description="How likely the recogniser holds it to be, a log-probability up to a constant."
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

    hypotheses: list[Hypothesis] = Field(description="The n-best list.")
    weight: float = Field(0.5, ge=-1e6, le=1e6, description="Of the model's log-probability, in nats.")
    length_weight: float = Field(0.0, ge=-1e6, le=1e6, description="Of the number of words.")
    bos: bool = Field(True, description="A hypothesis starts a sentence.")
    eos: bool = Field(True, description="Its end is predicted, and counts.")
    lowercase: bool = Field(False, description="The model reads the texts in lower case.")
    model: Model = None
    timeout_seconds: Timeout = None


class RescoredHypothesis(Body):
    index: int = Field(description="Its place in the request.")
    text: str
    score: float
    logprob: float = Field(description="The language model's, in nats, unknown words spelled where it can.")
    words: int = Field(description="Between white space.")
    total: float = Field(description="score + weight * logprob + length_weight * words.")


class RescoreResponse(Body):
    id: str
    model: str
    backend: str
    hypotheses: list[RescoredHypothesis] = Field(description="Best first; equals keep their order.")
    best: int = Field(description="`index` of the first.")


class ModelInfo(Body):
    name: str
    default: bool
    backend: str
    level: str
    boundary: str
    cell: str
    vocabulary_size: int
    parameters: int
    speller: bool
    storage: str
    fingerprint: str
    about: dict[str, object]
    card: str


class RefusedCheckpoint(Body):
    name: str
    file: str
    reason: str


class InfoResponse(Body):
    version: str
    default: str
    models: list[ModelInfo]
    refused: list[RefusedCheckpoint]
    limits: dict[str, int | float]


class HealthResponse(Body):
    status: Literal["ok", "ready"]


class ErrorDetail(Body):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(Body):
    """The one error shape."""

    error: ErrorDetail
