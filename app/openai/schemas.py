"""Bodies of the routes that clients of the OpenAI API and of evaluation harnesses know. Names and shapes are theirs."""

from typing import Annotated, Any, Literal, TypeVar

from annotated_types import MinLen
from pydantic import BaseModel, ConfigDict, FailFast, Field, PlainValidator

from app.tasks.body import Body, Model, Text, encodable
from app.tasks.generate import GenerationBody

Prompt = str | list[int]
"""Text, or token ids."""


def _prompts(value: Any) -> list[Prompt]:
    """The four forms of a prompt as a list: a text, texts, token ids, lists of token ids."""
    if isinstance(value, str) or _is_ids(value):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError("a text, a list of texts, a list of token ids, or a list of such lists")
    if all(isinstance(prompt, str) for prompt in value):
        return [encodable(prompt) for prompt in value]
    if all(isinstance(prompt, list) and all(map(_is_id, prompt)) for prompt in value):
        return value
    raise ValueError(
        "a list holds texts, or token ids (whole numbers from 0), or lists of token ids; not several kinds"
    )


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_id, value))


def _is_id(value: Any) -> bool:
    return type(value) is int and value >= 0


_Item = TypeVar("_Item")
Some = Annotated[list[_Item], MinLen(1)]
_Id = Annotated[int, Field(ge=0)]

Prompts = Annotated[
    list[Prompt],
    PlainValidator(_prompts, json_schema_input_type=str | Some[str] | Some[_Id] | Some[list[_Id]]),
]


class ForeignBody(Body):
    """Unknown fields are ignored, as these clients expect."""

    model_config = ConfigDict(extra="ignore")


class StreamOptions(ForeignBody):
    include_usage: bool = Field(False, description="End the stream with a chunk of usage, without choices.")
    continuous_usage_stats: bool = Field(False, description="Report the usage so far in every chunk.")


class CompletionRequest(GenerationBody, ForeignBody):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "Cats average 15", "max_tokens": 30, "temperature": 0.8, "seed": 7}]}
    )

    model: Model = None
    prompt: Prompts = Field([""], description="Text or token ids to continue, or a list of them.")
    max_tokens: int = Field(
        16, ge=0, description="Maximum number of tokens in a completion; 0, with `echo`: the prompt alone."
    )
    top_k: int = Field(0, ge=-1, description="Sample from the k likeliest tokens; 0 and -1: from all.")
    best_of: int | None = Field(
        None, ge=1, description="Sample this many, return the `n` with the highest mean log-probability per token."
    )
    echo: bool = Field(False, description="The prompt stands before its completion, and its tokens are reported too.")
    stream_options: StreamOptions = Field(default_factory=StreamOptions)
    suffix: Text | None = Field(None, description="Refused: a recurrent model does not look ahead.")
    user: str | None = Field(None, description="Ignored.")


class Logprobs(BaseModel):
    """Lists with an entry for each token of a text: its surface form, its log-probability, its alternatives by surface
    form, and its start offset in code points. The first token of a prompt has no log-probability."""

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
    model: Model = None
    add_special_tokens: bool = Field(True, description="Changes nothing: every text begins after `<eos>`.")
    return_token_strs: bool = Field(False, description="Return the surface forms of the tokens, too.")


class TokenizeResponse(BaseModel):
    tokens: list[int]
    count: int
    max_model_len: int
    token_strs: list[str] | None = None


class DetokenizeRequest(ForeignBody):
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], FailFast()]
    model: Model = None


class DetokenizeResponse(BaseModel):
    prompt: str


class TokenizerInfo(BaseModel):
    """What an evaluation harness asks for before it begins."""

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
