"""What clients of the OpenAI API and evaluation harnesses call: /v1/models, /v1/completions, and tokenization."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from app.errors import InvalidValueError, shown
from app.http.dependencies import RegistryDep, SettingsDep, TaskRoute, api_key_required
from app.http.sending import event_stream, while_connected
from app.http.tasks import ERRORS, find_service
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
from app.registry import ServedModel
from app.tasks.beside import beside
from models.text.levels import EOS, UNK

tasks = APIRouter(route_class=TaskRoute, responses=ERRORS, tags=["openai"])
lists = APIRouter(dependencies=[Depends(api_key_required)], responses={401: ERRORS[401]}, tags=["openai"])


@tasks.post(
    "/v1/completions",
    response_model=CompletionResponse,
    summary="Continue a text, as the OpenAI API does",
    responses={
        200: {
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
            "description": "The completions; with `stream`, a chunk for each token and `data: [DONE]` at the end.",
        }
    },
)
async def post_completions(body: CompletionRequest, request: Request) -> Response:
    """Fields that are not listed are ignored; null stands for the default."""
    settings, served = find_service(request, body.model)
    native = completions.native_request(body, settings, served)
    told = body.stream_options.include_usage or body.stream_options.continuous_usage_stats or not body.stream

    def encode(answer: CompletionResponse) -> str:
        return answer.model_dump_json(exclude=None if told else {"usage"})

    if body.stream:
        return await event_stream(request, completions.stream(body, native, served, settings), encode)
    answer = await while_connected(request, completions.answer(body, native, served, settings))
    reported = sum(len(choice.logprobs.tokens) for choice in answer.choices if choice.logprobs)
    content = await beside(20 * reported * (1 + (body.logprobs or 0)), lambda: encode(answer))
    return Response(content, media_type="application/json")


@lists.get("/v1/models", summary="What is served, as the OpenAI API lists it")
async def get_models(registry: RegistryDep) -> ModelList:
    first = registry.find(None)  # a client that takes the first model takes the default one
    others = [model for model in registry.models.values() if model is not first]
    return ModelList(data=[_card(model) for model in (first, *others)])


@lists.get("/v1/models/{name}", summary="One model, as the OpenAI API shows it", responses={404: ERRORS[404]})
async def get_model(name: str, registry: RegistryDep) -> ModelCard:
    return _card(registry.find(name))


@tasks.post("/tokenize", response_model=TokenizeResponse, summary="Cut a text into tokens")
async def post_tokenize(body: TokenizeRequest, request: Request) -> Response:
    """No start or end token is added. A text that was cut off at white space has the tokens of the longer one."""
    settings, served = find_service(request, body.model)
    tokenizer = served.checkpoint.tokenizer

    def answer() -> str:
        token_ids = tokenizer.encode_ids(body.prompt)
        answer = TokenizeResponse(tokens=token_ids, count=len(token_ids), max_model_len=settings.max_body_bytes)
        if body.return_token_strs:
            answer.token_strs = [completions.token_key(token_id, tokenizer) for token_id in token_ids]
        return answer.model_dump_json(exclude_unset=True)

    return Response(await beside(len(body.prompt), answer), media_type="application/json")


@tasks.post("/detokenize", response_model=DetokenizeResponse, summary="The text of tokens")
async def post_detokenize(body: DetokenizeRequest, request: Request) -> Response:
    _, served = find_service(request, body.model)
    tokenizer = served.checkpoint.tokenizer
    for place, token_id in enumerate(body.tokens):
        if token_id >= len(tokenizer):
            message = (
                f"tokens.{place}: {shown(token_id)} is no token id of this model, which are 0 … {len(tokenizer) - 1}"
            )
            raise InvalidValueError(message, f"tokens.{place}")
    text = await beside(8 * len(body.tokens), lambda: tokenizer.decode(body.tokens))
    return Response(DetokenizeResponse(prompt=text).model_dump_json(), media_type="application/json")


@lists.get("/tokenizer_info", summary="The special tokens", responses={404: ERRORS[404]})
async def get_tokenizer_info(
    registry: RegistryDep,
    settings: SettingsDep,
    model: Annotated[str | None, Query(description="Name of a served model; missing: the default one.")] = None,
) -> TokenizerInfo:
    """`<eos>` ends a text, starts one, and fills up: there is no other."""
    tokenizer = registry.find(model).checkpoint.tokenizer
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


def _card(model: ServedModel) -> ModelCard:
    try:
        created = int(datetime.fromisoformat(str(model.checkpoint.about.get("created"))).timestamp())
    except ValueError:  # a checkpoint that does not say
        created = 0
    return ModelCard(id=model.name, created=created)
