"""What the service says about itself: health, readiness, the served models, metrics."""

from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from app.errors import UnavailableError
from app.http.errors import RESPONSES
from app.http.parsing import MetricsDep, RegistryDep, SettingsDep
from app.registry import ServedModel

router = APIRouter(tags=["system"])


class ModelInfo(BaseModel):
    name: str
    task: str
    default: bool = Field(description="Whether requests that name no model get this model.")
    backend: str
    level: str
    boundary: str
    cell: str
    vocabulary_size: int
    parameters: int
    speller: bool
    storage: str = Field(description="Number type of the stored weights.")
    fingerprint: str = Field(description="SHA-256 of the weights.")
    about: dict[str, object]
    card: str


class RefusedCheckpoint(BaseModel):
    name: str
    file: str
    reason: str


class InfoResponse(BaseModel):
    version: str
    default: str
    models: list[ModelInfo]
    refused: list[RefusedCheckpoint]
    limits: dict[str, int | float]


class HealthResponse(BaseModel):
    status: Literal["ok", "ready"]


def product_version() -> str:
    """The installed version; a source tree that is not installed has none."""
    try:
        return version("carousel-lm")
    except PackageNotFoundError:
        return "0+unknown"


@router.get("/health", summary="Is the process alive?")
async def get_health() -> HealthResponse:
    return HealthResponse(status="ok")


@router.get("/ready", summary="Has the default model answered?", responses={503: RESPONSES[503]})
async def get_ready(request: Request) -> HealthResponse:
    """503 until the default model has answered a first question, and again while shutting down."""
    if not request.app.state.ready:
        raise UnavailableError("not ready")
    return HealthResponse(status="ready")


@router.get("/info", summary="What is served, and within which limits?")
async def get_info(registry: RegistryDep, settings: SettingsDep) -> InfoResponse:
    return InfoResponse(
        version=product_version(),
        default=registry.find(None).name,
        models=[_model_info(model, registry.is_default(model)) for model in registry.models.values()],
        refused=[
            RefusedCheckpoint(name=refused.name, file=str(refused.error.path), reason=refused.error.reason)
            for refused in registry.refused
        ],
        limits=settings.limits(),
    )


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def get_metrics(metrics: MetricsDep) -> Response:
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _model_info(model: ServedModel, default: bool) -> ModelInfo:
    checkpoint = model.checkpoint
    return ModelInfo(
        name=model.name,
        task=model.task,
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
