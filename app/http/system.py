"""The service about itself: health, readiness, what is served, metrics."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.errors import UnavailableError
from app.http.dependencies import MetricsDep, RegistryDep, SettingsDep
from app.registry import ServedModel, checkpoint_name
from app.schemas import ErrorResponse, HealthResponse, InfoResponse, ModelInfo, RefusedCheckpoint

router = APIRouter(tags=["system"])

NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": ErrorResponse, "description": "Starting up or shutting down."}
}

_LIMITS = (
    "max_body_bytes",
    "max_tokens",
    "max_choices",
    "max_texts",
    "max_logprobs",
    "max_top",
    "max_stop",
    "max_stop_characters",
    "max_logit_bias",
    "max_reported",
    "timeout_seconds",
)


def product_version() -> str:
    """The installed version; a source tree that is not installed has none."""
    try:
        return version("carousel-lm")
    except PackageNotFoundError:
        return "0+unknown"


@router.get("/health", summary="Is the process alive?")
async def get_health() -> HealthResponse:
    return HealthResponse(status="ok")


@router.get("/ready", summary="Has the default model answered?", responses=NOT_READY)
async def get_ready(request: Request) -> HealthResponse:
    """503 until the default model has answered a first question, and again while shutting down."""
    if not request.app.state.ready:
        raise UnavailableError("not ready")
    return HealthResponse(status="ready")


@router.get("/info", summary="What is served, and within which limits?")
async def get_info(registry: RegistryDep, settings: SettingsDep) -> InfoResponse:
    return InfoResponse(
        version=product_version(),
        default=registry.default,
        models=[_model_info(model, model.name == registry.default) for model in registry.models.values()],
        refused=[
            RefusedCheckpoint(
                name=checkpoint_name(error, settings.checkpoints), file=str(error.path), reason=error.reason
            )
            for error in registry.refused
        ],
        limits={name: getattr(settings, name) for name in _LIMITS},
    )


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def get_metrics(metrics: MetricsDep) -> Response:
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _model_info(model: ServedModel, default: bool) -> ModelInfo:
    checkpoint = model.checkpoint
    return ModelInfo(
        name=model.name,
        default=default,
        backend=model.engine.backend,
        level=checkpoint.tokenizer.level,
        boundary=checkpoint.tokenizer.boundary,
        cell=checkpoint.model.config.cell,
        vocabulary_size=len(checkpoint.tokenizer),
        parameters=checkpoint.model.num_parameters(),
        speller=checkpoint.speller is not None,
        storage=checkpoint.storage,
        fingerprint=checkpoint.fingerprint,
        about=checkpoint.about,
        card=checkpoint.card,
    )
