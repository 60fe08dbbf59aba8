"""Request and response bodies. Ranges that are settings are checked in app/limits.py."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, FailFast, Field, field_validator

from models.generation import FinishReason


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
    top_p: float = Field(1.0, gt=0, le=1, description="Draw from the likeliest whose mass reaches p.")
    min_p: float = Field(0.0, ge=0, lt=1, description="Draw from what is at least this share of the likeliest.")
    repetition_penalty: float = Field(
        1.0, gt=0, le=10, description="Above 1: tokens of prompt and completion less likely."
    )
    presence_penalty: float = Field(0.0, ge=-2, le=2, description="Subtracted from logits of tokens in the completion.")
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="The same, as often as the token is there.")
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = Field(
        default_factory=dict, description="Added to logits, by token id."
    )
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

    @field_validator("logit_bias")
    @classmethod
    def _keys_are_token_ids(cls, value: dict[str, float]) -> dict[str, float]:
        for key in value:
            if not (key.isascii() and key.isdigit() and len(key) <= 9):
                raise ValueError(f"keys are token ids, {key[:32]!r} is none")
        return value


class TopToken(Body):
    id: int
    token: str
    logprob: float


class GeneratedToken(Body):
    id: int
    text: str
    logprob: float
    top: list[TopToken]


class Choice(Body):
    index: int
    prompt_index: int
    text: str
    finish_reason: FinishReason
    tokens: list[GeneratedToken] | None = None
    state: str | None = None


class Usage(Body):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


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
    text: str
    token: str
    id: int
    logprob: float | None
    surprisal_bits: float | None
    rank: int | None
    oov: bool
    start: int
    end: int
    spelling_logprob: float | None = None
    top: list[TopToken] | None = None


class Score(Body):
    text: str
    logprob: float
    tokens: int
    words: int
    characters: int
    oov: int
    logprob_without_oov: float
    logprob_open: float | None = None
    perplexity: float | None
    perplexity_per_word: float | None
    bits_per_character: float | None
    details: list[TokenDetail] | None = None
    state: str | None = None


class ScoreResponse(Body):
    id: str
    model: str
    backend: str
    scores: list[Score]
    best: int
    probabilities: list[float]


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
    prob: float
    logprob: float


class NextResponse(Body):
    id: str
    model: str
    backend: str
    words: list[NextWord]
    completing: str | None
    coverage: float
    state: str | None = None


class Hypothesis(RequestBody):
    text: Text = Field(description="What may have been said or written.")
    score: float = Field(description="How likely the recogniser holds it to be, a log-probability up to a constant.")


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
    weight: float = Field(0.5, description="Of the model's log-probability, in nats.")
    length_weight: float = Field(0.0, description="Of the number of words.")
    bos: bool = Field(True, description="A hypothesis starts a sentence.")
    eos: bool = Field(True, description="Its end is predicted, and counts.")
    lowercase: bool = Field(False, description="The model reads the texts in lower case.")
    model: Model = None
    timeout_seconds: Timeout = None


class RescoredHypothesis(Body):
    index: int
    text: str
    score: float
    logprob: float
    words: int
    total: float


class RescoreResponse(Body):
    id: str
    model: str
    backend: str
    hypotheses: list[RescoredHypothesis]
    best: int


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
