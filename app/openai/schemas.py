"""Bodies of the routes that clients of the OpenAI API and of evaluation harnesses know. Names and shapes are theirs."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

from app.schemas import LogitBias, Seed, Text, Texts, Timeout, encodable

Prompt = str | list[int]
"""Text, or token ids."""


def _prompts(value: Any) -> list[Prompt]:
    """The four forms of a prompt as a list: a text, texts, token ids, lists of token ids."""
    if isinstance(value, str) or _is_ids(value):
        value = [value]
    if not isinstance(value, list):
        raise ValueError("a text, a list of texts, a list of token ids, or a list of such lists")
    if all(isinstance(one, str) for one in value):
        return [encodable(one) for one in value]
    if all(isinstance(one, list) and all(map(_is_id, one)) for one in value):
        return value
    raise ValueError(
        "a list holds texts, or token ids (whole numbers from 0), or lists of token ids; not several kinds"
    )


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_id, value))


def _is_id(value: Any) -> bool:
    return type(value) is int and value >= 0


Prompts = Annotated[
    list[Prompt],
    PlainValidator(_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
]


class ForeignBody(BaseModel):
    """Unknown fields are ignored, as these clients expect, and null means the default; types are not coerced."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_missing(cls, value: Any) -> Any:
        return {key: one for key, one in value.items() if one is not None} if isinstance(value, dict) else value


class StreamOptions(ForeignBody):
    include_usage: bool = Field(False, description="End the stream with a chunk of usage, without choices.")
    continuous_usage_stats: bool = Field(False, description="Usage so far in every chunk.")


class CompletionRequest(ForeignBody):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "Cats average 15", "max_tokens": 30, "temperature": 0.8, "seed": 7}]}
    )

    model: Text | None = Field(None, description="Name of a served model; missing: the default one.")
    prompt: Prompts = Field([""], description="Text or token ids to continue, or a list of them.")
    max_tokens: int = Field(16, ge=0, description="Most tokens of a completion; 0, with `echo`: the prompt alone.")
    min_tokens: int = Field(0, ge=0, description="`<eos>` cannot be drawn before this many.")
    temperature: float = Field(1.0, ge=0, le=10, description="0: always the likeliest.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Draw from the fewest likeliest tokens whose probabilities reach this sum."
    )
    top_k: int = Field(0, ge=-1, description="Draw from the k likeliest; 0 and -1: from all.")
    min_p: float = Field(
        0.0, ge=0, lt=1, description="Draw from tokens at least this fraction as probable as the likeliest."
    )
    repetition_penalty: float = Field(1.0, gt=0, le=10, description="Above 1: tokens that were there less likely.")
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: LogitBias = Field(default_factory=dict)
    n: int = Field(1, ge=1, description="Completions of each prompt.")
    best_of: int | None = Field(
        None, ge=1, description="Draw this many, return the `n` with the highest mean log-probability per token."
    )
    stop: Texts = Field(default_factory=list, description="The text ends before the first of these.")
    ignore_eos: bool = Field(False, description="Go on past `<eos>`, so that exactly `max_tokens` tokens come.")
    seed: Seed | None = Field(None, description="Same seed, same text.")
    logprobs: int | None = Field(None, ge=0, description="Report tokens, with this many alternatives each.")
    echo: bool = Field(False, description="The prompt stands before its completion, its tokens are reported too.")
    stream: bool = False
    stream_options: StreamOptions = Field(default_factory=StreamOptions)
    suffix: Text | None = Field(None, description="Refused: a recurrent model does not look ahead.")
    user: str | None = Field(None, description="Ignored.")
    timeout_seconds: Timeout = None


class Logprobs(BaseModel):
    """Of each token of a text: what it looks like, its log-probability, alternatives by what they look like, and where
    it begins in the text, in code points. The first token of a prompt has no log-probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None


class CachedTokens(BaseModel):
    cached_tokens: int


class CompletionUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class CompletionResponse(BaseModel):
    """A whole answer, and each chunk of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "carousel"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class TokenizeRequest(ForeignBody):
    prompt: Text = Field(description="Text to cut into tokens.")
    model: Text | None = Field(None, description="Name of a served model; missing: the default one.")
    add_special_tokens: bool = Field(True, description="Changes nothing: a text begins after `<eos>` unasked.")
    return_token_strs: bool = Field(False, description="Return what the tokens look like, too.")


class TokenizeResponse(BaseModel):
    tokens: list[int]
    count: int
    max_model_len: int
    token_strs: list[str] | None = None


class DetokenizeRequest(ForeignBody):
    tokens: list[Annotated[int, Field(ge=0)]]
    model: Text | None = Field(None, description="Name of a served model; missing: the default one.")


class DetokenizeResponse(BaseModel):
    prompt: str


class TokenizerInfo(BaseModel):
    """What a harness asks before it begins."""

    tokenizer_class: str
    vocab_size: int
    bos_token: str
    eos_token: str
    unk_token: str
    pad_token: str
    bos_token_id: int
    eos_token_id: int
    unk_token_id: int
    pad_token_id: int
    add_bos_token: bool = False
    add_eos_token: bool = False
    model_max_length: int
    chat_template: None = None
