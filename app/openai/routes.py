"""What clients of the OpenAI API and evaluation harnesses call: /v1/models, /v1/completions, and tokenization."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app.errors import at_most
from app.http.errors import RESPONSES
from app.http.parsing import KeyDep, RegistryDep, SettingsDep, TaskRoute, call_of, limited, runs_a_model
from app.http.streaming import event_stream, note_usage, while_connected
from app.openai import completions
from app.openai.schemas import (
    CompletionRequest,
    CompletionResponse,
    DetokenizeRequest,
    DetokenizeResponse,
    ModelCard,
    ModelList,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
)
from app.openai.tokens import check_token_id, token_key
from app.registry import LANGUAGE_MODEL, Entry
from app.settings import Settings
from app.tasks import generate
from app.tasks.task import Limit
from models.text.levels import EOS, UNK

tasks = APIRouter(route_class=TaskRoute, responses=RESPONSES, tags=["openai"])
lists = APIRouter(responses={401: RESPONSES[401]}, tags=["openai"])


class _Prompts(Limit):
    """A list of token ids is one prompt."""

    def check_length(self, content: dict[str, Any], settings: Settings) -> None:
        prompt = content.get(self.field)
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
            at_most(self.field, len(prompt), settings.max_prompt_tokens, " tokens")
        else:
            super().check_length(content, settings)


TOKENS = Limit("tokens", "max_prompt_tokens", " tokens")


@tasks.post(
    "/v1/completions",
    response_model=CompletionResponse,
    summary="Continue a text, as the OpenAI API does",
    responses={
        200: {
            "content": {
                "text/event-stream": {"itemSchema": {"type": "object", "properties": {"data": {"type": "string"}}}}
            },
            "description": "The completions; with `stream`, a chunk for each token and `data: [DONE]` at the end.",
        }
    },
)
@runs_a_model
@limited(_Prompts("prompt", "max_texts", " prompts"), *(limit for limit in generate.LIMITS if limit.field != "prompt"))
async def post_completions(body: CompletionRequest, request: Request) -> Response:
    """Fields that are not listed are ignored; null means the default."""
    call = await call_of(request, body.model, body.timeout_seconds)
    native = completions.native_request(body, call)
    call.served.engine.check_room()
    with_usage = body.stream_options.include_usage or body.stream_options.continuous_usage_stats or not body.stream

    def encode(answer: CompletionResponse) -> str:
        return answer.model_dump_json(exclude=None if with_usage else {"usage"})

    if body.stream:
        return await event_stream(request, completions.stream(body, native, call), encode)
    answer = await while_connected(request, completions.answer(body, native, call))
    note_usage(request, answer)
    reported = sum(len(choice.logprobs.tokens) for choice in answer.choices if choice.logprobs)
    content = await call.beside(20 * reported * (1 + (body.logprobs or 0)), lambda: encode(answer))
    return Response(content, media_type="application/json")


@lists.get("/v1/models", summary="What is served, as the OpenAI API lists it")
async def get_models(registry: RegistryDep, key: KeyDep) -> ModelList:
    models, first = registry.visible(key), registry.default_of(LANGUAGE_MODEL, key)
    # A client that takes the first model takes the default one.
    return ModelList(data=[_card(models[name]) for name in sorted(models, key=lambda name: name != first)])


@lists.get("/v1/models/{name}", summary="One model, as the OpenAI API shows it", responses={404: RESPONSES[404]})
async def get_model(name: str, registry: RegistryDep, key: KeyDep) -> ModelCard:
    return _card(registry.entry(name, None, key))


@tasks.post("/tokenize", response_model=TokenizeResponse, summary="Cut a text into tokens")
async def post_tokenize(body: TokenizeRequest, request: Request) -> Response:
    """No start or end token is added. A text that was cut off at white space begins with the same tokens as the whole
    text."""
    call = await call_of(request, body.model)
    tokenizer = call.served.checkpoint.tokenizer

    def answer() -> str:
        token_ids = tokenizer.encode_ids(body.prompt)
        answer = TokenizeResponse(tokens=token_ids, count=len(token_ids), max_model_len=call.settings.max_body_bytes)
        if body.return_token_strs:
            answer.token_strs = [token_key(token_id, tokenizer) for token_id in token_ids]
        return answer.model_dump_json(exclude_unset=True)

    return Response(await call.beside(len(body.prompt), answer), media_type="application/json")


@tasks.post("/detokenize", response_model=DetokenizeResponse, summary="The text of tokens")
@limited(TOKENS)
async def post_detokenize(body: DetokenizeRequest, request: Request) -> Response:
    call = await call_of(request, body.model)
    TOKENS.check(body, call.settings)
    tokenizer = call.served.checkpoint.tokenizer

    def answer() -> str:
        for place, token_id in enumerate(body.tokens):
            check_token_id(token_id, f"tokens.{place}", tokenizer)
        return DetokenizeResponse(prompt=tokenizer.decode(body.tokens)).model_dump_json()

    return Response(await call.beside(8 * len(body.tokens), answer), media_type="application/json")


@lists.get("/tokenizer_info", summary="The special tokens", responses={404: RESPONSES[404]})
async def get_tokenizer_info(
    registry: RegistryDep,
    settings: SettingsDep,
    key: KeyDep,
    model: Annotated[str | None, Query(description="Name of a served model; when missing, the default model.")] = None,
) -> TokenizerInfo:
    """`<eos>` ends a text, starts a text, and pads; no other token does."""
    tokenizer = (await registry.find(model, key=key)).checkpoint.tokenizer
    return TokenizerInfo(
        tokenizer_class=f"carousel-{tokenizer.level}",
        vocab_size=len(tokenizer),
        bos_token=EOS,
        eos_token=EOS,
        unk_token=UNK,
        pad_token=EOS,
        bos_token_id=tokenizer.eos_id,
        eos_token_id=tokenizer.eos_id,
        unk_token_id=tokenizer.unk_id,
        pad_token_id=tokenizer.eos_id,
        model_max_length=settings.max_body_bytes,
    )


def _card(model: Entry) -> ModelCard:
    try:
        created = int(datetime.fromisoformat(str(model.description.about.get("created"))).timestamp())
    except ValueError:  # the checkpoint does not say
        created = 0
    return ModelCard(id=model.name, created=created)
